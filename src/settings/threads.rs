//! How many threads an engine has unless it is told: one for each physical core that the process may use. Two threads of one core
//! share what multiplies, and take each other's caches.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Physical cores that the process may use; where the system does not tell cores from threads, the CPUs that it may use.
pub(super) fn default_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cores = cores(&status, Path::new("/sys/devices/system/cpu"));
    cores.map_or(cpus, |cores| cores.min(cpus)).max(1)
}

/// Cores among the allowed CPUs of a `/proc/self/status`, by the lists of siblings under `/sys/devices/system/cpu`.
fn cores(status: &str, cpus: &Path) -> Option<usize> {
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let siblings = |cpu: usize| {
        let file = cpus.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        fs::read_to_string(file).ok().map(|list| list.trim().to_string())
    };
    let cores: BTreeSet<String> =
        numbers(allowed)?.into_iter().map(siblings).collect::<Option<_>>()?;
    Some(cores.len()).filter(|&cores| cores > 0)
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.trim().parse().ok()?..=last.trim().parse::<usize>().ok()?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_once_and_only_those_allowed() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5"), (6, "6")] {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), format!("{siblings}\n")).unwrap();
        }
        for (allowed, cores_of) in [
            ("0-1,4-6", Some(3)),
            ("0,4", Some(1)),
            ("5", Some(1)),
            ("0-3", None), // Two of them are not described.
            ("what", None),
        ] {
            let status = format!("Name:\tx\nCpus_allowed_list:\t{allowed}\nother:\t1\n");
            assert_eq!(cores(&status, folder.path()), cores_of, "{allowed}");
        }
        assert_eq!(cores("", folder.path()), None);
        assert!(default_threads() >= 1);
    }
}
