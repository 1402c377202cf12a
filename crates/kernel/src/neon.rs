//! GEMM kernels with NEON; [`super::portable`] defines their results. The tiers of Arm differ only
//! in the instruction that multiplies bytes, see [`DotProduct`].
//!
//! A panel line of sixteen lanes takes four registers, and there are 32 of them. Register blocking:
//! five or six rows of activations share each load and unpacking of weights; their sums take 20 or
//! 24 registers. Four instructions per cycle with a latency of four need sixteen.

use std::arch::aarch64::*;

use super::kernels::{GemmQ8, Kernels};
use super::operands::{F32x16, Q8Block, Q8Rows, for_row_blocks, no_kernel};
use super::packed::{Asymmetric, BLOCK, PANEL_ROWS, Q8_0_BYTES, WeightFormat, paired_block};
use super::portable;

pub(super) mod bf16;
mod dot_product;
mod k_quants;
mod peak;

use dot_product::{DotProduct, I8Line, Sdot, Smmla, Smull};
use k_quants::{gemm_q4_k, gemm_q6_k};
use peak::{peak_f32, peak_int8};

/// The tier of every 64-bit Arm CPU.
pub(super) static KERNELS: Kernels = table::<Smull>();

/// The tier of Arm CPUs with `sdot`.
pub(super) static DOTPROD_KERNELS: Kernels = table::<Sdot>();

/// The tier of Arm CPUs with `smmla`.
pub(super) static I8MM_KERNELS: Kernels = table::<Smmla>();

/// Weights of 16 bits are widened in registers and never multiplied as integers, so the kernels of
/// the portable tier for that and for widening to a buffer are not reached.
const fn table<Dot: DotProduct>() -> Kernels {
    Kernels {
        gemm_f32,
        gemm_q8_0: GemmQ8::one(gemm_q8_0::<Dot>),
        gemm_q4_k: GemmQ8::one(gemm_q4_k::<Dot>),
        gemm_q6_k: GemmQ8::one(gemm_q6_k::<Dot>),
        gemm_asymmetric: GemmQ8::one(gemm_asymmetric::<Dot>),
        gemm_f16_bf16: Some(gemm_f16_bf16),
        peak_f32,
        peak_int8: peak_int8::<Dot>,
        ..portable::KERNELS
    }
}

