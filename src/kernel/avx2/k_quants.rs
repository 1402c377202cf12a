//! Products of weights of 4 and 6 bits with AVX2.

use std::arch::x86_64::*;

use super::{add_to, four, halves, in_groups, load, load_8, prefetch, rows};
use crate::kernel::inputs::{Int8, Rounded};
use crate::kernel::portable::Lanes;
use crate::kernel::tiles::{Q4K, Q6K, SUPER, TILE, of_two};

/// Block `i` of 256 columns of rows, checked once for all that is read of it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eights<'a, const ROWS: usize>(
    rows: &[&'a [Rounded]; ROWS],
    i: usize,
) -> [&'a [Rounded; 8]; ROWS] {
    rows.map(|row| row[i * 8..(i + 1) * 8].as_array().expect("eight runs"))
}

/// See [`crate::kernel::portable::q4_k`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn q4_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    // One or two rows leave registers for both halves of the lanes.
    match out.len() {
        1 => q4_k_rows::<1, 2>(tile, x, 0, out.try_into().expect("just counted")),
        2 => q4_k_rows::<2, 2>(tile, x, 0, out.try_into().expect("just counted")),
        _ => in_groups!(out, [4 1 2 3], |first, group: ROWS| {
            q4_k_rows::<ROWS, 1>(tile, x, first, group)
        }),
    }
}

/// Eight products of pairs are summed in 16 bits: at most 16 x 15 x 127. The run's scale then
/// multiplies and widens at once.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k_rows<const ROWS: usize, const HALVES: usize>(
    tile: &[u8],
    x: Int8<'_>,
    first: usize,
    out: &mut [Lanes; ROWS],
) {
    let rows = rows::<ROWS>(x, first);
    let low_bits = _mm256_set1_epi8(15);
    // The byte of a lane, in the lower byte of both halves of the lane.
    let lane = _mm256_setr_epi8(
        0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, //
        4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1,
    );
    for (i, block) in tile.as_chunks::<{ Q4K::BYTES }>().0.iter().enumerate() {
        prefetch(&block[..Q4K::NIBBLES]);
        let lines = block[Q4K::NIBBLES..].as_chunks::<32>().0.as_chunks::<2>().0;
        let lines = lines.as_chunks::<8>().0.as_array::<4>().expect("2048 bytes");
        let [scales, minima_of] = scales_and_minima(block);
        let of_rows = eights(&rows, i);
        for start in (0..2).step_by(HALVES) {
            let (mut totals, mut minima) =
                ([[_mm256_setzero_ps(); HALVES]; ROWS], [[_mm256_setzero_ps(); HALVES]; ROWS]);
            for (pair, lines) in lines.iter().enumerate() {
                if start == 0 {
                    prefetch(lines);
                }
                let mut of_runs = [[[_mm256_setzero_si256(); HALVES]; ROWS]; 2];
                for (group, line) in lines.iter().enumerate() {
                    let both: [_; HALVES] = std::array::from_fn(|half| line[start + half]);
                    let both = both.each_ref().map(|bytes| load(bytes));
                    for row in 0..ROWS {
                        let [a, b] =
                            [0, 1].map(|odd| four(&of_rows[row][2 * pair + odd].quants[group]));
                        for half in 0..HALVES {
                            let even = _mm256_and_si256(both[half], low_bits);
                            let odd = _mm256_srli_epi16::<4>(both[half]);
                            let odd = _mm256_and_si256(odd, low_bits);
                            let [to_a, to_b] = [0, 1].map(|odd| of_runs[odd][row][half]);
                            of_runs[0][row][half] =
                                _mm256_add_epi16(to_a, _mm256_maddubs_epi16(even, a));
                            of_runs[1][row][half] =
                                _mm256_add_epi16(to_b, _mm256_maddubs_epi16(odd, b));
                        }
                    }
                }
                for (odd, of_run) in of_runs.iter().enumerate() {
                    let run = 2 * pair + odd;
                    for half in 0..HALVES {
                        let order = _mm256_set1_epi16(8 * (start + half) as i16);
                        let order = _mm256_or_si256(lane, order);
                        let scale = &scales[odd].as_chunks::<TILE>().0[pair];
                        let scale = _mm256_shuffle_epi8(twice_16(scale), order);
                        let minimum = &minima_of[odd].as_chunks::<TILE>().0[pair];
                        let minimum = load_8(&minimum.as_chunks::<8>().0[start + half]);
                        let minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(minimum));
                        for row in 0..ROWS {
                            let products = _mm256_madd_epi16(of_run[row][half], scale);
                            let products = _mm256_cvtepi32_ps(products);
                            let of_x = _mm256_set1_ps(of_rows[row][run].scale);
                            totals[row][half] = _mm256_fmadd_ps(products, of_x, totals[row][half]);
                            let sum = _mm256_set1_ps(of_rows[row][run].sum);
                            minima[row][half] = _mm256_fmadd_ps(minimum, sum, minima[row][half]);
                        }
                    }
                }
            }
            let scales = block[..Q4K::LOW].as_chunks::<16>().0;
            for half in 0..HALVES {
                let scale = halves(&scales[start + half]);
                let of_minima = halves(&scales[2 + start + half]);
                for (row, out) in out.iter_mut().enumerate() {
                    let sums = _mm256_mul_ps(scale, totals[row][half]);
                    let sums = _mm256_fnmadd_ps(of_minima, minima[row][half], sums);
                    add_to(out, start + half, sums);
                }
            }
        }
    }
}

