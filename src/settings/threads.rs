//! How many threads an engine has unless it is told, and on which CPUs they are kept if that is
//! wanted: one for each physical core that the process may use. Two threads of one core share what
//! multiplies, and take each other's caches.

use std::fs;
use std::path::Path;

/// Physical cores that the process may use; where the system does not tell cores from threads, the
/// CPUs that it may use.
pub(super) fn default_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cores().map_or(cpus, |cores| cores.len().min(cpus)).max(1)
}

/// The CPUs that the process may use, one of each core before a second of any; `None` where the
/// system does not tell.
pub fn cpus() -> Option<Vec<usize>> {
    cores().map(|cores| in_order(&cores))
}

/// What to say where so many threads share the CPUs that the process may use: they wait for one
/// another, and their numbers are no machine's that has a CPU for each.
pub fn too_many(threads: usize) -> Option<String> {
    let allowed = || std::thread::available_parallelism().map_or(1, usize::from);
    shared(threads, cpus().map_or_else(allowed, |cpus| cpus.len()))
}

fn shared(threads: usize, cpus: usize) -> Option<String> {
    let plural = if cpus == 1 { "" } else { "s" };
    (threads > cpus).then(|| format!("{threads} threads share {cpus} CPU{plural}"))
}

fn in_order(cores: &[Vec<usize>]) -> Vec<usize> {
    let most = cores.iter().map(Vec::len).max().unwrap_or(0);
    (0..most)
        .flat_map(|turn| cores.iter().filter_map(move |core| core.get(turn)))
        .copied()
        .collect()
}

fn cores() -> Option<Vec<Vec<usize>>> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    by_core(&status, Path::new("/sys/devices/system/cpu"))
}

/// The allowed CPUs of a `/proc/self/status`, those of a core together, by the lists of siblings
/// under `/sys/devices/system/cpu`.
fn by_core(status: &str, cpus: &Path) -> Option<Vec<Vec<usize>>> {
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores: Vec<(String, Vec<usize>)> = Vec::new();
    for cpu in numbers(allowed)? {
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
    fn threads_that_share_cpus_are_told_of() {
        assert_eq!(shared(64, 2).as_deref(), Some("64 threads share 2 CPUs"));
        assert_eq!(shared(2, 1).as_deref(), Some("2 threads share 1 CPU"));
        assert_eq!(shared(2, 2), None);
        assert_eq!(too_many(1), None);
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
            let found = by_core(&status, folder.path());
            assert_eq!(found.as_ref().map(Vec::len), cores, "{allowed}");
            assert_eq!(in_order(&found.unwrap_or_default()), cpus, "{allowed}");
        }
        assert_eq!(by_core("", folder.path()), None);
        assert!(default_threads() >= 1);
    }
}
