//! Reference kernels: three fixed workloads, independent of models. Their times tell a changed
//! machine from a changed program. They detect and never correct: no metric is divided by them,
//! because a machine slows different programs differently.
//!
//! Do not change the kernels: all stored references would lose their meaning.

use std::hint::black_box;
use std::sync::{Barrier, OnceLock};
use std::time::Instant;
use std::{io, thread};

use crate::error::{Error, Result};
use crate::record::KernelTimes;
use crate::stats;

use super::{caches, load};

/// Repetitions of each kernel after a warm-up. Their median is kept: the minimum would hide a
/// machine that is disturbed half of the time.
const REPEATS: usize = 5;

/// Parallel regions per repetition of the dispatch kernel, so that one takes milliseconds.
const REGIONS: usize = 100;

/// Matrix products per repetition of the compute kernel, so that one takes milliseconds.
const PRODUCTS: usize = 200;

/// Buffer size if the cache size is unknown: exceeds nearly all caches.
const DEFAULT_BUFFER: u64 = 128 << 20;

/// Large enough that the allocator returns the buffer to the system when it is freed.
const MIN_BUFFER: u64 = 64 << 20;

/// Buffer size in last-level caches. A larger one would take longer to fill than all kernels run.
const CACHE_MULTIPLE: u64 = 2;

/// The buffer takes at most this fraction of the available memory, so that the machine does not
/// swap.
const MEMORY_DIVISOR: u64 = 4;

/// The kernels, with the buffer that the streaming kernel reads.
pub struct ReferenceKernels {
    threads: usize,
    buffer: Vec<u64>,
}

/// Work that all threads run at once, in consecutive parallel regions.
struct Kernel {
    regions: usize,
    work: fn(&[u64]),
}

/// In the order of [`KernelTimes`]' fields.
const KERNELS: [Kernel; 3] = [
    // Like prefill, bound by arithmetic: sensitive to the clock and to a neighbour on the same
    // core.
    Kernel { regions: 1, work: multiply_add },
    // Like decode, bound by memory bandwidth, which other guests of the host take.
    Kernel { regions: 1, work: read },
    // Like a layer's dozen parallel regions, bound by thread wake-up latency.
    Kernel { regions: REGIONS, work: small_read },
];

/// Measures [`ReferenceKernels`] once; `None` without memory for the buffer, or in an unoptimized
/// build.
///
/// # Errors
/// When the system refuses a thread.
pub(crate) fn measure_reference_kernels(threads: usize) -> Result<Option<KernelTimes>> {
    ReferenceKernels::new(threads)?.map(|kernels| kernels.measure()).transpose()
}

impl ReferenceKernels {
    /// Allocates and fills the buffer. `None` if a buffer beyond the caches would take more than a
    /// quarter of the available memory, and in an unoptimized build.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> Result<Option<Self>> {
        if cfg!(debug_assertions) {
            return Ok(None);
        }
        let bytes = buffer_bytes(caches::last_level_cache_bytes(), load::available_bytes());
        bytes.map_or(Ok(None), |bytes| Self::with_buffer(threads, bytes))
    }

    /// `None` if the allocation fails.
    fn with_buffer(threads: usize, bytes: usize) -> Result<Option<Self>> {
        let threads = threads.max(1);
        let refused = |source| Error::Threads { threads, source };
        let part = bytes / size_of::<u64>() / threads;
        if part == 0 {
            // Fewer words than threads: no system starts so many.
            return Err(refused(io::ErrorKind::OutOfMemory.into()));
        }
        // One allocation, however many threads: freeing smaller ones would change the allocator's
        // mmap threshold in the measured process.
        let mut buffer = Vec::new();
        if buffer.try_reserve_exact(part * threads).is_err() {
            return Ok(None);
        }
        buffer.resize(part * threads, 0_u64);
        let filled = thread::scope(|scope| {
            buffer.chunks_mut(part).try_for_each(|part| {
                // Filled by a thread of its own, so that its pages are local to one. Unwritten
                // pages would all map to the zero page.
                let fill = move || part.iter_mut().zip(0..).for_each(|(word, i)| *word = i);
                thread::Builder::new().spawn_scoped(scope, fill).map(drop)
            })
        });
        filled.map_err(refused)?;
        Ok(Some(Self { threads, buffer }))
    }

    /// The median time of each kernel.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn measure(&self) -> Result<KernelTimes> {
        // This thread starts each region and waits for all others, as the caller of a parallel
        // region does.
        let barrier = Barrier::new(self.threads + 1);
        // Whether all threads were started: a barrier never opens if one is missing.
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
            complete.set(started.is_ok()).expect("it is set once");
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

/// A size beyond the caches; `None` if that is too much of the memory.
fn buffer_bytes(cache: Option<u64>, available: Option<u64>) -> Option<usize> {
    let bytes =
        cache.map_or(DEFAULT_BUFFER, |cache| cache.saturating_mul(CACHE_MULTIPLE).max(MIN_BUFFER));
    let most = available.map_or(DEFAULT_BUFFER, |available| available / MEMORY_DIVISOR);
    usize::try_from(bytes).ok().filter(|_| bytes <= most)
}

const ROWS: usize = 16;
const WIDTH: usize = 64;

/// Products of two matrices of 4 and 16 KiB, which fit into L1 with their result. Compilers
/// vectorize the innermost loop, which adds a multiple of one row to another.
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

/// Reads every word once: bound by memory bandwidth.
fn read(part: &[u64]) {
    black_box(black_box(part).iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)));
}

/// About a microsecond of work: thread wake-up dominates.
fn small_read(part: &[u64]) {
    read(&part[..part.len().min(1 << 10)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_buffer_exceeds_the_caches_and_leaves_most_memory_free() {
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

    /// Repeatability and cost of the references on a quiet machine.
    #[test]
    #[ignore = "prints a table; needs an optimized build"]
    #[expect(clippy::print_stdout, reason = "the test prints a table")]
    fn print_cost_of_references() {
        for threads in [1, 2] {
            for _ in 0..8 {
                let start = Instant::now();
                let Some(kernels) = ReferenceKernels::new(threads).unwrap() else {
                    return println!("SKIPPED: too little memory, or no optimized build");
                };
                let filled = start.elapsed();
                let references = kernels.measure().unwrap();
                println!("filling {filled:?}, all {:?}: {references:?}", start.elapsed());
            }
        }
    }
}
