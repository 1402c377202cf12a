//! GEMM kernels in plain Rust: the definition that every SIMD kernel must agree with, and the
//! fallback where a CPU has no other tier.
//!
//! Each kernel adds to `out[row][lane]` the dot products of rows of activations with the sixteen
//! rows of a weight panel.

use std::hint::black_box;

use super::kernels::{GemmQ8, Kernels};
use super::operands::{F32x16, INT16_WEIGHT_MAX, Int16Block, Int16Rows, Q8Rows, round};
use super::packed::{
    Asymmetric, BLOCK, PANEL_ROWS, Q4K, Q6K, Q8_0_BYTES, SUPER_BLOCK, WeightFormat, f16_at, f32_at,
    paired_block, q4k_scale_and_min, weight,
};

/// The tier of every CPU.
pub(super) static KERNELS: Kernels = Kernels {
    gemm_f32,
    gemm_q8_0: GemmQ8::one(gemm_q8_0),
    gemm_q4_k: GemmQ8::one(gemm_q4_k),
    gemm_q6_k: GemmQ8::one(gemm_q6_k),
    gemm_asymmetric: GemmQ8::one(gemm_asymmetric),
    gemm_int16,
    gemm_f16_bf16: None,
    gemv_f16_bf16: None,
    widen_to_f32,
    widen_bf16_pairs,
    f32_to_int16,
    q8_0_to_int16,
    quantize_q8: None,
    sum_streams: None,
    peak_f32,
    peak_int8,
    peak_int16,
};

/// f32 weights. The sixteen weights of a column begin `step` numbers after those of the column
/// before, and rows of `x` begin `stride` apart.
fn gemm_f32(
    lines: &[f32],
    step: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut [F32x16],
) {
    for (row, out) in out.iter_mut().enumerate() {
        for (column, &x) in x[row * stride..row * stride + columns].iter().enumerate() {
            let line = &lines[column * step..column * step + PANEL_ROWS];
            for lane in 0..PANEL_ROWS {
                out[lane] += line[lane] * x;
            }
        }
    }
}

/// Dequantizes weights to f32, one line per column, from column `first` on.
fn widen_to_f32(format: WeightFormat, panel: &[u8], first: usize, lines: &mut [F32x16]) {
    for (i, line) in lines.iter_mut().enumerate() {
        for (lane, value) in line.iter_mut().enumerate() {
            *value = weight(format, panel, first + i, lane);
        }
    }
}

/// Widens lines of `width` pairs of bf16 to two lines of f32 each.
fn widen_bf16_pairs(pairs: &[[u16; 2]], width: usize, lines: &mut [f32]) {
    for (pairs, lines) in pairs.chunks_exact(width).zip(lines.chunks_exact_mut(2 * width)) {
        let (even, odd) = lines.split_at_mut(width);
        for ((pair, even), odd) in pairs.iter().zip(even).zip(odd) {
            [*even, *odd] = pair.map(|bits| f32::from_bits(u32::from(bits) << 16));
        }
    }
}

/// Q8_0 weights with 8-bit activations: integer dot products per block of 32 columns.
fn gemm_q8_0(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for (row, out) in out.iter_mut().enumerate() {
        for (block, x) in x.row(row).iter().enumerate() {
            let (scales, quants) = paired_block::<Q8_0_BYTES>(panel, block);
            let mut sums = [0i32; PANEL_ROWS];
            for (line, x) in quants.as_chunks::<64>().0.iter().zip(&x.quants) {
                for (sum, weights) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
                    for (weight, x) in weights.iter().zip(x) {
                        *sum += i32::from(*weight as i8) * i32::from(*x);
                    }
                }
            }
            for lane in 0..PANEL_ROWS {
                let scale = f16_at(scales, lane) * x.scale;
                out[lane] += sums[lane] as f32 * scale;
            }
        }
    }
}

/// Q4_K weights with 8-bit activations: integer dot products per sub-block of 32 columns, whose
/// minimum is multiplied with the sum of the activations.
fn gemm_q4_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for (row, out) in out.iter_mut().enumerate() {
        for (i, block) in panel.chunks_exact(Q4K::BYTES).enumerate() {
            let (mut sums, mut minima) = ([0f32; PANEL_ROWS], [0f32; PANEL_ROWS]);
            for sub in 0..8 {
                let x = &x.row(row)[i * 8 + sub];
                let mut dots = [0i32; PANEL_ROWS];
                for (group, x) in x.quants.iter().enumerate() {
                    let line = &block[Q4K::NIBBLES + (sub / 2 * 8 + group) * 64..][..64];
                    for (dot, weights) in dots.iter_mut().zip(line.as_chunks::<4>().0) {
                        for (weight, x) in weights.iter().zip(x) {
                            *dot += i32::from(weight >> (4 * (sub % 2)) & 15) * i32::from(*x);
                        }
                    }
                }
                for lane in 0..PANEL_ROWS {
                    let (scale, minimum) = q4k_scale_and_min(block, sub, lane);
                    sums[lane] += (dots[lane] * i32::from(scale)) as f32 * x.scale;
                    minima[lane] += f32::from(minimum) * x.sum;
                }
            }
            for lane in 0..PANEL_ROWS {
                out[lane] += f16_at(block, lane) * sums[lane];
                out[lane] -= f16_at(block, PANEL_ROWS + lane) * minima[lane];
            }
        }
    }
}