/// Sixteen bytes, in both halves of a register.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn twice_16(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes are there to be read, and need no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Scales of the even and of the odd runs of a block, a byte a lane, then their minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_and_minima(block: &[u8; Q4K::BYTES]) -> [[[u8; 64]; 2]; 2] {
    let (four_bits, two_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let mut all = [[[0; 64]; 2]; 2];
    let halves = block[Q4K::LOW..Q4K::NIBBLES].as_chunks::<32>().0;
    for half in 0..2 {
        let [even, odd, high] = [0, 2, 4].map(|line| &halves[line + half]);
        let (even, odd, high) = (load(even), load(odd), load(high));
        // (kind, parity, lower bits, upper bits)
        for (kind, parity, low, high) in [
            (0, 0, even, _mm256_slli_epi16::<4>(high)),
            (0, 1, odd, high),
            (1, 0, _mm256_srli_epi16::<4>(even), _mm256_slli_epi16::<2>(high)),
            (1, 1, _mm256_srli_epi16::<4>(odd), _mm256_srli_epi16::<2>(high)),
        ] {
            let (low, high) = (_mm256_and_si256(low, four_bits), _mm256_and_si256(high, two_bits));
            let to = all[kind][parity].as_chunks_mut::<32>().0[half].as_mut_ptr();
            // SAFETY: 32 bytes are there to be written, and need no alignment.
            unsafe { _mm256_storeu_si256(to.cast(), _mm256_or_si256(low, high)) };
        }
    }
    all
}

/// See [`crate::kernel::portable::q6_k`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn q6_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [4 1 2 3], |first, group: ROWS| q6_k_rows::<ROWS>(tile, x, first, group));
}

/// Weights are 0 to 63, and 32 too large; what that adds is taken off by one more product with the
/// scale. Two products of pairs are summed in 16 bits: at most 4 x 63 x 127.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let rows = rows::<ROWS>(x, first);
    let (low_bits, high_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    for i in 0..x.columns / SUPER {
        let (scales, block) = of_two::<{ Q6K::BYTES }>(tile, i);
        prefetch(&block[..Q6K::RUNS]);
        let scales = scales.as_chunks::<16>().0;
        let lines = block[Q6K::RUNS..].as_chunks::<32>().0.as_chunks::<2>().0.as_chunks::<3>().0;
        let lines = lines.as_array::<16>().expect("16 runs");
        let of_runs = block[..Q6K::RUNS].as_chunks::<8>().0.as_chunks::<2>().0;
        let of_runs = of_runs.as_array::<16>().expect("16 runs");
        let of_rows = eights(&rows, i);
        for half in 0..2 {
            let mut totals = [_mm256_setzero_ps(); ROWS];
            for pair in 0..8 {
                let mut products = [_mm256_setzero_si256(); ROWS];
                for odd in 0..2 {
                    let run = 2 * pair + odd;
                    if half == 0 {
                        prefetch(&lines[run]);
                    }
                    let [high, a, b] = lines[run].each_ref().map(|line| load(&line[half]));
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
                    // In both halves of a lane.
                    let scale = _mm256_cvtepi8_epi32(load_8(&of_runs[run][half]));
                    let scale =
                        _mm256_blend_epi16::<0b1010_1010>(scale, _mm256_slli_epi32::<16>(scale));
                    for row in 0..ROWS {
                        let run = &of_rows[row][pair];
                        let x = |group: usize| four(&run.quants[4 * odd + group]);
                        let ab = _mm256_add_epi16(
                            _mm256_maddubs_epi16(weights[0], x(0)),
                            _mm256_maddubs_epi16(weights[1], x(1)),
                        );
                        let cd = _mm256_add_epi16(
                            _mm256_maddubs_epi16(weights[2], x(2)),
                            _mm256_maddubs_epi16(weights[3], x(3)),
                        );
                        let offset = _mm256_set1_epi16(run.minus_16[odd]);
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
                    let of_x = _mm256_set1_ps(of_rows[row][pair].scale);
                    totals[row] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[row]), of_x, totals[row]);
                }
            }
            let scale = halves(&scales[half]);
            for (row, out) in out.iter_mut().enumerate() {
                add_to(out, half, _mm256_mul_ps(scale, totals[row]));
            }
        }
    }
}
