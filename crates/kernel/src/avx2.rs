//! GEMM kernels with AVX2, FMA and F16C; [`super::portable`] defines their results.
//!
//! A panel line of sixteen lanes takes two registers. Register blocking: four to six rows of
//! activations share each load and unpacking of weights, and their sums fill the sixteen registers.

use std::arch::x86_64::*;

use super::kernels::{GemmQ8, Kernels};
use super::operands::{F32x16, Q8Block, Q8Rows, for_row_blocks, no_kernel};
use super::packed::{Asymmetric, BLOCK, PANEL_ROWS, Q8_0_BYTES, WeightFormat, paired_block};
use super::portable;

mod f16_bf16;
mod int16;
mod k_quants;
mod peak;

use f16_bf16::gemv_f16_bf16;
use int16::{f32_to_int16, gemm_int16, q8_0_to_int16};
use k_quants::{gemm_q4_k, gemm_q6_k};
pub(super) use k_quants::{scales_and_minima, super_block_of_rows};
use peak::{peak_f32, peak_int8, peak_int16};

/// The tier of CPUs with AVX2, FMA and F16C.
pub(super) static KERNELS: Kernels = Kernels {
    gemm_f32,
    gemm_q8_0: GemmQ8::one(gemm_q8_0),
    gemm_q4_k: GemmQ8::one(gemm_q4_k),
    gemm_q6_k: GemmQ8::one(gemm_q6_k),
    gemm_asymmetric: GemmQ8::one(gemm_asymmetric),
    gemm_int16,
    gemv_f16_bf16: Some(gemv_f16_bf16),
    widen_to_f32,
    widen_bf16_pairs,
    f32_to_int16,
    q8_0_to_int16,
    peak_f32,
    peak_int8,
    peak_int16,
    ..portable::KERNELS
};

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are readable, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_ps(values: &[f32; 8]) -> __m256 {
    // SAFETY: as above.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_ps(values: &mut [f32; 8], v: __m256) {
    // SAFETY: eight numbers are writable, and the store needs no alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), v) }
}

/// Eight bytes into the lower half of a register; the upper half is zero.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_u8x8(bytes: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*bytes))
}

/// Eight f16 as f32 (`vcvtph2ps`).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_f16(bytes: &[u8; 16]) -> __m256 {
    // SAFETY: 16 bytes are readable, and the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Prefetches what lies [`PREFETCH_DISTANCE`] behind these weights. Integer kernels fill the
/// reorder buffer with arithmetic, so out-of-order execution does not reach the next loads in time.
/// Prefetches are spread over the loop: line fill buffers hold only about twenty requests.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch<T: ?Sized>(weights: &T) {
    let ahead = std::ptr::from_ref(weights).cast::<i8>().wrapping_add(PREFETCH_DISTANCE);
    for line in (0..size_of_val(weights)).step_by(64) {
        // A prefetch of an unmapped address does nothing.
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line));
    }
}

/// Prefetch distance in bytes: about 200 ns of work.
const PREFETCH_DISTANCE: usize = 4096;

/// Four 8-bit activations in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn broadcast_i8x4(x: &[i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))
}

/// Adds to the lower or upper eight sums of a row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_to(out: &mut F32x16, half: usize, sums: __m256) {
    let eight = &mut out.as_chunks_mut::<8>().0[half];
    store_ps(eight, _mm256_add_ps(load_ps(eight), sums));
}

/// See [`super::portable::gemm_f32`].
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_f32(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16],
) {
    // The bounds check of every read below.
    assert!(columns == 0 || lines.len() >= (columns - 1) * step + PANEL_ROWS);
    assert!(out.is_empty() || x.len() >= (out.len() - 1) * stride + columns);
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe { gemm_f32_rows::<ROWS>(lines, step, columns, &x[first * stride..], stride, block) }
    });
}

/// `vfmadd` with a broadcast activation; six rows take twelve registers of sums.
///
/// # Safety
/// `lines` has `columns` lines of sixteen numbers, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_f32_rows<const ROWS: usize>(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16; ROWS],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    for column in 0..columns {
        // SAFETY: as the caller promises.
        let (a, b) = unsafe {
            let line = lines.add(column * step);
            (_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8)))
        };
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let x = _mm256_set1_ps(unsafe { *x.add(row * stride + column) });
            sums[row][0] = _mm256_fmadd_ps(a, x, sums[row][0]);
            sums[row][1] = _mm256_fmadd_ps(b, x, sums[row][1]);
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        add_to(out, 0, sums[0]);
        add_to(out, 1, sums[1]);
    }
}

