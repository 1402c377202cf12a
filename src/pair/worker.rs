//! The worker process of one arm: starts it, sends requests and receives responses. A worker that
//! dies, hangs or sends an invalid response is an error.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::suite;
use crate::suite::turns::{Hello, HelloResponse, PROTOCOL, Request, Response, TURNS};
use crate::suite::worker::{NoResponse, WorkerProcess};

/// How long to wait for a response.
#[derive(Clone, Copy)]
pub(super) struct Deadline<'a> {
    /// Set when the wait is cancelled.
    pub(super) stop: &'a AtomicBool,
    /// A worker that takes longer is considered hung.
    pub(super) timeout: Duration,
}

/// How often a wait checks whether it was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A worker process that speaks the turn protocol.
pub(super) struct Worker {
    process: WorkerProcess,
    /// Its response to [`Hello`].
    pub hello: HelloResponse,
}

impl Worker {
    /// Starts a binary and waits until its model is loaded.
    ///
    /// # Errors
    /// When it cannot be started, does not load the model or uses another protocol, or the wait is
    /// cancelled.
    pub fn start(binary: &Path, request: &Hello, deadline: &Deadline<'_>) -> Result<Self> {
        let mut command = Command::new(binary);
        command.env(suite::WORKER, TURNS).env_remove(suite::INJECT).stderr(Stdio::piped());
        suite::own_process_group(&mut command);
        let mut process = WorkerProcess::spawn(&mut command, request.setup.threads)?;
        send(&mut process, request)?;
        let hello: HelloResponse = receive(&mut process, deadline)?;
        if hello.protocol != PROTOCOL {
            return Err(Error::NotComparable(format!(
                "the build uses turn protocol {}, this one {PROTOCOL}",
                hello.protocol
            )));
        }
        Ok(Self { process, hello })
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// Sends a request and waits for the response.
    ///
    /// # Errors
    /// When the worker dies, hangs or sends an invalid response, or the wait is cancelled.
    pub fn request(&mut self, request: &Request, deadline: &Deadline<'_>) -> Result<Response> {
        self.send(request)?;
        self.receive(deadline)
    }

    /// Sends a request without waiting for the response.
    ///
    /// # Errors
    /// When the worker has died.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        send(&mut self.process, request)
    }

    /// Waits for the response to a request.
    ///
    /// # Errors
    /// As [`Worker::request`].
    pub(crate) fn receive(&mut self, deadline: &Deadline<'_>) -> Result<Response> {
        receive(&mut self.process, deadline)
    }
}

fn send(process: &mut WorkerProcess, message: &impl Serialize) -> Result<()> {
    process.send(message).map_err(|_| death(process))
}

fn receive<T: DeserializeOwned>(process: &mut WorkerProcess, deadline: &Deadline<'_>) -> Result<T> {
    let start = Instant::now();
    loop {
        if deadline.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        match process.receive(Some(Instant::now() + POLL_INTERVAL)) {
            Ok(response) => return Ok(response),
            Err(NoResponse::TimedOut) if start.elapsed() < deadline.timeout => {}
            Err(NoResponse::TimedOut) => {
                let seconds = deadline.timeout.as_secs();
                return Err(Error::Failed(format!("a worker sent no response for {seconds} s")));
            }
            Err(NoResponse::Closed) => return Err(death(process)),
            Err(NoResponse::Invalid(error)) => return Err(error),
        }
    }
}

/// The error of a worker that has died: its exit status and what it wrote to stderr.
fn death(process: &mut WorkerProcess) -> Error {
    process.kill();
    let exit = process.wait().ok();
    let status = exit.as_ref().map_or("unknown status".into(), |exit| exit.status.to_string());
    let code = exit.as_ref().and_then(|exit| exit.status.code());
    suite::worker_failed(&status, code, exit.as_ref().map_or("", |exit| &exit.stderr))
}
