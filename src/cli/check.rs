//! `candlemark check`: judges a record against its baseline, or a stored pair, which needs none.

mod age;
#[cfg(feature = "engine")]
mod further;

use std::io::Write;
use std::path::{Path, PathBuf};
#[cfg(feature = "engine")]
use std::time::Duration;

use anyhow::Context as _;

use crate::baseline::Stored;
use crate::cli::document::Document;
use crate::cli::exit::{CommandResult, STATUSES};
use crate::cli::output::{command_line, newest, usage};
use crate::compare::{FailOn, Judgement, Outcome, Policy, judge, paired};
use crate::error::quoted;
use crate::record::Record;
use crate::record::pair::PairRecord;
use crate::settings::Config;
#[cfg(feature = "engine")]
use crate::settings::duration;
use crate::{Error, baseline, files, report};

/// Judge a record against a baseline, or judge a stored pair again
#[derive(clap::Args)]
#[command(after_long_help = STATUSES)]
pub(crate) struct Arguments {
    /// Record or pair to judge; several records of one commit are judged together
    /// [default: the newest run under target/candlemark/runs]
    #[arg(long, value_name = "FILE")]
    record: Vec<PathBuf>,
    /// Baseline to judge against [default: that of this machine and model in the folder of
    /// baselines]
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Folder of baselines
    #[arg(long, value_name = "FOLDER", default_value = "baselines")]
    baselines: PathBuf,
    #[command(flatten)]
    document: Document,
    #[command(flatten)]
    rules: Rules,
    /// Judge at full significance as the only look; `--measure` may not follow
    #[arg(long)]
    single_look: bool,
    /// Measure further blocks of undecided scenarios, and judge again after each round
    #[cfg(feature = "engine")]
    #[arg(long, conflicts_with = "single_look")]
    measure: bool,
    /// Longest time for `--measure`
    #[cfg(feature = "engine")]
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, requires = "measure")]
    budget: Duration,
}

impl Arguments {
    fn measures(&self) -> bool {
        #[cfg(feature = "engine")]
        return self.measure;
        #[cfg(not(feature = "engine"))]
        false
    }

    /// The error about one of the records, which the user may have named.
    fn of_record(&self, error: Error) -> Error {
        if self.record.is_empty() { error } else { error.of_named_file() }
    }
}

#[derive(clap::Args)]
pub(crate) struct Rules {
    /// Findings that end with exit status 1 [default: regression]
    #[arg(long, value_enum)]
    fail_on: Option<FailOn>,
}

impl Rules {
    /// The configuration's policy, overridden by the flags.
    pub(crate) fn policy(&self, config: &Config) -> anyhow::Result<Policy> {
        let mut policy =
            Policy::new(&config.gate).context("invalid `[gate]` in the configuration")?;
        policy.fail_on = self.fail_on.unwrap_or(policy.fail_on);
        Ok(policy)
    }
}

enum Judged {
    Pair(Box<PairRecord>),
    Run(Box<Record>),
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let mut policy = arguments.rules.policy(config)?;
    arguments.document.check()?;
    if arguments.single_look {
        policy.looks = 1;
    }
    let command = command_line();
    let paths = match arguments.record.as_slice() {
        [] => newest().map(|path| vec![path]),
        named => Ok(named.to_vec()),
    };
    let verdict = paths.map_err(anyhow::Error::from).and_then(|paths| {
        let (judgement, judged) = verdict(&paths, arguments, &policy)?;
        Ok((paths, judgement, judged))
    });
    let (paths, judgement, judged) = match verdict {
        Ok(verdict) => verdict,
        Err(error) => return arguments.document.write_error(error, &policy, &command, out),
    };
    let page = || match &judged {
        Judged::Pair(paired) => report::pair_page(paired, &judgement, &command),
        Judged::Run(record) => report::page(record, Some((&judgement, &command))),
    };
    arguments.document.write(&judgement, &command, page, out)?;
    let is_own_run = matches!(&judged, Judged::Run(record) if record.other_tool().is_none());
    let may_continue = is_own_run && !arguments.measures() && policy.looks > 1;
    if may_continue && judgement.outcome == Outcome::Undecided && !judgement.open().is_empty() {
        let files = if arguments.record.is_empty() { paths.as_slice() } else { &[] };
        writeln!(std::io::stderr(), "to decide: `{}`", with_measure(&command, files))?;
    }
    Ok(judgement.outcome.into())
}

