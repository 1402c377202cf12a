//! The process of one engine, as `candlemark peers` sees it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use crate::machine;
use crate::suite::worker::{NoLine, WorkerProcess};

use super::cases::PeerCase;
use super::protocol::{Hello, Request, Response, TurnKind};

/// Enough to load tens of gigabytes from a slow disk, or for the longest turn on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(1800);

pub(super) struct EngineProcess {
    pub engine: String,
    /// The engine's own description of its configuration.
    pub setup: String,
    worker: WorkerProcess,
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
        let mut command = Command::new(binary);
        command
            .args(["peers", "--worker", engine, "--threads", &threads.to_string()])
            .arg(file)
            .envs(variables.iter().copied());
        let worker = WorkerProcess::spawn(&mut command, threads)
            .context("cannot start this binary again")?;
        let mut process = Self { engine: engine.into(), setup: String::new(), worker };
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
        // A process that has died reported why on its stderr; reading its response fails below.
        let _ = self.worker.send(&request);
        self.receive()
    }

    fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let engine = &self.engine;
        let line = match self.worker.receive(Some(Instant::now() + TIMEOUT)) {
            Ok(line) => line,
            Err(NoLine::TimedOut) => {
                let seconds = TIMEOUT.as_secs();
                anyhow::bail!("the process of {engine} sent no response for {seconds} s")
            }
            Err(NoLine::Closed) => anyhow::bail!("the process of {engine} ended early"),
            Err(NoLine::Unreadable(error)) => {
                let message = format!("cannot read from the process of {engine}");
                return Err(error).context(message);
            }
        };
        serde_json::from_str(&line)
            .with_context(|| format!("the process of {engine} sent an invalid response"))
    }

    /// Seconds of CPU that the process has used, where the system reports it.
    pub fn cpu_s(&self) -> Option<f64> {
        Some(machine::process_cpu_time(self.worker.id())?.as_secs_f64())
    }
}