/// Registers of the sixteen lanes of a panel, one after the other.
type F32Line = [float32x4_t; 4];
type I32Line = [int32x4_t; 4];

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 bytes are readable, and the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: four numbers are readable, and the load needs no alignment.
    unsafe { vld1q_f32(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32_line(values: &F32x16) -> F32Line {
    let quarters = values.as_chunks::<4>().0;
    std::array::from_fn(|quarter| load_f32(&quarters[quarter]))
}

/// Four f16 as f32 (`fcvtl`).
#[inline]
#[target_feature(enable = "neon")]
fn load_f16(bytes: &[u8; 8]) -> float32x4_t {
    // SAFETY: eight bytes are readable, and the load needs no alignment.
    vcvt_f32_f16(vreinterpret_f16_u8(unsafe { vld1_u8(bytes.as_ptr()) }))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f16_line(bytes: &[u8; 2 * PANEL_ROWS]) -> F32Line {
    let quarters = bytes.as_chunks::<8>().0;
    std::array::from_fn(|quarter| load_f16(&quarters[quarter]))
}

/// Adds to the sums of a row.
#[inline]
#[target_feature(enable = "neon")]
fn add_to(out: &mut F32x16, sums: F32Line) {
    for (out, sums) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        let sums = vaddq_f32(load_f32(out), sums);
        // SAFETY: four numbers are writable, and the store needs no alignment.
        unsafe { vst1q_f32(out.as_mut_ptr(), sums) };
    }
}

/// `sums + a * x`, where `a` are integers.
#[inline]
#[target_feature(enable = "neon")]
fn fma_i32(sums: F32Line, a: I32Line, x: F32Line) -> F32Line {
    std::array::from_fn(|i| vfmaq_f32(sums[i], vcvtq_f32_s32(a[i]), x[i]))
}

/// `sums + a * x` with one number `x`.
#[inline]
#[target_feature(enable = "neon")]
fn fma_n(sums: F32Line, a: F32Line, x: f32) -> F32Line {
    std::array::from_fn(|i| vfmaq_n_f32(sums[i], a[i], x))
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_n(a: F32Line, x: f32) -> F32Line {
    a.map(|a| vmulq_n_f32(a, x))
}

/// See [`super::portable::gemm_f32`].
#[target_feature(enable = "neon")]
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

/// `fmla` by element, which broadcasts an activation; six rows take 24 registers of sums.
///
/// # Safety
/// `lines` has `columns` lines of sixteen numbers, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gemm_f32_rows<const ROWS: usize>(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16; ROWS],
) {
    let mut sums = [[vdupq_n_f32(0.0); 4]; ROWS];
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    for column in 0..columns {
        // SAFETY: as the caller promises.
        let line = load_f32_line(unsafe { &*lines.add(column * step).cast() });
        for row in 0..ROWS {
            // SAFETY: as the caller promises.
            sums[row] = fma_n(sums[row], line, unsafe { *x.add(row * stride + column) });
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        add_to(out, sums);
    }
}

/// F16 or BF16 weights with f32 activations, widened in registers as they are loaded; see
/// [`super::portable::widen_to_f32`] and [`super::portable::gemm_f32`]. A line holds two columns of
/// sixteen rows, the next pair of columns lies `step` lines further, and rows of `x` begin `stride`
/// apart.
///
/// # Panics
/// When lines or rows are missing.
#[target_feature(enable = "neon")]
fn gemm_f16_bf16(
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
    let is_f16 = match format {
        WeightFormat::F16 => true,
        WeightFormat::Bf16 => false,
        other => no_kernel(other),
    };
    for_row_blocks!(out, [5 1 2 3 4], |first, block: ROWS| {
        let x = &x[first * stride..];
        // SAFETY: the lines and rows that are read are within what was asserted above.
        unsafe {
            if is_f16 {
                gemm_f16_bf16_rows::<ROWS, true>(lines, step, columns, x, stride, block);
            } else {
                gemm_f16_bf16_rows::<ROWS, false>(lines, step, columns, x, stride, block);
            }
        }
    });
}

/// `fmla` by element; five rows take 20 registers of sums, and five hold pairs of activations.
///
/// # Safety
/// `lines` has a line for every two of `columns`, `step` apart; `x` has `ROWS` rows of `columns`,
/// `stride` apart.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gemm_f16_bf16_rows<const ROWS: usize, const IS_F16: bool>(
    lines: &[[u8; 64]],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16; ROWS],
) {
    let (lines, x) = (lines.as_ptr(), x.as_ptr());
    // The even and the odd column of four rows.
    let load_pair = |pair: usize, quarter: usize| {
        // SAFETY: as the caller promises.
        let line = unsafe { &*lines.add(pair * step) };
        if IS_F16 {
            let quarters = line.as_chunks().0;
            (load_f16(&quarters[quarter]), load_f16(&quarters[4 + quarter]))
        } else {
            unpack_bf16_pairs(load(&line.as_chunks().0[quarter]))
        }
    };
    let mut sums = [[vdupq_n_f32(0.0); 4]; ROWS];
    for pair in 0..columns / 2 {
        let x: [[f32; 2]; ROWS] = std::array::from_fn(|row| {
            // SAFETY: as the caller promises.
            unsafe { *x.add(row * stride + 2 * pair).cast() }
        });
        for quarter in 0..4 {
            let (even, odd) = load_pair(pair, quarter);
            for row in 0..ROWS {
                let sum = vfmaq_n_f32(sums[row][quarter], even, x[row][0]);
                sums[row][quarter] = vfmaq_n_f32(sum, odd, x[row][1]);
            }
        }
    }
    if columns % 2 == 1 {
        for quarter in 0..4 {
            // The other half of the pair may hold anything.
            let (even, _) = load_pair(columns / 2, quarter);
            for row in 0..ROWS {
                // SAFETY: as the caller promises.
                let x = unsafe { *x.add(row * stride + columns - 1) };
                sums[row][quarter] = vfmaq_n_f32(sums[row][quarter], even, x);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        add_to(out, sums);
    }
}

/// The lower and the upper bf16 of four pairs, as f32.
#[inline]
#[target_feature(enable = "neon")]
fn unpack_bf16_pairs(pairs: uint8x16_t) -> (float32x4_t, float32x4_t) {
    let pairs = vreinterpretq_u32_u8(pairs);
    (
        vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)),
        vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000))),
    )
}