fn verdict(
    paths: &[PathBuf],
    arguments: &Arguments,
    policy: &Policy,
) -> anyhow::Result<(Judgement, Judged)> {
    if let Some(paired) = pair(paths, arguments)? {
        return Ok((paired::judge(&paired, policy), Judged::Pair(Box::new(paired))));
    }
    let (judgement, record) = judge_run(paths, arguments, policy)?;
    Ok((judgement, Judged::Run(Box::new(record))))
}

/// The pair, if the file is one; `None` for records.
fn pair(paths: &[PathBuf], arguments: &Arguments) -> anyhow::Result<Option<PairRecord>> {
    for path in paths {
        let text = files::read(path).map_err(|error| arguments.of_record(error))?;
        if !PairRecord::is(&text) {
            continue;
        }
        for (is_wrong, why) in [
            (paths.len() > 1, "is judged alone; give no other `--record`"),
            (arguments.baseline.is_some(), "contains its base; give no `--baseline`"),
            (
                arguments.measures(),
                "`--measure` cannot continue; to decide it, measure it again by `candlemark pair` \
                 with a larger `--budget`",
            ),
        ] {
            if is_wrong {
                return Err(usage(format!("`{}` is a pair, which {why}", path.display())));
            }
        }
        let paired = PairRecord::parse(&text, path);
        return Ok(Some(paired.map_err(|error| arguments.of_record(error))?));
    }
    Ok(None)
}

/// Judges a run against its baseline; the verdict and the run with everything measured.
fn judge_run(
    paths: &[PathBuf],
    arguments: &Arguments,
    policy: &Policy,
) -> anyhow::Result<(Judgement, Record)> {
    let load_run = |path: &PathBuf| Record::load(path).map_err(|error| arguments.of_record(error));
    let runs = paths.iter().map(load_run).collect::<crate::Result<Vec<_>>>()?;
    let record = baseline::combine(&runs)?;
    if let Some((tool, _)) = record.other_tool().filter(|_| arguments.measures()) {
        return Err(usage(format!(
            "`--measure` cannot measure what {tool} measured; run {tool} again, and put the \
             results together with `candlemark merge`"
        )));
    }
    let stored = stored(&record, arguments, policy)?;
    let decide = |run: &Record| {
        let mut judgement = judge(&stored, run, policy);
        judgement.notes.extend(age::note(Path::new("."), stored.baseline(), run));
        judgement
    };
    #[cfg(feature = "engine")]
    if arguments.measure {
        let path = paths.last().context("a run has a record")?;
        return further::judge(record, path, arguments.budget, &decide);
    }
    Ok((decide(&record), record))
}

/// The stored files for a run's machine and model.
fn stored(record: &Record, arguments: &Arguments, policy: &Policy) -> crate::Result<Stored> {
    let folder = &arguments.baselines;
    let found = match &arguments.baseline {
        Some(path) if !path.exists() => {
            let why =
                format!("no baseline `{}`; make one with `candlemark promote`", path.display());
            return Err(Error::NotComparable(why));
        }
        Some(path) => (path.clone(), Record::load(path).map_err(Error::of_named_file)?),
        None => baseline::find(folder, record, &policy.allow_class).map_err(unusable)?,
    };
    Stored::new(found, folder, record).map_err(unusable)
}

/// An unreadable file in the folder of baselines makes a run not comparable.
fn unusable(error: Error) -> Error {
    match error {
        Error::Read { .. } | Error::Invalid { .. } => Error::NotComparable(error.chain()),
        error => error,
    }
}

/// The command that continues where this one could not decide. `files` are records that were not
/// named on the command line: another run may be the newest by then.
fn with_measure(command: &str, files: &[PathBuf]) -> String {
    let records: String = files.iter().map(|file| format!(" --record {}", quoted(file))).collect();
    format!("{command}{records} --measure")
}
