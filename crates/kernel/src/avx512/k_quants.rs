//! Q4_K and Q6_K GEMM kernels with AVX-512 VNNI.

use std::arch::x86_64::*;

use super::{
    add_to, block_at, broadcast_i8x4, load, load_f16, load_u8x16, prefetch, prefetches, rows,
};
use crate::operands::{F32x16, Q8Rows, STREAMS_MAX_ROWS, for_row_blocks};
use crate::packed::{PANEL_ROWS, Q4K, Q6K, SUPER_BLOCK, paired_block};

/// See [`crate::portable::gemm_q4_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q4_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    let out = out.as_chunks_mut::<1>().0;
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        gemm_q4_k_rows::<ROWS, 1, false>([panel], x, first, block)
    });
}

/// The same for two panels.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q4_k_two(panels: [&[u8]; 2], x: Q8Rows<'_>, out: &mut [[F32x16; 2]]) {
    if out.len() <= STREAMS_MAX_ROWS {
        return for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
            gemm_q4_k_rows::<ROWS, 2, true>(panels, x, first, block)
        });
    }
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        gemm_q4_k_rows::<ROWS, 2, false>(panels, x, first, block)
    });
}

/// `vpdpbusd` on nibbles. The dot product of a sub-block is at most 32 x 15 x 127 and times its
/// scale, at most 63, still exact in f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_q4_k_rows<const ROWS: usize, const PANELS: usize, const IS_STREAM: bool>(
    panels: [&[u8]; PANELS],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [[F32x16; PANELS]; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let panels =
        panels.map(|panel| &panel.as_chunks::<{ Q4K::BYTES }>().0[..x.columns / SUPER_BLOCK]);
    let low_bits = _mm512_set1_epi8(15);
    for i in 0..x.columns / SUPER_BLOCK {
        let mut unpacked = [[[[0; 64]; 2]; 2]; PANELS];
        for panel in 0..PANELS {
            unpacked[panel] = scales_and_minima(&panels[panel][i]);
        }
        let mut totals = [[_mm512_setzero_ps(); PANELS]; ROWS];
        for pair in 0..4 {
            for odd in 0..2 {
                let sub = 2 * pair + odd;
                let mut sums = [[_mm512_setzero_si512(); PANELS]; ROWS];
                for group in 0..8 {
                    let mut weights = [_mm512_setzero_si512(); PANELS];
                    for panel in 0..PANELS {
                        let lines = panels[panel][i][Q4K::NIBBLES..].as_chunks::<64>().0;
                        let line = &lines[8 * pair + group];
                        if prefetches(PANELS, ROWS, IS_STREAM) && odd == 0 {
                            prefetch::<PANELS>(line);
                        }
                        let both = load(line);
                        let nibbles = if odd == 0 { both } else { _mm512_srli_epi16::<4>(both) };
                        weights[panel] = _mm512_and_si512(nibbles, low_bits);
                    }
                    for row in 0..ROWS {
                        // SAFETY: a row has eight blocks for each super-block of a panel.
                        let x = unsafe { &block_at(rows[row], 8 * i + sub).quants[group] };
                        let x = broadcast_i8x4(x);
                        for panel in 0..PANELS {
                            sums[row][panel] =
                                _mm512_dpbusd_epi32(sums[row][panel], weights[panel], x);
                        }
                    }
                }
                let mut scales = [_mm512_setzero_ps(); PANELS];
                for panel in 0..PANELS {
                    let [sub_scales, _] = &unpacked[panel];
                    scales[panel] =
                        load_u8_as_f32(&sub_scales[odd].as_chunks::<PANEL_ROWS>().0[pair]);
                }
                for row in 0..ROWS {
                    // SAFETY: as above.
                    let x_scale = _mm512_set1_ps(unsafe { block_at(rows[row], 8 * i + sub).scale });
                    for panel in 0..PANELS {
                        let products =
                            _mm512_mul_ps(_mm512_cvtepi32_ps(sums[row][panel]), scales[panel]);
                        totals[row][panel] = _mm512_fmadd_ps(products, x_scale, totals[row][panel]);
                    }
                }
            }
        }
        let mut minima = [[_mm512_setzero_ps(); PANELS]; ROWS];
        for sub in 0..8 {
            for panel in 0..PANELS {
                let [_, sub_minima] = &unpacked[panel];
                let minimum =
                    load_u8_as_f32(&sub_minima[sub % 2].as_chunks::<PANEL_ROWS>().0[sub / 2]);
                for row in 0..ROWS {
                    // SAFETY: as above.
                    let sum = _mm512_set1_ps(unsafe { block_at(rows[row], 8 * i + sub).sum });
                    minima[row][panel] = _mm512_fmadd_ps(minimum, sum, minima[row][panel]);
                }
            }
        }
        for panel in 0..PANELS {
            let (scale, min_scale) = block_scales(&panels[panel][i]);
            for row in 0..ROWS {
                let sums = _mm512_mul_ps(scale, totals[row][panel]);
                let sums = _mm512_fnmadd_ps(min_scale, minima[row][panel], sums);
                add_to(&mut out[row][panel], sums);
            }
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
    let out = out.as_chunks_mut::<1>().0;
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        gemm_q6_k_rows::<ROWS, 1, false>([panel], x, first, block)
    });
}

