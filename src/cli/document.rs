//! The document of a verdict: its format, its file, and its text if there is no verdict.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::colour;
use crate::cli::exit::{CommandResult, cause};
use crate::cli::output::write;
use crate::compare::{Judgement, Outcome, Policy};
use crate::error::{Cause, brief};
use crate::{Error, files, report};

#[derive(clap::Args)]
pub(crate) struct Document {
    /// Format of the verdict
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Output file of the verdict [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    /// Text for a terminal
    #[default]
    Human,
    /// Markdown for a pull request
    Md,
    /// JSON with all data of the verdict
    Json,
    /// Self-contained HTML page
    Html,
    /// Annotations for GitHub Actions
    Github,
    /// JUnit XML
    Junit,
    /// Bencher Metric Format (JSON)
    Bmf,
    /// JSON for github-action-benchmark
    SmallerIsBetter,
}

impl Document {
    /// Refuses an unwritable file before anything is measured.
    pub(crate) fn check(&self) -> crate::Result<()> {
        self.output.as_deref().map_or(Ok(()), files::check)
    }

    /// Writes a verdict. The caller renders the HTML page, which shows more than the verdict.
    pub(crate) fn write(
        &self,
        judgement: &Judgement,
        command: &str,
        page: impl FnOnce() -> crate::Result<String>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Human => {
                let text = report::verdict_text(judgement, command);
                let to_terminal = self.output.is_none() && colour::is_on(&std::io::stdout());
                if to_terminal { colour::verdict(&text, judgement) } else { text }
            }
            Format::Md => report::verdict_markdown(judgement, command) + &workflow_run(variable),
            Format::Json => report::verdict_json(judgement),
            Format::Html => page()?,
            Format::Github => report::annotations(judgement),
            Format::Junit => report::junit(judgement, &crate::machine::now()),
            Format::Bmf => report::bmf(judgement),
            Format::SmallerIsBetter => report::smaller_is_better(judgement),
        };
        write(&text, self.output.as_deref(), out)
    }

    /// Writes a document for an error in place of the verdict. Returns the error for stderr and the
    /// exit status; only the status where the text on stdout says the same. Usage errors have no
    /// document, as those of clap.
    pub(crate) fn write_error(
        &self,
        error: anyhow::Error,
        policy: &Policy,
        command: &str,
        out: &mut dyn Write,
    ) -> CommandResult {
        let outcome = match cause(&error) {
            Cause::Usage => return Err(error),
            Cause::NotComparable => Outcome::NotComparable,
            Cause::Undecided | Cause::Interrupted => Outcome::Undecided,
            Cause::Failed => Outcome::Failed,
        };
        let judgement = Judgement::without_findings(outcome, &reason(&error), policy);
        let page = || report::verdict_page(&judgement, command);
        match self.write(&judgement, command, page, out) {
            Ok(()) if matches!(self.format, Format::Human) && self.output.is_none() => {
                Ok(cause(&error).into())
            }
            Ok(()) => Err(error),
            // The first error sets the exit status.
            Err(second) => Err(error.context(format!("{second:#}"))),
        }
    }
}

/// The error without the words that repeat the outcome.
fn reason(error: &anyhow::Error) -> String {
    if matches!(error.downcast_ref(), Some(Error::Interrupted)) {
        return "interrupted before anything was measured".into();
    }
    let text = brief(&format!("{error:#}"));
    let prefixes = ["not comparable: ", "undecided: "];
    let rest = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    rest.unwrap_or(&text).to_owned()
}

/// A link to the run of GitHub Actions that this is part of, whose artifacts hold the files; empty
/// elsewhere.
fn workflow_run(variable: impl Fn(&str) -> Option<String>) -> String {
    let plain = |text: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
        !text.is_empty() && text.chars().all(is_plain)
    };
    let names = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"];
    let [server, repository, run] = names.map(|name| variable(name).filter(plain));
    match (server.filter(|server| server.starts_with("https://")), repository, run) {
        (Some(server), Some(repository), Some(run)) => {
            format!("\n[log and artifacts]({server}/{repository}/actions/runs/{run})\n")
        }
        _ => String::new(),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_links_to_its_workflow_run() {
        let on = |server: &'static str, run: &'static str| {
            workflow_run(move |name| match name {
                "GITHUB_SERVER_URL" => Some(server.to_owned()),
                "GITHUB_REPOSITORY" => Some("us/app".to_owned()),
                _ => Some(run.to_owned()).filter(|run| !run.is_empty()),
            })
        };
        assert_eq!(
            on("https://github.com", "17"),
            "\n[log and artifacts](https://github.com/us/app/actions/runs/17)\n"
        );
        for (server, run) in [
            ("https://github.com", ""),
            ("https://github.com", "1) [x](y"),
            ("javascript:x", "17"),
            ("", "17"),
        ] {
            assert_eq!(on(server, run), "", "{server} {run}");
        }
    }
}
