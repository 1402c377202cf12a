//! The default number of engine threads, and the CPUs to pin them to: one per physical core that
//! the process may use. Two threads of one core share its multipliers and caches.

use std::fs;
use std::path::Path;

use crate::error::counted;

/// Physical cores that the process may use, or logical CPUs where the system does not tell cores.
pub(super) fn default_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cores().map_or(cpus, |cores| cores.len().min(cpus)).max(1)
}

/// The CPUs that the process may use, one of each core before the second of any; `None` where the
/// system does not tell.
pub fn cpus_by_core() -> Option<Vec<usize>> {
    cores().map(|cores| interleaved(&cores))
}

/// A warning if there are more threads than CPUs that the process may use: threads then wait for
/// one another.
pub(crate) fn oversubscription(threads: usize) -> Option<String> {
    let allowed = || std::thread::available_parallelism().map_or(1, usize::from);
    oversubscribed(threads, cpus_by_core().map_or_else(allowed, |cpus| cpus.len()))
}

fn oversubscribed(threads: usize, cpus: usize) -> Option<String> {
    (threads > cpus).then(|| format!("{threads} threads share {}", counted(cpus, "CPU")))
}

fn interleaved(cores: &[Vec<usize>]) -> Vec<usize> {
    let most = cores.iter().map(Vec::len).max().unwrap_or(0);
    (0..most).flat_map(|at| cores.iter().filter_map(move |core| core.get(at))).copied().collect()
}

fn cores() -> Option<Vec<Vec<usize>>> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    group_by_core(&status, Path::new("/sys/devices/system/cpu"))
}

/// The allowed CPUs of a `/proc/self/status`, grouped by core according to the sibling lists under
/// `/sys/devices/system/cpu`.
fn group_by_core(status: &str, cpus: &Path) -> Option<Vec<Vec<usize>>> {
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores: Vec<(String, Vec<usize>)> = Vec::new();
    for cpu in parse_cpu_list(allowed)? {
        let file = cpus.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        let siblings = fs::read_to_string(file).ok()?.trim().to_string();
        match cores.iter_mut().find(|(core, _)| *core == siblings) {
            Some((_, cpus)) => cpus.push(cpu),
            None => cores.push((siblings, vec![cpu])),
        }
    }
    Some(cores.into_iter().map(|(_, cpus)| cpus).collect())
        .filter(|cores: &Vec<_>| !cores.is_empty())
}

/// The CPUs of a list as the kernel writes it, such as `0-3,8`.
pub(crate) fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<usize>().ok()?);
        cpus.extend((first <= last).then_some(first..=last)?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_cpus_give_a_warning() {
        assert_eq!(oversubscribed(64, 2).as_deref(), Some("64 threads share 2 CPUs"));
        assert_eq!(oversubscribed(2, 1).as_deref(), Some("2 threads share 1 CPU"));
        assert_eq!(oversubscribed(2, 2), None);
        assert_eq!(oversubscription(1), None);
    }

    #[test]
    fn lists_of_the_kernel_are_parsed() {
        for (list, expected) in [
            ("0\n", Some(vec![0])),
            ("0-3", Some(vec![0, 1, 2, 3])),
            ("0-1,8,10-11\n", Some(vec![0, 1, 8, 10, 11])),
            ("", None),
            ("3-0", None),
            ("x", None),
        ] {
            assert_eq!(parse_cpu_list(list), expected, "{list:?}");
        }
    }

    #[test]
    fn cores_are_counted_once_and_only_those_allowed() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5"), (6, "6")] {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), format!("{siblings}\n")).unwrap();
        }
        for (allowed, cores, cpus) in [
            ("0-1,4-6", Some(3), vec![0, 1, 6, 4, 5]),
            ("0,4", Some(1), vec![0, 4]),
            ("5", Some(1), vec![5]),
            ("0-3", None, vec![]), // Two of them are not described.
            ("what", None, vec![]),
        ] {
            let status = format!("Name:\tx\nCpus_allowed_list:\t{allowed}\nother:\t1\n");
            let found = group_by_core(&status, folder.path());
            assert_eq!(found.as_ref().map(Vec::len), cores, "{allowed}");
            assert_eq!(interleaved(&found.unwrap_or_default()), cpus, "{allowed}");
        }
        assert_eq!(group_by_core("", folder.path()), None);
        assert!(default_threads() >= 1);
    }
}
