//! A CPU quota of the workers, like that of a container: a cgroup where the kernel lets us make
//! one, otherwise an imitation that stops and continues the processes (SIGSTOP, SIGCONT).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, thread};

use crate::error::Result;
use crate::suite;

/// The default period of the kernel's CFS bandwidth control; unused time expires with it.
const PERIOD: Duration = Duration::from_millis(100);

/// A limit of CPU time on processes; it ends when it is dropped.
pub(super) enum CpuQuota {
    /// A cgroup.
    Cgroup { folder: PathBuf, processes: PathBuf },
    /// All processes are stopped for a part of each period.
    Signals { limited: Arc<StoppedProcesses>, thread: Option<JoinHandle<()>> },
}

/// Processes that are stopped and continued in each period.
#[derive(Default)]
pub(super) struct StoppedProcesses {
    processes: Mutex<Vec<u32>>,
    over: AtomicBool,
}

impl CpuQuota {
    /// A limit to this share of all CPUs.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn new(share: f64) -> Result<Self> {
        if let Some(cgroup) = cgroup(share) {
            return Ok(cgroup);
        }
        let limited = Arc::<StoppedProcesses>::default();
        let inner = limited.clone();
        let thread = suite::spawn_thread(move || inner.run(share))?;
        Ok(Self::Signals { limited, thread: Some(thread) })
    }

    /// How the limit is enforced, for people.
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Cgroup { .. } => "by a control group",
            Self::Signals { .. } => "by stopping and continuing the processes",
        }
    }

    /// Limits a process.
    pub(super) fn limit(&self, process: u32) -> std::io::Result<()> {
        match self {
            Self::Cgroup { processes, .. } => fs::write(processes, process.to_string()),
            Self::Signals { limited, .. } => {
                limited.lock().push(process);
                Ok(())
            }
        }
    }

    /// Releases all processes. Call it before they end, because the system reuses process ids.
    pub(super) fn release(&self) {
        if let Self::Signals { limited, .. } = self {
            let mut processes = limited.lock();
            processes.iter().for_each(|process| signal(*process, Signal::Continue));
            processes.clear();
        }
    }
}

impl Drop for CpuQuota {
    fn drop(&mut self) {
        self.release();
        match self {
            Self::Cgroup { folder, .. } => drop(fs::remove_dir(folder)),
            Self::Signals { limited, thread } => {
                limited.over.store(true, Ordering::Relaxed);
                let _ = thread.take().map(JoinHandle::join);
            }
        }
    }
}

impl StoppedProcesses {
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, share: f64) {
        while !self.over.load(Ordering::Relaxed) {
            thread::sleep(PERIOD.mul_f64(share));
            self.lock().iter().for_each(|process| signal(*process, Signal::Stop));
            thread::sleep(PERIOD.mul_f64(1.0 - share));
            self.lock().iter().for_each(|process| signal(*process, Signal::Continue));
        }
    }
}

/// A cgroup (version 2 or 1) with a CPU quota; `None` where none can be made.
fn cgroup(share: f64) -> Option<CpuQuota> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let period = PERIOD.as_micros();
    let quota = (share * cpus as f64 * period as f64) as u64;
    let name = format!("candlemark-{}", std::process::id());
    let create = |parent: &str, limits: &[(&str, String)]| {
        let folder = PathBuf::from(parent).join(&name);
        fs::create_dir(&folder).ok()?;
        let written = limits.iter().all(|(file, value)| {
            let path = folder.join(file);
            path.exists() && fs::write(path, value).is_ok()
        });
        if !written {
            let _ = fs::remove_dir(&folder);
            return None;
        }
        let processes = folder.join("cgroup.procs");
        Some(CpuQuota::Cgroup { folder, processes })
    };
    create("/sys/fs/cgroup", &[("cpu.max", format!("{quota} {period}"))]).or_else(|| {
        let limits =
            [("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        create("/sys/fs/cgroup/cpu", &limits)
    })
}

#[derive(Clone, Copy)]
enum Signal {
    Stop,
    Continue,
}

#[cfg(target_os = "linux")]
fn signal(process: u32, signal: Signal) {
    use rustix::process::Pid;
    let signal = match signal {
        Signal::Stop => rustix::process::Signal::STOP,
        Signal::Continue => rustix::process::Signal::CONT,
    };
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    // The process may have ended by itself.
    let _ = process.map(|process| rustix::process::kill_process(process, signal));
}

#[cfg(not(target_os = "linux"))]
fn signal(_: u32, _: Signal) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    /// CPU time of a process in clock ticks of a hundredth of a second.
    fn ticks(process: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    #[test]
    fn a_stopped_process_uses_little_cpu_time_and_is_released() {
        let limited = Arc::<StoppedProcesses>::default();
        let inner = limited.clone();
        let thread = thread::spawn(move || inner.run(0.1));
        let quota = CpuQuota::Signals { limited, thread: Some(thread) };
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        quota.limit(busy.id()).unwrap();
        let began = Instant::now();
        thread::sleep(Duration::from_millis(1500));
        let share = ticks(busy.id()) as f64 / 100.0 / began.elapsed().as_secs_f64();
        quota.release();
        drop(quota);
        let stat = fs::read_to_string(format!("/proc/{}/stat", busy.id())).unwrap();
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(share < 0.5, "a tenth was allowed, {share:.2} was used");
        assert!(!stat.contains(") T "), "it must not stay stopped: {stat}");
    }

    #[test]
    fn the_cgroup_is_removed_with_the_quota() {
        let Some(quota) = cgroup(0.5) else {
            let why = "no cgroup with a CPU quota can be made here";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
            return;
        };
        let CpuQuota::Cgroup { folder, .. } = &quota else { unreachable!("it is a cgroup") };
        let folder = folder.clone();
        assert!(folder.exists());
        drop(quota);
        assert!(!folder.exists());
    }
}
