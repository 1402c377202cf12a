//! Q4_K and Q6_K GEMM kernels with NEON.

use std::arch::aarch64::*;

use super::{DotProduct, F32Line, I8Line, add_to, fma_i32, fma_n, load, load_f16_line, rows};
use crate::operands::{F32x16, Q8Block, Q8Rows, for_row_blocks};
use crate::packed::{PANEL_ROWS, Q4K, Q6K, SUPER_BLOCK, paired_block, q4k_low};

/// The eight activation blocks of super-block `i` of each row, bounds-checked once.
#[inline]
#[target_feature(enable = "neon")]
fn super_block_of_rows<'a, const ROWS: usize>(
    rows: &[&'a [Q8Block]; ROWS],
    i: usize,
) -> [&'a [Q8Block; 8]; ROWS] {
    rows.map(|row| row[i * 8..(i + 1) * 8].as_array().expect("eight blocks"))
}

/// See [`crate::portable::gemm_q4_k`].
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn gemm_q4_k<Dot: DotProduct>(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_q4_k_rows::<ROWS, Dot>(panel, x, first, block) }
    });
}

/// Up to six rows by sixteen lanes. An even and the next odd sub-block share lines,
/// which are loaded for each: the second time from L1. The dot product of a sub-block is at most
/// 32 x 15 x 127 and times its scale, at most 63, still exact in f32.
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gemm_q4_k_rows<const ROWS: usize, Dot: DotProduct>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    for (i, block) in panel.as_chunks::<{ Q4K::BYTES }>().0.iter().enumerate() {
        let lines = block[Q4K::NIBBLES..].as_chunks::<16>().0.as_chunks::<4>().0;
        let lines = lines.as_chunks::<8>().0.as_array::<4>().expect("2048 bytes");
        let x = super_block_of_rows(&rows, i);
        let (mut totals, mut minima) =
            ([[vdupq_n_f32(0.0); 4]; ROWS], [[vdupq_n_f32(0.0); 4]; ROWS]);
        for (pair, lines) in lines.iter().enumerate() {
            for odd in 0..2 {
                let sub = 2 * pair + odd;
                let x = x.map(|x| &x[sub]);
                let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
                let weights = |group: usize| -> I8Line {
                    let line: &[[u8; 16]; 4] = &lines[group];
                    line.each_ref().map(|quarter| vreinterpretq_s8_u8(nibbles(load(quarter), odd)))
                };
                // SAFETY: as the caller promises.
                unsafe { Dot::add_dot_products(weights, x.map(|x| &x.quants), &mut sums) };
                let (scale, minimum) = scale_and_minimum(block, sub);
                for row in 0..ROWS {
                    let products: F32Line =
                        std::array::from_fn(|i| vmulq_f32(vcvtq_f32_s32(sums[row][i]), scale[i]));
                    totals[row] = fma_n(totals[row], products, x[row].scale);
                    minima[row] = fma_n(minima[row], minimum, x[row].sum);
                }
            }
        }
        let [scale, min_scale] =
            block[..Q4K::LOW].as_chunks().0.as_array().expect("two lines of f16");
        let (scale, min_scale) = (load_f16_line(scale), load_f16_line(min_scale));
        for (row, out) in out.iter_mut().enumerate() {
            let sums = std::array::from_fn(|i| {
                vfmsq_f32(vmulq_f32(scale[i], totals[row][i]), min_scale[i], minima[row][i])
            });
            add_to(out, sums);
        }
    }
}

/// The lower or the upper nibbles of bytes.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(bytes: uint8x16_t, upper: usize) -> uint8x16_t {
    if upper == 0 { vandq_u8(bytes, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(bytes) }
}

/// Scale and minimum of a sub-block of Q4_K, six bits each, of all lanes.
#[inline]
#[target_feature(enable = "neon")]
fn scale_and_minimum(block: &[u8; Q4K::BYTES], sub: usize) -> (F32Line, F32Line) {
    let at = |offset: usize| load(block[offset..].first_chunk().expect("a byte for each lane"));
    let (low, high) = (at(q4k_low(sub)), at(Q4K::HIGH + sub / 2 * PANEL_ROWS));
    let high = nibbles(high, sub % 2);
    // The upper two bits of the scale, then those of the minimum.
    let scale_high = vandq_u8(vshlq_n_u8::<4>(high), vdupq_n_u8(0x30));
    let min_high = vandq_u8(vshlq_n_u8::<2>(high), vdupq_n_u8(0x30));
    (
        u8_as_f32(vorrq_u8(nibbles(low, 0), scale_high)),
        u8_as_f32(vorrq_u8(nibbles(low, 1), min_high)),
    )
}

