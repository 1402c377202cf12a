//! Q4_K and Q6_K GEMM kernels with AVX-VNNI.

use std::arch::x86_64::*;

use super::dpbusd;
use crate::avx2::{
    add_to, broadcast_i8x4, load, load_f16, load_u8x8, prefetch, rows, scales_and_minima,
    super_block_of_rows,
};
use crate::operands::{F32x16, Q8Rows, for_row_blocks};
use crate::packed::{PANEL_ROWS, Q4K, Q6K, SUPER_BLOCK, paired_block};

/// See [`crate::portable::gemm_q4_k`].
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemm_q4_k<const EMULATED: bool>(
    panel: &[u8],
    x: Q8Rows<'_>,
    out: &mut [F32x16],
) {
    for_row_blocks!(out, [5 1 2 3 4], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_q4_k_rows::<ROWS, EMULATED>(panel, x, first, block) }
    });
}

/// `vpdpbusd` on nibbles, up to five rows by sixteen lanes: ten sums, two registers of weights and
/// the mask. An even and the next odd sub-block share lines, which are loaded for each: the second
/// time from L1. The dot product of a sub-block is at most 32 x 15 x 127 and times its scale, at
/// most 63, still exact in f32.
///
/// # Safety
/// As of [`dpbusd`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_q4_k_rows<const ROWS: usize, const EMULATED: bool>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let low_bits = _mm256_set1_epi8(15);
    for (i, block) in panel.as_chunks::<{ Q4K::BYTES }>().0.iter().enumerate() {
        prefetch(&block[..Q4K::NIBBLES]);
        let lines = block[Q4K::NIBBLES..].as_chunks::<32>().0.as_chunks::<2>().0;
        let lines = lines.as_chunks::<8>().0.as_array::<4>().expect("2048 bytes");
        let [scales, sub_minima] = scales_and_minima(block);
        let x = super_block_of_rows(&rows, i);
        let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
        for (pair, lines) in lines.iter().enumerate() {
            for odd in 0..2 {
                let x = x.map(|x| &x[2 * pair + odd]);
                let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
                for (group, line) in lines.iter().enumerate() {
                    if odd == 0 {
                        prefetch(line);
                    }
                    let weights = line.each_ref().map(|half| {
                        let both = load(half);
                        let nibbles = if odd == 0 { both } else { _mm256_srli_epi16::<4>(both) };
                        _mm256_and_si256(nibbles, low_bits)
                    });
                    for row in 0..ROWS {
                        let x = broadcast_i8x4(&x[row].quants[group]);
                        for half in 0..2 {
                            // SAFETY: as the caller promises.
                            sums[row][half] =
                                unsafe { dpbusd::<EMULATED>(sums[row][half], weights[half], x) };
                        }
                    }
                }
                let scales = scales[odd].as_chunks::<PANEL_ROWS>().0[pair];
                for (half, scale) in scales.as_chunks::<8>().0.iter().enumerate() {
                    let scale = load_u8_as_f32(scale);
                    for row in 0..ROWS {
                        let products = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), scale);
                        let x_scale = _mm256_set1_ps(x[row].scale);
                        totals[row][half] = _mm256_fmadd_ps(products, x_scale, totals[row][half]);
                    }
                }
            }
        }
        let mut minima = [[_mm256_setzero_ps(); 2]; ROWS];
        for sub in 0..8 {
            let sub_minima = sub_minima[sub % 2].as_chunks::<PANEL_ROWS>().0[sub / 2];
            for (half, minimum) in sub_minima.as_chunks::<8>().0.iter().enumerate() {
                let minimum = load_u8_as_f32(minimum);
                for row in 0..ROWS {
                    let sum = _mm256_set1_ps(x[row][sub].sum);
                    minima[row][half] = _mm256_fmadd_ps(minimum, sum, minima[row][half]);
                }
            }
        }
        let scales = block[..Q4K::LOW].as_chunks::<16>().0;
        for half in 0..2 {
            let (scale, min_scale) = (load_f16(&scales[half]), load_f16(&scales[2 + half]));
            for (row, out) in out.iter_mut().enumerate() {
                let sums = _mm256_mul_ps(scale, totals[row][half]);
                add_to(out, half, _mm256_fnmadd_ps(min_scale, minima[row][half], sums));
            }
        }
    }
}

