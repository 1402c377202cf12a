//! The process of one engine, as `candlemark peers` sees it, and the messages between them: one
//! line of JSON each.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::record::Absence;
use crate::settings::Setup;
use crate::suite::worker::{NoResponse, WorkerProcess};
use crate::{machine, suite};

use super::PEERS;
use super::cases::PeerCase;

/// Enough to load tens of gigabytes from a slow disk, or for the longest turn on a slow machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1800);

/// The response to a [`Setup`] once the model is loaded, or why the engine cannot run it.
pub(super) type Loaded = Result<(), String>;

/// Asks for one turn.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub case: String,
    pub kind: TurnKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TurnKind {
    /// Warms up and returns the top-2 margins, for which the logits are copied.
    Pilot,
    /// Counts.
    Timed,
}

/// The response to a [`Request`].
pub(super) type Response = Result<Turn, Absence>;

#[derive(Serialize, Deserialize)]
pub(super) struct Turn {
    /// Tokens per second.
    pub rate: f64,
    /// Of the whole turn, including what is not timed.
    pub seconds: f64,
    /// Generated tokens of each sequence.
    pub ids: Vec<Vec<u32>>,
    /// Top-2 margin at each token, in standard deviations of the logits; empty in timed turns.
    pub margins: Vec<Vec<f64>>,
}

/// An engine in one configuration, which takes turns with others.
pub(super) trait Peer {
    fn engine(&self) -> &str;

    /// What distinguishes it from the engine's other configurations; empty if there are none.
    fn configuration(&self) -> &str;

    /// Takes one turn at a case.
    ///
    /// # Errors
    /// When the engine can take no further turn at all.
    fn request(&mut self, case: &PeerCase, kind: TurnKind) -> anyhow::Result<Response>;

    /// CPU time of its process so far, where there is one and the system reports it.
    fn cpu(&self) -> Option<Duration>;

    /// The engine, with its configuration where it has several.
    fn name(&self) -> String {
        match self.configuration() {
            "" => self.engine().into(),
            configuration => format!("{} ({configuration})", self.engine()),
        }
    }
}

/// An engine of this build, in a process that stays alive between its turns.
pub(super) struct EngineProcess {
    engine: String,
    worker: WorkerProcess,
}

impl EngineProcess {
    /// Starts a process and waits until it has loaded the model.
    pub fn start(binary: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.env(suite::WORKER, PEERS);
        let worker = WorkerProcess::spawn(&mut command, setup.threads)
            .context("cannot start this binary again")?;
        let mut process = Self { engine: setup.engine.clone(), worker };
        let loaded: Loaded = process.send_and_receive(setup)?;
        loaded.map_err(anyhow::Error::msg)?;
        Ok(process)
    }

    fn send_and_receive<T: DeserializeOwned>(
        &mut self,
        message: &impl Serialize,
    ) -> anyhow::Result<T> {
        // A process that has died reported why on its stderr; reading its response fails below.
        let _ = self.worker.send(message);
        let engine = &self.engine;
        self.worker.receive(Some(Instant::now() + TIMEOUT)).map_err(|none| match none {
            NoResponse::TimedOut => {
                let seconds = TIMEOUT.as_secs();
                anyhow::anyhow!("the process of {engine} sent no response for {seconds} s")
            }
            NoResponse::Closed => anyhow::anyhow!("the process of {engine} ended early"),
            NoResponse::Invalid(error) => {
                anyhow::anyhow!("the process of {engine}: {}", error.chain())
            }
        })
    }
}

impl Peer for EngineProcess {
    fn engine(&self) -> &str {
        &self.engine
    }

    fn configuration(&self) -> &str {
        ""
    }

    fn request(&mut self, case: &PeerCase, kind: TurnKind) -> anyhow::Result<Response> {
        self.send_and_receive(&Request { case: case.name.into(), kind })
    }

    fn cpu(&self) -> Option<Duration> {
        machine::process_cpu_time(self.worker.id())
    }
}
