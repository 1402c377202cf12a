//! The commands, one per file: functions from arguments to text and an exit status.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candlemark::compare::Outcome;
use candlemark::error::{Cause, command};
use candlemark::record::Record;
use candlemark::{Error, files};

#[cfg(feature = "engine")]
pub(crate) mod calibrate;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod completions;
mod document;
#[cfg(feature = "engine")]
mod download;
pub(crate) mod gate_eval;
#[cfg(feature = "engine")]
mod interrupt;
pub(crate) mod list;
#[cfg(feature = "engine")]
pub(crate) mod machine;
#[cfg(all(feature = "engine", feature = "monitor"))]
pub(crate) mod monitor;
#[cfg(feature = "engine")]
pub(crate) mod pair;
#[cfg(feature = "engine")]
pub(crate) mod peers;
pub(crate) mod promote;
pub(crate) mod report;
#[cfg(feature = "engine")]
pub(crate) mod run;
pub(crate) mod schema;
#[cfg(feature = "engine")]
mod setup;
#[cfg(feature = "engine")]
pub(crate) mod synth;
#[cfg(feature = "engine")]
pub(crate) mod train_tokenizer;

/// The exit status. clap, too, ends with 2 on a wrong command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Pass = 0,
    Regression = 1,
    Usage = 2,
    Undecided = 3,
    NotComparable = 4,
    Failed = 5,
    Interrupted = 130,
}

/// The meaning of every exit status, for `--help`. README and docs/gate.md have the same table.
const STATUSES: [(Exit, &str); 7] = [
    (Exit::Pass, "pass or improved (also: equal binaries)"),
    (Exit::Regression, "regression"),
    (Exit::Usage, "wrong command line, configuration, or file named in them; nothing was measured"),
    (
        Exit::Undecided,
        "cannot decide: too noisy, too few blocks, not calibrated, machine changed, out of time, \
         interrupted",
    ),
    (
        Exit::NotComparable,
        "not comparable: other machine, model, settings or prompts, no baseline, base does not \
         build; or what was asked for is missing",
    ),
    (Exit::Failed, "the run failed, or greedy output changed"),
    (Exit::Interrupted, "interrupted: what was measured is kept; `--resume`"),
];

/// The table of exit statuses, for `--help`.
pub(crate) fn statuses() -> String {
    let mut text = "Exit status:".to_owned();
    for (exit, meaning) in STATUSES {
        text += &format!("\n  {:<3} ", exit as u8);
        let mut column = 0;
        for word in meaning.split(' ') {
            if column + word.len() > 70 {
                text += "\n      ";
                column = 0;
            }
            text += " ";
            text += word;
            column += word.len() + 1;
        }
    }
    text
}

/// The environment variables and exit statuses, for `--help`.
pub(crate) fn about() -> String {
    let names: Vec<&str> = candlemark::settings::variables().collect();
    let lines: Vec<String> =
        names.chunks(3).map(|names| format!("  {}", names.join(", "))).collect();
    format!(
        "Environment variables, one per key of candlemark.toml:\n{}\n\n{}",
        lines.join("\n"),
        statuses()
    )
}

impl From<Cause> for Exit {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Usage => Exit::Usage,
            Cause::Undecided => Exit::Undecided,
            Cause::NotComparable => Exit::NotComparable,
            Cause::Interrupted => Exit::Interrupted,
            Cause::Failed => Exit::Failed,
        }
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pass => Exit::Pass,
            Outcome::Regression => Exit::Regression,
            Outcome::Undecided => Exit::Undecided,
            Outcome::NotComparable => Exit::NotComparable,
            Outcome::Failed => Exit::Failed,
        }
    }
}

/// The cause of an error; errors of other crates are failures.
pub(crate) fn cause(error: &anyhow::Error) -> Cause {
    error.downcast_ref::<Error>().map_or(Cause::Failed, Error::cause)
}

/// A usage error.
fn usage(why: impl Into<String>) -> anyhow::Error {
    Error::Usage(why.into()).into()
}

/// Writes to the file, or to stdout; `-` is stdout, too.
fn write(text: &str, file: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<()> {
    match file {
        Some(path) if !files::is_stdout(path) => files::write(path, text.as_bytes())?,
        _ => out.write_all(text.as_bytes())?,
    }
    Ok(())
}

/// The command line as it was typed, for reports, without the folder of the binary.
fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = std::iter::once("candlemark".to_owned()).chain(words).collect();
    command(&words)
}

/// Loads the records that the user named.
fn records(paths: &[PathBuf]) -> Result<Vec<Record>, Error> {
    paths.iter().map(|path| Record::load(path).map_err(Error::of_named_file)).collect()
}

/// The record of the newest run. Names of run folders begin with their UTC time.
fn newest() -> Result<PathBuf, Error> {
    let runs = files::runs();
    let folders = fs::read_dir(&runs).into_iter().flatten().flatten();
    let records =
        folders.map(|folder| folder.path().join("record.json")).filter(|record| record.exists());
    records.max().ok_or_else(|| {
        let runs = runs.display();
        Error::NotComparable(format!(
            "no record under `{runs}`; make one with `cargo bench` or `candlemark run`"
        ))
    })
}
