//! Products of bf16 without a matrix unit: two pairs are multiplied and added to a sum of f32 in
//! every lane of a register. Weights are read as they lie, activations as the squares that a matrix
//! unit would take.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::avx512::{load, load_ps, store_ps};
use super::inputs::Square;
use super::portable::Lanes;
use super::tiles::{BLOCK, TILE};

/// Bytes of a line of weights: a pair of columns of sixteen rows.
const LINE: usize = 64;

/// A row's activations as pairs of columns.
type Pairs = [i32; BLOCK / 2];

/// `sums[row] = x[row] · weights`: `x` is `[rows / 16, columns / 32]`, rounded up, `weights` a tile
/// of bf16, and rows of sums beyond those of `x` are left as they are.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn products(x: &[Square], weights: &[u8], sums: &mut [Lanes]) {
    let across = weights.len() / size_of::<Square>();
    for (x, sums) in x.chunks_exact(across).zip(sums.chunks_mut(TILE)) {
        let mut rows = [_mm512_setzero_ps(); TILE];
        for (x, lines) in x.iter().zip(weights.as_chunks::<LINE>().0.as_chunks::<TILE>().0) {
            multiply(&mut rows, x, lines.iter());
        }
        for (sums, row) in sums.iter_mut().zip(rows) {
            store_ps(sums, row);
        }
    }
}

/// `sums[chunk][row] += x[row] · weights[chunk]` over 32 columns, where `weights` are
/// `[16][chunks][16][2]`, and `x` is `[rows / 16]`.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn add(x: &[Square], weights: &[u8], sums: &mut [Lanes]) {
    let chunks = weights.len() / size_of::<Square>();
    let lines = weights.as_chunks::<LINE>().0;
    assert!(sums.len() == chunks * x.len() * TILE, "sums of each chunk and row");
    for (chunk, sums) in sums.chunks_exact_mut(x.len() * TILE).enumerate() {
        for (x, sums) in x.iter().zip(sums.as_chunks_mut::<TILE>().0) {
            let mut rows = [_mm512_setzero_ps(); TILE];
            for (row, sums) in rows.iter_mut().zip(&*sums) {
                *row = load_ps(sums);
            }
            multiply(&mut rows, x, lines[chunk..].iter().step_by(chunks));
            for (sums, row) in sums.iter_mut().zip(rows) {
                store_ps(sums, row);
            }
        }
    }
}

/// Sixteen rows of 32 columns with as many pairs of columns of weights.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn multiply<'a>(
    sums: &mut [__m512; TILE],
    x: &Square,
    lines: impl Iterator<Item = &'a [u8; LINE]>,
) {
    let x: &[Pairs; TILE] = bytemuck::cast_ref(x);
    for (pair, line) in lines.take(BLOCK / 2).enumerate() {
        let line = of_pairs(load(line));
        for row in 0..TILE {
            let x = of_pairs(_mm512_set1_epi32(x[row][pair]));
            sums[row] = _mm512_dpbf16_ps(sums[row], line, x);
        }
    }
}

/// The same bits as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn of_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: 32 numbers of two bytes in both vectors, and any bits are numbers.
    unsafe { std::mem::transmute(bits) }
}

/// Multiply-adds as in [`products`]; the operations of a turn.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn peak(turns: usize) -> usize {
    let x = of_pairs(_mm512_set1_epi32(black_box(0x3f00_3f00)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); TILE];
    for _ in 0..turns {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, x, x));
    }
    black_box(sums);
    TILE * 2 * BLOCK
}
