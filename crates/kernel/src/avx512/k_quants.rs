//! Q4_K and Q6_K GEMM kernels with AVX-512 VNNI.

use std::arch::x86_64::*;

use super::{
    PREFETCH_MIN_ROWS, add_to, block_at, broadcast_i8x4, load, load_f16, load_u8x16, prefetch, rows,
};
use crate::operands::{F32x16, Q8Rows, for_row_blocks};
use crate::packed::{PANEL_ROWS, Q4K, Q6K, SUPER_BLOCK, paired_block};

/// See [`crate::portable::gemm_q4_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q4_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        gemm_q4_k_rows::<ROWS>(panel, x, first, block)
    });
}

/// `vpdpbusd` on nibbles, up to eight rows. The dot product of a sub-block is at most 32 x 15 x 127
/// and times its scale, at most 63, still exact in f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_q4_k_rows<const ROWS: usize>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let blocks = x.columns / SUPER_BLOCK;
    let rows = rows::<ROWS>(x, first);
    let low_bits = _mm512_set1_epi8(15);
    for (i, block) in panel.as_chunks::<{ Q4K::BYTES }>().0[..blocks].iter().enumerate() {
        let lines = block[Q4K::NIBBLES..].as_chunks::<64>().0.as_chunks::<8>().0;
        let mut totals = [_mm512_setzero_ps(); ROWS];
        let [scales, sub_minima] = scales_and_minima(block);
        for (pair, lines) in lines.iter().enumerate() {
            let mut sums = [[_mm512_setzero_si512(); ROWS]; 2];
            for (group, line) in lines.iter().enumerate() {
                if ROWS >= PREFETCH_MIN_ROWS {
                    prefetch(line);
                }
                let both = load(line);
                let even = _mm512_and_si512(both, low_bits);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low_bits);
                for row in 0..ROWS {
                    let number = 8 * i + 2 * pair;
                    // SAFETY: a row has eight blocks for each of the panel's `blocks` super-blocks.
                    let a = broadcast_i8x4(unsafe { &block_at(rows[row], number).quants[group] });
                    // SAFETY: as above.
                    let b =
                        broadcast_i8x4(unsafe { &block_at(rows[row], number + 1).quants[group] });
                    sums[0][row] = _mm512_dpbusd_epi32(sums[0][row], even, a);
                    sums[1][row] = _mm512_dpbusd_epi32(sums[1][row], odd, b);
                }
            }
            for (odd, sums) in sums.iter().enumerate() {
                let scale = load_u8_as_f32(&scales[odd].as_chunks::<PANEL_ROWS>().0[pair]);
                for row in 0..ROWS {
                    // SAFETY: as above.
                    let x = unsafe { block_at(rows[row], 8 * i + 2 * pair + odd) };
                    let products = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[row]), scale);
                    totals[row] = _mm512_fmadd_ps(products, _mm512_set1_ps(x.scale), totals[row]);
                }
            }
        }
        let mut minima = [_mm512_setzero_ps(); ROWS];
        for number in 0..8 {
            let minimum =
                load_u8_as_f32(&sub_minima[number % 2].as_chunks::<PANEL_ROWS>().0[number / 2]);
            for row in 0..ROWS {
                // SAFETY: as above.
                let sum = _mm512_set1_ps(unsafe { block_at(rows[row], 8 * i + number).sum });
                minima[row] = _mm512_fmadd_ps(minimum, sum, minima[row]);
            }
        }
        let (scale, min_scale) = block_scales(block);
        for (row, out) in out.iter_mut().enumerate() {
            let sums = _mm512_mul_ps(scale, totals[row]);
            add_to(out, _mm512_fnmadd_ps(min_scale, minima[row], sums));
        }
    }
}

