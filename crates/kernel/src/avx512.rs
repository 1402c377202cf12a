//! GEMM kernels with AVX-512 and VNNI; [`super::portable`] defines their results.
//!
//! A panel line of sixteen lanes is one register, and there are 32 of them. Register blocking:
//! eight to sixteen rows of activations share each load of weights. VNNI's `vpdpbusd` multiplies
//! four bytes of weights with four of activations per lane and adds them to an i32.

use std::arch::x86_64::*;

use super::avx2;
use super::kernels::{GemmQ8, Kernels};
use super::operands::{
    F32x16, INT16_WEIGHT_MAX, Int16Block, Int16Rows, Q8Block, Q8Rows, for_row_blocks, no_kernel,
};
use super::packed::{PANEL_ROWS, WeightFormat};

mod k_quants;
mod peak;
mod q8;

pub(super) use k_quants::{block_scales, load_u8_as_f32, scales_and_minima, unpack_q6};
use k_quants::{gemm_q4_k, gemm_q4_k_two, gemm_q6_k, gemm_q6_k_two};
use peak::{peak_f32, peak_int8, peak_int16, sum_streams};
use q8::{gemm_asymmetric, gemm_asymmetric_two, gemm_q8_0, gemm_q8_0_two};

/// The tier of CPUs with AVX-512 and VNNI. Requantizing Q8_0 pays with AVX2 alone: VNNI multiplies
/// it as it is.
pub(super) static KERNELS: Kernels = Kernels {
    gemm_f32,
    gemm_q8_0: GemmQ8 { one: gemm_q8_0, two: Some(gemm_q8_0_two) },
    gemm_q4_k: GemmQ8 { one: gemm_q4_k, two: Some(gemm_q4_k_two) },
    gemm_q6_k: GemmQ8 { one: gemm_q6_k, two: Some(gemm_q6_k_two) },
    gemm_asymmetric: GemmQ8 { one: gemm_asymmetric, two: Some(gemm_asymmetric_two) },
    gemm_int16,
    gemm_f16_bf16: Some(gemm_f16_bf16::<PREFETCH_MIN_ROWS>),
    widen_to_f32,
    f32_to_int16,
    quantize_q8: Some(quantize_q8),
    sum_streams: Some(sum_streams),
    peak_f32,
    peak_int8,
    peak_int16,
    ..avx2::KERNELS
};

/// The same for CPUs whose hardware prefetchers do not keep up with few rows.
pub(super) static PREFETCHING_KERNELS: Kernels =
    Kernels { gemm_f16_bf16: Some(gemm_f16_bf16::<1>), ..KERNELS };

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are readable, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_ps(values: &F32x16) -> __m512 {
    // SAFETY: sixteen numbers are readable, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_ps(values: &mut F32x16, v: __m512) {
    // SAFETY: sixteen numbers are writable, and the store needs no alignment.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_u8x16(bytes: &[u8; PANEL_ROWS]) -> __m128i {
    // SAFETY: 16 bytes are readable, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Sixteen f16 as f32 (`vcvtph2ps`).
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_f16(bytes: &[u8; 32]) -> __m512 {
    // SAFETY: 32 bytes are readable, and the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Four 8-bit activations in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn broadcast_i8x4(x: &[i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))
}

/// Prefetches the line [`PREFETCH_DISTANCE`] behind, half of it where two panels are read at a
/// time. Of an unmapped address it does nothing.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn prefetch<const PANELS: usize>(line: &[u8; 64]) {
    let ahead = line.as_ptr().wrapping_add(PREFETCH_DISTANCE / PANELS);
    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
}

/// Prefetch distance in bytes.
const PREFETCH_DISTANCE: usize = 4096;

/// Rows from which software prefetch pays on every CPU: arithmetic then fills the reorder buffer,
/// and the next loads start too late. With fewer rows AMD's hardware prefetcher alone is faster;
/// [`PREFETCHING_KERNELS`] are for others.
const PREFETCH_MIN_ROWS: usize = 3;

/// Whether a kernel prefetches weights. Prefill reads most panels that it takes by two from L1,
/// where a prefetch costs a load; up to four rows, as in decode, stream both from memory.
const fn prefetches(panels: usize, rows: usize, is_stream: bool) -> bool {
    is_stream || panels == 1 && rows >= PREFETCH_MIN_ROWS
}

/// Adds to the sums of a row.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_to(out: &mut F32x16, sums: __m512) {
    store_ps(out, _mm512_add_ps(load_ps(out), sums));
}

/// See [`super::portable::gemm_f32`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe { gemm_f32_rows::<ROWS>(lines, step, columns, &x[first * stride..], stride, block) }
    });
}

