//! Reference kernels: three frozen pieces of work that have nothing to do with models. What they
//! take tells a machine that changed from a program that changed. They detect and never correct: a
//! number is never divided by one of theirs for a verdict to pass, because a machine slows
//! different programs differently.
//!
//! Their source is part of every baseline. Whoever changes it makes all stored references
//! meaningless.

use std::hint::black_box;
use std::sync::{Barrier, OnceLock};
use std::time::Instant;
use std::{io, thread};

use crate::error::{Error, Result};
use crate::record::KernelTimes;
use crate::stats;

use super::{load, rates};

/// Repetitions of each kernel that count, after one that does not. Their median is kept: a minimum
/// would hide a machine that is disturbed half of the time.
const REPEATS: usize = 5;

/// Parallel regions in one repetition of the dispatch kernel: so many that one takes milliseconds.
const REGIONS: usize = 100;

/// Products of one repetition of the compute kernel: so many that one takes milliseconds.
const PRODUCTS: usize = 200;

/// Read where the system does not tell its caches: larger than nearly all of them.
const BUFFER: u64 = 128 << 20;

/// Never less, so that it is given back to the system as a whole when it is dropped.
const SMALLEST: u64 = 64 << 20;

/// Times the last-level cache. More would be further beyond it, and filling it takes longer than
/// all kernels together.
const BEYOND_CACHE: u64 = 2;

/// A part of the available memory that may be taken, so that measuring never makes the machine
/// swap.
const OF_AVAILABLE: u64 = 4;

/// The kernels with the memory that one of them reads; made once, measured as often as needed.
pub struct ReferenceKernels {
    threads: usize,
    buffer: Vec<u64>,
}

/// Work that all threads do at once, in so many parallel regions one after the other.
struct Kernel {
    regions: usize,
    work: fn(&[u64]),
}

/// The order of [`KernelTimes`]' fields.
const KERNELS: [Kernel; 3] = [
    // Prefill is arithmetic: this moves with the clock and with a neighbour on the same core.
    Kernel { regions: 1, work: multiply_add },
    // Decoding reads every weight for each token: this moves with the bandwidth that other guests
    // leave.
    Kernel { regions: 1, work: read },
    // A layer is a dozen parallel regions: this moves with how fast the system wakes threads.
    Kernel { regions: REGIONS, work: nothing_much },
];

/// [`ReferenceKernels`] measured once; `None` where there is no memory for them, or the build is
/// not optimised.
///
/// # Errors
/// When the system refuses a thread.
pub fn references(threads: usize) -> Result<Option<KernelTimes>> {
    ReferenceKernels::new(threads)?.map(|kernels| kernels.measure()).transpose()
}

impl ReferenceKernels {
    /// Takes and fills the memory. `None` where a buffer beyond the caches would be more than a
    /// quarter of what is available, and in a build whose numbers mean nothing.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> Result<Option<Self>> {
        if cfg!(debug_assertions) {
            return Ok(None);
        }
        let bytes = buffer_bytes(rates::last_level_cache_bytes(), load::available_bytes());
        bytes.map_or(Ok(None), |bytes| Self::with_buffer(threads, bytes))
    }

    /// `None` where the system has no room for the buffer after all.
    fn with_buffer(threads: usize, bytes: usize) -> Result<Option<Self>> {
        let threads = threads.max(1);
        let refused = |source| Error::Threads { threads, source };
        let part = bytes / size_of::<u64>() / threads;
        if part == 0 {
            // No word for each: no system starts so many.
            return Err(refused(io::ErrorKind::OutOfMemory.into()));
        }
        // One piece, however many threads: freeing smaller ones would teach the allocator of the
        // measured program another threshold for what it gives back to the system.
        let mut buffer = Vec::new();
        if buffer.try_reserve_exact(part * threads).is_err() {
            return Ok(None);
        }
        buffer.resize(part * threads, 0_u64);
        let filled = thread::scope(|scope| {
            buffer.chunks_mut(part).try_for_each(|part| {
                // Filled by a thread of its own, so that its pages lie near one. Pages never
                // written would all be one.
                let fill = move || part.iter_mut().zip(0..).for_each(|(word, i)| *word = i);
                thread::Builder::new().spawn_scoped(scope, fill).map(drop)
            })
        });
        filled.map_err(refused)?;
        Ok(Some(Self { threads, buffer }))
    }

    /// Seconds of each kernel, each the median of a few repetitions.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn measure(&self) -> Result<KernelTimes> {
        // One more than the threads: this one lets them go and waits for all, as a program does
        // that has parallel regions.
        let barrier = Barrier::new(self.threads + 1);
        // Whether all threads are there: a barrier that one is missing from opens for none.
        let complete = &OnceLock::<bool>::new();
        let part = self.buffer.len() / self.threads;
        let region = |work: &dyn Fn()| {
            barrier.wait();
            work();
            barrier.wait();
        };
        let repetition = |kernel: &Kernel, work: &dyn Fn()| {
            (0..kernel.regions).for_each(|_| region(work));
        };
        let measured = thread::scope(|scope| {
            let started = self.buffer.chunks(part).try_for_each(|part| {
                let work = move || {
                    if !*complete.wait() {
                        return;
                    }
                    for kernel in &KERNELS {
                        (0..=REPEATS).for_each(|_| repetition(kernel, &|| (kernel.work)(part)));
                    }
                };
                thread::Builder::new().spawn_scoped(scope, work).map(drop)
            });
            complete.set(started.is_ok()).expect("nobody else says so");
            started?;
            Ok::<_, io::Error>(KERNELS.each_ref().map(|kernel| {
                let time = |_| {
                    let start = Instant::now();
                    repetition(kernel, &|| ());
                    start.elapsed().as_secs_f64()
                };
                let times: Vec<f64> = (0..=REPEATS).map(time).collect();
                stats::median(&times[1..]).expect("there are repetitions")
            }))
        });
        let [compute_s, stream_s, dispatch_s] =
            measured.map_err(|source| Error::Threads { threads: self.threads, source })?;
        Ok(KernelTimes { compute_s, stream_s, dispatch_s })
    }
}