/// Eight bytes as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_u8_as_f32(bytes: &[u8; 8]) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_u8x8(bytes)))
}

/// See [`crate::portable::gemm_q6_k`].
///
/// # Safety
/// As of [`dpbusd`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemm_q6_k<const EMULATED: bool>(
    panel: &[u8],
    x: Q8Rows<'_>,
    out: &mut [F32x16],
) {
    for_row_blocks!(out, [5 1 2 3 4], |first, block: ROWS| {
        // SAFETY: as the caller promises.
        unsafe { gemm_q6_k_rows::<ROWS, EMULATED>(panel, x, first, block) }
    });
}

/// `vpdpbusd`, up to five rows by sixteen lanes. Quants are stored with an offset of 32, as 0 to
/// 63; sums start at -32 times the sum of the activations, which corrects that. Two dot products,
/// each at most 16 x 32 x 127, are still exact in f32 once multiplied with their scales (at most
/// 128) and added.
///
/// # Safety
/// As of [`dpbusd`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemm_q6_k_rows<const ROWS: usize, const EMULATED: bool>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    for i in 0..x.columns / SUPER_BLOCK {
        let (scales, block) = paired_block::<{ Q6K::BYTES }>(panel, i);
        prefetch(&block[..Q6K::SUB_BLOCKS]);
        let sub_scales = block[..Q6K::SUB_BLOCKS].as_chunks::<8>().0.as_chunks::<2>().0;
        let lines =
            block[Q6K::SUB_BLOCKS..].as_chunks::<32>().0.as_chunks::<2>().0.as_chunks::<3>().0;
        let x = super_block_of_rows(&rows, i);
        let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
        for pair in 0..8 {
            let x = x.map(|x| &x[pair]);
            let mut products = [[_mm256_setzero_ps(); 2]; ROWS];
            for odd in 0..2 {
                let sub = 2 * pair + odd;
                prefetch(&lines[sub]);
                let mut sums = x.map(|x| [_mm256_set1_epi32(x.minus_32_sums[odd]); 2]);
                for group in 0..4 {
                    let weights = [0, 1].map(|half| unpack_q6(&lines[sub], half, group));
                    for row in 0..ROWS {
                        let x = broadcast_i8x4(&x[row].quants[4 * odd + group]);
                        for half in 0..2 {
                            // SAFETY: as the caller promises.
                            sums[row][half] =
                                unsafe { dpbusd::<EMULATED>(sums[row][half], weights[half], x) };
                        }
                    }
                }
                for (half, scale) in sub_scales[sub].iter().enumerate() {
                    let scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_u8x8(scale)));
                    for row in 0..ROWS {
                        let sums = _mm256_cvtepi32_ps(sums[row][half]);
                        products[row][half] = _mm256_fmadd_ps(sums, scale, products[row][half]);
                    }
                }
            }
            for row in 0..ROWS {
                let scale = _mm256_set1_ps(x[row].scale);
                for half in 0..2 {
                    totals[row][half] =
                        _mm256_fmadd_ps(products[row][half], scale, totals[row][half]);
                }
            }
        }
        for (half, scale) in scales.as_chunks::<16>().0.iter().enumerate() {
            let scale = load_f16(scale);
            for (row, out) in out.iter_mut().enumerate() {
                add_to(out, half, _mm256_mul_ps(scale, totals[row][half]));
            }
        }
    }
}

/// Unpacks four columns of eight lanes of a sub-block: quants from 0 to 63.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_q6(lines: &[[[u8; 32]; 2]; 3], half: usize, group: usize) -> __m256i {
    let (low, high) = (load(&lines[1 + group / 2][half]), load(&lines[0][half]));
    let low = if group.is_multiple_of(2) { low } else { _mm256_srli_epi16::<4>(low) };
    let high = match group {
        0 => _mm256_slli_epi16::<4>(high),
        1 => _mm256_slli_epi16::<2>(high),
        2 => high,
        _ => _mm256_srli_epi16::<2>(high),
    };
    _mm256_or_si256(
        _mm256_and_si256(low, _mm256_set1_epi8(15)),
        _mm256_and_si256(high, _mm256_set1_epi8(0x30)),
    )
}
