//! GEMM kernels of 8-bit panels (Q8_0 and asymmetric ones) with AVX-512 VNNI.
//!
//! Register blocking of prefill: two panels by six rows. A CPU that loads one register per cycle,
//! such as Zen 4, takes as long for the broadcasts of one panel as for its `vpdpbusd`; with two
//! panels a broadcast serves two of them, and twelve independent sums hide their latency.

use std::arch::x86_64::*;

use super::{add_to, block_at, broadcast_i8x4, load, load_f16, prefetch, prefetches, rows};
use crate::operands::{F32x16, Q8Rows, STREAMS_MAX_ROWS, for_row_blocks};
use crate::packed::{Asymmetric, BLOCK, Q8_0_BYTES, paired_block};

/// See [`crate::portable::gemm_q8_0`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q8_0(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    // The first pass reads the panel from memory, where sixteen rows hide more of the latency.
    // Eight rows saturate the multipliers once the panel is in L1.
    let (before, rest) = match out.as_chunks_mut::<1>().0.split_first_chunk_mut::<16>() {
        Some((block, rest)) => {
            gemm_q8_0_rows::<16, 1, false>([panel], x, 0, block);
            (16, rest)
        }
        None => (0, out.as_chunks_mut().0),
    };
    for_row_blocks!(rest, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        gemm_q8_0_rows::<ROWS, 1, false>([panel], x, before + first, block)
    });
}

/// The same for two panels.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_q8_0_two(panels: [&[u8]; 2], x: Q8Rows<'_>, out: &mut [[F32x16; 2]]) {
    if out.len() <= STREAMS_MAX_ROWS {
        return for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
            gemm_q8_0_rows::<ROWS, 2, true>(panels, x, first, block)
        });
    }
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        gemm_q8_0_rows::<ROWS, 2, false>(panels, x, first, block)
    });
}

/// `vpdpbusd` multiplies unsigned with signed bytes, so flipping the sign bit adds 128 to each
/// weight. Sums start at -128 times the sum of the activations, which corrects that.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_q8_0_rows<const ROWS: usize, const PANELS: usize, const IS_STREAM: bool>(
    panels: [&[u8]; PANELS],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [[F32x16; PANELS]; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let sign_bit = _mm512_set1_epi8(-128);
    let mut totals = [[_mm512_setzero_ps(); PANELS]; ROWS];
    for number in 0..x.columns / BLOCK {
        let mut sums = [[_mm512_setzero_si512(); PANELS]; ROWS];
        for row in 0..ROWS {
            // SAFETY: a row has as many blocks of 32 columns as a panel.
            let x = unsafe { block_at(rows[row], number) };
            sums[row] = [_mm512_set1_epi32(x.minus_128_sum); PANELS];
        }
        for group in 0..BLOCK / 4 {
            let mut weights = [_mm512_setzero_si512(); PANELS];
            for panel in 0..PANELS {
                let (_, quants) = paired_block::<Q8_0_BYTES>(panels[panel], number);
                let line = &quants.as_chunks::<64>().0[group];
                if prefetches(PANELS, ROWS, IS_STREAM) {
                    prefetch::<PANELS>(line);
                }
                weights[panel] = _mm512_xor_si512(load(line), sign_bit);
            }
            for row in 0..ROWS {
                // SAFETY: as above.
                let x = broadcast_i8x4(unsafe { &block_at(rows[row], number).quants[group] });
                for panel in 0..PANELS {
                    sums[row][panel] = _mm512_dpbusd_epi32(sums[row][panel], weights[panel], x);
                }
            }
        }
        let mut scales = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            scales[panel] = load_f16(paired_block::<Q8_0_BYTES>(panels[panel], number).0);
        }
        for row in 0..ROWS {
            // SAFETY: as above.
            let x_scale = _mm512_set1_ps(unsafe { block_at(rows[row], number).scale });
            for panel in 0..PANELS {
                let scale = _mm512_mul_ps(scales[panel], x_scale);
                let sums = _mm512_cvtepi32_ps(sums[row][panel]);
                totals[row][panel] = _mm512_fmadd_ps(sums, scale, totals[row][panel]);
            }
        }
    }
    for (out, totals) in out.as_flattened_mut().iter_mut().zip(totals.as_flattened()) {
        add_to(out, *totals);
    }
}

/// See [`crate::portable::gemm_asymmetric`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_asymmetric(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    let out = out.as_chunks_mut::<1>().0;
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        gemm_asymmetric_rows::<ROWS, 1, false>([panel], x, first, block)
    });
}

/// The same for two panels.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_asymmetric_two(panels: [&[u8]; 2], x: Q8Rows<'_>, out: &mut [[F32x16; 2]]) {
    if out.len() <= STREAMS_MAX_ROWS {
        return for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
            gemm_asymmetric_rows::<ROWS, 2, true>(panels, x, first, block)
        });
    }
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        gemm_asymmetric_rows::<ROWS, 2, false>(panels, x, first, block)
    });
}

/// `vpdpbusd` of weights that are unsigned as they are.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_asymmetric_rows<const ROWS: usize, const PANELS: usize, const IS_STREAM: bool>(
    panels: [&[u8]; PANELS],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [[F32x16; PANELS]; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let panels =
        panels.map(|panel| &panel.as_chunks::<{ Asymmetric::BYTES }>().0[..x.columns / BLOCK]);
    let mut totals = [[_mm512_setzero_ps(); PANELS]; ROWS];
    for number in 0..x.columns / BLOCK {
        let mut sums = [[_mm512_setzero_si512(); PANELS]; ROWS];
        for group in 0..BLOCK / 4 {
            let mut weights = [_mm512_setzero_si512(); PANELS];
            for panel in 0..PANELS {
                let block = &panels[panel][number];
                let line = &block[Asymmetric::QUANTS..].as_chunks::<64>().0[group];
                if prefetches(PANELS, ROWS, IS_STREAM) {
                    prefetch::<PANELS>(line);
                }
                weights[panel] = load(line);
            }
            for row in 0..ROWS {
                // SAFETY: a row has as many blocks of 32 columns as a panel.
                let x = broadcast_i8x4(unsafe { &block_at(rows[row], number).quants[group] });
                for panel in 0..PANELS {
                    sums[row][panel] = _mm512_dpbusd_epi32(sums[row][panel], weights[panel], x);
                }
            }
        }
        let mut scales = [_mm512_setzero_ps(); PANELS];
        let mut offsets = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            let block = &panels[panel][number];
            let lines = block.as_chunks::<64>().0;
            scales[panel] = _mm512_castsi512_ps(load(&lines[0]));
            offsets[panel] = _mm512_castsi512_ps(load(&lines[Asymmetric::OFFSETS / 64]));
        }
        for row in 0..ROWS {
            // SAFETY: as above.
            let x = unsafe { block_at(rows[row], number) };
            let (x_scale, x_sum) = (_mm512_set1_ps(x.scale), _mm512_set1_ps(x.sum));
            for panel in 0..PANELS {
                let scale = _mm512_mul_ps(scales[panel], x_scale);
                let sums = _mm512_cvtepi32_ps(sums[row][panel]);
                let total = _mm512_fmadd_ps(sums, scale, totals[row][panel]);
                totals[row][panel] = _mm512_fmadd_ps(offsets[panel], x_sum, total);
            }
        }
    }
    for (out, totals) in out.as_flattened_mut().iter_mut().zip(totals.as_flattened()) {
        add_to(out, *totals);
    }
}
