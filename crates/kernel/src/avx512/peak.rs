//! Loops with AVX-512 that measure the roofline.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::load;

/// Sums four streams of lines: a loop bound by memory bandwidth alone.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sum_streams(rows: [&[[u64; 8]]; 4]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 4];
    let [a, b, c, d] = rows;
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for (sum, line) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = _mm512_add_epi64(*sum, load(bytemuck::cast_ref(line)));
        }
    }
    let [a, b, c, d] = sums.map(|sum| _mm512_reduce_add_epi64(sum) as u64);
    a.wrapping_add(b).wrapping_add(c.wrapping_add(d))
}

/// Independent sums in the peak loops: two instructions per cycle with a latency of five cycles and
/// more.
const SUMS: usize = 16;

/// The multiply-adds of [`super::gemm_f32`] without loads; returns operations per iteration.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn peak_f32(iterations: usize) -> usize {
    let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); SUMS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(x, y, *sum));
    }
    black_box(sums);
    SUMS * 2 * 16
}

/// The multiply-adds of [`super::gemm_q8_0`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn peak_int8(iterations: usize) -> usize {
    let (x, y) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
    let mut sums = [_mm512_set1_epi32(black_box(1)); SUMS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, x, y));
    }
    black_box(sums);
    SUMS * 2 * 64
}

/// The multiply-adds of [`super::gemm_int16`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn peak_int16(iterations: usize) -> usize {
    let (x, y) = (_mm512_set1_epi16(black_box(3)), _mm512_set1_epi16(black_box(5)));
    let mut sums = [_mm512_set1_epi32(black_box(1)); SUMS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpwssd_epi32(*sum, x, y));
    }
    black_box(sums);
    SUMS * 2 * 32
}
