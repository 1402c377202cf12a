//! BF16 GEMM with `bfmmla` (FEAT_BF16), which multiplies four columns of two rows of activations
//! with those of two outputs and adds the products to f32. Operands have the layout of AMX, as
//! those of AVX512-BF16.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use super::peak::SUMS;
use crate::operands::{AmxTile, F32x16};
use crate::packed::{BLOCK, PANEL_ROWS};

/// Rows that share each load and interleaving of weights: their sums take 16 registers, the weights
/// eight more.
const ROWS: usize = 4;

/// Pairs of columns of the sixteen outputs of a panel.
type Line = [[u16; 8]; 4];

/// See [`crate::dispatch::gemm_bf16`].
///
/// # Safety
/// The CPU has FEAT_BF16.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn gemm_bf16(x: &[AmxTile], weights: &[u8], sums: &mut [F32x16]) {
    let tiles: &[[[Line; 2]; BLOCK / 4]] = bytemuck::cast_slice(weights);
    for (x, sums) in x.chunks_exact(tiles.len()).zip(sums.chunks_mut(PANEL_ROWS)) {
        for (number, sums) in sums.chunks_mut(ROWS).enumerate() {
            let mut products = [[vdupq_n_f32(0.0); 8]; ROWS / 2];
            for (x, tile) in x.iter().zip(tiles) {
                let rows = &x.0.as_chunks::<ROWS>().0[number];
                for (group, lines) in tile.iter().enumerate() {
                    let mut pairs = [vdupq_n_u16(0); ROWS / 2];
                    for pair in 0..ROWS / 2 {
                        let [a, b] = [2 * pair, 2 * pair + 1]
                            .map(|row| load_u16x4(&rows[row].as_chunks::<4>().0[group]));
                        pairs[pair] = vcombine_u16(a, b);
                    }
                    for i in 0..4 {
                        let [a, b] = [&lines[0][i], &lines[1][i]]
                            .map(|four| vreinterpretq_u32_u16(load_u16x8(four)));
                        let outputs = [vzip1q_u32(a, b), vzip2q_u32(a, b)];
                        for (j, outputs) in outputs.into_iter().enumerate() {
                            let outputs = vreinterpretq_u16_u32(outputs);
                            for pair in 0..ROWS / 2 {
                                let products = &mut products[pair][2 * i + j];
                                // SAFETY: as the caller promises.
                                *products = unsafe { bfmmla(*products, pairs[pair], outputs) };
                            }
                        }
                    }
                }
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                for (i, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let [a, b] = [2 * i, 2 * i + 1]
                        .map(|outputs| vreinterpretq_f64_f32(products[row / 2][outputs]));
                    let of_row = if row % 2 == 0 { vzip1q_f64(a, b) } else { vzip2q_f64(a, b) };
                    // SAFETY: four numbers are writable, and the store needs no alignment.
                    unsafe { vst1q_f32(sums.as_mut_ptr(), vreinterpretq_f32_f64(of_row)) };
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_u16x4(values: &[u16; 4]) -> uint16x4_t {
    // SAFETY: four numbers are readable, and the load needs no alignment.
    unsafe { vld1_u16(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_u16x8(values: &[u16; 8]) -> uint16x8_t {
    // SAFETY: eight numbers are readable, and the load needs no alignment.
    unsafe { vld1q_u16(values.as_ptr()) }
}

/// `bfmmla`: `sums[2i + j] += a[i] · b[j]`, of rows of four bf16. Inline assembly, since the
/// intrinsic is unstable.
///
/// # Safety
/// The CPU has FEAT_BF16.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bfmmla(mut sums: float32x4_t, a: uint16x8_t, b: uint16x8_t) -> float32x4_t {
    // SAFETY: the instruction accesses registers only, and the CPU has it, as the caller promises.
    unsafe {
        asm!(
            ".arch_extension bf16",
            "bfmmla {sums:v}.4s, {a:v}.8h, {b:v}.8h",
            sums = inlateout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The multiply-adds of [`gemm_bf16`] without loads; returns operations per iteration.
///
/// # Safety
/// The CPU has FEAT_BF16.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn peak_bf16(iterations: usize) -> usize {
    let x = vdupq_n_u16(black_box(0x3f00));
    let mut sums = [vdupq_n_f32(black_box(1.0)); SUMS];
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: as the caller promises.
            *sum = unsafe { bfmmla(*sum, x, x) };
        }
    }
    black_box(sums);
    SUMS * 2 * 16
}
