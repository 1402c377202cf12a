//! Resident memory of this process: current and peak since the last reset. Not system-wide figures,
//! not a counting allocator.

use std::fs;
use std::path::Path;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::error::{Error, Result};

/// Resident memory of this process in bytes; `None` where it cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Peak since the process started or `reset_peak`.
    pub peak: Option<u64>,
    /// Resident now.
    pub current: Option<u64>,
    /// The part of `current` not backed by files: heap and stacks.
    pub anon: Option<u64>,
    /// The part of `current` backed by files: code and mapped weights in the page cache.
    pub file: Option<u64>,
    /// How it was measured.
    pub kind: &'static str,
    /// Why `peak` is `None`.
    pub reason: Option<String>,
}

/// Reads the memory of this process.
pub fn read() -> Memory {
    fs::read_to_string("/proc/self/status").map_or_else(|_| without_proc(), |status| parse(&status))
}

/// Resets the peak to the current resident set. Freed memory that the allocator keeps is included.
///
/// # Errors
/// When the system is not Linux, or its `/proc/self/clear_refs` cannot be written.
pub(crate) fn reset_peak() -> Result<()> {
    if !cfg!(target_os = "linux") {
        let why = "the memory peak can be reset only on Linux; measure memory in a child process";
        return Err(Error::Unsupported(why.into()));
    }
    let path = Path::new("/proc/self/clear_refs");
    fs::write(path, "5").map_err(|source| Error::Write { path: path.into(), source })
}

/// Private writable memory of this process in bytes, which RLIMIT_DATA limits.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn data_bytes() -> Result<u64> {
    let path = Path::new("/proc/self/status");
    let status =
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    kib(&status, "VmData:").ok_or_else(|| Error::invalid(path, "it has no VmData"))
}

/// Parses `/proc/self/status`.
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

/// The value of a line such as `VmHWM: 1688 kB`, in bytes.
pub(super) fn kib(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The current resident set by sysinfo. A peak would need a call to the C library.
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
    fn a_status_is_parsed_in_bytes() {
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
    fn a_missing_peak_is_absent_with_a_reason() {
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
        // Concurrent tests free memory, which can hide a part of the change: a few attempts.
        let attempts = (0..5).map(|_| {
            reset_peak().unwrap();
            let before = peak();
            // The kernel sums its per-CPU page counts late: 4 MiB more than is checked.
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
