//! Measured rates: how fast memory is read. What a decode step is held against, so it must never be overstated: the buffer
//! lies beyond the caches, and every pass is timed from before its first read to after its last.

use std::fs;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::record::Rates;

use super::load;

/// How long passes are repeated. With filling the buffer, half a second in all.
const BUDGET: Duration = Duration::from_millis(350);
/// The best of fewer would be at the mercy of one interruption.
const PASSES: usize = 3;
/// The smallest buffer, for systems that do not tell their caches: larger than nearly all of them.
const BUFFER: u64 = 256 << 20;
/// Times the last-level cache, so that a part of the buffer that stays cached from pass to pass weighs little.
const BEYOND_CACHE: u64 = 4;
/// A part of the available memory that may be taken, so that measuring never makes the machine swap.
const OF_AVAILABLE: u64 = 4;

/// Measures the rates that need no engine; the f32 rate is left to who has a matrix product.
pub fn rates(threads: usize) -> Rates {
    let cache = last_level_cache_bytes();
    let buffer = buffer_bytes(cache, load::available_bytes());
    Rates {
        read_bytes_per_s: buffer.map(|bytes| read_bandwidth(threads, bytes)),
        f32_flop_per_s: None,
        last_level_cache_bytes: cache,
    }
}

/// Bytes that `threads` threads read per second from a buffer of `bytes`, at best: interference only slows, so
/// a machine that is busy all the time is understated.
pub fn read_bandwidth(threads: usize, bytes: usize) -> f64 {
    best_pass(threads.max(1), bytes, BUDGET)
}

/// Size of all last-level caches of the machine in bytes, as the system reports it. A chip can have several, and threads
/// that split a buffer use them all.
pub fn last_level_cache_bytes() -> Option<u64> {
    let mut caches = Vec::new();
    for cpu in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        for index in fs::read_dir(cpu.path().join("cache")).into_iter().flatten().flatten() {
            let read = |name: &str| {
                Some(fs::read_to_string(index.path().join(name)).ok()?.trim().to_string())
            };
            caches.extend(cache(read));
        }
    }
    last_level(caches)
}

/// How large a buffer must be to be read from memory; `None` if that much cannot be taken.
fn buffer_bytes(cache: Option<u64>, available: Option<u64>) -> Option<usize> {
    let beyond = cache.map_or(BUFFER, |cache| cache.saturating_mul(BEYOND_CACHE));
    let most = available.map_or(BUFFER, |available| available / OF_AVAILABLE);
    let bytes = beyond.max(BUFFER).min(most);
    usize::try_from(bytes).ok().filter(|_| bytes >= beyond)
}

/// Passes over the buffer until the budget is spent; the fastest, in bytes per second.
fn best_pass(threads: usize, bytes: usize, budget: Duration) -> f64 {
    let words = (bytes / size_of::<u64>() / threads).max(1);
    let barrier = Barrier::new(threads + 1);
    let done = AtomicBool::new(false);
    let best = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Filled by its reader, so that it lies in the memory nearest to it. Pages never written would all be one.
                let part: Vec<u64> = (0..words as u64).collect();
                barrier.wait();
                loop {
                    barrier.wait();
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    black_box(sum(black_box(&part)));
                    barrier.wait();
                }
            });
        }
        barrier.wait();
        let began = Instant::now();
        let mut best = Duration::MAX;
        for pass in 1.. {
            // Read before the readers are let go: this thread may be woken after them, and must not miss their start.
            let start = Instant::now();
            barrier.wait();
            barrier.wait();
            best = best.min(start.elapsed());
            if pass >= PASSES && began.elapsed() >= budget {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        barrier.wait();
        best
    });
    (words * size_of::<u64>() * threads) as f64 / best.as_secs_f64()
}

/// Reads every word. The plain sum on purpose: sums of integers may be taken in any order, so the compiler keeps several in
/// vector registers by itself. Thirty-two partial sums by hand became gathers under `target-cpu=native`: 3 instead of 30 GB/s.
fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// One cache as one CPU sees it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cache {
    level: u32,
    shared_by: String,
    bytes: u64,
}

/// A folder `cache/index*`, by the contents of its files; `None` for a cache that holds no data.
fn cache(read: impl Fn(&str) -> Option<String>) -> Option<Cache> {
    let size = read("size").filter(|_| read("type").is_none_or(|holds| holds != "Instruction"))?;
    let bytes = match (size.strip_suffix('K'), size.strip_suffix('M')) {
        (Some(kib), _) => kib.parse::<u64>().ok()? << 10,
        (_, Some(mib)) => mib.parse::<u64>().ok()? << 20,
        _ => size.parse().ok()?,
    };
    Some(Cache { level: read("level")?.parse().ok()?, shared_by: read("shared_cpu_list")?, bytes })
}

/// The sum of the caches of the highest level, each counted once however many CPUs share it.
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
    fn the_buffer_lies_beyond_the_cache_or_is_not_read() {
        for (cache, available, bytes) in [
            (Some(32 * MIB), Some(16384 * MIB), Some(256 * MIB)),
            (Some(512 * MIB), Some(16384 * MIB), Some(2048 * MIB)),
            (Some(32 * MIB), Some(800 * MIB), Some(200 * MIB)), // Less than 256 MiB, and still 6 times the cache.
            (Some(32 * MIB), Some(400 * MIB), None),
            (None, Some(16384 * MIB), Some(256 * MIB)),
            (None, Some(800 * MIB), None),
            (None, None, Some(256 * MIB)),
        ] {
            assert_eq!(
                buffer_bytes(cache, available),
                bytes.map(|bytes| bytes as usize),
                "{cache:?} {available:?}"
            );
        }
    }

    #[test]
    fn caches_of_the_highest_level_are_added_up_once_each() {
        let seen = |level, shared_by: &str, kib: u64| Cache {
            level,
            shared_by: shared_by.into(),
            bytes: kib << 10,
        };
        let chips = ["0-1", "0-1", "2-3", "2-3"].map(|shared_by| seen(3, shared_by, 32768));
        let mut caches = vec![seen(1, "0", 48), seen(2, "0", 1024)];
        caches.extend(chips);
        assert_eq!(last_level(caches), Some(64 * MIB));
        assert_eq!(last_level(vec![seen(1, "0", 48)]), Some(48 << 10));
        assert_eq!(last_level(Vec::new()), None);
    }

    #[test]
    fn a_cache_is_read_from_its_files() {
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
                cache(files(size, "Unified")),
                Some(Cache { level: 3, shared_by: "0-1".into(), bytes })
            );
        }
        assert_eq!(cache(files("32K", "Instruction")), None);
        assert_eq!(cache(files("none", "Data")), None);
        assert_eq!(cache(|_| None), None);
    }

    #[test]
    fn a_pass_has_a_rate_with_one_thread_and_with_several() {
        for threads in [1, 3] {
            let rate = best_pass(threads, 1 << 16, Duration::ZERO);
            assert!(rate.is_finite() && rate > 0.0, "{threads}: {rate}");
        }
    }
}
