//! The load of the machine: load average, steal time, CPU pressure, free memory. Stored with every
//! session and reported as warnings; verdicts are decided elsewhere.

use std::path::Path;
use std::sync::Mutex;
use std::{fs, thread};

use sysinfo::System;

use crate::record::Conditions;
use crate::settings::parse_cpu_list;

use super::{cgroup, memory, stamp};

// One host's noise floor was 7.3 % when quiet, 10.7 % lightly loaded and 96.5 % in use
// (samyama-ai/samyama-graph#708), while the smallest limit of a metric is 5 %. The thresholds
// follow from that limit.

/// Runnable tasks beyond one per CPU. A run keeps every CPU busy; more belongs to other programs.
const LOAD_BEYOND_CPUS: f64 = 0.5;
/// A fifth of the smallest limit: stolen time is lost completely, and the share is an average that
/// includes idle CPUs.
const STEAL: f64 = 0.01;
/// The smallest limit: a parallel step waits for its slowest thread, so at worst all of this time
/// is lost.
const PRESSURE: f64 = 0.05;

/// The load of the machine now. Steal is the share since the previous call; at the first call,
/// since boot.
pub fn conditions() -> Conditions {
    static PREVIOUS: Mutex<CpuTicks> = Mutex::new(CpuTicks { stolen: 0, all: 0 });
    let read = |path: &str| fs::read_to_string(path).ok();
    let steal = read("/proc/stat").and_then(|stat| CpuTicks::parse(&stat)).and_then(|ticks| {
        let mut previous = PREVIOUS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let share = ticks.stolen_since(*previous);
        *previous = ticks;
        share
    });
    Conditions { at: stamp::now(), steal, available_bytes: available_bytes(), ..load_now() }
}

fn load_now() -> Conditions {
    let read = |path: &str| fs::read_to_string(path).ok();
    Conditions {
        // On Windows sysinfo reports zeros.
        load_1m: System::load_average().ok().filter(|_| !cfg!(windows)).map(|load| load.one),
        cpu_pressure_10s: read("/proc/pressure/cpu").and_then(|text| pressure(&text)),
        ..Conditions::default()
    }
}

/// [`warnings`] about the load now. Steal is left out: reading it here would shorten the time that
/// the first [`conditions`] of a record cover.
pub fn busy() -> Vec<String> {
    warnings(&load_now())
}

/// Warnings if the machine is too busy to resolve small differences.
pub fn warnings(conditions: &Conditions) -> Vec<String> {
    warnings_on(conditions, Some(installed_cpus()))
}

/// Warnings about a machine with so many CPUs; if unknown, the load average is not judged.
pub(crate) fn warnings_on(conditions: &Conditions, cpus: Option<usize>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((load, cpus)) = conditions.load_1m.zip(cpus)
        && load > cpus as f64 + LOAD_BEYOND_CPUS
    {
        warnings.push(format!(
            "load average is {load:.2} on {cpus} CPUs: other programs run; stop \
                               them or wait a minute"
        ));
    }
    if let Some(steal) = conditions.steal.filter(|steal| *steal > STEAL) {
        let percent = 100.0 * steal;
        warnings.push(format!(
            "the hypervisor took {percent:.1} % of the CPU time: the host is \
                               shared; use a dedicated one"
        ));
    }
    if let Some(waiting) = conditions.cpu_pressure_10s.filter(|waiting| *waiting > PRESSURE) {
        let percent = 100.0 * waiting;
        warnings.push(format!(
            "tasks waited for a CPU {percent:.0} % of the last 10 s: stop other \
                               programs, or use fewer threads"
        ));
    }
    warnings
}

/// Memory available to this process without swapping, in bytes: the least of the machine's, its
/// control groups' and its address space's (`ulimit -v`).
pub(super) fn available_bytes() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let machine = Some(system.available_memory()).filter(|bytes| *bytes > 0)?;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let groups = cgroup::free_memory(Path::new(cgroup::ROOT), &read("/proc/self/cgroup"));
    let space = address_space(&read("/proc/self/limits"), &read("/proc/self/status"));
    [groups, space].into_iter().flatten().chain([machine]).min()
}

/// Address space left, from `/proc/self/limits` and `/proc/self/status`; `None` without a limit.
fn address_space(limits: &str, status: &str) -> Option<u64> {
    let left = |limit: &str, used: &str| {
        let limit = limits.lines().find_map(|line| line.strip_prefix(limit))?;
        let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
        Some(limit.saturating_sub(memory::kib(status, used)?))
    };
    let all = left("Max address space", "VmSize:");
    all.into_iter().chain(left("Max data size", "VmData:")).min()
}

