//! Kernels with AVX512-BF16. GEMM for CPUs without AMX: `vdpbf16ps` multiplies two pairs of bf16
//! per lane and adds them to an f32; operands have the layout of AMX, weights as packed and
//! activations as tiles. And the softmax between the products of attention, for both.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::avx512::{load, load_ps, store_ps};
use super::operands::{AmxTile, DECODE_MAX_ROWS, F32x16, for_row_blocks};
use super::packed::{BLOCK, PANEL_ROWS};

/// Bytes of a line of weights: a pair of columns of sixteen rows.
const LINE: usize = 64;

const _: () = assert!(DECODE_MAX_ROWS <= PANEL_ROWS, "decode has the rows of one tile");

/// One row of an AMX tile as pairs of columns.
type Pairs = [i32; BLOCK / 2];

/// See [`crate::dispatch::gemm_bf16`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn gemm_bf16(x: &[AmxTile], weights: &[u8], sums: &mut [F32x16]) {
    if sums.len() <= DECODE_MAX_ROWS {
        decode_bf16(x, tiles(weights), sums);
    } else {
        prefill_bf16(x, weights, sums);
    }
}

/// The same, a tile of activations at a time, however few rows: each row is summed in the order of
/// its columns.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn prefill_bf16(x: &[AmxTile], weights: &[u8], sums: &mut [F32x16]) {
    let weights = tiles(weights);
    for (x, sums) in x.chunks_exact(weights.len()).zip(sums.chunks_mut(PANEL_ROWS)) {
        let mut rows = [_mm512_setzero_ps(); PANEL_ROWS];
        for (x, lines) in x.iter().zip(weights) {
            dot_tile(&mut rows, x, lines.iter());
        }
        for (sums, row) in sums.iter_mut().zip(rows) {
            store_ps(sums, row);
        }
    }
}

/// Weights in lines, and those in tiles of 32 columns.
fn tiles(weights: &[u8]) -> &[[[u8; LINE]; PANEL_ROWS]] {
    weights.as_chunks().0.as_chunks().0
}

/// Tiles of weights that all rows read before the next ones: 8 KiB, which stay in L1, so that
/// decode reads weights from memory once.
const L1_TILES: usize = 8;

/// The same for the rows of one tile, without padding. Even and odd pairs of columns have a sum
/// each: one sum alone would wait for the latency of every addition.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn decode_bf16(x: &[AmxTile], weights: &[[[u8; LINE]; PANEL_ROWS]], sums: &mut [F32x16]) {
    let mut even_odd = [[[0f32; PANEL_ROWS]; 2]; DECODE_MAX_ROWS];
    let even_odd = &mut even_odd[..sums.len()];
    for (x, weights) in x.chunks(L1_TILES).zip(weights.chunks(L1_TILES)) {
        for_row_blocks!(even_odd, [8 1 2 3 4 5 6 7], |first, even_odd: ROWS| {
            dot_rows::<ROWS>(x, weights, first, even_odd)
        });
    }
    for (sums, [even, odd]) in sums.iter_mut().zip(even_odd) {
        store_ps(sums, _mm512_add_ps(load_ps(even), load_ps(odd)));
    }
}

/// Adds the dot products of `ROWS` rows of the tiles, from row `first` on.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn dot_rows<const ROWS: usize>(
    x: &[AmxTile],
    weights: &[[[u8; LINE]; PANEL_ROWS]],
    first: usize,
    even_odd: &mut [[F32x16; 2]; ROWS],
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (sums, even_odd) in sums.iter_mut().zip(&*even_odd) {
        *sums = [load_ps(&even_odd[0]), load_ps(&even_odd[1])];
    }
    for (x, lines) in x.iter().zip(weights) {
        let x: &[Pairs; PANEL_ROWS] = bytemuck::cast_ref(x);
        let x: &[Pairs; ROWS] = x[first..].first_chunk().expect("rows of a tile");
        for (i, [even, odd]) in lines.as_chunks::<2>().0.iter().enumerate() {
            let (even, odd) = (as_bf16_pairs(load(even)), as_bf16_pairs(load(odd)));
            for row in 0..ROWS {
                let [a, b] =
                    [2 * i, 2 * i + 1].map(|pair| as_bf16_pairs(_mm512_set1_epi32(x[row][pair])));
                sums[row][0] = _mm512_dpbf16_ps(sums[row][0], even, a);
                sums[row][1] = _mm512_dpbf16_ps(sums[row][1], odd, b);
            }
        }
    }
    for (even_odd, [even, odd]) in even_odd.iter_mut().zip(sums) {
        store_ps(&mut even_odd[0], even);
        store_ps(&mut even_odd[1], odd);
    }
}