/// Q6_K weights with 8-bit activations: integer dot products per sub-block of 16 columns.
fn gemm_q6_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for (row, out) in out.iter_mut().enumerate() {
        for i in 0..x.columns / SUPER_BLOCK {
            let (scales, block) = paired_block::<{ Q6K::BYTES }>(panel, i);
            let mut sums = [0f32; PANEL_ROWS];
            for pair in 0..8 {
                let mut dots = [0i32; PANEL_ROWS];
                let x = &x.row(row)[i * 8 + pair];
                for sub in [2 * pair, 2 * pair + 1] {
                    let (high, low) = block[Q6K::SUB_BLOCKS + sub * Q6K::SUB_BLOCK_BYTES..]
                        [..Q6K::SUB_BLOCK_BYTES]
                        .split_at(64);
                    let x = x.quants.as_chunks::<4>().0[sub % 2];
                    for (lane, dot) in dots.iter_mut().enumerate() {
                        let mut sub_dot = 0;
                        for (group, x) in x.iter().enumerate() {
                            for (byte, x) in x.iter().enumerate() {
                                let low =
                                    low[group / 2 * 64 + lane * 4 + byte] >> (4 * (group % 2)) & 15;
                                let high = high[lane * 4 + byte] >> (2 * group) & 3;
                                sub_dot += (i32::from(low | high << 4) - 32) * i32::from(*x);
                            }
                        }
                        let scale = block[sub * PANEL_ROWS + lane] as i8;
                        *dot += sub_dot * i32::from(scale);
                    }
                }
                for lane in 0..PANEL_ROWS {
                    sums[lane] += dots[lane] as f32 * x.scale;
                }
            }
            for lane in 0..PANEL_ROWS {
                out[lane] += f16_at(scales, lane) * sums[lane];
            }
        }
    }
}

/// Asymmetric weights with 8-bit activations: integer dot products per block of 32 columns, whose
/// offset is multiplied with the sum of the activations.
fn gemm_asymmetric(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for (row, out) in out.iter_mut().enumerate() {
        let blocks = panel.as_chunks::<{ Asymmetric::BYTES }>().0;
        for (block, x) in blocks.iter().zip(x.row(row)) {
            let mut dots = [0i32; PANEL_ROWS];
            let lines = block[Asymmetric::QUANTS..].as_chunks::<64>().0;
            for (line, x) in lines.iter().zip(&x.quants) {
                for (dot, weights) in dots.iter_mut().zip(line.as_chunks::<4>().0) {
                    for (weight, x) in weights.iter().zip(x) {
                        *dot += i32::from(*weight) * i32::from(*x);
                    }
                }
            }
            for lane in 0..PANEL_ROWS {
                out[lane] += dots[lane] as f32 * (f32_at(block, lane) * x.scale);
                out[lane] += f32_at(&block[Asymmetric::OFFSETS..], lane) * x.sum;
            }
        }
    }
}

/// Quantizes f32 lines, at most 256, to 12 bits with one scale per row, which is NaN if a weight is
/// NaN or infinite.
fn f32_to_int16(lines: &[F32x16], block: &mut Int16Block) {
    let (mut max, mut non_finite) = ([0f32; PANEL_ROWS], [0f32; PANEL_ROWS]);
    for line in lines {
        for lane in 0..PANEL_ROWS {
            max[lane] = max[lane].max(line[lane].abs());
            non_finite[lane] += line[lane] * 0.0;
        }
    }
    let inverse = max.map(|max| if max > 0.0 { INT16_WEIGHT_MAX / max } else { 0.0 });
    for (pair, quants) in lines.as_chunks::<2>().0.iter().zip(&mut block.quants) {
        for lane in 0..PANEL_ROWS {
            for odd in 0..2 {
                let scaled = pair[odd][lane] * inverse[lane];
                quants[2 * lane + odd] = if scaled.is_nan() { 0 } else { round(scaled) as i16 };
            }
        }
    }
    block.scales = std::array::from_fn(|lane| max[lane] / INT16_WEIGHT_MAX + non_finite[lane]);
}

