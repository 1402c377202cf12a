//! What this machine can do at most, measured with the instructions that kernels use: multiply-adds
//! that never leave the registers, and reading memory without doing anything else. What a kernel or
//! an engine reaches is told as a share of these, so they must not be understated: work is timed in
//! short passes and the best is kept, since interference only slows.

use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::isa::{Isa, Tier, tiered};
use super::pool::{Pool, Raw};
use super::tiles::TILE;

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::avx512bf16;

/// How long passes of one kind of number are repeated.
const BUDGET: Duration = Duration::from_millis(80);

/// A pass is at least so long: giving out its tasks is nothing beside it, and it still fits between
/// two interruptions.
const PASS: Duration = Duration::from_millis(4);

/// Tasks of a pass for each thread, so that cores of different speed end at about the same time.
const TASKS: usize = 8;

/// Fewest passes over each kind of memory; the best of fewer would be at the mercy of one
/// interruption.
const READS: usize = 3;

/// Numbers that one instruction multiplies several of at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    F32,
    Int8,
    Int16,
    Bf16,
}

/// Operations per second of all threads, a multiply-add counted as two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// On floating point of 32 bits.
    pub f32_flop_per_s: f64,
    /// On integers of 8 bits. Where products are summed in 16 bits at first, as often as weights
    /// of 4 bits allow.
    pub int8_op_per_s: f64,
    /// On integers of 16 bits, summed in 32.
    pub int16_op_per_s: f64,
    /// On bf16, where the CPU multiplies it.
    pub bf16_flop_per_s: Option<f64>,
}

/// Bytes that all threads read per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadRates {
    /// In pages of the system's usual size.
    pub plain_bytes_per_s: f64,
    /// In memory that huge pages were asked for.
    pub huge_bytes_per_s: f64,
}

/// Measures the arithmetic of a tier on all threads of a pool.
pub fn peaks(pool: &Pool, isa: Isa) -> Peaks {
    let rate = |number| best_pass(pool, isa, number, BUDGET);
    Peaks {
        f32_flop_per_s: rate(Number::F32),
        int8_op_per_s: rate(Number::Int8),
        int16_op_per_s: rate(Number::Int16),
        bf16_flop_per_s: isa.multiplies_bf16().then(|| rate(Number::Bf16)),
    }
}

