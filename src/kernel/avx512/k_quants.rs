//! Products of weights of 4 and 6 bits with AVX-512.

use std::arch::x86_64::*;

use super::{BUSY, add_to, ask_ahead, four, halves, load, load_16, rows, run};
use crate::kernel::avx2::in_groups;
use crate::kernel::inputs::Int8;
use crate::kernel::portable::Lanes;
use crate::kernel::tiles::{Q4K, Q6K, SUPER, TILE, of_two};

/// See [`crate::kernel::portable::q4_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernel) fn q4_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [8 1 2 3 4 5 6 7], |first, group: ROWS| {
        q4_k_rows::<ROWS>(tile, x, first, group)
    });
}

/// The sum of a run is at most 32 x 15 x 127, and times its scale, at most 63, still exact in f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4_k_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let blocks = x.columns / SUPER;
    let rows = rows::<ROWS>(x, first);
    let low_bits = _mm512_set1_epi8(15);
    for (i, block) in tile.as_chunks::<{ Q4K::BYTES }>().0[..blocks].iter().enumerate() {
        let lines = block[Q4K::NIBBLES..].as_chunks::<64>().0.as_chunks::<8>().0;
        let mut totals = [_mm512_setzero_ps(); ROWS];
        let [scales, minima_of] = scales_and_minima(block);
        for (pair, lines) in lines.iter().enumerate() {
            let mut of_runs = [[_mm512_setzero_si512(); ROWS]; 2];
            for (group, line) in lines.iter().enumerate() {
                if ROWS >= BUSY {
                    ask_ahead(line);
                }
                let both = load(line);
                let even = _mm512_and_si512(both, low_bits);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low_bits);
                for row in 0..ROWS {
                    let number = 8 * i + 2 * pair;
                    // SAFETY: a row has eight runs for each block of 256 columns, of which a tile
                    // has `blocks`.
                    let a = four(unsafe { &run(rows[row], number).quants[group] });
                    // SAFETY: as above.
                    let b = four(unsafe { &run(rows[row], number + 1).quants[group] });
                    of_runs[0][row] = _mm512_dpbusd_epi32(of_runs[0][row], even, a);
                    of_runs[1][row] = _mm512_dpbusd_epi32(of_runs[1][row], odd, b);
                }
            }
            for (odd, of_run) in of_runs.iter().enumerate() {
                let scale = bytes_ps(&scales[odd].as_chunks::<TILE>().0[pair]);
                for row in 0..ROWS {
                    // SAFETY: as above.
                    let of_x = unsafe { run(rows[row], 8 * i + 2 * pair + odd) };
                    let products = _mm512_mul_ps(_mm512_cvtepi32_ps(of_run[row]), scale);
                    totals[row] =
                        _mm512_fmadd_ps(products, _mm512_set1_ps(of_x.scale), totals[row]);
                }
            }
        }
        let mut minima = [_mm512_setzero_ps(); ROWS];
        for number in 0..8 {
            let minimum = bytes_ps(&minima_of[number % 2].as_chunks::<TILE>().0[number / 2]);
            for row in 0..ROWS {
                // SAFETY: as above.
                let sum = _mm512_set1_ps(unsafe { run(rows[row], 8 * i + number).sum });
                minima[row] = _mm512_fmadd_ps(minimum, sum, minima[row]);
            }
        }
        let (scale, of_minima) = block_scales(block);
        for (row, out) in out.iter_mut().enumerate() {
            let sums = _mm512_mul_ps(scale, totals[row]);
            add_to(out, _mm512_fnmadd_ps(of_minima, minima[row], sums));
        }
    }
}

/// Scales of the even and of the odd runs of a block, a byte a lane, then their minima.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernel) fn scales_and_minima(block: &[u8; Q4K::BYTES]) -> [[[u8; 64]; 2]; 2] {
    let [even, odd, high] = block[Q4K::LOW..Q4K::NIBBLES].as_chunks::<64>().0 else {
        unreachable!("three lines")
    };
    let (even, odd, high) = (load(even), load(odd), load(high));
    let (four_bits, two_bits) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    let join = |low: __m512i, high: __m512i| {
        let mut bytes = [0; 64];
        let joined =
            _mm512_or_si512(_mm512_and_si512(low, four_bits), _mm512_and_si512(high, two_bits));
        // SAFETY: 64 bytes are there to be written, and need no alignment.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), joined) };
        bytes
    };
    [
        [join(even, _mm512_slli_epi16::<4>(high)), join(odd, high)],
        [
            join(_mm512_srli_epi16::<4>(even), _mm512_slli_epi16::<2>(high)),
            join(_mm512_srli_epi16::<4>(odd), _mm512_srli_epi16::<2>(high)),
        ],
    ]
}