/// The blocks of `ROWS` rows from `first` on.
#[inline]
#[target_feature(enable = "neon")]
fn rows<const ROWS: usize>(x: Q8Rows<'_>, first: usize) -> [&[Q8Block]; ROWS] {
    std::array::from_fn(|row| x.row(first + row))
}

/// See [`super::portable::gemm_q8_0`].
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[target_feature(enable = "neon")]
unsafe fn gemm_q8_0<Dot: DotProduct>(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_q8_0_rows::<ROWS, Dot>(panel, x, first, block) }
    });
}

/// # Safety
/// The CPU has the instruction of `Dot`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gemm_q8_0_rows<const ROWS: usize, Dot: DotProduct>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let mut totals = [[vdupq_n_f32(0.0); 4]; ROWS];
    for number in 0..x.columns / BLOCK {
        let (scales, quants) = paired_block::<Q8_0_BYTES>(panel, number);
        let x: [&Q8Block; ROWS] = std::array::from_fn(|row| &rows[row][number]);
        // SAFETY: as the caller promises.
        let sums = unsafe { dot_products::<ROWS, Dot>(quants, x) };
        let scales = load_f16_line(scales);
        for row in 0..ROWS {
            totals[row] = fma_i32(totals[row], sums[row], mul_n(scales, x[row].scale));
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, totals);
    }
}

/// The dot products of a block of 32 columns in bytes, `[8][16][4]`, which are signed, or at most
/// 127.
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_products<const ROWS: usize, Dot: DotProduct>(
    quants: &[u8; BLOCK * PANEL_ROWS],
    x: [&Q8Block; ROWS],
) -> [I32Line; ROWS] {
    let lines = quants.as_chunks::<16>().0.as_chunks::<4>().0;
    let weights = |group: usize| -> I8Line {
        lines[group].each_ref().map(|quarter| vreinterpretq_s8_u8(load(quarter)))
    };
    let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
    // SAFETY: as the caller promises.
    unsafe { Dot::add_dot_products(weights, x.map(|x| &x.quants), &mut sums) };
    sums
}

/// See [`super::portable::gemm_asymmetric`].
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[target_feature(enable = "neon")]
unsafe fn gemm_asymmetric<Dot: DotProduct>(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_asymmetric_rows::<ROWS, Dot>(panel, x, first, block) }
    });
}

/// # Safety
/// The CPU has the instruction of `Dot`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gemm_asymmetric_rows<const ROWS: usize, Dot: DotProduct>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let mut totals = [[vdupq_n_f32(0.0); 4]; ROWS];
    let blocks = &panel.as_chunks::<{ Asymmetric::BYTES }>().0[..x.columns / BLOCK];
    for (number, block) in blocks.iter().enumerate() {
        let (head, quants) = block.split_at(Asymmetric::QUANTS);
        let x: [&Q8Block; ROWS] = std::array::from_fn(|row| &rows[row][number]);
        let quants = quants.as_array().expect("a block");
        // SAFETY: as the caller promises.
        let sums = unsafe { dot_products::<ROWS, Dot>(quants, x) };
        let head: &[f32] = bytemuck::cast_slice(head);
        let lines = head.as_chunks::<PANEL_ROWS>().0;
        let (scales, offsets) = (load_f32_line(&lines[0]), load_f32_line(&lines[1]));
        for row in 0..ROWS {
            let total = fma_i32(totals[row], sums[row], mul_n(scales, x[row].scale));
            totals[row] = fma_n(total, offsets, x[row].sum);
        }
    }
    for (out, totals) in out.iter_mut().zip(totals) {
        add_to(out, totals);
    }
}
