//! The document that a verdict is given in: its form, where it goes, and what it says where there
//! is no verdict.

use std::io::Write;
use std::path::PathBuf;

use candlemark::compare::{Judgement, Outcome, Policy};
use candlemark::error::{Cause, brief};
use candlemark::{Error, files, report};

use crate::cmd::{cause, write};

/// Which document, and where it goes.
#[derive(clap::Args)]
pub(crate) struct Document {
    /// Form of the verdict
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// File to write the verdict to instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The form of a verdict.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    /// Text for a terminal
    #[default]
    Human,
    /// Markdown for a pull request
    Md,
    /// Everything that went into the verdict
    Json,
    /// One self-contained page
    Html,
    /// Annotations of a GitHub job
    Github,
    /// JUnit XML
    Junit,
    /// Bencher Metric Format, JSON
    Bmf,
    /// JSON for github-action-benchmark
    SmallerIsBetter,
}

impl Document {
    /// Refuses a file that could not be written later, before anything is measured.
    pub(crate) fn check(&self) -> candlemark::Result<()> {
        self.output.as_deref().map_or(Ok(()), files::check)
    }

    /// Writes a verdict; a page shows more than the verdict, and is made by whoever has that.
    pub(crate) fn write(
        &self,
        judgement: &Judgement,
        command: &str,
        page: impl FnOnce() -> candlemark::Result<String>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Human => report::verdict_text(judgement, command),
            Format::Md => report::verdict_markdown(judgement, command),
            Format::Json => report::verdict_json(judgement),
            Format::Html => page()?,
            Format::Github => report::annotations(judgement),
            Format::Junit => report::junit(judgement, &candlemark::machine::now()),
            Format::Bmf => report::bmf(judgement),
            Format::SmallerIsBetter => report::smaller_is_better(judgement),
        };
        write(&text, self.output.as_deref(), out)
    }

    /// Writes the document for an error that left no verdict, so that whoever reads it learns why;
    /// the error, for stderr and the exit status. A wrong command line has no document, as where
    /// clap refuses it.
    pub(crate) fn instead(
        &self,
        error: anyhow::Error,
        policy: &Policy,
        command: &str,
        out: &mut dyn Write,
    ) -> anyhow::Error {
        let outcome = match cause(&error) {
            Cause::Usage => return error,
            Cause::NotComparable => Outcome::NotComparable,
            Cause::Undecided | Cause::Interrupted => Outcome::Undecided,
            Cause::Failed => Outcome::Failed,
        };
        let judgement = Judgement::without_findings(outcome, &reason(&error), policy);
        let page = || report::verdict_page(&judgement, command);
        match self.write(&judgement, command, page, out) {
            Ok(()) => error,
            Err(second) => error.context(format!("{second:#}")), // The first one is the answer.
        }
    }
}

/// An error without the words that the outcome says already.
fn reason(error: &anyhow::Error) -> String {
    if matches!(error.downcast_ref(), Some(Error::Interrupted)) {
        return "interrupted before anything was measured".into();
    }
    let text = brief(&format!("{error:#}"));
    let said = ["not comparable: ", "cannot decide: "];
    let rest = said.iter().find_map(|prefix| text.strip_prefix(prefix));
    rest.unwrap_or(&text).to_owned()
}
