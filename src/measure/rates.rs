//! The rates that a machine's numbers are held against, measured with the kernels' own
//! instructions.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::kernel::{Isa, Pool};
use crate::record::Rates;
use crate::{kernel, machine};

/// How much of memory is read, and how long.
struct Effort {
    least_bytes: u64,
    reading: Duration,
}

/// In a second or little more, filling the buffers included.
const BRIEF: Effort = Effort { least_bytes: 256 << 20, reading: Duration::from_millis(350) };

const FULL: Effort = Effort { least_bytes: 1 << 30, reading: Duration::from_secs(2) };

/// Once a number has exceeded what was seen in [`BRIEF`]: a host that has its better moments has
/// one in so long, mostly.
const PATIENT: Effort = Effort { least_bytes: 256 << 20, reading: Duration::from_secs(3) };

/// Measures what a run needs to know of the CPU, briefly.
///
/// # Errors
/// When the system refuses a thread.
pub fn rates(threads: usize) -> Result<Rates> {
    with_effort(threads, &BRIEF)
}

/// As [`rates`], for longer: what a number is held against that seems impossible.
///
/// # Errors
/// As [`rates`].
pub fn patient_rates(threads: usize) -> Result<Rates> {
    with_effort(threads, &PATIENT)
}

/// As [`rates`], with more memory and for longer: fewer disturbances hide in it.
///
/// # Errors
/// As [`rates`].
pub fn full_rates(threads: usize) -> Result<Rates> {
    with_effort(threads, &FULL)
}

fn with_effort(threads: usize, effort: &Effort) -> Result<Rates> {
    let pool = Pool::new(threads)?;
    // The best of the CPU, whatever tier an engine is forced to: other engines choose for
    // themselves, and what a number is held against must not be below what they can reach.
    let isa = Isa::best();
    // Where the system gives no memory to read, all else can still be measured.
    let read = machine::read_buffer_bytes(effort.least_bytes)
        .and_then(|bytes| kernel::read_bandwidth(&pool, isa, bytes, effort.reading).ok());
    let peaks = kernel::peak_rates(&pool, isa);
    Ok(Rates {
        read_bytes_per_s: read.map(|read| read.small_pages_bytes_per_s),
        read_huge_bytes_per_s: read.map(|read| read.huge_pages_bytes_per_s),
        f32_flop_per_s: Some(peaks.f32_flop_per_s.max(foreign_f32_rate().unwrap_or(0.0))),
        int8_op_per_s: Some(peaks.int8_op_per_s),
        int16_op_per_s: Some(peaks.int16_op_per_s),
        bf16_flop_per_s: peaks.bf16_flop_per_s,
        isa: Some(isa.name().into()),
        last_level_cache_bytes: machine::last_level_cache_bytes(),
    })
}

/// Operations per second of a large f32 product, the best of a few, in a build with a library that
/// multiplies on units for which there are no kernels here.
fn foreign_f32_rate() -> Option<f64> {
    const SIZE: usize = 1024;
    if !cfg!(any(feature = "accelerate", feature = "mkl")) {
        return None;
    }
    let random = || Tensor::rand(-1f32, 1f32, (SIZE, SIZE), &Device::Cpu).ok();
    let (a, b) = (random()?, random()?);
    let time = || {
        let start = Instant::now();
        std::hint::black_box(a.matmul(&b).ok()?);
        Some(2.0 * (SIZE as f64).powi(3) / start.elapsed().as_secs_f64())
    };
    (0..8).filter_map(|_| time()).reduce(f64::max)
}
