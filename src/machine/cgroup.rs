//! Memory limits by Linux control groups, versions 1 and 2. A group's limit holds for all groups
//! below it, so the smallest of all ancestors counts.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the system mounts its groups.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// The folders of a process's groups, from its own upwards, for one controller of version 1 and for
/// version 2; `group` is the text of `/proc/self/cgroup`. In a container the process's group may be
/// mounted as the root, so that its path does not exist: then only the root is returned.
pub(super) fn folders(root: &Path, group: &str, controller: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in group.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let roots = match controllers {
            "" => vec![root.to_owned(), root.join("unified")],
            list if list == controller => vec![root.join(list)],
            list if list.split(',').any(|one| one == controller) => {
                vec![root.join(controller), root.join(list)]
            }
            _ => continue,
        };
        // The path of a group outside of this namespace begins with `/..`.
        let inside = !path.split('/').any(|part| part == "..");
        let path = path.trim_matches('/').to_owned();
        for root in roots {
            let own = if inside { root.join(&path) } else { root.clone() };
            let above = own.ancestors().take_while(|folder| folder.starts_with(&root));
            folders.extend(above.filter(|folder| folder.is_dir()).map(Path::to_owned));
        }
    }
    folders
}

/// Free memory within the groups' limits in bytes; `None` if no group has a limit. Page cache
/// counts as free: the system reclaims it before it refuses memory.
pub(super) fn free_memory(root: &Path, group: &str) -> Option<u64> {
    folders(root, group, "memory").iter().filter_map(|folder| free_in(folder)).min()
}

/// The smallest memory limit in bytes.
pub(super) fn memory_limit(root: &Path, group: &str) -> Option<u64> {
    folders(root, group, "memory").iter().filter_map(|folder| limit_of(folder)).min()
}

/// Version 1 writes "no limit" as the largest number of whole pages, version 2 as `max`.
fn limit_of(folder: &Path) -> Option<u64> {
    let limit = ["memory.max", "memory.limit_in_bytes"].iter().find_map(|name| read(folder, name));
    limit?.parse().ok().filter(|limit| *limit < 1 << 62)
}

fn free_in(folder: &Path) -> Option<u64> {
    let limit = limit_of(folder)?;
    let used = ["memory.current", "memory.usage_in_bytes"];
    let used: u64 = used.iter().find_map(|name| read(folder, name))?.parse().ok()?;
    let stat = read(folder, "memory.stat").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(known, _)| *known == name).find_map(|(_, value)| value.parse().ok())
    };
    // In version 1, sums over the groups below have names of their own.
    let with_children = |name: &str| field(&format!("total_{name}")).or_else(|| field(name));
    let files = ["inactive_file", "active_file", "slab_reclaimable"];
    let reclaimable: u64 = files.iter().filter_map(|name| with_children(name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
}

fn read(folder: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A tree of groups: folder, file, text.
    fn tree(files: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (folder, name, text) in files {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join(name), format!("{text}\n")).unwrap();
        }
        root
    }

    /// A group of version 2 in MiB: limit, use, and page cache in it.
    fn group<'a>(folder: &'a str, texts: &'a [String; 3]) -> [(&'a str, &'static str, &'a str); 3] {
        let names = ["memory.max", "memory.current", "memory.stat"];
        std::array::from_fn(|at| (folder, names[at], texts[at].as_str()))
    }

    fn texts(limit: u64, used: u64, cached: u64) -> [String; 3] {
        let stat = format!("anon 1\nfile {}\ninactive_file {}", cached * MIB, cached * MIB);
        [(limit * MIB).to_string(), (used * MIB).to_string(), stat]
    }

    #[test]
    fn page_cache_is_free_memory() {
        let full = texts(512, 511, 400);
        let root = tree(&group("a", &full));
        assert_eq!(free_memory(root.path(), "0::/a\n"), Some(401 * MIB));
        assert_eq!(memory_limit(root.path(), "0::/a\n"), Some(512 * MIB));
        let anonymous = texts(512, 511, 0);
        let root = tree(&group("a", &anonymous));
        assert_eq!(free_memory(root.path(), "0::/a\n"), Some(MIB));
    }

    #[test]
    fn the_smallest_limit_of_all_ancestors_counts() {
        let (outer, inner) = (texts(300, 200, 50), texts(4096, 100, 10));
        let files = [group("a", &outer), group("a/b", &inner)].concat();
        let root = tree(&files);
        assert_eq!(free_memory(root.path(), "0::/a/b\n"), Some(150 * MIB));
        assert_eq!(memory_limit(root.path(), "0::/a/b\n"), Some(300 * MIB));
        let none = tree(&[("a", "memory.max", "max"), ("a", "memory.current", "5")]);
        assert_eq!(free_memory(none.path(), "0::/a\n"), None);
        for outside in ["0::/../b\n", "0::/c\n", "", "garbage\n", "4:cpu:/a\n"] {
            assert_eq!(free_memory(root.path(), outside), None, "{outside:?}");
        }
    }

    #[test]
    fn version_1_includes_the_groups_below() {
        let root = tree(&[
            ("memory", "memory.limit_in_bytes", "9223372036854771712"),
            ("memory", "memory.usage_in_bytes", "1"),
            ("memory/docker", "memory.limit_in_bytes", "104857600"),
            ("memory/docker", "memory.usage_in_bytes", "104857600"),
            ("memory/docker", "memory.stat", "inactive_file 1\ntotal_inactive_file 31457280"),
            ("memory/docker/x", "memory.limit_in_bytes", "9223372036854771712"),
        ]);
        let group = "9:cpu,cpuacct:/\n4:memory:/docker/x\n0::/\n";
        assert_eq!(free_memory(root.path(), group), Some(30 * MIB));
        assert_eq!(free_memory(root.path(), "4:memory:/\n"), None);
        // A container mounts its group as the root, but sees the path from outside.
        let inside = root.path().join("memory/docker");
        fs::rename(&inside, root.path().join("mounted")).unwrap();
        fs::remove_dir_all(root.path().join("memory")).unwrap();
        fs::rename(root.path().join("mounted"), root.path().join("memory")).unwrap();
        assert_eq!(free_memory(root.path(), "4:memory:/docker/0123\n"), Some(30 * MIB));
    }

    #[test]
    fn groups_are_listed_from_the_own_upwards() {
        let root = tree(&[("a/b", "x", ""), ("memory/a", "x", ""), ("cpu,cpuacct/c", "x", "")]);
        let of = |group: &str, controller: &str| -> Vec<String> {
            let names = folders(root.path(), group, controller).into_iter();
            names
                .map(|path| path.strip_prefix(root.path()).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(of("0::/\n", "memory"), [""]);
        assert_eq!(of("0::/a/b\n", "memory"), ["a/b", "a", ""]);
        assert_eq!(of("4:memory:/a\n", "memory"), ["memory/a", "memory"]);
        assert_eq!(of("4:cpu,cpuacct:/c\n", "cpu"), ["cpu,cpuacct/c", "cpu,cpuacct"]);
    }
}