/// Does so many turns of a loop of multiply-adds; the operations of all of them.
fn multiply_add(isa: Isa, number: Number, turns: usize) -> usize {
    let operations = match (isa.tier(), number) {
        (Tier::Portable, Number::F32) => portable_f32(turns),
        (Tier::Portable, Number::Int8) => portable_int8(turns),
        (Tier::Portable, Number::Int16) => portable_int16(turns),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this tier is only made on a CPU that has it.
        (Tier::Avx2, Number::F32) => unsafe { avx2::peak_f32(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Tier::Avx2, Number::Int8) => unsafe { avx2::peak_int8(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Tier::Avx2, Number::Int16) => unsafe { avx2::peak_int16(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; the greatest tier has what is below it.
        (Tier::Avx512 | Tier::Amx, Number::F32) => unsafe { avx512::peak_f32(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Tier::Avx512 | Tier::Amx, Number::Int8) => unsafe { avx512::peak_int8(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Tier::Avx512 | Tier::Amx, Number::Int16) => unsafe { avx512::peak_int16(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Tier::Amx, Number::Bf16) => unsafe { amx::peak_bf16(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: bf16 is multiplied only by a CPU that was asked for it.
        (Tier::Avx512, Number::Bf16) if isa.multiplies_bf16() => unsafe { avx512bf16::peak(turns) },
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx2 | Tier::Avx512, Number::Bf16) => 0,
        (Tier::Portable, Number::Bf16) => 0,
    };
    operations * turns
}

/// Passes until the budget is spent; the fastest, in operations per second.
fn best_pass(pool: &Pool, isa: Isa, number: Number, budget: Duration) -> f64 {
    let tasks = TASKS * pool.threads();
    let pass = |turns: usize| {
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        pool.run(tasks, |_, _| {
            done.fetch_add(multiply_add(isa, number, turns), Ordering::Relaxed);
        });
        (start.elapsed(), done.into_inner())
    };
    let mut turns = 256;
    // By the fastest of a few, or an interruption would make passes so short that starting them is
    // all they are.
    let task = |turns: usize| {
        let time = |_| {
            let start = Instant::now();
            multiply_add(isa, number, turns);
            start.elapsed()
        };
        (0..3).map(time).min().expect("there are some")
    };
    while task(turns) < PASS.min(budget) / TASKS as u32 {
        turns *= 2;
    }
    let began = Instant::now();
    let mut best = 0f64;
    loop {
        let (time, operations) = pass(turns);
        best = best.max(operations as f64 / time.as_secs_f64());
        if began.elapsed() >= budget {
            return best;
        }
    }
}

/// Sums that are kept going at once in plain Rust: four registers of 128 bits are too few to hide
/// what one addition waits for the one before, and sixteen are all that x86-64 has.
const LANES: usize = 48;

/// Operations of a turn, as of the other loops. Multiplied and added, since that is how the
/// definitions round.
fn portable_f32(turns: usize) -> usize {
    let (x, y) = (black_box(0.5f32), black_box(0.25f32));
    let mut sums = black_box([1f32; LANES]);
    for _ in 0..turns {
        // Each product depends on the one before, or the compiler would take it out of the loop.
        sums.iter_mut().for_each(|sum| *sum = *sum * x + y);
    }
    black_box(sums);
    2 * LANES
}

/// As the definition of 8-bit weights has them. The activation is another one each turn as far as
/// the compiler knows, or it would take the products out of the loop.
fn portable_int8(turns: usize) -> usize {
    let mut x = [3i8, 5, 7, 9];
    let weights = black_box([[1i8, 2, 3, 4]; TILE]);
    let mut sums = black_box([1i32; TILE]);
    for _ in 0..turns {
        x = black_box(x);
        for (sum, weights) in sums.iter_mut().zip(&weights) {
            for (weight, x) in weights.iter().zip(x) {
                *sum = sum.wrapping_add(i32::from(*weight) * i32::from(x));
            }
        }
    }
    black_box(sums);
    2 * 4 * TILE
}

/// As the definition of a panel has them.
fn portable_int16(turns: usize) -> usize {
    let mut x = [3i16, 5];
    let weights = black_box([[1i16, 2]; 2 * TILE]);
    let mut sums = black_box([1i32; 2 * TILE]);
    for _ in 0..turns {
        x = black_box(x);
        for (sum, weights) in sums.iter_mut().zip(&weights) {
            let [a, b] = [0, 1].map(|i| i32::from(weights[i]) * i32::from(x[i]));
            *sum = sum.wrapping_add(a + b);
        }
    }
    black_box(sums);
    2 * 2 * 2 * TILE
}

/// Reads `bytes` in plain and in huge pages in turns until the budget is spent, at least a few
/// times; the fastest of each. Every thread has a part of its own, which it has filled itself, so
/// that it lies in the memory nearest to it.
///
/// # Errors
/// When the system gives no such memory.
pub fn read_rates(pool: &Pool, isa: Isa, bytes: usize, budget: Duration) -> io::Result<ReadRates> {
    let part = (bytes / pool.threads() / (PLACES * LINE)).max(1) * PLACES * LINE;
    let mut arenas =
        [Arena::with_plain_pages(part * pool.threads())?, Arena::new(part * pool.threads())?];
    for arena in &mut arenas {
        let all = Raw::new(arena.all_mut());
        on_each_thread(pool, |thread| {
            // SAFETY: the parts of threads do not overlap, and each thread does this once.
            let part = unsafe { all.slice(thread * part, part) };
            // Pages never written would all be one and the same.
            part.as_chunks_mut::<8>()
                .0
                .iter_mut()
                .zip(0u64..)
                .for_each(|(word, i)| *word = i.to_le_bytes());
        });
    }
    let began = Instant::now();
    let mut best = [Duration::MAX; 2];
    for pass in 1.. {
        for (best, arena) in best.iter_mut().zip(&arenas) {
            let start = Instant::now();
            on_each_thread(pool, |thread| {
                black_box(sum(isa, black_box(arena.get(thread * part..(thread + 1) * part))));
            });
            *best = start.elapsed().min(*best);
        }
        if pass >= READS && began.elapsed() >= budget {
            break;
        }
    }
    let [plain, huge] = best.map(|time| (part * pool.threads()) as f64 / time.as_secs_f64());
    Ok(ReadRates { plain_bytes_per_s: plain, huge_bytes_per_s: huge })
}

/// Places of a part that are read side by side: what a CPU asks for ahead by itself ends with each
/// page, and is not missed where other pages are under way. One place gave a seventh less in huge
/// pages and a quarter less in plain ones.
const PLACES: usize = 4;

/// Bytes that are read at one place before the next.
const LINE: usize = 64;

/// Reads every byte of whole turns.
fn sum(isa: Isa, bytes: &[u8]) -> u64 {
    let lines: &[[u64; LINE / 8]] = bytemuck::cast_slice(bytes);
    let (first, second) = lines.split_at(lines.len() / 2);
    let ((a, b), (c, d)) = (first.split_at(first.len() / 2), second.split_at(second.len() / 2));
    match isa.tier() {
        Tier::Portable => sum_of_lines(isa, [a, b, c, d]),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => sum_of_lines(isa, [a, b, c, d]),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these tiers is only made on a CPU that has AVX-512.
        Tier::Avx512 | Tier::Amx => unsafe { avx512::sum([a, b, c, d]) },
    }
}

tiered! {
    /// Sums of words, lane by lane, which the compiler keeps in registers, but gathers from all over with AVX-512.
    fn sum_of_lines(rows: [&[[u64; LINE / 8]]; PLACES]) -> u64 {
        let [a, b, c, d] = rows;
        let mut sums = [0u64; LINE / 8];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for lane in 0..LINE / 8 {
                let both = [a[lane].wrapping_add(b[lane]), c[lane].wrapping_add(d[lane])];
                sums[lane] = sums[lane].wrapping_add(both[0].wrapping_add(both[1]));
            }
        }
        sums.into_iter().fold(0, u64::wrapping_add)
    }
}

/// Runs something once on every thread, at once: as many tasks as threads, none of which goes on
/// before all have begun.
fn on_each_thread(pool: &Pool, work: impl Fn(usize) + Sync) {
    let begun = AtomicUsize::new(0);
    pool.run(pool.threads(), |_, thread| {
        begun.fetch_add(1, Ordering::AcqRel);
        let mut turns = 0u32;
        while begun.load(Ordering::Acquire) < pool.threads() {
            turns += 1;
            if turns < 10_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        work(thread);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_peaks_with_one_thread_and_with_several() {
        let tiers = Isa::tested();
        for pool in [1, 3].map(|threads| Pool::new(threads).unwrap()) {
            for &isa in &tiers {
                for number in [Number::F32, Number::Int8, Number::Int16] {
                    assert!(multiply_add(isa, number, 10) >= 200, "{} {number:?}", isa.name());
                    let rate = best_pass(&pool, isa, number, Duration::from_micros(10));
                    assert!(rate.is_finite() && rate > 0.0, "{} {number:?}: {rate}", isa.name());
                }
                assert_eq!(multiply_add(isa, Number::Bf16, 10) > 0, isa.multiplies_bf16());
            }
        }
    }

    #[test]
    fn memory_is_read_with_one_thread_and_with_several() {
        let tiers = Isa::tested();
        for pool in [1, 3].map(|threads| Pool::new(threads).unwrap()) {
            for &isa in &tiers {
                // Less than a part for each, and parts that do not divide it.
                for bytes in [1, 100_000] {
                    let rates = read_rates(&pool, isa, bytes, Duration::ZERO).unwrap();
                    let of = [rates.plain_bytes_per_s, rates.huge_bytes_per_s];
                    assert!(of.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{rates:?}");
                }
            }
        }
    }

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (1..=96).collect();
        for isa in Isa::tested() {
            assert_eq!(sum(isa, bytemuck::cast_slice(&words)), 4656);
        }
    }

    #[test]
    fn each_thread_works_once() {
        let pool = Pool::new(3).unwrap();
        let seen = [0; 3].map(AtomicUsize::new);
        for _ in 0..50 {
            on_each_thread(&pool, |thread| {
                seen[thread].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(seen.map(AtomicUsize::into_inner), [50; 3]);
    }
}