/// CPUs of the machine, allowed to this process or not: the load average covers all of them.
fn installed_cpus() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let allowed = || thread::available_parallelism().map_or(1, usize::from);
    online.and_then(|list| Some(parse_cpu_list(&list)?.len())).unwrap_or_else(allowed)
}

/// CPU time since boot, in kernel ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTicks {
    stolen: u64,
    all: u64,
}

impl CpuTicks {
    /// Parses the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq,
    /// steal. Guest times follow, which user and nice include.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
        Some(CpuTicks { stolen: *ticks.get(7)?, all: ticks.iter().sum() })
    }

    /// The share of steal between two readings; `None` if no time has passed or a counter
    /// decreased.
    fn stolen_since(self, previous: CpuTicks) -> Option<f64> {
        let all = self.all.checked_sub(previous.all).filter(|all| *all > 0)?;
        Some(self.stolen.checked_sub(previous.stolen)? as f64 / all as f64)
    }
}

/// The first line of `/proc/pressure/cpu`, `some avg10=88.82 avg60=...`, as a share.
fn pressure(text: &str) -> Option<f64> {
    let percent =
        text.lines().find_map(|line| line.strip_prefix("some avg10="))?.split(' ').next()?;
    percent.parse::<f64>().ok().map(|percent| percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_share_since_the_previous_reading() {
        let boot = CpuTicks { stolen: 0, all: 0 };
        let first = CpuTicks::parse("cpu  700 0 100 150 0 0 0 50 600 0\ncpu0 1 2\n").unwrap();
        assert_eq!(first, CpuTicks { stolen: 50, all: 1000 });
        assert_eq!(first.stolen_since(boot), Some(0.05));
        assert_eq!(CpuTicks { stolen: 60, all: 1100 }.stolen_since(first), Some(0.1));
        assert_eq!(first.stolen_since(first), None);
        assert_eq!(boot.stolen_since(first), None);
        for old in ["", "cpu  1 2 3 4\n", "intr 5\n"] {
            assert_eq!(CpuTicks::parse(old), None, "{old:?}");
        }
    }

    #[test]
    fn limits_of_the_shell_leave_their_unused_part() {
        let limits = |space: &str, data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max data size             {data}               unlimited            bytes\n\
                 Max address space         {space}              unlimited            bytes\n"
            )
        };
        let status = "VmSize:\t    1024 kB\nVmData:\t     512 kB\n";
        for (space, data, expected) in [
            ("unlimited", "unlimited", None),
            ("2097152", "unlimited", Some(1 << 20)),
            ("2097152", "1048576", Some(1 << 19)),
            ("1000", "unlimited", Some(0)),
        ] {
            assert_eq!(address_space(&limits(space, data), status), expected, "{space} {data}");
        }
        assert_eq!(address_space("", status), None);
    }

    #[test]
    fn pressure_is_a_share() {
        let text = "some avg10=88.50 avg60=44.58 avg300=18.93 total=120935240\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(0.885));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn a_busy_machine_is_reported_and_a_quiet_or_unknown_one_is_not() {
        let quiet = Conditions {
            load_1m: Some(2.4),
            steal: Some(0.01),
            cpu_pressure_10s: Some(0.05),
            ..Conditions::default()
        };
        let busy = Conditions {
            load_1m: Some(2.92),
            steal: Some(0.031),
            cpu_pressure_10s: Some(0.885),
            ..Conditions::default()
        };
        assert_eq!(warnings_on(&Conditions::default(), Some(2)), [""; 0]);
        assert_eq!(warnings_on(&quiet, Some(2)), [""; 0]);
        assert_eq!(
            warnings_on(&busy, Some(2)),
            [
                "load average is 2.92 on 2 CPUs: other programs run; stop them or wait a minute",
                "the hypervisor took 3.1 % of the CPU time: the host is shared; use a dedicated one",
                "tasks waited for a CPU 88 % of the last 10 s: stop other programs, or use fewer threads",
            ]
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_reports_its_load() {
        let now = conditions();
        assert!(now.load_1m.is_some_and(|load| load >= 0.0), "{now:?}");
        assert!(now.available_bytes.is_some_and(|bytes| bytes > 1 << 20), "{now:?}");
    }
}