/// `vfmadd` with a broadcast activation. Even and odd columns have separate sums, which halves the
/// latency bound when rows are few. At most eight rows: they often lie a multiple of 4 KiB apart,
/// and one L1 set holds no more lines at such a stride.
///
/// # Safety
/// `lines` has `columns` lines of sixteen numbers, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn gemm_f32_rows<const ROWS: usize>(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16; ROWS],
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    for pair in 0..columns / 2 {
        for odd in 0..2 {
            let column = 2 * pair + odd;
            // SAFETY: as the caller promises.
            let line = unsafe { _mm512_loadu_ps(lines.add(column * step)) };
            for row in 0..ROWS {
                // SAFETY: as the caller promises.
                let x = _mm512_set1_ps(unsafe { *x.add(row * stride + column) });
                sums[row][odd] = _mm512_fmadd_ps(line, x, sums[row][odd]);
            }
        }
    }
    if columns % 2 == 1 {
        let column = columns - 1;
        // SAFETY: as the caller promises.
        let line = unsafe { _mm512_loadu_ps(lines.add(column * step)) };
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let x = _mm512_set1_ps(unsafe { *x.add(row * stride + column) });
            sums[row][0] = _mm512_fmadd_ps(line, x, sums[row][0]);
        }
    }
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        add_to(out, _mm512_add_ps(even, odd));
    }
}

/// See [`super::portable::widen_to_f32`]; for F16 and BF16 weights.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_to_f32(format: WeightFormat, panel: &[u8], first: usize, lines: &mut [F32x16]) {
    let from = &panel[first * 2 * PANEL_ROWS..];
    match format {
        WeightFormat::F16 => {
            for (line, column) in lines.iter_mut().zip(from.as_chunks::<32>().0) {
                store_ps(line, load_f16(column));
            }
        }
        WeightFormat::Bf16 => {
            let to = lines.as_chunks_mut::<2>().0.iter_mut();
            for ([even, odd], pairs) in to.zip(from.as_chunks().0) {
                let (a, b) = unpack_bf16_pairs(load(pairs));
                store_ps(even, a);
                store_ps(odd, b);
            }
        }
        other => no_kernel(other),
    }
}

/// F16 or BF16 weights with f32 activations, widened in registers as they are loaded; see
/// [`super::portable::widen_to_f32`] and [`super::portable::gemm_f32`]. A line holds two columns of
/// sixteen rows, the next pair of columns lies `step` lines further, and rows of `x` begin `stride`
/// apart. From `PREFETCH_ROWS` rows on it prefetches.
///
/// # Panics
/// When lines or rows are missing.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_f16_bf16<const PREFETCH_ROWS: usize>(
    format: WeightFormat,
    lines: &[[u8; 64]],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16],
) {
    // The bounds check of every read below.
    assert!(columns == 0 || lines.len() > (columns.div_ceil(2) - 1) * step);
    assert!(out.is_empty() || x.len() >= (out.len() - 1) * stride + columns);
    for_row_blocks!(out, [8 1 2 3 4 5 6 7], |first, block: ROWS| {
        let x = &x[first * stride..];
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe {
            match format {
                WeightFormat::F16 => {
                    gemm_f16_bf16_rows::<ROWS, true, PREFETCH_ROWS>(
                        lines, step, columns, x, stride, block,
                    )
                }
                WeightFormat::Bf16 => {
                    gemm_f16_bf16_rows::<ROWS, false, PREFETCH_ROWS>(
                        lines, step, columns, x, stride, block,
                    )
                }
                other => no_kernel(other),
            }
        }
    });
}

/// # Safety
/// `lines` has a line for every two of `columns`, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn gemm_f16_bf16_rows<const ROWS: usize, const IS_F16: bool, const PREFETCH_ROWS: usize>(
    lines: &[[u8; 64]],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16; ROWS],
) {
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    let load_pair = |pair: usize| {
        // SAFETY: as the caller promises.
        let line = unsafe { &*lines.add(pair * step) };
        if ROWS >= PREFETCH_ROWS {
            prefetch::<1>(line);
        }
        if IS_F16 {
            let [even, odd] = line.as_chunks().0.as_array().expect("two columns of 32 bytes");
            (load_f16(even), load_f16(odd))
        } else {
            unpack_bf16_pairs(load(line))
        }
    };
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..columns / 2 {
        let (even, odd) = load_pair(pair);
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let [a, b] = unsafe { *x.add(row * stride + 2 * pair).cast::<[f32; 2]>() };
            sums[row][0] = _mm512_fmadd_ps(even, _mm512_set1_ps(a), sums[row][0]);
            sums[row][1] = _mm512_fmadd_ps(odd, _mm512_set1_ps(b), sums[row][1]);
        }
    }
    if columns % 2 == 1 {
        // The other half of the pair may hold anything.
        let (even, _) = load_pair(columns / 2);
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            let x = unsafe { *x.add(row * stride + columns - 1) };
            sums[row][0] = _mm512_fmadd_ps(even, _mm512_set1_ps(x), sums[row][0]);
        }
    }
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        add_to(out, _mm512_add_ps(even, odd));
    }
}

