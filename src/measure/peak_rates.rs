//! Peak rates of the machine, the ceilings of the roofline, measured with the kernels' own
//! instructions.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::kernel::{Isa, Pool};
use crate::record::Rates;
use crate::{kernel, machine};

/// How much memory is read to measure bandwidth, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBudget {
    least_bytes: u64,
    time: Duration,
}

/// Fewest passes over pages of each size: one interruption must not decide.
const MIN_READ_PASSES: usize = 3;

impl ReadBudget {
    /// About a second, filling the buffers included.
    pub const BRIEF: Self = Self { least_bytes: 256 << 20, time: Duration::from_millis(350) };
    /// For a number that exceeds the brief measurement: long enough for a shared host to have an
    /// undisturbed moment.
    pub(crate) const EXTENDED: Self = Self { least_bytes: 256 << 20, time: Duration::from_secs(3) };
    /// More memory, which hides fewer disturbances in caches.
    pub(crate) const FULL: Self = Self { least_bytes: 1 << 30, time: Duration::from_secs(2) };
}

/// Measures read bandwidth and arithmetic peaks of the CPU.
///
/// # Errors
/// When the system refuses a thread.
pub fn peak_rates(threads: usize, budget: ReadBudget) -> Result<Rates> {
    let pool = Pool::new(threads)?;
    // The best tier of the CPU, even if the native engine is forced to a lower one: other engines
    // choose their own, and the ceiling must not be below what they can reach.
    let isa = Isa::best();
    // Without memory for the buffers, everything but bandwidth can still be measured.
    let read = machine::read_buffer_bytes(budget.least_bytes)
        .and_then(|bytes| kernel::ReadBuffers::new(&pool, bytes).ok())
        .map(|buffers| buffers.bandwidth(isa, MIN_READ_PASSES, budget.time));
    let peaks = kernel::peak_rates(&pool, isa);
    Ok(Rates {
        read_bytes_per_s: read.map(|read| read.small_pages_bytes_per_s),
        read_huge_bytes_per_s: read.map(|read| read.huge_pages_bytes_per_s),
        f32_flop_per_s: Some(peaks.f32_flop_per_s.max(blas_f32_rate().unwrap_or(0.0))),
        int8_op_per_s: Some(peaks.int8_op_per_s),
        int16_op_per_s: Some(peaks.int16_op_per_s),
        bf16_flop_per_s: peaks.bf16_flop_per_s,
        isa: Some(isa.name().into()),
        last_level_cache_bytes: machine::last_level_cache_bytes(),
    })
}

/// FLOP/s of a large f32 GEMM by Accelerate or MKL, the best of eight. These libraries may use
/// units that the kernels here do not.
fn blas_f32_rate() -> Option<f64> {
    const SIZE: usize = 1024;
    if !cfg!(any(feature = "accelerate", feature = "mkl")) {
        return None;
    }
    let random = || Tensor::rand(-1f32, 1f32, (SIZE, SIZE), &Device::Cpu).ok();
    let (a, b) = (random()?, random()?);
    let rate = || {
        let start = Instant::now();
        std::hint::black_box(a.matmul(&b).ok()?);
        Some(2.0 * (SIZE as f64).powi(3) / start.elapsed().as_secs_f64())
    };
    (0..8).filter_map(|_| rate()).reduce(f64::max)
}
