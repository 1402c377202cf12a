//! `candlemark check`: a record against its baseline, or what `candlemark pair` stored, which needs none.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use candlemark::Error;
use candlemark::baseline;
use candlemark::compare::FailOn;
use candlemark::compare::Judgement;
use candlemark::compare::Missing;
use candlemark::compare::Policy;
use candlemark::compare::judge;
use candlemark::compare::paired;
use candlemark::record::Record;
use candlemark::record::pair::Paired;
use candlemark::report;
use candlemark::settings::Config;

use crate::cmd::Exit;
use crate::cmd::command_line;
use crate::cmd::newest;
use crate::cmd::write;

/// Judge a record against a baseline, or judge again what `candlemark pair` measured
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Record to judge, or the file of a pair; several records of one commit are judged together; default: the newest run under target/candlemark/runs
    #[arg(long, value_name = "FILE")]
    record: Vec<PathBuf>,
    /// Baseline to judge against; default: that of this machine and model under the folder of baselines
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Folder of baselines
    #[arg(long, value_name = "FOLDER", default_value = "baselines")]
    baselines: PathBuf,
    /// Form of the verdict
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// File to write the verdict to instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    rules: Rules,
}

/// What follows from findings.
#[derive(clap::Args)]
pub(crate) struct Rules {
    /// Exit with 4 when a scenario of the base is missing
    #[arg(long)]
    strict: bool,
    /// What makes the exit status 1; default: the configuration's, or `regression`
    #[arg(long, value_enum)]
    fail_on: Option<Severity>,
}

impl Rules {
    /// The configuration's policy, with what the flags say in its place.
    pub(crate) fn policy(&self, config: &Config) -> anyhow::Result<Policy> {
        let mut policy = Policy::new(&config.gate).context("in [gate] of the configuration")?;
        if self.strict {
            policy.missing = Missing::Counts;
        }
        match self.fail_on {
            Some(Severity::Regression) => policy.fail_on = FailOn::Regression,
            Some(Severity::Critical) => policy.fail_on = FailOn::Critical,
            None => {}
        }
        Ok(policy)
    }
}

/// The form of a verdict.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub(crate) enum Format {
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum Severity {
    /// Any regression
    Regression,
    /// One past twice its limit
    Critical,
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let policy = arguments.rules.policy(config)?;
    let paths =
        if arguments.record.is_empty() { vec![newest()?] } else { arguments.record.clone() };
    let command = command_line();
    let (judgement, text) = match pair(&paths, arguments)? {
        Some(paired) => {
            let judgement = paired::judge(&paired, &policy);
            let page = || report::pair_page(&paired, &judgement, &command);
            let text = arguments.format.text(&judgement, &command, page)?;
            (judgement, text)
        }
        None => {
            let (baseline, record) = load(&paths, arguments, &policy)?;
            let judgement = judge(&baseline, &record, &policy);
            let page = || report::page(&record, Some((&judgement, &command)));
            let text = arguments.format.text(&judgement, &command, page)?;
            (judgement, text)
        }
    };
    write(&text, arguments.output.as_deref(), out)?;
    Ok(judgement.outcome.into())
}

impl Format {
    /// A verdict in this form; a page shows more than the verdict, and is made by whoever has that.
    pub(crate) fn text(
        self,
        judgement: &Judgement,
        command: &str,
        page: impl FnOnce() -> candlemark::Result<String>,
    ) -> candlemark::Result<String> {
        Ok(match self {
            Format::Human => report::verdict_text(judgement, command),
            Format::Md => report::verdict_markdown(judgement, command),
            Format::Json => report::verdict_json(judgement),
            Format::Html => page()?,
            Format::Github => report::annotations(judgement),
            Format::Junit => report::junit(judgement),
            Format::Bmf => report::bmf(judgement),
            Format::SmallerIsBetter => report::smaller_is_better(judgement),
        })
    }
}

/// The pair that was asked for, if it is one; `None` for records.
fn pair(paths: &[PathBuf], arguments: &Arguments) -> anyhow::Result<Option<Paired>> {
    for path in paths {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        if !Paired::is(&text) {
            continue;
        }
        let name = path.display();
        if paths.len() > 1 {
            let why =
                format!("`{name}` is a pair, which is judged alone: give no other `--record`");
            return Err(Error::NotComparable(why).into());
        }
        if arguments.baseline.is_some() {
            let why = format!("`{name}` is a pair, which has its base in it: give no `--baseline`");
            return Err(Error::NotComparable(why).into());
        }
        return Ok(Some(Paired::parse(&text, path)?));
    }
    Ok(None)
}

/// The baseline and the run to judge by it.
fn load(
    paths: &[PathBuf],
    arguments: &Arguments,
    policy: &Policy,
) -> anyhow::Result<(Record, Record)> {
    let records =
        paths.iter().map(|path| Record::load(path)).collect::<candlemark::Result<Vec<_>>>()?;
    let record = baseline::pool(&records)?;
    let baseline = match &arguments.baseline {
        Some(path) if !path.exists() => {
            let why =
                format!("no baseline `{}`; make one with `candlemark promote`", path.display());
            return Err(Error::NotComparable(why).into());
        }
        Some(path) => Record::load(path)?,
        None => baseline::find(&arguments.baselines, &record, &policy.allow_class)?.1,
    };
    Ok((baseline, record))
}