/// The lower and the upper bf16 of sixteen pairs, as f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack_bf16_pairs(pairs: __m512i) -> (__m512, __m512) {
    (
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
        _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536))),
    )
}

/// Pointers to the blocks of `ROWS` rows from `first` on. Raw pointers, since a bounds check per
/// block costs as much as its dot product.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const ROWS: usize>(x: Q8Rows<'_>, first: usize) -> [*const Q8Block; ROWS] {
    std::array::from_fn(|row| x.row(first + row).as_ptr())
}

/// One block of a row.
///
/// # Safety
/// The row has so many blocks.
#[inline(always)]
unsafe fn block_at<'a>(row: *const Q8Block, number: usize) -> &'a Q8Block {
    // SAFETY: as the caller promises.
    unsafe { &*row.add(number) }
}

/// See [`super::portable::f32_to_int16`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn f32_to_int16(lines: &[F32x16], block: &mut Int16Block) {
    let (mut max, mut non_finite) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for line in lines {
        let weights = load_ps(line);
        // Of a NaN and a number, `vmaxps` takes the second operand.
        max = _mm512_max_ps(_mm512_abs_ps(weights), max);
        non_finite = _mm512_fmadd_ps(weights, _mm512_setzero_ps(), non_finite);
    }
    let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(max, _mm512_setzero_ps());
    let inverse = _mm512_maskz_div_ps(positive, _mm512_set1_ps(INT16_WEIGHT_MAX), max);
    for ([a, b], quants) in lines.as_chunks::<2>().0.iter().zip(&mut block.quants) {
        let a = _mm512_cvtps_epi32(_mm512_mul_ps(load_ps(a), inverse));
        let b = _mm512_cvtps_epi32(_mm512_mul_ps(load_ps(b), inverse));
        let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b));
        // SAFETY: 32 numbers of two bytes are writable, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(quants.as_mut_ptr().cast(), both) };
    }
    let scales = _mm512_div_ps(max, _mm512_set1_ps(INT16_WEIGHT_MAX));
    store_ps(&mut block.scales, _mm512_add_ps(scales, non_finite));
}

/// See [`super::portable::gemm_int16`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_int16(weights: &Int16Block, x: Int16Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [12 1 2 3 4 5 6 7 8 9 10 11], |first, block: ROWS| {
        gemm_int16_rows::<ROWS>(weights, x, first, block)
    });
}

/// `vpdpwssd` on a broadcast pair of activations; up to twelve rows.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gemm_int16_rows<const ROWS: usize>(
    weights: &Int16Block,
    x: Int16Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let pairs = x.columns / 2;
    let rows = x.pairs::<ROWS>(first);
    let mut sums = [_mm512_setzero_si512(); ROWS];
    for (i, line) in weights.quants[..pairs].iter().enumerate() {
        // SAFETY: a line is 64 bytes, read without alignment.
        let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        for row in 0..ROWS {
            // SAFETY: a row has `pairs` pairs from here on, and a pair needs no alignment.
            let x = unsafe { rows[row].add(i).read_unaligned() };
            sums[row] = _mm512_dpwssd_epi32(sums[row], line, _mm512_set1_epi32(x));
        }
    }
    let scale = load_ps(&weights.scales);
    for (row, out) in out.iter_mut().enumerate() {
        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[first + row]));
        store_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, load_ps(out)));
    }
}

/// Quantizes activations to 8 bits, as `Activations::convert` defines it. By hand, since the
/// compiler vectorizes the plain loop with gathers.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn quantize_q8(values: &[f32], blocks: &mut [Q8Block]) {
    /// `vfpclassps` classes: both NaN kinds and both infinities.
    const NOT_FINITE: i32 = 0b1001_1001;
    for (values, block) in values.as_chunks::<PANEL_ROWS>().0.as_chunks::<2>().0.iter().zip(blocks)
    {
        let values = values.each_ref().map(|half| load_ps(half));
        let abs = values.map(|half| _mm512_abs_ps(half));
        let abs_max = _mm512_reduce_max_ps(_mm512_max_ps(abs[0], abs[1]));
        let inverse = _mm512_set1_ps(if abs_max > 0.0 { 127.0 / abs_max } else { 0.0 });
        let mut sums = [0; 2];
        let quants = block.quants.as_flattened_mut().as_chunks_mut::<PANEL_ROWS>().0;
        for ((value, quants), sum) in values.iter().zip(quants).zip(&mut sums) {
            let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(*value, inverse));
            // SAFETY: sixteen bytes are writable, and the store needs no alignment.
            unsafe { _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded)) };
            *sum = _mm512_reduce_add_epi32(rounded);
        }
        let non_finite = values.map(|half| _mm512_fpclass_ps_mask::<NOT_FINITE>(half));
        block.scale = if non_finite == [0; 2] { abs_max / 127.0 } else { f32::NAN };
        block.set_sums(sums);
    }
}