/// The same for two panels.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q6_k_two(panels: [&[u8]; 2], x: Q8Rows<'_>, out: &mut [[F32x16; 2]]) {
    if out.len() <= STREAMS_MAX_ROWS {
        return for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
            gemm_q6_k_rows::<ROWS, 2, true>(panels, x, first, block)
        });
    }
    for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
        gemm_q6_k_rows::<ROWS, 2, false>(panels, x, first, block)
    });
}

/// `vpdpbusd`. Quants are stored with an offset of 32, as 0 to 63; sums start at -32 times the sum
/// of the activations, which corrects that. Two dot products, each at most 16 x 32 x 127, are still
/// exact in f32 once multiplied with their scales (at most 128) and added.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_q6_k_rows<const ROWS: usize, const PANELS: usize, const IS_STREAM: bool>(
    panels: [&[u8]; PANELS],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [[F32x16; PANELS]; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    for i in 0..x.columns / SUPER_BLOCK {
        let mut totals = [[_mm512_setzero_ps(); PANELS]; ROWS];
        for pair in 0..8 {
            let mut products = [[_mm512_setzero_ps(); PANELS]; ROWS];
            for odd in 0..2 {
                let number = 2 * pair + odd;
                let mut weights = [[_mm512_setzero_si512(); 4]; PANELS];
                let mut scales = [_mm512_setzero_ps(); PANELS];
                for panel in 0..PANELS {
                    let (_, block) = paired_block::<{ Q6K::BYTES }>(panels[panel], i);
                    let (sub_scales, lines) = block.split_at(Q6K::SUB_BLOCKS);
                    let lines = &lines.as_chunks::<64>().0.as_chunks::<3>().0[number];
                    if prefetches(PANELS, ROWS, IS_STREAM) {
                        lines.iter().for_each(|line| prefetch::<PANELS>(line));
                    }
                    weights[panel] = unpack_q6(lines);
                    let scale = load_u8x16(&sub_scales.as_chunks::<PANEL_ROWS>().0[number]);
                    scales[panel] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale));
                }
                for row in 0..ROWS {
                    // SAFETY: a row has eight blocks for each super-block of a panel.
                    let x = unsafe { block_at(rows[row], 8 * i + pair) };
                    let mut sums = [_mm512_set1_epi32(x.minus_32_sums[odd]); PANELS];
                    for group in 0..4 {
                        let x = broadcast_i8x4(&x.quants[4 * odd + group]);
                        for panel in 0..PANELS {
                            let weights = weights[panel][group];
                            sums[panel] = _mm512_dpbusd_epi32(sums[panel], weights, x);
                        }
                    }
                    for panel in 0..PANELS {
                        let sums = _mm512_cvtepi32_ps(sums[panel]);
                        products[row][panel] =
                            _mm512_fmadd_ps(sums, scales[panel], products[row][panel]);
                    }
                }
            }
            for row in 0..ROWS {
                // SAFETY: as above.
                let scale = _mm512_set1_ps(unsafe { block_at(rows[row], 8 * i + pair).scale });
                for panel in 0..PANELS {
                    totals[row][panel] =
                        _mm512_fmadd_ps(products[row][panel], scale, totals[row][panel]);
                }
            }
        }
        for panel in 0..PANELS {
            let scale = load_f16(paired_block::<{ Q6K::BYTES }>(panels[panel], i).0);
            for row in 0..ROWS {
                add_to(&mut out[row][panel], _mm512_mul_ps(scale, totals[row][panel]));
            }
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
