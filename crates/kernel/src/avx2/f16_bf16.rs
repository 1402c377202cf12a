//! One or two rows times F16 or BF16 weights with AVX2, FMA and F16C: widened in registers, which
//! is faster than to a buffer and gives the same bits.

use std::arch::x86_64::*;

use super::{add_to, load, load_f16, unpack_bf16_pairs};
use crate::operands::{F32x16, WIDENED_COLUMNS, for_row_blocks, no_kernel};
use crate::packed::{PANEL_ROWS, WeightFormat};

/// See [`crate::kernels::Kernels::gemv_f16_bf16`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemv_f16_bf16(
    format: WeightFormat,
    panel: &[u8],
    columns: usize,
    x: &[f32],
    out: &mut [F32x16],
) {
    assert!(columns.is_multiple_of(2), "pairs of columns");
    for first in (0..columns).step_by(WIDENED_COLUMNS) {
        let count = WIDENED_COLUMNS.min(columns - first);
        let lines = panel[first * 2 * PANEL_ROWS..].as_chunks::<64>().0;
        let lines = &lines[..count / 2];
        let f16 = |line: &[u8; 64], half: usize| {
            let eights = line.as_chunks::<16>().0;
            (load_f16(&eights[half]), load_f16(&eights[2 + half]))
        };
        let bf16 =
            |line: &[u8; 64], half: usize| unpack_bf16_pairs(load(&line.as_chunks::<32>().0[half]));
        for_row_blocks!(out, [2 1], |row, block: ROWS| {
            let x = &x[row * columns + first..];
            match format {
                WeightFormat::F16 => add_rows::<ROWS>(lines, f16, x, columns, block),
                WeightFormat::Bf16 => add_rows::<ROWS>(lines, bf16, x, columns, block),
                other => no_kernel(other),
            }
        });
    }
}

/// `out[row] += x[row] · lines`, of a pair of columns each. Rows of `x` begin `stride` apart;
/// `widen` returns half a line of the even and of the odd column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_rows<const ROWS: usize>(
    lines: &[[u8; 64]],
    widen: impl Fn(&[u8; 64], usize) -> (__m256, __m256),
    x: &[f32],
    stride: usize,
    out: &mut [F32x16; ROWS],
) {
    let mut rows = [&[][..]; ROWS];
    for row in 0..ROWS {
        rows[row] = &x[row * stride..].as_chunks::<2>().0[..lines.len()];
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for (pair, line) in lines.iter().enumerate() {
        for half in 0..2 {
            let (even, odd) = widen(line, half);
            for row in 0..ROWS {
                let [a, b] = rows[row][pair].map(|x| _mm256_set1_ps(x));
                let sum = _mm256_fmadd_ps(even, a, sums[row][half]);
                sums[row][half] = _mm256_fmadd_ps(odd, b, sum);
            }
        }
    }
    for (out, [low, high]) in out.iter_mut().zip(sums) {
        add_to(out, 0, low);
        add_to(out, 1, high);
    }
}