/// Unpacks the 6-bit scales, then the minima, of the even and of the odd sub-blocks: one byte per
/// lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn scales_and_minima(block: &[u8; Q4K::BYTES]) -> [[[u8; 64]; 2]; 2] {
    let [even, odd, high] = block[Q4K::LOW..Q4K::NIBBLES].as_chunks::<64>().0 else {
        unreachable!("three lines")
    };
    let (even, odd, high) = (load(even), load(odd), load(high));
    let (four_bits, two_bits) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    let join = |low: __m512i, high: __m512i| {
        let mut bytes = [0; 64];
        let joined =
            _mm512_or_si512(_mm512_and_si512(low, four_bits), _mm512_and_si512(high, two_bits));
        // SAFETY: 64 bytes are writable, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), joined) };
        bytes
    };
    [
        [join(even, _mm512_slli_epi16::<4>(high)), join(odd, high)],
        [
            join(_mm512_srli_epi16::<4>(even), _mm512_slli_epi16::<2>(high)),
            join(_mm512_srli_epi16::<4>(odd), _mm512_srli_epi16::<2>(high)),
        ],
    ]
}

/// Sixteen bytes as f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn load_u8_as_f32(bytes: &[u8; PANEL_ROWS]) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_u8x16(bytes)))
}

/// The scale of a super-block, and that of its minima.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn block_scales(block: &[u8; Q4K::BYTES]) -> (__m512, __m512) {
    let scales = block[..Q4K::LOW].as_chunks::<32>().0;
    (load_f16(&scales[0]), load_f16(&scales[1]))
}

/// See [`crate::portable::gemm_q6_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q6_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        gemm_q6_k_rows::<ROWS>(panel, x, first, block)
    });
}

/// `vpdpbusd`, up to eight rows. Quants are stored with an offset of 32, as 0 to 63; sums start at
/// -32 times the sum of the activations, which corrects that. Two dot products, each at most 16 x
/// 32 x 127, are still exact in f32 once multiplied with their scales (at most 128) and added.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_q6_k_rows<const ROWS: usize>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let blocks = x.columns / SUPER_BLOCK;
    let rows = rows::<ROWS>(x, first);
    for i in 0..blocks {
        let (scale, block) = paired_block::<{ Q6K::BYTES }>(panel, i);
        let sub_scales = block[..Q6K::SUB_BLOCKS].as_chunks::<PANEL_ROWS>().0;
        let lines = block[Q6K::SUB_BLOCKS..].as_chunks::<64>().0.as_chunks::<3>().0;
        let mut totals = [_mm512_setzero_ps(); ROWS];
        for pair in 0..8 {
            let mut products = [_mm512_setzero_ps(); ROWS];
            for odd in 0..2 {
                let number = 2 * pair + odd;
                let weights = unpack_q6(&lines[number]);
                if ROWS >= PREFETCH_MIN_ROWS {
                    lines[number].iter().for_each(|line| prefetch(line));
                }
                let scale =
                    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_u8x16(&sub_scales[number])));
                for row in 0..ROWS {
                    // SAFETY: a row has eight blocks for each of the panel's `blocks` super-blocks.
                    let block = unsafe { block_at(rows[row], 8 * i + pair) };
                    let mut sum = _mm512_set1_epi32(block.minus_32_sums[odd]);
                    for (group, weights) in weights.iter().enumerate() {
                        let x = broadcast_i8x4(&block.quants[4 * odd + group]);
                        sum = _mm512_dpbusd_epi32(sum, *weights, x);
                    }
                    products[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, products[row]);
                }
            }
            for row in 0..ROWS {
                // SAFETY: as above.
                let scale = _mm512_set1_ps(unsafe { block_at(rows[row], 8 * i + pair).scale });
                totals[row] = _mm512_fmadd_ps(products[row], scale, totals[row]);
            }
        }
        let scale = load_f16(scale);
        for (row, out) in out.iter_mut().enumerate() {
            add_to(out, _mm512_mul_ps(scale, totals[row]));
        }
    }
}

/// Unpacks the quants of a sub-block of 16 columns: four registers of four columns each, 0 to 63.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn unpack_q6([high, a, b]: &[[u8; 64]; 3]) -> [__m512i; 4] {
    let (low_bits, high_bits) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    let (high, a, b) = (load(high), load(a), load(b));
    let join = |low: __m512i, high: __m512i| {
        _mm512_or_si512(_mm512_and_si512(low, low_bits), _mm512_and_si512(high, high_bits))
    };
    [
        join(a, _mm512_slli_epi16::<4>(high)),
        join(_mm512_srli_epi16::<4>(a), _mm512_slli_epi16::<2>(high)),
        join(b, high),
        join(_mm512_srli_epi16::<4>(b), _mm512_srli_epi16::<2>(high)),
    ]
}