/// See [`super::portable::widen_to_f32`]; for F16, BF16 and asymmetric weights.
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_to_f32(format: WeightFormat, panel: &[u8], first: usize, lines: &mut [F32x16]) {
    let from_first = || &panel[first * 2 * PANEL_ROWS..];
    match format {
        WeightFormat::F16 => {
            let columns = from_first().as_chunks::<16>().0.as_chunks::<2>().0;
            for (line, [a, b]) in lines.iter_mut().zip(columns) {
                prefetch(a);
                let halves = line.as_chunks_mut::<8>().0;
                store_ps(&mut halves[0], load_f16(a));
                store_ps(&mut halves[1], load_f16(b));
            }
        }
        WeightFormat::Bf16 => {
            let pairs = from_first().as_chunks::<32>().0.as_chunks::<2>().0;
            for ([even, odd], halves) in lines.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                prefetch(halves);
                for (half, bytes) in halves.iter().enumerate() {
                    let (a, b) = unpack_bf16_pairs(load(bytes));
                    store_ps(&mut even.as_chunks_mut::<8>().0[half], a);
                    store_ps(&mut odd.as_chunks_mut::<8>().0[half], b);
                }
            }
        }
        WeightFormat::Asymmetric => {
            let blocks = panel.as_chunks::<{ Asymmetric::BYTES }>().0[first / BLOCK..].iter();
            for (block, lines) in blocks.zip(lines.as_chunks_mut::<BLOCK>().0) {
                widen_asymmetric(block, lines);
            }
        }
        other => no_kernel(other),
    }
}

/// Rounds as the definition does, so without `vfmadd`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_asymmetric(block: &[u8; Asymmetric::BYTES], lines: &mut [F32x16; BLOCK]) {
    let (head, quants) = block.split_at(Asymmetric::QUANTS);
    let head: &[f32] = bytemuck::cast_slice(head);
    let [scales, offsets] = [0, 1].map(|at| head[at * PANEL_ROWS..].as_chunks::<8>().0);
    prefetch(head);
    for half in 0..2 {
        let (scale, offset) = (load_ps(&scales[half]), load_ps(&offsets[half]));
        let groups = quants.as_chunks::<32>().0.as_chunks::<2>().0;
        for (group, lines) in groups.iter().zip(lines.as_chunks_mut::<4>().0) {
            if half == 0 {
                prefetch(group);
            }
            let mut quants = load(&group[half]);
            for line in lines {
                let column = _mm256_and_si256(quants, _mm256_set1_epi32(255));
                quants = _mm256_srli_epi32::<8>(quants);
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(column), scale);
                let to = &mut line.as_chunks_mut::<8>().0[half];
                store_ps(to, _mm256_add_ps(product, offset));
            }
        }
    }
}

/// The lower and the upper bf16 of eight pairs, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_bf16_pairs(pairs: __m256i) -> (__m256, __m256) {
    (
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
        _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536))),
    )
}

/// See [`super::portable::gemm_q8_0`].
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_q8_0(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
        gemm_q8_0_rows::<ROWS>(panel, x, first, block)
    });
}

/// `vpmaddubsw` multiplies unsigned with signed bytes, so `vpsignb` moves the weight's sign to the
/// activation: |w| (sign(w) x). A sum of two products is at most 2 x 128 x 127 and fits in an i16;
/// `vpmaddwd` with ones widens it to an i32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_q8_0_rows<const ROWS: usize>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let blocks = x.columns / BLOCK;
    let rows = rows::<ROWS>(x, first);
    let ones = _mm256_set1_epi16(1);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for block in 0..blocks {
        let (scales, quants) = paired_block::<Q8_0_BYTES>(panel, block);
        let scales = scales.as_chunks::<16>().0;
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for (group, line) in quants.as_chunks::<32>().0.as_chunks::<2>().0.iter().enumerate() {
            prefetch(line);
            let (a, b) = (load(&line[0]), load(&line[1]));
            let (abs_a, abs_b) = (_mm256_abs_epi8(a), _mm256_abs_epi8(b));
            for row in 0..ROWS {
                let x = broadcast_i8x4(&rows[row][block].quants[group]);
                let pairs = _mm256_maddubs_epi16(abs_a, _mm256_sign_epi8(x, a));
                sums[row][0] = _mm256_add_epi32(sums[row][0], _mm256_madd_epi16(pairs, ones));
                let pairs = _mm256_maddubs_epi16(abs_b, _mm256_sign_epi8(x, b));
                sums[row][1] = _mm256_add_epi32(sums[row][1], _mm256_madd_epi16(pairs, ones));
            }
        }
        for half in 0..2 {
            let scale = load_f16(&scales[half]);
            for row in 0..ROWS {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(rows[row][block].scale));
                let sums = _mm256_cvtepi32_ps(sums[row][half]);
                totals[row][half] = _mm256_fmadd_ps(sums, scale, totals[row][half]);
            }
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, 0, totals[0]);
        add_to(out, 1, totals[1]);
    }
}

