//! `candlemark check`: a record against its baseline.

#[cfg(feature = "engine")]
mod further;

use std::io::Write;
use std::path::PathBuf;
#[cfg(feature = "engine")]
use std::time::Duration;

use anyhow::Context as _;
use candlemark::Error;
use candlemark::baseline;
use candlemark::compare::FailOn;
use candlemark::compare::Grounds;
#[cfg(feature = "engine")]
use candlemark::compare::Judgement;
use candlemark::compare::Missing;
use candlemark::compare::Outcome;
use candlemark::compare::Policy;
use candlemark::compare::judge;
use candlemark::record::Record;
use candlemark::report;
use candlemark::settings::Config;
#[cfg(feature = "engine")]
use candlemark::settings::duration;
#[cfg(feature = "engine")]
use candlemark::workload::Scenario;

use crate::cmd::Exit;
#[cfg(feature = "engine")]
use crate::cmd::check::further::Further;
use crate::cmd::command_line;
use crate::cmd::newest;
use crate::cmd::write;

/// Judge a record against a baseline
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Record to judge; several of one commit are judged together; default: the newest run under target/candlemark/runs
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
    /// Exit with 4 when a scenario of the baseline is missing
    #[arg(long)]
    strict: bool,
    /// What makes the exit status 1; default: the configuration's, or `regression`
    #[arg(long, value_enum)]
    fail_on: Option<Severity>,
    /// Measure further blocks of what is undecided, and judge again after each round
    #[cfg(feature = "engine")]
    #[arg(long)]
    measure: bool,
    /// How long to measure at most
    #[cfg(feature = "engine")]
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, requires = "measure")]
    budget: Duration,
}

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
    let mut policy = Policy::new(&config.gate).context("in [gate] of the configuration")?;
    if arguments.strict {
        policy.missing = Missing::Counts;
    }
    match arguments.fail_on {
        Some(Severity::Regression) => policy.fail_on = FailOn::Regression,
        Some(Severity::Critical) => policy.fail_on = FailOn::Critical,
        None => {}
    }
    let paths =
        if arguments.record.is_empty() { vec![newest()?] } else { arguments.record.clone() };
    let records =
        paths.iter().map(|path| Record::load(path)).collect::<candlemark::Result<Vec<_>>>()?;
    let record = baseline::pool(&records)?;
    let (path, baseline) = match &arguments.baseline {
        Some(path) if !path.exists() => {
            let why =
                format!("no baseline `{}`; make one with `candlemark promote`", path.display());
            return Err(Error::NotComparable(why).into());
        }
        Some(path) => (path.clone(), Record::load(path)?),
        None => baseline::find(&arguments.baselines, &record, &policy.allow_class)?,
    };
    let release = baseline::find_release(&path)?;
    let calibration = baseline::find_calibration(&arguments.baselines, &record)?;
    let grounds = Grounds {
        baseline: &baseline,
        release: release.as_ref(),
        calibration: calibration.as_ref(),
    };
    #[cfg(feature = "engine")]
    if arguments.measure {
        policy.looks = further::LOOKS;
    }
    #[cfg(feature = "engine")]
    let record = measured(arguments, record, paths.last(), &|run| judge(grounds, run, &policy))?;
    let judgement = judge(grounds, &record, &policy);
    let text = match arguments.format {
        Format::Human => report::verdict_text(&judgement, &command_line()),
        Format::Md => report::verdict_markdown(&judgement, &command_line()),
        Format::Json => report::verdict_json(&judgement),
        Format::Html => report::page(&record, Some(&judgement))?,
        Format::Github => report::annotations(&judgement),
    };
    write(&text, arguments.output.as_deref(), out)?;
    if policy.looks == 1 && judgement.outcome == Outcome::Undecided && !judgement.open().is_empty()
    {
        let files = if arguments.record.is_empty() { paths.as_slice() } else { &[] };
        writeln!(std::io::stderr(), "to decide: `{}`", with_measure(&command_line(), files))?;
    }
    Ok(judgement.outcome.into())
}

/// The command that goes on where this one could not decide; `files` are records that it found by itself, because another run
/// may be the newest one by then.
fn with_measure(command: &str, files: &[PathBuf]) -> String {
    let records: String =
        files.iter().map(|file| format!(" --record {}", file.display())).collect();
    format!("{command}{records} --measure")
}

/// The run with further blocks of what is undecided, if that is asked for and anything is.
#[cfg(feature = "engine")]
fn measured(
    arguments: &Arguments,
    run: Record,
    beside: Option<&PathBuf>,
    decide: &dyn Fn(&Record) -> Judgement,
) -> anyhow::Result<Record> {
    if !arguments.measure {
        return Ok(run);
    }
    let beside = beside.context("a run has a record")?;
    let mut further = None;
    let more = &mut |scenarios: &[Scenario], blocks| {
        let further = match &mut further {
            Some(further) => further,
            none => none.insert(Further::begin(&run, beside)?),
        };
        further.to(scenarios, blocks)
    };
    let more_of_it = further::measure(&run, arguments.budget, decide, more)?;
    if let Some(further) = further {
        writeln!(std::io::stderr(), "further record: {}", further.path().display())?;
    }
    Ok(more_of_it)
}