/// Sixteen bytes as f32.
#[inline]
#[target_feature(enable = "neon")]
fn u8_as_f32(bytes: uint8x16_t) -> F32Line {
    let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
    [
        vmovl_u16(vget_low_u16(low)),
        vmovl_high_u16(low),
        vmovl_u16(vget_low_u16(high)),
        vmovl_high_u16(high),
    ]
    .map(|four| vcvtq_f32_u32(four))
}

/// Sixteen signed bytes as f32.
#[inline]
#[target_feature(enable = "neon")]
fn i8_as_f32(bytes: int8x16_t) -> F32Line {
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [
        vmovl_s16(vget_low_s16(low)),
        vmovl_high_s16(low),
        vmovl_s16(vget_low_s16(high)),
        vmovl_high_s16(high),
    ]
    .map(|four| vcvtq_f32_s32(four))
}

/// See [`crate::portable::gemm_q6_k`].
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn gemm_q6_k<Dot: DotProduct>(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [6 1 2 3 4 5], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_q6_k_rows::<ROWS, Dot>(panel, x, first, block) }
    });
}

/// Up to six rows by sixteen lanes. Quants are stored with an offset of 32, as 0 to 63; sums start
/// at -32 times the sum of the activations, which corrects that. Two dot products, each at most
/// 16 x 32 x 127, are still exact in f32 once multiplied with their scales (at most 128) and added.
///
/// # Safety
/// The CPU has the instruction of `Dot`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gemm_q6_k_rows<const ROWS: usize, Dot: DotProduct>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    for i in 0..x.columns / SUPER_BLOCK {
        let (scale, block) = paired_block::<{ Q6K::BYTES }>(panel, i);
        let sub_scales = block[..Q6K::SUB_BLOCKS].as_chunks::<PANEL_ROWS>().0;
        let lines =
            block[Q6K::SUB_BLOCKS..].as_chunks::<16>().0.as_chunks::<4>().0.as_chunks::<3>().0;
        let x = super_block_of_rows(&rows, i);
        let mut totals = [[vdupq_n_f32(0.0); 4]; ROWS];
        for pair in 0..8 {
            let x = x.map(|x| &x[pair]);
            let mut products = [[vdupq_n_f32(0.0); 4]; ROWS];
            for odd in 0..2 {
                let sub = 2 * pair + odd;
                let mut sums = x.map(|x| [vdupq_n_s32(x.minus_32_sums[odd]); 4]);
                let weights = |group: usize| -> I8Line {
                    std::array::from_fn(|quarter| unpack_q6(&lines[sub], quarter, group))
                };
                let x = x.map(|x| &x.quants.as_chunks::<4>().0[odd]);
                // SAFETY: as the caller promises.
                unsafe { Dot::add_dot_products(weights, x, &mut sums) };
                let scales = i8_as_f32(vreinterpretq_s8_u8(load(&sub_scales[sub])));
                for row in 0..ROWS {
                    products[row] = fma_i32(products[row], sums[row], scales);
                }
            }
            for row in 0..ROWS {
                totals[row] = fma_n(totals[row], products[row], x[row].scale);
            }
        }
        let scale = load_f16_line(scale);
        for (row, out) in out.iter_mut().enumerate() {
            add_to(out, std::array::from_fn(|i| vmulq_f32(scale[i], totals[row][i])));
        }
    }
}

/// Unpacks four columns of four lanes of a sub-block: quants from 0 to 63.
#[inline]
#[target_feature(enable = "neon")]
fn unpack_q6(lines: &[[[u8; 16]; 4]; 3], quarter: usize, group: usize) -> int8x16_t {
    let low = nibbles(load(&lines[1 + group / 2][quarter]), group % 2);
    let high = load(&lines[0][quarter]);
    let high = match group {
        0 => vshlq_n_u8::<4>(high),
        1 => vshlq_n_u8::<2>(high),
        2 => high,
        _ => vshrq_n_u8::<2>(high),
    };
    vreinterpretq_s8_u8(vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30))))
}