/// Sixteen bytes as f32.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernel) fn bytes_ps(bytes: &[u8; TILE]) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(bytes)))
}

/// A block's scale, and that of its minima.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernel) fn block_scales(block: &[u8; Q4K::BYTES]) -> (__m512, __m512) {
    let scales = block[..Q4K::LOW].as_chunks::<32>().0;
    (halves(&scales[0]), halves(&scales[1]))
}

/// See [`crate::kernel::portable::q6_k`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernel) fn q6_k(tile: &[u8], x: Int8<'_>, out: &mut [Lanes]) {
    in_groups!(out, [8 1 2 3 4 5 6 7], |first, group: ROWS| {
        q6_k_rows::<ROWS>(tile, x, first, group)
    });
}

/// Weights are 0 to 63, and 32 too large: sums begin with what takes that off. Two of them, each at
/// most 16 x 32 x 127, are still exact in f32 once they are multiplied with their scales, at most
/// 128, and added.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q6_k_rows<const ROWS: usize>(tile: &[u8], x: Int8<'_>, first: usize, out: &mut [Lanes; ROWS]) {
    let blocks = x.columns / SUPER;
    let rows = rows::<ROWS>(x, first);
    for i in 0..blocks {
        let (scale, block) = of_two::<{ Q6K::BYTES }>(tile, i);
        let of_runs = block[..Q6K::RUNS].as_chunks::<TILE>().0;
        let lines = block[Q6K::RUNS..].as_chunks::<64>().0.as_chunks::<3>().0;
        let mut totals = [_mm512_setzero_ps(); ROWS];
        for pair in 0..8 {
            let mut products = [_mm512_setzero_ps(); ROWS];
            for odd in 0..2 {
                let number = 2 * pair + odd;
                let weights = sixes(&lines[number]);
                if ROWS >= BUSY {
                    lines[number].iter().for_each(|line| ask_ahead(line));
                }
                let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(&of_runs[number])));
                for row in 0..ROWS {
                    // SAFETY: a row has eight runs for each block of 256 columns, of which a tile
                    // has `blocks`.
                    let of_x = unsafe { run(rows[row], 8 * i + pair) };
                    let mut sum = _mm512_set1_epi32(of_x.minus_32[odd]);
                    for (group, weights) in weights.iter().enumerate() {
                        let x = four(&of_x.quants[4 * odd + group]);
                        sum = _mm512_dpbusd_epi32(sum, *weights, x);
                    }
                    products[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, products[row]);
                }
            }
            for row in 0..ROWS {
                // SAFETY: as above.
                let scale = _mm512_set1_ps(unsafe { run(rows[row], 8 * i + pair).scale });
                totals[row] = _mm512_fmadd_ps(products[row], scale, totals[row]);
            }
        }
        let scale = halves(scale);
        for (row, out) in out.iter_mut().enumerate() {
            add_to(out, _mm512_mul_ps(scale, totals[row]));
        }
    }
}

/// The weights of a run of 16 columns, by fours, 0 to 63.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::kernel) fn sixes([high, a, b]: &[[u8; 64]; 3]) -> [__m512i; 4] {
    let (low_bits, high_bits) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    let (high, a, b) = (load(high), load(a), load(b));
    let join = |low: __m512i, high: __m512i| {
        _mm512_or_si512(_mm512_and_si512(low, low_bits), _mm512_and_si512(high, high_bits))
    };
    [
        join(a, _mm512_slli_epi16::<4>(high)),
        join(_mm512_srli_epi16::<4>(a), _mm512_slli_epi16::<2>(high)),
        join(b, high),
        join(_mm512_srli_epi16::<4>(b), _mm512_srli_epi16::<2>(high)),
    ]
}
