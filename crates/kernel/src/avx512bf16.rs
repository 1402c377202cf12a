//! GEMM kernels with AVX512-BF16: `vdpbf16ps` multiplies two pairs of bf16 per lane and adds them
//! to an f32. For CPUs without AMX; operands have the same layout: weights as packed, activations
//! as AMX tiles.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::avx512::{load, load_ps, store_ps};
use super::operands::{AmxTile, F32x16};
use super::packed::{BLOCK, PANEL_ROWS};

/// Bytes of a line of weights: a pair of columns of sixteen rows.
const LINE: usize = 64;

/// One row of an AMX tile as pairs of columns.
type Pairs = [i32; BLOCK / 2];

/// `sums[row] = x[row] · weights`. `x` is `[rows / 16, columns / 32]`, rounded up, and `weights` a
/// bf16 panel. The sums of padding rows are dropped.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn gemm_bf16(x: &[AmxTile], weights: &[u8], sums: &mut [F32x16]) {
    let row_tiles = weights.len() / size_of::<AmxTile>();
    for (x, sums) in x.chunks_exact(row_tiles).zip(sums.chunks_mut(PANEL_ROWS)) {
        let mut rows = [_mm512_setzero_ps(); PANEL_ROWS];
        for (x, lines) in x.iter().zip(weights.as_chunks::<LINE>().0.as_chunks::<PANEL_ROWS>().0) {
            dot_tile(&mut rows, x, lines.iter());
        }
        for (sums, row) in sums.iter_mut().zip(rows) {
            store_ps(sums, row);
        }
    }
}

/// `sums[chunk][row] += x[row] · weights[chunk]` over 32 columns, where `weights` are
/// `[16][chunks][16][2]`, and `x` is `[rows / 16]`.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn accumulate_bf16(x: &[AmxTile], weights: &[u8], sums: &mut [F32x16]) {
    let chunks = weights.len() / size_of::<AmxTile>();
    let lines = weights.as_chunks::<LINE>().0;
    assert!(sums.len() == chunks * x.len() * PANEL_ROWS, "sums of each chunk and row");
    for (chunk, sums) in sums.chunks_exact_mut(x.len() * PANEL_ROWS).enumerate() {
        for (x, sums) in x.iter().zip(sums.as_chunks_mut::<PANEL_ROWS>().0) {
            let mut rows = [_mm512_setzero_ps(); PANEL_ROWS];
            for (row, sums) in rows.iter_mut().zip(&*sums) {
                *row = load_ps(sums);
            }
            dot_tile(&mut rows, x, lines[chunk..].iter().step_by(chunks));
            for (sums, row) in sums.iter_mut().zip(rows) {
                store_ps(sums, row);
            }
        }
    }
}

/// The dot products of one tile: 16 rows of activations, 16 pairs of columns. Sixteen registers of
/// sums.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn dot_tile<'a>(
    sums: &mut [__m512; PANEL_ROWS],
    x: &AmxTile,
    lines: impl Iterator<Item = &'a [u8; LINE]>,
) {
    let x: &[Pairs; PANEL_ROWS] = bytemuck::cast_ref(x);
    for (pair, line) in lines.take(BLOCK / 2).enumerate() {
        let line = as_bf16_pairs(load(line));
        for row in 0..PANEL_ROWS {
            let x = as_bf16_pairs(_mm512_set1_epi32(x[row][pair]));
            sums[row] = _mm512_dpbf16_ps(sums[row], line, x);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn as_bf16_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both vectors are 64 bytes, and every bit pattern is valid.
    unsafe { std::mem::transmute(bits) }
}

/// The multiply-adds of [`gemm_bf16`] without loads; returns operations per iteration.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn peak_bf16(iterations: usize) -> usize {
    let x = as_bf16_pairs(_mm512_set1_epi32(black_box(0x3f00_3f00)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); PANEL_ROWS];
    for _ in 0..iterations {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, x, x));
    }
    black_box(sums);
    PANEL_ROWS * 2 * BLOCK
}
