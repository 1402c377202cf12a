//! The process of one engine, as seen by who asks it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use candlemark::record::Absence;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::item::Item;

/// What an engine's process is asked.
#[derive(Serialize, Deserialize)]
pub(super) struct Ask {
    pub item: String,
    pub kind: Kind,
}

/// What a turn is for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Warms up, and shows how far apart the best two scores are, which costs a copy of them.
    Pilot,
    /// Counts.
    Timed,
}

/// What it says once the model is loaded.
#[derive(Serialize, Deserialize)]
pub(super) enum Ready {
    /// How the engine is set up.
    Loaded(String),
    /// Why it cannot run the model.
    Unsupported(String),
}

/// What it answers.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    Measured {
        /// Tokens per second.
        rate: f64,
        /// The whole turn, with what is not timed.
        seconds: f64,
        /// The tokens that each sequence went on with.
        ids: Vec<Vec<u32>>,
        /// How far apart the best two scores were at each, in standard deviations of the scores;
        /// empty if not asked for.
        gaps: Vec<Vec<f64>>,
    },
    Cannot {
        absent: Absence,
    },
}

/// An engine's process.
pub(super) struct Seat {
    pub engine: String,
    /// How the engine says that it is set up.
    pub setup: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Seat {
    /// Starts a process and waits until it has loaded the model.
    pub fn take(
        binary: &Path,
        file: &Path,
        engine: &str,
        threads: usize,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let threads = threads.to_string();
        let mut child = Command::new(binary)
            .args(["peers", "--worker", engine, "--threads", &threads])
            .arg(file)
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting this binary again")?;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut seat = Self { engine: engine.into(), setup: String::new(), child, stdin, stdout };
        match seat.answer()? {
            Ready::Loaded(setup) => seat.setup = setup,
            Ready::Unsupported(why) => anyhow::bail!("{why}"),
        }
        Ok(seat)
    }

    /// The engine, and how it is set up if that is one of several.
    pub fn name(&self) -> String {
        match self.setup.split([';', ',']).next() {
            Some(first) if !first.is_empty() => format!("{} ({first})", self.engine),
            _ => self.engine.clone(),
        }
    }

    pub fn ask(&mut self, item: &Item, kind: Kind) -> anyhow::Result<Told> {
        let ask = Ask { item: item.name.into(), kind };
        let line = serde_json::to_string(&ask).expect("plain data") + "\n";
        // One that has died says why on its standard error, and has no answer.
        let _ = self.stdin.write_all(line.as_bytes()).and_then(|()| self.stdin.flush());
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .with_context(|| format!("listening to {}", self.engine))?;
        serde_json::from_str(&line)
            .with_context(|| format!("the process of {} gave no answer", self.engine))
    }

    /// Seconds of CPU that the process has used, where the system tells.
    pub fn cpu_s(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // After the name, which may hold anything: user and system time are the 12th and 13th, in
        // hundredths.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / 100.0)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
