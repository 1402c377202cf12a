//! Sizes of the last-level caches, and how large a buffer must be to measure memory bandwidth
//! beyond them without swapping.

use std::fs;

use super::load;

/// Buffer size in last-level caches: the part that stays cached between passes must weigh little.
const CACHE_MULTIPLE: u64 = 4;
/// A buffer takes at most this fraction of the available memory. There are two buffers, one per
/// page size.
const MEMORY_DIVISOR: u64 = 8;

/// The size of a buffer that is read from memory rather than caches: at least `least` bytes if
/// there is room; `None` if no buffer beyond the caches fits.
pub fn read_buffer_bytes(least: u64) -> Option<usize> {
    buffer_bytes(last_level_cache_bytes(), load::available_bytes(), least)
}

/// Bytes of all last-level caches of the machine. A chip can have several, and threads that share a
/// buffer use all of them.
pub fn last_level_cache_bytes() -> Option<u64> {
    let mut caches = Vec::new();
    for cpu in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        for index in fs::read_dir(cpu.path().join("cache")).into_iter().flatten().flatten() {
            let read = |name: &str| {
                Some(fs::read_to_string(index.path().join(name)).ok()?.trim().to_string())
            };
            caches.extend(parse_cache(read));
        }
    }
    last_level(caches)
}

fn buffer_bytes(cache: Option<u64>, available: Option<u64>, least: u64) -> Option<usize> {
    // Without a known cache size, `least` exceeds nearly all caches.
    let beyond = cache.map_or(least, |cache| cache.saturating_mul(CACHE_MULTIPLE));
    let most = available.map_or(least, |available| available / MEMORY_DIVISOR);
    let bytes = beyond.max(least).min(most);
    usize::try_from(bytes).ok().filter(|_| bytes >= beyond)
}

/// A cache of one CPU.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cache {
    level: u32,
    shared_by: String,
    bytes: u64,
}

/// Parses the files of a folder `cache/index*`; `None` for an instruction cache.
fn parse_cache(read: impl Fn(&str) -> Option<String>) -> Option<Cache> {
    let size = read("size").filter(|_| read("type").is_none_or(|kind| kind != "Instruction"))?;
    let bytes = match (size.strip_suffix('K'), size.strip_suffix('M')) {
        (Some(kib), _) => kib.parse::<u64>().ok()?.checked_mul(1 << 10)?,
        (_, Some(mib)) => mib.parse::<u64>().ok()?.checked_mul(1 << 20)?,
        _ => size.parse().ok()?,
    };
    Some(Cache { level: read("level")?.parse().ok()?, shared_by: read("shared_cpu_list")?, bytes })
}

/// The sum of the caches of the highest level; a cache shared by several CPUs counts once.
fn last_level(mut caches: Vec<Cache>) -> Option<u64> {
    let level = caches.iter().map(|cache| cache.level).max()?;
    caches.retain(|cache| cache.level == level);
    caches.sort();
    caches.dedup();
    Some(caches.iter().map(|cache| cache.bytes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_buffer_exceeds_the_cache_or_is_refused() {
        for (cache, available, least, bytes) in [
            (Some(32 * MIB), Some(16384 * MIB), 256 * MIB, Some(256 * MIB)),
            (Some(32 * MIB), Some(16384 * MIB), 1024 * MIB, Some(1024 * MIB)),
            (Some(512 * MIB), Some(16384 * MIB), 256 * MIB, Some(2048 * MIB)),
            // Less than `least`, but still 6 times the cache.
            (Some(32 * MIB), Some(1600 * MIB), 256 * MIB, Some(200 * MIB)),
            (Some(32 * MIB), Some(800 * MIB), 256 * MIB, None),
            (None, Some(16384 * MIB), 256 * MIB, Some(256 * MIB)),
            (None, Some(1600 * MIB), 256 * MIB, None),
            (None, None, 256 * MIB, Some(256 * MIB)),
        ] {
            assert_eq!(
                buffer_bytes(cache, available, least),
                bytes.map(|bytes| bytes as usize),
                "{cache:?} {available:?} {least}"
            );
        }
    }

    #[test]
    fn caches_of_the_highest_level_are_summed_once_each() {
        let cache = |level, shared_by: &str, kib: u64| Cache {
            level,
            shared_by: shared_by.into(),
            bytes: kib << 10,
        };
        let chips = ["0-1", "0-1", "2-3", "2-3"].map(|shared_by| cache(3, shared_by, 32768));
        let mut caches = vec![cache(1, "0", 48), cache(2, "0", 1024)];
        caches.extend(chips);
        assert_eq!(last_level(caches), Some(64 * MIB));
        assert_eq!(last_level(vec![cache(1, "0", 48)]), Some(48 << 10));
        assert_eq!(last_level(Vec::new()), None);
    }

    #[test]
    fn a_cache_is_parsed_from_its_files() {
        let files = |size: &'static str, holds: &'static str| {
            move |name: &str| match name {
                "size" => Some(size.to_string()),
                "type" => Some(holds.to_string()),
                "level" => Some("3".to_string()),
                "shared_cpu_list" => Some("0-1".to_string()),
                _ => None,
            }
        };
        for (size, bytes) in [("32768K", 32 * MIB), ("36M", 36 * MIB), ("65536", 65536)] {
            assert_eq!(
                parse_cache(files(size, "Unified")),
                Some(Cache { level: 3, shared_by: "0-1".into(), bytes })
            );
        }
        assert_eq!(parse_cache(files("32K", "Instruction")), None);
        assert_eq!(parse_cache(files("none", "Data")), None);
        assert_eq!(parse_cache(files("17592186044416M", "Data")), None);
        assert_eq!(parse_cache(|_| None), None);
    }
}