/// See [`super::portable::gemm_asymmetric`].
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_asymmetric(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
        gemm_asymmetric_rows::<ROWS>(panel, x, first, block)
    });
}

/// `vpmaddubsw` of unsigned weights; four of its sums are added in 16 bits ([`Asymmetric::MAX`]),
/// then widened by `vpmaddwd` with ones. Register blocking: up to four rows by eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_asymmetric_rows<const ROWS: usize>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let ones = _mm256_set1_epi16(1);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    let blocks = &panel.as_chunks::<{ Asymmetric::BYTES }>().0[..x.columns / BLOCK];
    for (number, block) in blocks.iter().enumerate() {
        prefetch(&block[..Asymmetric::QUANTS]);
        let (head, quants) = block.split_at(Asymmetric::QUANTS);
        let head: &[f32] = bytemuck::cast_slice(head);
        let [scales, offsets] = [0, 1].map(|at| head[at * PANEL_ROWS..].as_chunks::<8>().0);
        let lines = quants.as_chunks::<32>().0.as_chunks::<2>().0;
        let lines = lines.as_chunks::<4>().0.as_array::<2>().expect("eight lines");
        for half in 0..2 {
            let mut sums = [_mm256_setzero_si256(); ROWS];
            for (four, lines) in lines.iter().enumerate() {
                if half == 0 {
                    prefetch(lines);
                }
                let mut pairs = [_mm256_setzero_si256(); ROWS];
                for (group, line) in lines.iter().enumerate() {
                    let weights = load(&line[half]);
                    for row in 0..ROWS {
                        let x = broadcast_i8x4(&rows[row][number].quants[4 * four + group]);
                        let products = _mm256_maddubs_epi16(weights, x);
                        pairs[row] = _mm256_add_epi16(pairs[row], products);
                    }
                }
                for row in 0..ROWS {
                    let wide = _mm256_madd_epi16(pairs[row], ones);
                    sums[row] = _mm256_add_epi32(sums[row], wide);
                }
            }
            let (scale, offset) = (load_ps(&scales[half]), load_ps(&offsets[half]));
            for row in 0..ROWS {
                let x = &rows[row][number];
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x.scale));
                let sums = _mm256_cvtepi32_ps(sums[row]);
                let total = _mm256_fmadd_ps(sums, scale, totals[row][half]);
                totals[row][half] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.sum), total);
            }
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, 0, totals[0]);
        add_to(out, 1, totals[1]);
    }
}

/// The blocks of `ROWS` rows from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rows<const ROWS: usize>(x: Q8Rows<'_>, first: usize) -> [&[Q8Block]; ROWS] {
    std::array::from_fn(|row| x.row(first + row))
}

/// Widens lines of `width` pairs of bf16, a multiple of eight, to two lines of f32 each.
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_bf16_pairs(pairs: &[[u16; 2]], width: usize, lines: &mut [f32]) {
    for (pairs, lines) in pairs.chunks_exact(width).zip(lines.chunks_exact_mut(2 * width)) {
        let (even, odd) = lines.split_at_mut(width);
        let vectors = pairs.as_chunks::<8>().0.iter();
        let to = even.as_chunks_mut::<8>().0.iter_mut().zip(odd.as_chunks_mut::<8>().0);
        for (pairs, (even, odd)) in vectors.zip(to) {
            // SAFETY: eight pairs of two bytes each are readable, and the load needs no alignment.
            let (a, b) = unpack_bf16_pairs(unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) });
            store_ps(even, a);
            store_ps(odd, b);
        }
    }
}
