//! The worker process of one arm. A worker that dies, hangs or sends an invalid response is an error
//! that says so; waiting for a response can be cancelled.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::suite;
use crate::suite::turns::{Hello, HelloResponse, PROTOCOL, Request, Response, TURNS};
use crate::suite::worker::{NoLine, WorkerProcess, parse_response};

/// How long an answer is waited for.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// Set when no answer is wanted any more.
    pub stop: &'a AtomicBool,
    /// A worker that takes longer hangs.
    pub longest: Duration,
}

/// How often a wait checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(50);

/// A worker process that speaks the turn protocol.
pub struct Worker {
    process: WorkerProcess,
    /// Its response to [`Hello`].
    pub ready: HelloResponse,
}

impl Worker {
    /// Starts a binary and waits until its model is loaded.
    ///
    /// # Errors
    /// When it cannot be started, does not load the model, speaks another protocol, or the wait is
    /// cancelled.
    pub fn start(binary: &Path, hello: &Hello, patience: &Patience<'_>) -> Result<Self> {
        let mut command = Command::new(binary);
        command.env(suite::WORKER, TURNS).env_remove(suite::INJECT).stderr(Stdio::piped());
        suite::own_process_group(&mut command);
        let mut process = WorkerProcess::spawn(&mut command, hello.setup.threads)?;
        let ready: HelloResponse = exchange(&mut process, hello, patience)?;
        if ready.protocol != PROTOCOL {
            return Err(Error::NotComparable(format!(
                "the build speaks turn protocol {}, this one {PROTOCOL}",
                ready.protocol
            )));
        }
        Ok(Self { process, ready })
    }

    /// Sends a request and waits for the response.
    ///
    /// # Errors
    /// When the worker dies, hangs or sends an invalid response, or the wait is cancelled.
    pub fn ask(&mut self, request: &Request, patience: &Patience<'_>) -> Result<Response> {
        exchange(&mut self.process, request, patience)
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// Sends a request without waiting for the response.
    ///
    /// # Errors
    /// When the worker has died.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        send(&mut self.process, request)
    }

    /// Waits for the response to what was sent.
    ///
    /// # Errors
    /// As [`Worker::ask`].
    pub fn receive(&mut self, patience: &Patience<'_>) -> Result<Response> {
        receive(&mut self.process, patience)
    }
}

fn exchange<T: DeserializeOwned>(
    process: &mut WorkerProcess,
    message: &impl Serialize,
    patience: &Patience<'_>,
) -> Result<T> {
    send(process, message)?;
    receive(process, patience)
}

fn send(process: &mut WorkerProcess, message: &impl Serialize) -> Result<()> {
    process.send(message).map_err(|_| death(process))
}

fn receive<T: DeserializeOwned>(process: &mut WorkerProcess, patience: &Patience<'_>) -> Result<T> {
    let start = Instant::now();
    loop {
        if patience.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        match process.receive(Some(Instant::now() + POLL)) {
            Ok(line) => return parse_response(&line),
            Err(NoLine::TimedOut) if start.elapsed() < patience.longest => {}
            Err(NoLine::TimedOut) => {
                let seconds = patience.longest.as_secs();
                return Err(Error::Failed(format!("a worker sent no response for {seconds} s")));
            }
            Err(NoLine::Closed | NoLine::Unreadable(_)) => return Err(death(process)),
        }
    }
}

/// Ends a worker that does not read or write, and tells why it died.
fn death(process: &mut WorkerProcess) -> Error {
    process.kill();
    let exit = process.wait().ok();
    let status = exit.as_ref().map_or("unknown status".into(), |exit| exit.status.to_string());
    // Without the exit status: that of a build under test is no usage error of this process.
    suite::worker_failed(&status, None, exit.as_ref().map_or("", |exit| &exit.stderr))
}
