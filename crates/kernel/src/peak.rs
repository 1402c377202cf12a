//! The roofline of this machine: peak arithmetic, measured with the kernels' own instructions in
//! loops that never leave the registers, and read bandwidth of memory. Results are reported as
//! fractions of these peaks, so peaks must not be understated: they are timed in short passes of
//! which the fastest counts, since interference only slows a pass.

use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::activations::ActivationFormat;
use super::arena::Arena;
use super::dispatch::kernels;
use super::isa::{Isa, multiversion};
use super::kernels::Peak;
use super::pool::{Pool, SharedSlice};

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
#[cfg(target_arch = "aarch64")]
use super::neon;

/// Time for the passes of one number format.
const BUDGET: Duration = Duration::from_millis(80);

/// Shortest pass: long beside the dispatch of its tasks, and short enough to fit between two timer
/// interrupts.
const MIN_PASS: Duration = Duration::from_millis(4);

/// Tasks per thread and pass, so that cores of different speed end at about the same time.
const TASKS_PER_THREAD: usize = 8;

/// Operations per second of all threads; a multiply-add is two operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakRates {
    /// f32.
    pub f32_flop_per_s: f64,
    /// 8-bit integers. AVX2 sums products in 16 bits first, as often as 4-bit weights allow.
    pub int8_op_per_s: f64,
    /// 16-bit integers, summed in 32 bits.
    pub int16_op_per_s: f64,
    /// bf16, where the CPU multiplies it.
    pub bf16_flop_per_s: Option<f64>,
}

/// Bytes that all threads read per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadBandwidth {
    /// In pages of the system's default size.
    pub small_pages_bytes_per_s: f64,
    /// In memory for which huge pages were requested.
    pub huge_pages_bytes_per_s: f64,
}

/// Measures the arithmetic peak of a tier on all threads of a pool.
pub fn peak_rates(pool: &Pool, isa: Isa) -> PeakRates {
    let rate = |format| peak_rate(pool, isa, format, BUDGET);
    PeakRates {
        f32_flop_per_s: rate(ActivationFormat::F32),
        int8_op_per_s: rate(ActivationFormat::Int8),
        int16_op_per_s: rate(ActivationFormat::Int16),
        bf16_flop_per_s: isa.has_bf16().then(|| rate(ActivationFormat::Bf16)),
    }
}

/// Runs a loop of the multiply-adds that kernels do in a format; returns its operations.
fn multiply_add(isa: Isa, format: ActivationFormat, iterations: usize) -> usize {
    let kernels = kernels(isa);
    let peak: Peak = match format {
        ActivationFormat::F32 => kernels.peak_f32,
        ActivationFormat::Int8 => kernels.peak_int8,
        ActivationFormat::Int16 => kernels.peak_int16,
        #[cfg(target_arch = "x86_64")]
        ActivationFormat::Bf16 if isa.has_amx() => amx::peak_bf16,
        #[cfg(target_arch = "x86_64")]
        ActivationFormat::Bf16 if isa.has_avx512bf16() => avx512bf16::peak_bf16,
        #[cfg(target_arch = "aarch64")]
        ActivationFormat::Bf16 if isa.has_bfmmla() => neon::bf16::peak_bf16,
        ActivationFormat::Bf16 => return 0,
    };
    // SAFETY: a value of `Isa` exists only for a tier that this CPU has, and for bf16 it was asked.
    iterations * unsafe { peak(iterations) }
}

/// The peak of one number format, in operations per second: repeats passes until the budget is
/// spent, at least one, of which the fastest counts.
///
/// # Panics
/// For bf16 where the CPU does not multiply it.
pub fn peak_rate(pool: &Pool, isa: Isa, format: ActivationFormat, budget: Duration) -> f64 {
    assert!(multiply_add(isa, format, 1) > 0, "{} does not multiply {format:?}", isa.name());
    let tasks = TASKS_PER_THREAD * pool.threads();
    let pass = |iterations: usize| {
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        pool.run(tasks, |_, _| {
            done.fetch_add(multiply_add(isa, format, iterations), Ordering::Relaxed);
        });
        (start.elapsed(), done.into_inner())
    };
    let mut iterations = 256;
    // Calibrated with the fastest of three runs: an interruption would make all passes too short.
    let task = |iterations: usize| {
        let time = |_| {
            let start = Instant::now();
            multiply_add(isa, format, iterations);
            start.elapsed()
        };
        (0..3).map(time).min().expect("three runs")
    };
    while task(iterations) < MIN_PASS.min(budget) / TASKS_PER_THREAD as u32 {
        iterations *= 2;
    }
    let began = Instant::now();
    let mut best = 0f64;
    loop {
        let (time, operations) = pass(iterations);
        best = best.max(operations as f64 / time.as_secs_f64());
        if began.elapsed() >= budget {
            return best;
        }
    }
}

/// Memory to read, in small and in huge pages, for measuring [`ReadBandwidth`].
pub struct ReadBuffers<'a> {
    pool: &'a Pool,
    /// Bytes of a thread's part in each arena.
    part: usize,
    small_pages: Arena,
    huge_pages: Arena,
}

