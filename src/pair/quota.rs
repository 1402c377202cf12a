//! A limit of CPU time on workers, as a container has one: the kernel's own where it lets us make a
//! control group, an imitation by stopping and continuing the processes otherwise.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, thread};

use crate::error::Result;
use crate::suite;

/// The period of the kernel's CFS bandwidth control by default: what is not used in it is lost.
const PERIOD: Duration = Duration::from_millis(100);

/// A limit of CPU time that processes are put under; it ends when it is dropped.
pub(super) enum Quota {
    /// A control group of the kernel.
    Group { folder: PathBuf, processes: PathBuf },
    /// All processes stopped for a part of each period.
    Signals { held: Arc<Held>, thread: Option<JoinHandle<()>> },
}

/// Processes that are stopped and continued.
#[derive(Default)]
pub(super) struct Held {
    processes: Mutex<Vec<u32>>,
    over: AtomicBool,
}

impl Quota {
    /// Limits whatever is put under it to this share of all CPUs.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn new(share: f64) -> Result<Self> {
        if let Some(group) = group(share) {
            return Ok(group);
        }
        let held = Arc::<Held>::default();
        let inner = held.clone();
        let thread = suite::spawn_thread(move || inner.run(share))?;
        Ok(Self::Signals { held, thread: Some(thread) })
    }

    /// How it is done, for people.
    pub(super) fn way(&self) -> &'static str {
        match self {
            Self::Group { .. } => "by a control group",
            Self::Signals { .. } => "by stopping and continuing the processes",
        }
    }

    /// Puts a process under the limit.
    pub(super) fn hold(&self, process: u32) -> std::io::Result<()> {
        match self {
            Self::Group { processes, .. } => fs::write(processes, process.to_string()),
            Self::Signals { held, .. } => {
                held.lock().push(process);
                Ok(())
            }
        }
    }

    /// Lets all processes go, before they end: their numbers may be those of others later.
    pub(super) fn release(&self) {
        if let Self::Signals { held, .. } = self {
            let mut processes = held.lock();
            processes.iter().for_each(|process| signal(*process, Signal::Continue));
            processes.clear();
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.release();
        match self {
            Self::Group { folder, .. } => drop(fs::remove_dir(folder)),
            Self::Signals { held, thread } => {
                held.over.store(true, Ordering::Relaxed);
                let _ = thread.take().map(JoinHandle::join);
            }
        }
    }
}

impl Held {
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

/// A control group with a CPU quota, of version 2 or 1 of the interface; `None` where none can be
/// made.
fn group(share: f64) -> Option<Quota> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let period = PERIOD.as_micros();
    let quota = (share * cpus as f64 * period as f64) as u64;
    let name = format!("candlemark-{}", std::process::id());
    let made = |parent: &str, limits: &[(&str, String)]| {
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
        Some(Quota::Group { folder, processes })
    };
    made("/sys/fs/cgroup", &[("cpu.max", format!("{quota} {period}"))]).or_else(|| {
        let limits =
            [("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        made("/sys/fs/cgroup/cpu", &limits)
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
    // A process that has ended by itself is no fault of the limit.
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

    /// CPU time of a process in clock ticks, a hundredth of a second each.
    fn ticks(process: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    #[test]
    fn a_process_that_is_stopped_for_most_of_the_time_does_little_and_is_let_go() {
        let held = Arc::<Held>::default();
        let inner = held.clone();
        let thread = thread::spawn(move || inner.run(0.1));
        let quota = Quota::Signals { held, thread: Some(thread) };
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        quota.hold(busy.id()).unwrap();
        let began = Instant::now();
        thread::sleep(Duration::from_millis(1500));
        let share = ticks(busy.id()) as f64 / 100.0 / began.elapsed().as_secs_f64();
        quota.release();
        drop(quota);
        let stat = fs::read_to_string(format!("/proc/{}/stat", busy.id())).unwrap();
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(share < 0.5, "a tenth was allowed, {share:.2} was used");
        assert!(!stat.contains(") T "), "it is not left stopped: {stat}");
    }

    #[test]
    fn a_control_group_is_removed_where_one_can_be_made() {
        let Some(quota) = group(0.5) else {
            let why = "no control group with a CPU quota can be made here";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
            return;
        };
        let Quota::Group { folder, .. } = &quota else { unreachable!("it is a group") };
        let folder = folder.clone();
        assert!(folder.exists());
        drop(quota);
        assert!(!folder.exists());
    }
}
