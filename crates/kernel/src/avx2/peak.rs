//! Loops with AVX2 that measure the roofline.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Independent sums in the peak loops: two instructions per cycle with a latency of four cycles and
/// more need at least eight; twelve fit in the sixteen registers beside the operands.
const SUMS: usize = 12;

/// The multiply-adds of [`super::gemm_f32`] without loads; returns operations per iteration.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_f32(iterations: usize) -> usize {
    let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    let mut sums = [_mm256_set1_ps(black_box(1.0)); SUMS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(x, y, *sum));
    }
    black_box(sums);
    SUMS * 2 * 8
}

/// The multiply-adds of [`super::gemm_q4_k`], which needs the fewest instructions for them: it adds
/// eight pairs of products in 16 bits before it widens them. Each product depends on the one
/// before, or the compiler would hoist it out of the loop.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_int8(iterations: usize) -> usize {
    const PAIRS: usize = 8;
    let (x, ones) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi16(black_box(1)));
    let mut sums = [_mm256_set1_epi8(black_box(1)); SUMS];
    for _ in 0..iterations {
        for _ in 0..PAIRS {
            for sum in &mut sums {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, x));
            }
        }
        sums.iter_mut()
            .for_each(|sum| *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, ones)));
    }
    black_box(sums);
    SUMS * PAIRS * 2 * 32
}

/// The multiply-adds of [`super::gemm_int16`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_int16(iterations: usize) -> usize {
    let x = _mm256_set1_epi16(black_box(3));
    let mut sums = [_mm256_set1_epi8(black_box(1)); SUMS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, x)));
    }
    black_box(sums);
    SUMS * 2 * 16
}
