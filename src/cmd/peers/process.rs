//! The process of one engine, as `candlemark peers` sees it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use super::cases::PeerCase;
use super::protocol::{Hello, Request, Response, TurnKind};

pub(super) struct EngineProcess {
    pub engine: String,
    /// The engine's own description of its configuration.
    pub setup: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl EngineProcess {
    /// Starts a process and waits until it has loaded the model.
    pub fn start(
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
            .context("cannot start this binary again")?;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut process =
            Self { engine: engine.into(), setup: String::new(), child, stdin, stdout };
        match process.receive()? {
            Hello::Loaded(setup) => process.setup = setup,
            Hello::Unsupported(why) => anyhow::bail!("{why}"),
        }
        Ok(process)
    }

    /// The engine, with the first word of its configuration where it has several.
    pub fn name(&self) -> String {
        match self.setup.split([';', ',']).next() {
            Some(first) if !first.is_empty() => format!("{} ({first})", self.engine),
            _ => self.engine.clone(),
        }
    }

    pub fn request(&mut self, case: &PeerCase, kind: TurnKind) -> anyhow::Result<Response> {
        let request = Request { case: case.name.into(), kind };
        let line = serde_json::to_string(&request).expect("plain data") + "\n";
        // A process that has died reported why on its stderr; reading its response fails below.
        let _ = self.stdin.write_all(line.as_bytes()).and_then(|()| self.stdin.flush());
        self.receive()
    }

    fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .with_context(|| format!("cannot read from the process of {}", self.engine))?;
        serde_json::from_str(&line)
            .with_context(|| format!("the process of {} sent an invalid response", self.engine))
    }

    /// Seconds of CPU that the process has used, where the system reports it.
    pub fn cpu_s(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // After the name, which may contain anything: user and system time are the 12th and 13th
        // fields, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / 100.0)
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
