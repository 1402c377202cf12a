//! Both ends of a worker process, which answers lines of JSON with lines of JSON. The host spawns
//! it, sends requests, receives responses, collects its standard error, and ends it. Knows nothing
//! of what the lines mean.

use std::io;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, shortened};

/// A child process that answers lines of JSON with lines of JSON. Dropping it kills it.
pub(crate) struct WorkerProcess {
    program: PathBuf,
    child: Child,
    /// Open until the worker is ended: a worker exits at the end of its input.
    stdin: Option<ChildStdin>,
    lines: Receiver<io::Result<String>>,
    reader: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

/// Why no response was received.
#[derive(Debug)]
pub(crate) enum NoResponse {
    /// The deadline passed.
    TimedOut,
    /// The worker closed its standard output.
    Closed,
    /// The worker's output cannot be read, or is not the expected message; the error quotes it.
    Invalid(Error),
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct WorkerExit {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed to standard error, if that was piped.
    pub stderr: String,
}

impl WorkerExit {
    /// The error for a worker that ended before it had sent every response.
    pub fn error(&self) -> Error {
        worker_failed(&self.status.to_string(), self.status.code(), &self.stderr)
    }
}

impl WorkerProcess {
    /// Spawns `command` with this number of engine threads. Standard input and output are piped;
    /// standard error is collected if `command` pipes it.
    ///
    /// # Errors
    /// When the program cannot be started, or the system refuses a thread to read its output.
    pub fn spawn(command: &mut Command, threads: usize) -> Result<Self> {
        let threads = threads.to_string();
        let program = PathBuf::from(command.get_program());
        let mut child = command
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Read { path: program.clone(), source })?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        // If a thread is refused, the child's streams are dropped and it exits.
        let reader = spawn_thread(move || {
            let _ = stdout.lines().try_for_each(|line| sender.send(line));
        })?;
        let collect = |mut stderr: std::process::ChildStderr| {
            spawn_thread(move || {
                let mut text = Vec::new();
                let _ = stderr.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let stderr = child.stderr.take().map(collect).transpose()?;
        Ok(Self { program, child, stdin, lines, reader: Some(reader), stderr })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends one line of JSON.
    ///
    /// # Errors
    /// When the worker no longer reads; [`WorkerProcess::wait`] tells why.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(message).expect("plain data") + "\n";
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(line.as_bytes())?;
        stdin.flush()
    }

    /// Waits for one message; without a deadline for as long as the worker runs.
    ///
    /// # Errors
    /// Why there is no response.
    pub(crate) fn receive<T: DeserializeOwned>(
        &self,
        deadline: Option<Instant>,
    ) -> std::result::Result<T, NoResponse> {
        let line = self.receive_line(deadline)?;
        serde_json::from_str(&line).map_err(|_| {
            let line = shortened(&line);
            let why = format!("a worker sent an invalid response: `{line}`");
            NoResponse::Invalid(Error::Failed(why))
        })
    }

    /// The same for a line of any text.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn receive_line(
        &self,
        deadline: Option<Instant>,
    ) -> std::result::Result<String, NoResponse> {
        let line = match deadline {
            Some(at) => self.lines.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.lines.recv().map_err(RecvTimeoutError::from),
        };
        match line {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(source)) => {
                Err(NoResponse::Invalid(Error::Read { path: self.program.clone(), source }))
            }
            Err(RecvTimeoutError::Timeout) => Err(NoResponse::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(NoResponse::Closed),
        }
    }

    /// Kills the worker, and the processes that it has started where it leads a group of its own:
    /// they may hold its pipes. [`WorkerProcess::wait`] must follow.
    pub fn kill(&mut self) {
        #[cfg(unix)]
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::KILL,
        );
        let _ = self.child.kill();
    }

