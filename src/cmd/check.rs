//! `candlemark check`: a record against its baseline, or what `candlemark pair` stored, which needs none.

#[cfg(feature = "engine")]
mod further;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
#[cfg(feature = "engine")]
use std::time::Duration;

use anyhow::Context as _;
use candlemark::Error;
use candlemark::baseline;
use candlemark::compare::FailOn;
use candlemark::compare::Grounds;
use candlemark::compare::Judgement;
use candlemark::compare::Missing;
use candlemark::compare::Outcome;
use candlemark::compare::Policy;
use candlemark::compare::judge;
use candlemark::compare::paired;
use candlemark::record::Record;
use candlemark::record::calibration::Calibration;
use candlemark::record::pair::Paired;
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
    /// Measure further blocks of what is undecided, and judge again after each round
    #[cfg(feature = "engine")]
    #[arg(long)]
    measure: bool,
    /// How long to measure at most
    #[cfg(feature = "engine")]
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, requires = "measure")]
    budget: Duration,
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
            #[cfg(feature = "engine")]
            anyhow::ensure!(
                !arguments.measure,
                "`--measure` goes on with a run; a pair is measured anew by `candlemark pair` with a larger `--budget`"
            );
            let judgement = paired::judge(&paired, &policy);
            let page = || report::pair_page(&paired, &judgement, &command);
            let text = arguments.format.text(&judgement, &command, page)?;
            (judgement, text)
        }
        None => {
            let (judgement, record) = stored(&paths, arguments, policy)?;
            let page = || report::page(&record, Some((&judgement, &command)));
            let text = arguments.format.text(&judgement, &command, page)?;
            (judgement, text)
        }
    };
    write(&text, arguments.output.as_deref(), out)?;
    let goes_on = judgement.course.is_none() && judgement.policy.looks == 1;
    if goes_on && judgement.outcome == Outcome::Undecided && !judgement.open().is_empty() {
        let files = if arguments.record.is_empty() { paths.as_slice() } else { &[] };
        writeln!(std::io::stderr(), "to decide: `{}`", with_measure(&command, files))?;
    }
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

/// The verdict on a run against its baseline, and the run as far as it was measured.
#[cfg_attr(
    not(feature = "engine"),
    expect(unused_mut, reason = "only measuring further looks twice")
)]
fn stored(
    paths: &[PathBuf],
    arguments: &Arguments,
    mut policy: Policy,
) -> anyhow::Result<(Judgement, Record)> {
    let records =
        paths.iter().map(|path| Record::load(path)).collect::<candlemark::Result<Vec<_>>>()?;
    let record = baseline::pool(&records)?;
    let known = load(&record, arguments, &policy)?;
    let grounds = Grounds {
        baseline: &known.baseline,
        release: known.release.as_ref(),
        calibration: known.calibration.as_ref(),
    };
    #[cfg(feature = "engine")]
    if arguments.measure {
        policy.looks = further::LOOKS;
    }
    #[cfg(feature = "engine")]
    let record = measured(arguments, record, paths.last(), &|run| judge(grounds, run, &policy))?;
    Ok((judge(grounds, &record, &policy), record))
}

/// What is stored about a run's machine and model.
struct Known {
    baseline: Record,
    release: Option<Record>,
    calibration: Option<Calibration>,
}

fn load(record: &Record, arguments: &Arguments, policy: &Policy) -> anyhow::Result<Known> {
    let (path, baseline) = match &arguments.baseline {
        Some(path) if !path.exists() => {
            let why =
                format!("no baseline `{}`; make one with `candlemark promote`", path.display());
            return Err(Error::NotComparable(why).into());
        }
        Some(path) => (path.clone(), Record::load(path)?),
        None => baseline::find(&arguments.baselines, record, &policy.allow_class)?,
    };
    let release = baseline::find_release(&path)?;
    let calibration = baseline::find_calibration(&arguments.baselines, record)?;
    Ok(Known { baseline, release, calibration })
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
