//! Loops with NEON that measure the roofline.

use std::arch::aarch64::*;
use std::hint::black_box;

use super::DotProduct;

/// Independent sums in the peak loops: four instructions per cycle with a latency of four cycles
/// need at least sixteen.
pub(super) const SUMS: usize = 24;

/// The multiply-adds of [`super::gemm_f32`] without loads; returns operations per iteration.
#[target_feature(enable = "neon")]
pub(super) fn peak_f32(iterations: usize) -> usize {
    let (x, y) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(0.25)));
    let mut sums = [vdupq_n_f32(black_box(1.0)); SUMS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = vfmaq_f32(*sum, x, y));
    }
    black_box(sums);
    SUMS * 2 * 4
}

/// The multiply-adds of [`super::gemm_q8_0`]. Each product depends on the one before, or the
/// compiler would hoist parts of it out of the loop.
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn peak_int8<Dot: DotProduct>(iterations: usize) -> usize {
    let x = vdupq_n_s8(black_box(3));
    let mut sums = [vdupq_n_s32(black_box(1)); SUMS];
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: as the caller promises.
            *sum = unsafe { Dot::dot(*sum, vreinterpretq_s8_s32(*sum), x) };
        }
    }
    black_box(sums);
    SUMS * 2 * 16
}
