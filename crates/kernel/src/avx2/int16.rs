//! 16-bit integer panels with AVX2: conversions of weights, and GEMM.

use std::arch::x86_64::*;

use super::{add_to, load, load_f16, load_ps, store_ps};
use crate::operands::{F32x16, INT16_WEIGHT_MAX, Int16Block, Int16Rows, for_row_blocks};
use crate::packed::{BLOCK, PANEL_ROWS, Q8_0_BYTES, SUPER_BLOCK, paired_block};

/// See [`crate::portable::q8_0_to_int16`]. `vpmulhrsw` multiplies 16-bit fractions and rounds.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_0_to_int16(panel: &[u8], columns: usize, number: usize, out: &mut Int16Block) {
    let blocks = (SUPER_BLOCK / BLOCK).min(columns / BLOCK - number * SUPER_BLOCK / BLOCK);
    let block = |i: usize| {
        let (scales, quants) = paired_block::<Q8_0_BYTES>(panel, number * SUPER_BLOCK / BLOCK + i);
        (scales.as_chunks::<16>().0, quants.as_chunks::<32>().0.as_chunks::<2>().0)
    };
    let abs_mask = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    // Bytes 0 and 1, or 2 and 3, of every four, each times 256.
    let order = _mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
    let first = _mm256_broadcastsi128_si256(order);
    let order = _mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15);
    let second = _mm256_broadcastsi128_si256(order);
    for half in 0..2 {
        let (mut max, mut non_finite) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        for i in 0..blocks {
            let scale = load_f16(&block(i).0[half]);
            // Of a NaN and a number, `vmaxps` takes the second operand.
            max = _mm256_max_ps(_mm256_and_ps(scale, abs_mask), max);
            non_finite = _mm256_fmadd_ps(scale, _mm256_setzero_ps(), non_finite);
        }
        let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(max, _mm256_setzero_ps());
        let inverse = _mm256_div_ps(_mm256_set1_ps(Int16Block::LARGEST_FRACTION), max);
        let inverse = _mm256_and_ps(inverse, positive);
        for i in 0..blocks {
            let (scales, lines) = block(i);
            let fraction = _mm256_cvtps_epi32(_mm256_mul_ps(load_f16(&scales[half]), inverse));
            let fraction =
                _mm256_blend_epi16::<0b1010_1010>(fraction, _mm256_slli_epi32::<16>(fraction));
            for (group, line) in lines.iter().enumerate() {
                let bytes = load(&line[half]);
                for (pair, order) in [first, second].into_iter().enumerate() {
                    let sixteenths = _mm256_srai_epi16::<4>(_mm256_shuffle_epi8(bytes, order));
                    let weights = _mm256_mulhrs_epi16(sixteenths, fraction);
                    let line = &mut out.quants[i * 16 + group * 2 + pair];
                    let to = &mut line.as_chunks_mut::<PANEL_ROWS>().0[half];
                    // SAFETY: sixteen numbers of two bytes are writable, and the store needs no
                    // alignment.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), weights) };
                }
            }
        }
        let ratio = _mm256_set1_ps(Int16Block::SCALE_RATIO);
        let scale = _mm256_add_ps(_mm256_mul_ps(max, ratio), non_finite);
        store_ps(&mut out.scales.as_chunks_mut::<8>().0[half], scale);
    }
}

/// See [`crate::portable::f32_to_int16`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32_to_int16(lines: &[F32x16], block: &mut Int16Block) {
    let abs_mask = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    for half in 0..2 {
        let (mut max, mut non_finite) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        for line in lines {
            let weights = load_ps(&line.as_chunks::<8>().0[half]);
            // Of a NaN and a number, `vmaxps` takes the second operand.
            max = _mm256_max_ps(_mm256_and_ps(weights, abs_mask), max);
            non_finite = _mm256_fmadd_ps(weights, _mm256_setzero_ps(), non_finite);
        }
        let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(max, _mm256_setzero_ps());
        let inverse = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(INT16_WEIGHT_MAX), max), positive);
        for (pair, quants) in lines.as_chunks::<2>().0.iter().zip(&mut block.quants) {
            let [a, b] = pair.each_ref().map(|line| {
                _mm256_cvtps_epi32(_mm256_mul_ps(load_ps(&line.as_chunks::<8>().0[half]), inverse))
            });
            let both = _mm256_blend_epi16::<0b1010_1010>(a, _mm256_slli_epi32::<16>(b));
            let to = &mut quants.as_chunks_mut::<PANEL_ROWS>().0[half];
            // SAFETY: sixteen numbers of two bytes are writable, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), both) };
        }
        let scale = _mm256_div_ps(max, _mm256_set1_ps(INT16_WEIGHT_MAX));
        let scale = _mm256_add_ps(scale, non_finite);
        store_ps(&mut block.scales.as_chunks_mut::<8>().0[half], scale);
    }
}

/// See [`crate::portable::gemm_int16`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemm_int16(weights: &Int16Block, x: Int16Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        gemm_int16_rows::<ROWS>(weights, x, first, block)
    });
}

/// `vpmaddwd` on a broadcast pair of activations; six rows take twelve registers of sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_int16_rows<const ROWS: usize>(
    weights: &Int16Block,
    x: Int16Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let pairs = x.columns / 2;
    let rows = x.pairs::<ROWS>(first);
    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
    for (i, line) in weights.quants[..pairs].iter().enumerate() {
        // SAFETY: a line is 64 bytes, read in two halves without alignment.
        let (a, b) = unsafe {
            let line = line.as_ptr().cast::<__m256i>();
            (_mm256_loadu_si256(line), _mm256_loadu_si256(line.add(1)))
        };
        for row in 0..ROWS {
            // SAFETY: a row has `pairs` pairs from here on, and a pair needs no alignment.
            let x = unsafe { rows[row].add(i).read_unaligned() };
            let x = _mm256_set1_epi32(x);
            sums[row][0] = _mm256_add_epi32(sums[row][0], _mm256_madd_epi16(a, x));
            sums[row][1] = _mm256_add_epi32(sums[row][1], _mm256_madd_epi16(b, x));
        }
    }
    for (row, out) in out.iter_mut().enumerate() {
        let x_scale = _mm256_set1_ps(x.scales[first + row]);
        for half in 0..2 {
            let scale = _mm256_mul_ps(load_ps(&weights.scales.as_chunks::<8>().0[half]), x_scale);
            add_to(out, half, _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), scale));
        }
    }
}
