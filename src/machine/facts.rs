//! Facts of a machine that are recorded and never compared: name, memory, clock, system settings. A
//! fact that cannot be read is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sysinfo::System;

use super::cpu::Cpu;
use super::{cgroup, cpu};

/// Linux files with one fact each.
const FILES: &[(&str, &str)] = &[
    ("address_randomisation", "/proc/sys/kernel/randomize_va_space"),
    ("boost", "/sys/devices/system/cpu/cpufreq/boost"),
    ("cpus_online", "/sys/devices/system/cpu/online"),
    ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    ("no_turbo", "/sys/devices/system/cpu/intel_pstate/no_turbo"),
    ("numa_balancing", "/proc/sys/kernel/numa_balancing"),
    ("smt", "/sys/devices/system/cpu/smt/active"),
];

/// The facts of this machine.
pub(super) fn facts(cpuinfo: &str) -> BTreeMap<String, String> {
    let read = |path: &str| Some(fs::read_to_string(path).ok()?.trim().to_string());
    let mut facts: BTreeMap<&str, Option<String>> =
        FILES.iter().map(|(name, path)| (*name, read(path))).collect();
    let huge_pages = read("/sys/kernel/mm/transparent_hugepage/enabled");
    facts.insert("huge_pages", huge_pages.and_then(|text| selected(&text).map(String::from)));
    facts.insert("host_name", System::host_name().ok());
    facts.insert("kernel_version", System::kernel_version().ok());
    facts.insert("os_version", System::long_os_version().ok());
    facts.insert("cores", System::physical_core_count().ok().map(|cores| cores.to_string()));
    facts.insert(
        "mhz",
        cpu::field(cpuinfo, "cpu MHz").and_then(|mhz| mhz.split('+').next().map(String::from)),
    );
    facts.insert("microcode", cpu::field(cpuinfo, "microcode"));
    facts.insert("cpu_stepping", Cpu::parse(cpuinfo).stepping);
    if let Ok(mut system) = System::new() {
        system.refresh_memory();
        facts.insert("memory_bytes", Some(system.total_memory().to_string()));
        facts.insert("swap_bytes", Some(system.total_swap().to_string()));
    }
    let group = read("/proc/self/cgroup").unwrap_or_default();
    // Version 1 writes "no limit" as -1.
    let version_1 = |path: &str| {
        let limit = read(path)?.parse::<i64>().ok()?;
        (1..i64::MAX / 2).contains(&limit).then(|| limit.to_string())
    };
    let quota = || version_1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    facts.insert("container_cpus", cpu_limit(&group, "cpu.max").or_else(quota));
    let memory = cgroup::memory_limit(Path::new(cgroup::ROOT), &group);
    facts.insert("container_memory", memory.map(|bytes| bytes.to_string()));
    facts.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect()
}

/// The selected value, in brackets: `madvise` of `always [madvise] never`.
fn selected(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

/// The nearest limit of the control groups of this process, as in the file (`200000 100000` means
/// two CPUs).
fn cpu_limit(group: &str, file: &str) -> Option<String> {
    cgroup::folders(Path::new(cgroup::ROOT), group, "cpu").iter().find_map(|folder| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        Some(text.trim().to_string()).filter(|text| !text.starts_with("max"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_value_is_in_brackets() {
        assert_eq!(selected("always [madvise] never\n"), Some("madvise"));
        assert_eq!(selected("always madvise never"), None);
        assert_eq!(selected(""), None);
    }

    #[test]
    fn facts_that_cannot_be_read_are_left_out() {
        let facts = facts("cpu MHz\t: 2596.118\ncpu MHz\t: 3100.000\n");
        assert_eq!(facts["mhz"], "2596.118");
        assert!(!facts.contains_key("microcode"));
        assert!(facts.values().all(|fact| !fact.is_empty()));
    }
}
