//! The worker process of one arm: starts it, sends requests and receives responses. A worker that
//! dies, hangs or sends an invalid response is an error.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::suite;
use crate::suite::turns::{Ask, Opening, PROTOCOL, Ready, TURNS, Told};

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

/// A worker process that takes turns.
pub(super) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<std::io::Result<String>>,
    stderr: Option<JoinHandle<String>>,
    /// Its first response.
    pub ready: Ready,
}

impl Worker {
    /// Starts a binary and waits until its model is loaded.
    ///
    /// # Errors
    /// When it cannot be started, does not load the model or uses another protocol, or the wait is
    /// cancelled.
    pub fn start(binary: &Path, opening: &Opening, deadline: &Deadline<'_>) -> Result<Self> {
        let threads = opening.setup.threads.to_string();
        let mut command = Command::new(binary);
        command
            .env(suite::WORKER, TURNS)
            .env_remove(suite::INJECT)
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        {
            // Ctrl-C must reach only the parent, which stops in order and then ends the workers.
            use std::os::unix::process::CommandExt as _;
            command.process_group(0);
        }
        let fail = |source| Error::Read { path: binary.into(), source };
        let mut child = command.spawn().map_err(fail)?;
        let (lines, _) = suite::lines(&mut child)?;
        let stderr = suite::complaints(&mut child)?;
        let ready = Ready {
            protocol: 0,
            build: Default::default(),
            model: Default::default(),
            settings: Default::default(),
            scenarios: Vec::new(),
            unsupported: None,
        };
        let stdin = child.stdin.take();
        let mut worker = Self { child, stdin, lines, stderr: Some(stderr), ready };
        worker.ready = worker.exchange(opening, deadline)?;
        if worker.ready.protocol != PROTOCOL {
            return Err(Error::NotComparable(format!(
                "the build uses turn protocol {}, this one {PROTOCOL}",
                worker.ready.protocol
            )));
        }
        Ok(worker)
    }

    /// Sends a request and waits for the response.
    ///
    /// # Errors
    /// When the worker dies, hangs or sends an invalid response, or the wait is cancelled.
    pub fn ask(&mut self, ask: &Ask, deadline: &Deadline<'_>) -> Result<Told> {
        self.exchange(ask, deadline)
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    fn exchange<A: Serialize, T: DeserializeOwned>(
        &mut self,
        ask: &A,
        deadline: &Deadline<'_>,
    ) -> Result<T> {
        self.send(ask)?;
        self.receive(deadline)
    }

    /// Sends a request without waiting for the response.
    ///
    /// # Errors
    /// When the worker has died.
    pub fn send<A: Serialize>(&mut self, ask: &A) -> Result<()> {
        let line = serde_json::to_string(ask).expect("plain data") + "\n";
        let stdin = self.stdin.as_mut().expect("it is open until the worker is dropped");
        if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
            return Err(self.died());
        }
        Ok(())
    }

    /// Waits for the response to a request.
    ///
    /// # Errors
    /// As [`Worker::ask`].
    pub fn receive<T: DeserializeOwned>(&mut self, deadline: &Deadline<'_>) -> Result<T> {
        let began = Instant::now();
        loop {
            if deadline.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            match self.lines.recv_timeout(POLL_INTERVAL) {
                Ok(Ok(line)) => {
                    return serde_json::from_str(&line).map_err(|_| {
                        Error::Failed(format!(
                            "a worker sent an invalid response: `{}`",
                            crate::error::shortened(&line)
                        ))
                    });
                }
                Err(mpsc::RecvTimeoutError::Timeout) if began.elapsed() < deadline.timeout => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let seconds = deadline.timeout.as_secs();
                    return Err(Error::Failed(format!(
                        "a worker sent no response for {seconds} s"
                    )));
                }
                Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.died()),
            }
        }
    }

    /// The error of a worker that has died: its exit status and what it wrote to stderr.
    fn died(&mut self) -> Error {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let status = self.child.wait().map_or("unknown status".into(), |status| status.to_string());
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok());
        suite::ended(&status, None, &stderr.unwrap_or_default())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stdin.take()); // It exits at the end of its input; killing makes sure of it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