/// Requantizes 256 columns of Q8_0 weights to one scale per row. Quants of a block with the row's
/// largest scale stay exact; all others are rounded to 12 bits, as other weights are. A scale that
/// is NaN or infinite makes the row's scale NaN.
fn q8_0_to_int16(panel: &[u8], columns: usize, number: usize, out: &mut Int16Block) {
    let blocks = (SUPER_BLOCK / BLOCK).min(columns / BLOCK - number * SUPER_BLOCK / BLOCK);
    let first = number * SUPER_BLOCK / BLOCK;
    for lane in 0..PANEL_ROWS {
        let scale = |block: usize| f16_at(paired_block::<Q8_0_BYTES>(panel, first + block).0, lane);
        let max = (0..blocks).map(|block| scale(block).abs()).fold(0.0, f32::max);
        let non_finite: f32 = (0..blocks).map(|block| scale(block) * 0.0).sum();
        let inverse = if max > 0.0 { Int16Block::LARGEST_FRACTION / max } else { 0.0 };
        for block in 0..blocks {
            let scaled = scale(block) * inverse;
            let fraction = if scaled.is_nan() { 0 } else { round(scaled) };
            let (_, quants) = paired_block::<Q8_0_BYTES>(panel, first + block);
            for column in 0..BLOCK {
                let at = (column / 4 * PANEL_ROWS + lane) * 4 + column % 4;
                let product = i32::from(quants[at] as i8) * 16 * fraction;
                // As `vpmulhrsw` rounds: to nearest, ties up.
                out.quants[block * 16 + column / 2][2 * lane + column % 2] =
                    ((product + (1 << 14)) >> 15) as i16;
            }
        }
        out.scales[lane] = max * Int16Block::SCALE_RATIO + non_finite;
    }
}

/// 256 columns of 16-bit weights with 16-bit activations, summed in 32 bits.
fn gemm_int16(block: &Int16Block, x: Int16Rows<'_>, out: &mut [F32x16]) {
    for (row, out) in out.iter_mut().enumerate() {
        let mut sums = [0i32; PANEL_ROWS];
        let pairs = x.quants[row * x.columns..(row + 1) * x.columns].as_chunks::<2>().0;
        for (line, x) in block.quants.iter().zip(pairs) {
            for (sum, weights) in sums.iter_mut().zip(line.as_chunks::<2>().0) {
                *sum += i32::from(weights[0]) * i32::from(x[0])
                    + i32::from(weights[1]) * i32::from(x[1]);
            }
        }
        for lane in 0..PANEL_ROWS {
            out[lane] += sums[lane] as f32 * (block.scales[lane] * x.scales[row]);
        }
    }
}

/// Independent sums in the f32 peak loop. Four 128-bit registers are too few to hide the latency of
/// an addition; twelve leave four of the sixteen of x86-64 for operands.
const PEAK_SUMS: usize = 48;

/// Multiplies and adds, since that is how the definitions round; returns operations per iteration.
fn peak_f32(iterations: usize) -> usize {
    let (x, y) = (black_box(0.5f32), black_box(0.25f32));
    let mut sums = black_box([1f32; PEAK_SUMS]);
    for _ in 0..iterations {
        // Each product depends on the one before, or the compiler would hoist it out of the loop.
        sums.iter_mut().for_each(|sum| *sum = *sum * x + y);
    }
    black_box(sums);
    2 * PEAK_SUMS
}

/// The multiply-adds of [`gemm_q8_0`]. `black_box` makes the activation new in each iteration, or
/// the compiler would hoist the products out of the loop.
fn peak_int8(iterations: usize) -> usize {
    let mut x = [3i8, 5, 7, 9];
    let weights = black_box([[1i8, 2, 3, 4]; PANEL_ROWS]);
    let mut sums = black_box([1i32; PANEL_ROWS]);
    for _ in 0..iterations {
        x = black_box(x);
        for (sum, weights) in sums.iter_mut().zip(&weights) {
            for (weight, x) in weights.iter().zip(x) {
                *sum = sum.wrapping_add(i32::from(*weight) * i32::from(x));
            }
        }
    }
    black_box(sums);
    2 * 4 * PANEL_ROWS
}

/// The multiply-adds of [`gemm_int16`].
fn peak_int16(iterations: usize) -> usize {
    let mut x = [3i16, 5];
    let weights = black_box([[1i16, 2]; 2 * PANEL_ROWS]);
    let mut sums = black_box([1i32; 2 * PANEL_ROWS]);
    for _ in 0..iterations {
        x = black_box(x);
        for (sum, weights) in sums.iter_mut().zip(&weights) {
            let [a, b] = [0, 1].map(|i| i32::from(weights[i]) * i32::from(x[i]));
            *sum = sum.wrapping_add(a + b);
        }
    }
    black_box(sums);
    2 * 2 * 2 * PANEL_ROWS
}