/// `sums[chunk][row] += x[page][row] · weights[page][chunk]` over the 32 columns of each page. The
/// weights of a page are `[16][chunks][16][2]`, and `x` is `[pages][rows / 16]`.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn accumulate_bf16(x: &[AmxTile], weights: &[&[u8]], sums: &mut [F32x16]) {
    let chunks = weights[0].len() / size_of::<AmxTile>();
    let tiles = x.len() / weights.len();
    assert!(sums.len() == chunks * tiles * PANEL_ROWS, "sums of each chunk and row");
    for (chunk, sums) in sums.chunks_exact_mut(tiles * PANEL_ROWS).enumerate() {
        for (tile, sums) in sums.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().enumerate() {
            let mut rows = [_mm512_setzero_ps(); PANEL_ROWS];
            for (row, sums) in rows.iter_mut().zip(&*sums) {
                *row = load_ps(sums);
            }
            for (page, x) in weights.iter().zip(x.chunks_exact(tiles)) {
                let lines = page.as_chunks::<LINE>().0[chunk..].iter().step_by(chunks);
                dot_tile(&mut rows, &x[tile], lines);
            }
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

/// Writes e^(score - max) of the row `row` of scores, `[2 pages][stride]`, in bf16 as the row `row`
/// of `p`, `[pages][stride / 16]`, rounded up; 0 from position `visible` on. Returns the largest
/// score, or `max` if that is larger, and the sum of the weights before they are rounded.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn softmax_row<const PAGES: usize>(
    scores: &[F32x16],
    row: usize,
    visible: usize,
    max: f32,
    p: &mut [AmxTile],
) -> (f32, f32) {
    let (stride, tiles) = (scores.len() / 2 / PAGES, p.len() / PAGES);
    let mut values = [[_mm512_setzero_ps(); 2]; PAGES];
    let mut masks = [[0; 2]; PAGES];
    let mut lanes = _mm512_set1_ps(max);
    for page in 0..PAGES {
        for block in 0..2 {
            let number = 2 * page + block;
            let count = visible.saturating_sub(number * PANEL_ROWS).min(PANEL_ROWS);
            let mask = ((1u32 << count) - 1) as __mmask16;
            let value = load_ps(&scores[number * stride + row]);
            lanes = _mm512_mask_max_ps(lanes, mask, lanes, value);
            (values[page][block], masks[page][block]) = (value, mask);
        }
    }
    let max = _mm512_reduce_max_ps(lanes);
    if max == f32::NEG_INFINITY {
        masks = [[0; 2]; PAGES];
    }
    let (log2_e, offset) = (_mm512_set1_ps(std::f32::consts::LOG2_E), _mm512_set1_ps(max));
    let mut sums = _mm512_setzero_ps();
    for page in 0..PAGES {
        let mut weights = [sums; 2];
        for block in 0..2 {
            let exponent = _mm512_mul_ps(_mm512_sub_ps(values[page][block], offset), log2_e);
            let fraction = exp2_fraction(exponent);
            weights[block] = _mm512_maskz_scalef_ps(masks[page][block], fraction, exponent);
        }
        sums = _mm512_add_ps(sums, _mm512_add_ps(weights[0], weights[1]));
        let rounded = _mm512_cvtne2ps_pbh(weights[1], weights[0]);
        // SAFETY: both are 64 bytes, and every bit pattern is valid.
        p[page * tiles + row / PANEL_ROWS].0[row % PANEL_ROWS] =
            unsafe { std::mem::transmute::<__m512bh, [u16; BLOCK]>(rounded) };
    }
    (max, _mm512_reduce_add_ps(sums))
}

/// 2^(x - floor(x)) with a relative error of at most 1.5e-7: the polynomial of degree 5 with the
/// smallest largest relative error in [0, 1), by Remez' exchange.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn exp2_fraction(x: __m512) -> __m512 {
    let f = _mm512_reduce_ps::<_MM_FROUND_TO_NEG_INF>(x);
    let mut power = _mm512_set1_ps(1.877_576_7e-3);
    for coefficient in [8.989_34e-3, 5.582_631_8e-2, 2.401_536_1e-1, 6.931_531e-1, 0.999_999_94] {
        power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(coefficient));
    }
    power
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) fn as_bf16_pairs(bits: __m512i) -> __m512bh {
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