/// As much as lies beyond the caches; `None` if that cannot be taken.
fn buffer_bytes(cache: Option<u64>, available: Option<u64>) -> Option<usize> {
    let bytes = cache.map_or(BUFFER, |cache| cache.saturating_mul(BEYOND_CACHE).max(SMALLEST));
    let most = available.map_or(BUFFER, |available| available / OF_AVAILABLE);
    usize::try_from(bytes).ok().filter(|_| bytes <= most)
}

const ROWS: usize = 16;
const WIDTH: usize = 64;

/// Products of two matrices of 4 and 16 KiB, which stay in the first-level cache with their result.
/// The innermost loop adds a multiple of one row to another, which compilers turn into vector
/// instructions by themselves.
fn multiply_add(_: &[u64]) {
    let a = black_box([[1e-3_f32; WIDTH]; ROWS]);
    let b = black_box([[1e-3_f32; WIDTH]; WIDTH]);
    let mut sum = [[0_f32; WIDTH]; ROWS];
    for _ in 0..PRODUCTS {
        for (a, sum) in black_box(&a).iter().zip(&mut sum) {
            for (factor, row) in a.iter().zip(black_box(&b)) {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += factor * value;
                }
            }
        }
    }
    black_box(&sum);
}

/// Reads every word once.
fn read(part: &[u64]) {
    black_box(black_box(part).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
}

/// A microsecond's work, so that waking is what takes the time.
fn nothing_much(part: &[u64]) {
    read(&part[..part.len().min(1 << 10)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_buffer_lies_beyond_the_caches_and_leaves_most_memory_alone() {
        for (cache, available, bytes) in [
            (Some(8 * MIB), Some(16384 * MIB), Some(64 * MIB)),
            (Some(48 * MIB), Some(16384 * MIB), Some(96 * MIB)),
            (Some(256 * MIB), Some(16384 * MIB), Some(512 * MIB)),
            (Some(32 * MIB), Some(200 * MIB), None),
            (None, Some(16384 * MIB), Some(128 * MIB)),
            (None, Some(400 * MIB), None),
            (None, None, Some(128 * MIB)),
        ] {
            let bytes = bytes.map(|bytes| bytes as usize);
            assert_eq!(buffer_bytes(cache, available), bytes, "{cache:?} {available:?}");
        }
    }

    #[test]
    fn every_kernel_takes_time_with_one_thread_and_with_several() {
        for threads in [1, 3] {
            let kernels = ReferenceKernels::with_buffer(threads, 1 << 16).unwrap().unwrap();
            let KernelTimes { compute_s, stream_s, dispatch_s } = kernels.measure().unwrap();
            for seconds in [compute_s, stream_s, dispatch_s] {
                assert!(seconds.is_finite() && seconds > 0.0, "{threads} threads: {seconds}");
            }
        }
    }

    /// How much the references of a quiet machine repeat, and what they cost.
    #[test]
    #[ignore = "a table for people; of an optimised build"]
    #[expect(clippy::print_stdout, reason = "it is the point")]
    fn what_references_cost() {
        for threads in [1, 2] {
            for _ in 0..8 {
                let start = Instant::now();
                let Some(kernels) = ReferenceKernels::new(threads).unwrap() else {
                    return println!("SKIPPED: too little memory, or no optimised build");
                };
                let filled = start.elapsed();
                let references = kernels.measure().unwrap();
                println!("filling {filled:?}, all {:?}: {references:?}", start.elapsed());
            }
        }
    }
}