    /// Closes the worker's input and waits until it has ended.
    ///
    /// # Errors
    /// When the system does not tell the exit status.
    pub fn wait(&mut self) -> Result<WorkerExit> {
        drop(self.stdin.take());
        let status = self.child.wait();
        let status = status.map_err(|source| Error::Read { path: self.program.clone(), source })?;
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(WorkerExit { status, stderr })
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a worker: its first request.
///
/// # Errors
/// When there is none, or as [`next_request`].
pub(crate) fn first_request<T: DeserializeOwned>() -> Result<T> {
    next_request()?.ok_or_else(|| Error::Failed("no request on standard input".into()))
}

/// In a worker: the next request on standard input; `None` once the host has closed it.
///
/// # Errors
/// When standard input cannot be read, or the line is not a `T`.
pub(crate) fn next_request<T: DeserializeOwned>() -> Result<Option<T>> {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    match read.map_err(|source| Error::Read { path: "standard input".into(), source })? {
        0 => Ok(None),
        _ => serde_json::from_str(&line)
            .map(Some)
            .map_err(|error| Error::Failed(format!("invalid request on standard input: {error}"))),
    }
}

/// In a worker: writes a response to standard output, and flushes it.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn respond(response: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(response).expect("plain data") + "\n";
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::Write { path: "standard output".into(), source })
}

/// Set for a worker of one request whose host keeps its standard input open.
pub(super) const STDIN_STAYS_OPEN: &str = "CANDLEMARK_HELD";

/// In a worker of one request: ends the process once the host has closed standard input, because an
/// orphaned worker would disturb the next measurement.
///
/// # Errors
/// When the system refuses a thread.
pub(super) fn exit_with_host() -> Result<()> {
    if std::env::var_os(STDIN_STAYS_OPEN).is_none() {
        return Ok(());
    }
    spawn_thread(|| {
        // Blocked until then: it takes no CPU time.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    })
    .map(drop)
}

/// The error for a worker that ended too early; `code` is its exit status.
pub(crate) fn worker_failed(status: &str, code: Option<i32>, stderr: &str) -> Error {
    let message = stderr.trim().trim_start_matches("error: ");
    let stderr =
        if message.is_empty() { "nothing".into() } else { format!("`{}`", shortened(message)) };
    Error::Worker { status: status.into(), code, stderr }
}

/// Puts a worker into a process group of its own. Ctrl-C then reaches this process alone, which
/// ends its workers in order; a worker that died of it would look like a failed scenario.
pub(crate) fn own_process_group(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
    }
    #[cfg(not(unix))]
    let _ = command;
}

/// Spawns a thread that reads, waits or listens.
pub(crate) fn spawn_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    std::thread::Builder::new().spawn(work).map_err(|source| {
        Error::Failed(format!("cannot start another thread ({source}); raise `ulimit -u`"))
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> WorkerProcess {
        let mut command = Command::new("/bin/sh");
        WorkerProcess::spawn(command.args(["-c", script]).stderr(Stdio::piped()), 1).unwrap()
    }

    #[test]
    fn a_line_is_answered_by_a_line() {
        let mut worker = shell("read line; echo \"$line\"; echo why >&2; exit 3");
        worker.send(&[1, 2]).unwrap();
        let numbers: Vec<u32> =
            worker.receive(Some(Instant::now() + Duration::from_secs(60))).unwrap();
        assert_eq!(numbers, [1, 2]);
        assert!(matches!(worker.receive::<u32>(None), Err(NoResponse::Closed)));
        let exit = worker.wait().unwrap();
        assert_eq!((exit.status.code(), exit.stderr.as_str()), (Some(3), "why\n"));
        assert!(exit.error().to_string().contains("`why`"));
    }

    #[test]
    fn a_worker_that_hangs_or_prints_bytes_is_told_apart() {
        let mut hangs = shell("read line");
        assert!(matches!(hangs.receive::<u32>(Some(Instant::now())), Err(NoResponse::TimedOut)));
        hangs.kill();
        assert!(!hangs.wait().unwrap().status.success());
        for (bytes, says) in [("\\377", "cannot read `/bin/sh`"), ("x", "response: `x`")] {
            let prints = shell(&format!("printf '{bytes}\\n'; read line"));
            let Err(NoResponse::Invalid(error)) = prints.receive::<u32>(None) else {
                panic!("{bytes} is no number")
            };
            assert!(error.to_string().ends_with(says), "{error}");
        }
    }
}
