//! Memory of this process: the resident set, now and at its highest since the last reset.
//! System-wide figures and a counting allocator are other kinds of memory and not known here.

use std::fs;
use std::path::Path;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::error::{Error, Result};

/// Resident memory of this process in bytes. What cannot be read is `None`, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The highest since the process began or [`reset_peak`].
    pub peak: Option<u64>,
    /// Now.
    pub current: Option<u64>,
    /// The part of `current` that no file backs: heap and stacks.
    pub anon: Option<u64>,
    /// The part of `current` that files back: code and mapped weights, as far as the page cache
    /// holds them.
    pub file: Option<u64>,
    /// How it was read.
    pub kind: &'static str,
    /// Why `peak` is `None`.
    pub reason: Option<String>,
}

/// Reads the memory of this process.
pub fn read() -> Memory {
    fs::read_to_string("/proc/self/status").map_or_else(|_| without_proc(), |status| parse(&status))
}

/// Lowers the peak to the memory held now. What an allocator keeps of freed memory stays in.
///
/// # Errors
/// When the system is not Linux, or its `/proc/self/clear_refs` cannot be written.
pub fn reset_peak() -> Result<()> {
    if !cfg!(target_os = "linux") {
        let why = "the memory peak can be reset only on Linux; measure memory in a child process";
        return Err(Error::Unsupported(why.into()));
    }
    let path = Path::new("/proc/self/clear_refs");
    fs::write(path, "5").map_err(|source| Error::Write { path: path.into(), source })
}

/// Private writable memory that this process has mapped, in bytes: what RLIMIT_DATA limits.
///
/// # Errors
/// When the system does not say.
pub fn data_bytes() -> Result<u64> {
    let path = Path::new("/proc/self/status");
    let status =
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    kib(&status, "VmData:")
        .ok_or_else(|| Error::Invalid { path: path.into(), why: "it has no VmData".into() })
}

/// The fields of `/proc/self/status`.
fn parse(status: &str) -> Memory {
    let peak = kib(status, "VmHWM:");
    Memory {
        peak,
        current: kib(status, "VmRSS:"),
        anon: kib(status, "RssAnon:"),
        file: kib(status, "RssFile:"),
        kind: "resident set, high-water mark of the process (VmHWM)",
        reason: peak.is_none().then(|| "/proc/self/status has no VmHWM".into()),
    }
}

/// A line such as `VmHWM: 1688 kB`, in bytes.
pub(super) fn kib(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The current resident set where the system gives it. Peaks need a foreign call, and this crate
/// calls none here.
fn without_proc() -> Memory {
    let current = || {
        let pid = sysinfo::get_current_pid().ok()?;
        let mut system = System::new().ok()?;
        let kind = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
        system.process(pid).map(sysinfo::Process::memory)
    };
    let call = if cfg!(windows) {
        "GetProcessMemoryInfo (PeakWorkingSetSize)"
    } else {
        "getrusage (ru_maxrss)"
    };
    Memory {
        current: current(),
        kind: "resident set (sysinfo)",
        reason: Some(format!("the peak on this system needs {call}, which has no safe interface")),
        ..Memory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_is_read_in_bytes() {
        let status = "Name:\tcat\nVmPeak:\t    3060 kB\nVmHWM:\t    1688 kB\nVmRSS:\t    1600 kB\n\
                      RssAnon:\t     112 kB\nRssFile:\t    1488 kB\nRssShmem:\t       0 kB\n";
        let memory = parse(status);
        assert_eq!(memory.peak, Some(1_728_512));
        assert_eq!(memory.current, Some(1_638_400));
        assert_eq!(memory.anon, Some(114_688));
        assert_eq!(memory.file, Some(1_523_712));
        assert_eq!(memory.reason, None);
    }

    #[test]
    fn what_is_not_there_is_absent_with_a_reason() {
        for status in ["", "VmHWM:\t kB\n", "VmHWM:\t12 pages\n", "VmHWM:\t-1 kB\n"] {
            let memory = parse(status);
            assert_eq!((memory.peak, memory.current), (None, None), "{status:?}");
            assert_eq!(memory.reason.as_deref(), Some("/proc/self/status has no VmHWM"));
        }
    }

    #[test]
    fn without_proc_the_current_memory_is_known_and_the_peak_is_not() {
        let memory = without_proc();
        assert_eq!(memory.peak, None);
        assert!(memory.current.is_some_and(|bytes| bytes > 100_000), "{memory:?}");
        assert!(memory.reason.is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn touched_memory_raises_the_peak_and_a_reset_lowers_it() {
        const MIB: u64 = 1 << 20;
        let peak = || read().peak.unwrap();
        // Tests that run beside this one free memory, too, which can hide a part of the change: a
        // few attempts.
        let attempts = (0..5).map(|_| {
            reset_peak().unwrap();
            let before = peak();
            // The kernel counts pages per CPU and adds them up late, so figures are off by some
            // pages: 4 MiB more.
            let touched = std::hint::black_box(vec![1_u8; 68 << 20]);
            let high = peak();
            drop(touched);
            let kept = peak();
            reset_peak().unwrap();
            (high.saturating_sub(before), high.saturating_sub(kept), high.saturating_sub(peak()))
        });
        let attempts: Vec<(u64, u64, u64)> = attempts.collect();
        assert!(
            attempts.iter().any(|(rise, forgot, fall)| *rise >= 64 * MIB
                && *forgot < MIB
                && *fall >= 64 * MIB),
            "{attempts:?}"
        );
    }
}
