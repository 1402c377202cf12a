//! One arm's process: started, asked, heard, ended. A worker that dies, hangs or prints what is no
//! answer is an error that says so; waiting for an answer can be given up.

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

/// How long an answer is waited for.
#[derive(Clone, Copy)]
pub struct Deadline<'a> {
    /// Set when no answer is wanted any more.
    pub stop: &'a AtomicBool,
    /// A worker that takes longer hangs.
    pub timeout: Duration,
}

/// How often a wait looks up, to see whether it was called off.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A worker process that takes turns.
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<std::io::Result<String>>,
    complaints: Option<JoinHandle<String>>,
    /// What it said when it was ready.
    pub ready: Ready,
}

impl Worker {
    /// Starts a binary and waits until its model is loaded.
    ///
    /// # Errors
    /// When it cannot be started, does not load, speaks another protocol, or no answer is wanted
    /// any more.
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
            // Ctrl-C is for who asked: it ends the measuring in order and then the workers.
            use std::os::unix::process::CommandExt as _;
            command.process_group(0);
        }
        let fail = |source| Error::Read { path: binary.into(), source };
        let mut child = command.spawn().map_err(fail)?;
        let (lines, _) = suite::lines(&mut child)?;
        let complaints = suite::complaints(&mut child)?;
        let ready = Ready {
            protocol: 0,
            build: Default::default(),
            model: Default::default(),
            settings: Default::default(),
            scenarios: Vec::new(),
            unsupported: None,
        };
        let stdin = child.stdin.take();
        let mut worker = Self { child, stdin, lines, complaints: Some(complaints), ready };
        worker.ready = worker.exchange(opening, deadline)?;
        if worker.ready.protocol != PROTOCOL {
            return Err(Error::NotComparable(format!(
                "the build takes turns by protocol {}, this one by {PROTOCOL}",
                worker.ready.protocol
            )));
        }
        Ok(worker)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When the worker dies, hangs or answers nonsense, or no answer is wanted any more.
    pub fn ask(&mut self, ask: &Ask, deadline: &Deadline<'_>) -> Result<Told> {
        self.exchange(ask, deadline)
    }

    /// Its process.
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

    /// Asks, without waiting for the answer.
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

    /// Waits for the answer to what was sent.
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
                            "a worker printed what is no answer: `{}`",
                            crate::error::shortened(&line)
                        ))
                    });
                }
                Err(mpsc::RecvTimeoutError::Timeout) if began.elapsed() < deadline.timeout => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let seconds = deadline.timeout.as_secs();
                    return Err(Error::Failed(format!("a worker gave no answer for {seconds} s")));
                }
                Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.died()),
            }
        }
    }

    /// Why there is no answer.
    fn died(&mut self) -> Error {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let status = self.child.wait().map_or("unknown status".into(), |status| status.to_string());
        let complaint = self.complaints.take().and_then(|thread| thread.join().ok());
        suite::ended(&status, None, &complaint.unwrap_or_default())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stdin.take()); // It ends at the end of its input; killing makes that sure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
