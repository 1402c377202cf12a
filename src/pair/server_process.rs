//! A server that a command starts, for one block.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client;
use crate::client::{Client, Endpoint, Limits, Request};
use crate::error::{Error, Result, shortened};
use crate::pair::worker::Deadline;
use crate::suite;

/// The place of the port in a command.
pub(crate) const PORT: &str = "{port}";

/// How long a server may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// How often a server is asked whether it is ready.
const POLL: Duration = Duration::from_millis(100);

/// A running server. It ends when dropped, and with this process: its shell reads a pipe that this
/// process holds.
pub(super) struct ServerProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it prints.
    log: PathBuf,
    url: String,
}

impl ServerProcess {
    /// Starts a server on a free port and waits until it lists its models.
    ///
    /// # Errors
    /// When it cannot be started, ends, is not ready in time, or the wait is cancelled.
    pub(super) fn start(
        command: &str,
        log: &Path,
        ready: Duration,
        deadline: &Deadline<'_>,
    ) -> Result<Self> {
        let port = free_port()?;
        let output = || {
            let file = File::options().create(true).append(true).open(log);
            file.map_err(|source| Error::Write { path: log.into(), source })
        };
        let _ = std::fs::remove_file(log); // That of the block before.
        // The shell's own process group ends as soon as the pipe does.
        let script = format!(
            "exec 3<&0 0</dev/null; (cat <&3 >/dev/null; kill -TERM 0) & exec 3<&-\n{}",
            command.replace(PORT, &port.to_string())
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).stdin(Stdio::piped()).stdout(output()?).stderr(output()?);
        suite::own_process_group(&mut shell);
        let mut child =
            shell.spawn().map_err(|source| Error::Read { path: "sh".into(), source })?;
        let (stdin, log) = (child.stdin.take(), log.to_owned());
        let url = format!("http://127.0.0.1:{port}");
        let mut server = Self { child, stdin, log, url };
        server.wait_until_ready(command, ready, deadline)?;
        Ok(server)
    }

    /// Its address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn wait_until_ready(
        &mut self,
        command: &str,
        ready: Duration,
        deadline: &Deadline<'_>,
    ) -> Result<()> {
        let began = Instant::now();
        let runtime = client::runtime()?;
        let limits = Limits { first_byte: ready, total: ready, ..Limits::default() };
        let client = Client::new(Endpoint::parse(&self.url)?, None, limits)?;
        loop {
            if deadline.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if let Some(status) = self.ended() {
                return Err(self.failed(command, &format!("ended with {status}")));
            }
            let answer = runtime.block_on(client.send(&Request::models(), Instant::now()));
            // A server that asks for a key is ready, too.
            if answer.fault.is_none() || matches!(answer.status, Some(401 | 403)) {
                return Ok(());
            }
            if began.elapsed() > ready {
                return Err(self.failed(command, &format!("is not ready after {ready:?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The error of a server that did not start, with the last line that it printed.
    fn failed(&self, command: &str, what: &str) -> Error {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let printed = last.map_or("nothing".into(), |line| format!("`{}`", shortened(line.trim())));
        Error::Failed(format!("`{}` {what} and printed {printed}", shortened(command)))
    }

    /// Sends a signal to the process group.
    fn signal(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.signal("-TERM");
        let began = Instant::now();
        while self.ended().is_none() && began.elapsed() < GRACE {
            std::thread::sleep(POLL);
        }
        // What ignored it, or is left of the group.
        self.signal("-KILL");
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// A port that nothing listens on now.
fn free_port() -> Result<u16> {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr());
    let address = address.map_err(|source| Error::Failed(format!("no free port: {source}")))?;
    Ok(address.port())
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn start(command: &str, folder: &Path, ready: Duration) -> Result<ServerProcess> {
        let stop = AtomicBool::new(false);
        let deadline = Deadline { stop: &stop, timeout: ready };
        ServerProcess::start(command, &folder.join("log"), ready, &deadline)
    }

    #[test]
    fn a_server_that_does_not_start_is_an_error_with_its_last_words() {
        let here = tempfile::tempdir().unwrap();
        let error =
            |command: &str, ready| start(command, here.path(), ready).err().unwrap().to_string();
        let minute = Duration::from_secs(60);
        let ended = error("echo no model >&2; exit 3 # {port}", minute);
        assert!(ended.contains("ended with exit status: 3 and printed `no model`"), "{ended}");
        let silent = error("sleep 600 # {port}", Duration::from_millis(1));
        assert!(silent.contains("is not ready after 1ms and printed nothing"), "{silent}");
    }

    #[test]
    fn the_whole_process_group_ends_with_the_server() {
        let here = tempfile::tempdir().unwrap();
        let pid = here.path().join("pid");
        // It ignores SIGTERM.
        let command = format!("trap '' TERM; sleep 600 & echo $! > {}; wait", pid.display());
        let error = start(&command, here.path(), Duration::from_secs(1)).err().unwrap();
        assert!(error.to_string().contains("is not ready"), "{error}");
        let pid = std::fs::read_to_string(pid).unwrap();
        let runs = || {
            let state =
                Command::new("ps").args(["-o", "stat=", "-p", pid.trim()]).output().unwrap();
            // `Z`: it has ended, and the process that adopted it has not noticed.
            !matches!(state.stdout.first(), None | Some(b'Z'))
        };
        let began = Instant::now();
        while runs() {
            assert!(began.elapsed() < Duration::from_secs(60), "process {pid} is still there");
            std::thread::sleep(POLL);
        }
    }
}
