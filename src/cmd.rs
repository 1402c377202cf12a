//! The commands, one a file: functions from arguments to text and an exit status.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use candlemark::Error;
use candlemark::compare::Outcome;
use candlemark::record::write_atomically;

#[cfg(feature = "engine")]
pub(crate) mod calibrate;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod completions;
#[cfg(feature = "engine")]
mod download;
pub(crate) mod gate_eval;
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

/// The answer that a script reads. 2 is clap's: a wrong command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Pass = 0,
    Regression = 1,
    Undecided = 3,
    NotComparable = 4,
    Failed = 5,
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

/// Writes to the file that was asked for, or to stdout; `-` is stdout too.
fn write(text: &str, file: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<()> {
    match file {
        Some(path) if path != Path::new("-") => write_atomically(path, text.as_bytes())?,
        _ => out.write_all(text.as_bytes())?,
    }
    Ok(())
}

/// The command line as it was typed, for reports; the folder of the binary is left out, because it says where, not what.
fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    std::iter::once("candlemark".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The record of the newest run; folders of runs begin with their UTC time.
fn newest() -> Result<PathBuf, Error> {
    let runs = candlemark::record::runs();
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
