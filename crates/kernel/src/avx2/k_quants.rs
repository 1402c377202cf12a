//! Q4_K and Q6_K GEMM kernels with AVX2.

use std::arch::x86_64::*;

use super::{add_to, broadcast_i8x4, load, load_f16, load_u8x8, prefetch, rows};
use crate::operands::{F32x16, Q8Block, Q8Rows, for_row_blocks};
use crate::packed::{PANEL_ROWS, Q4K, Q6K, SUPER_BLOCK, paired_block};

/// The eight activation blocks of super-block `i` of each row, bounds-checked once.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn super_block_of_rows<'a, const ROWS: usize>(
    rows: &[&'a [Q8Block]; ROWS],
    i: usize,
) -> [&'a [Q8Block; 8]; ROWS] {
    rows.map(|row| row[i * 8..(i + 1) * 8].as_array().expect("eight blocks"))
}

/// See [`crate::portable::q4_k`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemm_q4_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    // One or two rows (decode) leave registers for all sixteen lanes at once; more take eight.
    match out.len() {
        1 => gemm_q4_k_rows::<1, 2>(panel, x, 0, out.try_into().expect("just counted")),
        2 => gemm_q4_k_rows::<2, 2>(panel, x, 0, out.try_into().expect("just counted")),
        _ => for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
            gemm_q4_k_rows::<ROWS, 1>(panel, x, first, block)
        }),
    }
}

/// Register blocking: up to four rows by eight lanes, or up to two rows by sixteen. `vpmaddubsw` on
/// nibbles; eight pair sums are added in 16 bits (at most 16 x 15 x 127), then one `vpmaddwd` with
/// the scale of the sub-block both scales and widens to 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_q4_k_rows<const ROWS: usize, const HALVES: usize>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let low_bits = _mm256_set1_epi8(15);
    // Selects a lane's byte into the lower byte of both 16-bit halves of the lane.
    let spread = _mm256_setr_epi8(
        0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, //
        4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1,
    );
    for (i, block) in panel.as_chunks::<{ Q4K::BYTES }>().0.iter().enumerate() {
        prefetch(&block[..Q4K::NIBBLES]);
        let lines = block[Q4K::NIBBLES..].as_chunks::<32>().0.as_chunks::<2>().0;
        let lines = lines.as_chunks::<8>().0.as_array::<4>().expect("2048 bytes");
        let [scales, sub_minima] = scales_and_minima(block);
        let x = super_block_of_rows(&rows, i);
        for start in (0..2).step_by(HALVES) {
            let (mut totals, mut minima) =
                ([[_mm256_setzero_ps(); HALVES]; ROWS], [[_mm256_setzero_ps(); HALVES]; ROWS]);
            for (pair, lines) in lines.iter().enumerate() {
                if start == 0 {
                    prefetch(lines);
                }
                let mut sums = [[[_mm256_setzero_si256(); HALVES]; ROWS]; 2];
                for (group, line) in lines.iter().enumerate() {
                    let both: [_; HALVES] = std::array::from_fn(|half| line[start + half]);
                    let both = both.each_ref().map(|bytes| load(bytes));
                    for row in 0..ROWS {
                        let [a, b] =
                            [0, 1].map(|odd| broadcast_i8x4(&x[row][2 * pair + odd].quants[group]));
                        for half in 0..HALVES {
                            let even = _mm256_and_si256(both[half], low_bits);
                            let odd = _mm256_srli_epi16::<4>(both[half]);
                            let odd = _mm256_and_si256(odd, low_bits);
                            let [to_a, to_b] = [0, 1].map(|odd| sums[odd][row][half]);
                            sums[0][row][half] =
                                _mm256_add_epi16(to_a, _mm256_maddubs_epi16(even, a));
                            sums[1][row][half] =
                                _mm256_add_epi16(to_b, _mm256_maddubs_epi16(odd, b));
                        }
                    }
                }
                for (odd, sums) in sums.iter().enumerate() {
                    let sub = 2 * pair + odd;
                    for half in 0..HALVES {
                        let order = _mm256_set1_epi16(8 * (start + half) as i16);
                        let order = _mm256_or_si256(spread, order);
                        let scale = &scales[odd].as_chunks::<PANEL_ROWS>().0[pair];
                        let scale = _mm256_shuffle_epi8(broadcast_128(scale), order);
                        let minimum = &sub_minima[odd].as_chunks::<PANEL_ROWS>().0[pair];
                        let minimum = load_u8x8(&minimum.as_chunks::<8>().0[start + half]);
                        let minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(minimum));
                        for row in 0..ROWS {
                            let products = _mm256_madd_epi16(sums[row][half], scale);
                            let products = _mm256_cvtepi32_ps(products);
                            let x_scale = _mm256_set1_ps(x[row][sub].scale);
                            totals[row][half] =
                                _mm256_fmadd_ps(products, x_scale, totals[row][half]);
                            let sum = _mm256_set1_ps(x[row][sub].sum);
                            minima[row][half] = _mm256_fmadd_ps(minimum, sum, minima[row][half]);
                        }
                    }
                }
            }
            let scales = block[..Q4K::LOW].as_chunks::<16>().0;
            for half in 0..HALVES {
                let scale = load_f16(&scales[start + half]);
                let min_scale = load_f16(&scales[2 + start + half]);
                for (row, out) in out.iter_mut().enumerate() {
                    let sums = _mm256_mul_ps(scale, totals[row][half]);
                    let sums = _mm256_fnmadd_ps(min_scale, minima[row][half], sums);
                    add_to(out, start + half, sums);
                }
            }
        }
    }
}