impl<'a> ReadBuffers<'a> {
    /// About `bytes` in pages of each size. Every thread writes its own part, so that the pages lie
    /// on its NUMA node (first touch).
    ///
    /// # Errors
    /// When the memory cannot be allocated.
    pub fn new(pool: &'a Pool, bytes: usize) -> io::Result<Self> {
        let part = (bytes / pool.threads() / (STREAMS * LINE)).max(1) * STREAMS * LINE;
        let bytes = part * pool.threads();
        let (mut small_pages, mut huge_pages) =
            (Arena::with_small_pages(bytes)?, Arena::new(bytes)?);
        for arena in [&mut small_pages, &mut huge_pages] {
            let all = SharedSlice::new(arena.all_mut());
            pool.on_each_thread(|thread| {
                // SAFETY: the parts of threads do not overlap, and each thread slices its own once.
                let part = unsafe { all.slice(thread * part, part) };
                // Pages that were never written would all map to the one zero page.
                part.as_chunks_mut::<8>()
                    .0
                    .iter_mut()
                    .zip(0u64..)
                    .for_each(|(word, i)| *word = i.to_le_bytes());
            });
        }
        Ok(Self { pool, part, small_pages, huge_pages })
    }

    /// The fastest pass over the pages of each size, which alternate until the budget is spent, at
    /// least `passes` times. Every thread reads its own part.
    pub fn bandwidth(&self, isa: Isa, passes: usize, budget: Duration) -> ReadBandwidth {
        let began = Instant::now();
        let [mut small, mut huge] = [0f64; 2];
        for pass in 1.. {
            small = small.max(self.pass(isa, &self.small_pages));
            huge = huge.max(self.pass(isa, &self.huge_pages));
            if pass >= passes && began.elapsed() >= budget {
                break;
            }
        }
        ReadBandwidth { small_pages_bytes_per_s: small, huge_pages_bytes_per_s: huge }
    }

    /// Reads an arena once; bytes per second.
    fn pass(&self, isa: Isa, arena: &Arena) -> f64 {
        let part = self.part;
        let start = Instant::now();
        self.pool.on_each_thread(|thread| {
            black_box(sum_lines(isa, black_box(arena.get(thread * part..(thread + 1) * part))));
        });
        (part * self.pool.threads()) as f64 / start.elapsed().as_secs_f64()
    }
}

/// Streams that are read side by side: the hardware prefetcher stops at the end of each page, and
/// other streams hide the gap. One stream gave a seventh less in huge pages and a quarter less in
/// small ones.
const STREAMS: usize = 4;

/// Bytes that are read of one stream before the next: a cache line.
const LINE: usize = 64;

/// Reads every byte of whole lines.
fn sum_lines(isa: Isa, bytes: &[u8]) -> u64 {
    let lines: &[[u64; LINE / 8]] = bytemuck::cast_slice(bytes);
    let (first, second) = lines.split_at(lines.len() / 2);
    let ((a, b), (c, d)) = (first.split_at(first.len() / 2), second.split_at(second.len() / 2));
    match kernels(isa).sum_streams {
        // SAFETY: a value of `Isa` exists only for a tier that this CPU has.
        Some(kernel) => unsafe { kernel([a, b, c, d]) },
        None => sum_streams_autovectorized(isa, [a, b, c, d]),
    }
}

multiversion! {
    /// Lane-wise sums. The compiler keeps them in registers for AVX2, but gathers for AVX-512.
    fn sum_streams_autovectorized(streams: [&[[u64; LINE / 8]]; STREAMS]) -> u64 {
        let [a, b, c, d] = streams;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_peaks_with_one_thread_and_with_several() {
        let tiers = Isa::for_tests();
        for pool in [1, 3].map(|threads| Pool::new(threads).unwrap()) {
            for &isa in &tiers {
                for format in
                    [ActivationFormat::F32, ActivationFormat::Int8, ActivationFormat::Int16]
                {
                    assert!(multiply_add(isa, format, 10) >= 200, "{} {format:?}", isa.name());
                    let rate = peak_rate(&pool, isa, format, Duration::from_micros(10));
                    assert!(rate.is_finite() && rate > 0.0, "{} {format:?}: {rate}", isa.name());
                }
                assert_eq!(multiply_add(isa, ActivationFormat::Bf16, 10) > 0, isa.has_bf16());
            }
        }
    }

    #[test]
    fn memory_is_read_with_one_thread_and_with_several() {
        let tiers = Isa::for_tests();
        for pool in [1, 3].map(|threads| Pool::new(threads).unwrap()) {
            for &isa in &tiers {
                // Less than a part for each, and parts that do not divide it.
                for bytes in [1, 100_000] {
                    let buffers = ReadBuffers::new(&pool, bytes).unwrap();
                    let rates = buffers.bandwidth(isa, 1, Duration::ZERO);
                    let both = [rates.small_pages_bytes_per_s, rates.huge_pages_bytes_per_s];
                    assert!(both.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{rates:?}");
                }
            }
        }
    }

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (1..=96).collect();
        for isa in Isa::for_tests() {
            assert_eq!(sum_lines(isa, bytemuck::cast_slice(&words)), 4656);
        }
    }
}