/// Sixteen bytes in both 128-bit lanes of a register.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast_128(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes are readable, and the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Unpacks the 6-bit scales, then the minima, of the even and of the odd sub-blocks: one byte per
/// lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn scales_and_minima(block: &[u8; Q4K::BYTES]) -> [[[u8; 64]; 2]; 2] {
    let (four_bits, two_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let mut all = [[[0; 64]; 2]; 2];
    let halves = block[Q4K::LOW..Q4K::NIBBLES].as_chunks::<32>().0;
    for half in 0..2 {
        let [even, odd, high] = [0, 2, 4].map(|line| &halves[line + half]);
        let (even, odd, high) = (load(even), load(odd), load(high));
        // (scales or minima, even or odd, lower bits, upper bits)
        for (minima, parity, low, high) in [
            (0, 0, even, _mm256_slli_epi16::<4>(high)),
            (0, 1, odd, high),
            (1, 0, _mm256_srli_epi16::<4>(even), _mm256_slli_epi16::<2>(high)),
            (1, 1, _mm256_srli_epi16::<4>(odd), _mm256_srli_epi16::<2>(high)),
        ] {
            let (low, high) = (_mm256_and_si256(low, four_bits), _mm256_and_si256(high, two_bits));
            let to = all[minima][parity].as_chunks_mut::<32>().0[half].as_mut_ptr();
            // SAFETY: 32 bytes are writable, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(to.cast(), _mm256_or_si256(low, high)) };
        }
    }
    all
}

/// See [`crate::portable::q6_k`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemm_q6_k(panel: &[u8], x: Q8Rows<'_>, out: &mut [F32x16]) {
    for_row_blocks!(out, [4 1 2 3], |first, block: ROWS| {
        gemm_q6_k_rows::<ROWS>(panel, x, first, block)
    });
}

/// Register blocking: up to four rows by eight lanes. Quants are stored with an offset of 32, as 0
/// to 63, so that `vpmaddubsw` takes them; one more `vpmaddwd` with the scale subtracts the offset.
/// Two pair sums are added in 16 bits: at most 4 x 63 x 127.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_q6_k_rows<const ROWS: usize>(
    panel: &[u8],
    x: Q8Rows<'_>,
    first: usize,
    out: &mut [F32x16; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let (low_bits, high_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    for i in 0..x.columns / SUPER_BLOCK {
        let (scales, block) = paired_block::<{ Q6K::BYTES }>(panel, i);
        prefetch(&block[..Q6K::SUB_BLOCKS]);
        let scales = scales.as_chunks::<16>().0;
        let lines =
            block[Q6K::SUB_BLOCKS..].as_chunks::<32>().0.as_chunks::<2>().0.as_chunks::<3>().0;
        let lines = lines.as_array::<16>().expect("16 sub-blocks");
        let sub_scales = block[..Q6K::SUB_BLOCKS].as_chunks::<8>().0.as_chunks::<2>().0;
        let sub_scales = sub_scales.as_array::<16>().expect("16 sub-blocks");
        let x = super_block_of_rows(&rows, i);
        for half in 0..2 {
            let mut totals = [_mm256_setzero_ps(); ROWS];
            for pair in 0..8 {
                let mut products = [_mm256_setzero_si256(); ROWS];
                for odd in 0..2 {
                    let sub = 2 * pair + odd;
                    if half == 0 {
                        prefetch(&lines[sub]);
                    }
                    let [high, a, b] = lines[sub].each_ref().map(|line| load(&line[half]));
                    let weights = [
                        _mm256_or_si256(
                            _mm256_and_si256(a, low_bits),
                            _mm256_and_si256(_mm256_slli_epi16::<4>(high), high_bits),
                        ),
                        _mm256_or_si256(
                            _mm256_and_si256(_mm256_srli_epi16::<4>(a), low_bits),
                            _mm256_and_si256(_mm256_slli_epi16::<2>(high), high_bits),
                        ),
                        _mm256_or_si256(
                            _mm256_and_si256(b, low_bits),
                            _mm256_and_si256(high, high_bits),
                        ),
                        _mm256_or_si256(
                            _mm256_and_si256(_mm256_srli_epi16::<4>(b), low_bits),
                            _mm256_and_si256(_mm256_srli_epi16::<2>(high), high_bits),
                        ),
                    ];
                    // The scale in both 16-bit halves of each lane.
                    let scale = _mm256_cvtepi8_epi32(load_u8x8(&sub_scales[sub][half]));
                    let scale =
                        _mm256_blend_epi16::<0b1010_1010>(scale, _mm256_slli_epi32::<16>(scale));
                    for row in 0..ROWS {
                        let block = &x[row][pair];
                        let x = |group: usize| broadcast_i8x4(&block.quants[4 * odd + group]);
                        let ab = _mm256_add_epi16(
                            _mm256_maddubs_epi16(weights[0], x(0)),
                            _mm256_maddubs_epi16(weights[1], x(1)),
                        );
                        let cd = _mm256_add_epi16(
                            _mm256_maddubs_epi16(weights[2], x(2)),
                            _mm256_maddubs_epi16(weights[3], x(3)),
                        );
                        let offset = _mm256_set1_epi16(block.minus_16_sums[odd]);
                        let sum = _mm256_add_epi32(
                            _mm256_add_epi32(
                                _mm256_madd_epi16(ab, scale),
                                _mm256_madd_epi16(cd, scale),
                            ),
                            _mm256_madd_epi16(offset, scale),
                        );
                        products[row] = _mm256_add_epi32(products[row], sum);
                    }
                }
                for row in 0..ROWS {
                    let x_scale = _mm256_set1_ps(x[row][pair].scale);
                    totals[row] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[row]), x_scale, totals[row]);
                }
            }
            let scale = load_f16(&scales[half]);
            for (row, out) in out.iter_mut().enumerate() {
                add_to(out, half, _mm256_mul_ps(scale, totals[row]));
            }
        }
    }
}
