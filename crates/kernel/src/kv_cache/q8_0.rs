//! Pages in 8 bits with an f16 scale per 32 numbers of a position, as ggml's `q8_0`: 8.5 bits per
//! number, and a position that is appended changes no other.
//!
//! Sixteen keys are the rows of a Q8_0 weight panel, see [`crate::packed`]. Values are blocks of 32
//! columns: scales of the 32 positions, f16, then for both halves of the columns the quants,
//! `[8][16][4]`, four positions of a column together. With scales of 1 each half is a block of a
//! Q8_0 panel whose columns are positions: the scales of positions belong to the other operand.

use half::f16;

use super::PAGE;
#[cfg(any(test, target_arch = "x86_64"))]
use crate::activations::f32_to_bf16;
use crate::isa::multiversion;
#[cfg(any(test, target_arch = "x86_64"))]
use crate::operands::AmxTile;
use crate::operands::{F32x16, round};
use crate::packed::{BLOCK, PANEL_ROWS, Q8_0_BYTES, WeightFormat, paired_block_offsets};

/// Bytes of the scales of 32 positions.
const SCALES_BYTES: usize = 2 * PAGE;

/// Bytes of 32 columns of values.
const VALUES_BYTES: usize = SCALES_BYTES + 2 * Q8_0_BYTES;

/// Bytes of the keys of a page.
pub(super) fn key_bytes(width: usize) -> usize {
    PAGE / PANEL_ROWS * WeightFormat::Q8_0.panel_bytes(width)
}

/// Bytes of the values of a page.
pub(super) fn value_bytes(width: usize) -> usize {
    width / BLOCK * VALUES_BYTES
}

/// 32 columns of the values of a page.
pub(crate) struct Values<'a> {
    /// The scales of positions.
    pub scales: &'a [u8; SCALES_BYTES],
    /// The quants of each half of the columns.
    pub halves: [&'a [u8; Q8_0_BYTES]; 2],
}

/// The values of a page.
pub(crate) fn values(page: &[u8]) -> impl Iterator<Item = Values<'_>> {
    page.as_chunks::<VALUES_BYTES>().0.iter().map(|block| {
        let (scales, quants) = block.split_first_chunk().expect("scales");
        Values { scales, halves: quants.as_chunks().0.as_array().expect("two halves").each_ref() }
    })
}

/// Zeroes the scales of values: what an earlier sequence left may be NaN, and NaN times 0 is NaN.
pub(super) fn clear(values: &mut [u8]) {
    values.as_chunks_mut::<VALUES_BYTES>().0.iter_mut().for_each(|v| v[..SCALES_BYTES].fill(0));
}

/// Writes the key and the value of a position of the page.
pub(super) fn write(at: usize, k: &[f32], v: &[f32], keys: &mut [u8], values: &mut [u8]) {
    let lane = at % PANEL_ROWS;
    let panel = &mut keys[at / PANEL_ROWS * WeightFormat::Q8_0.panel_bytes(k.len())..];
    for (number, k) in k.as_chunks().0.iter().enumerate() {
        let (scale, quants) = quantize(k);
        let [scales, block] = paired_block_offsets(Q8_0_BYTES, number);
        panel[scales + 2 * lane..][..2].copy_from_slice(&scale.to_le_bytes());
        let lines = panel[block..].as_chunks_mut::<{ 4 * PANEL_ROWS }>().0.iter_mut();
        for (four, line) in quants.as_chunks::<4>().0.iter().zip(lines) {
            line[4 * lane..][..4].copy_from_slice(&four.map(|quant| quant as u8));
        }
    }
    let blocks = values.as_chunks_mut::<VALUES_BYTES>().0.iter_mut();
    for (v, block) in v.as_chunks().0.iter().zip(blocks) {
        let (scale, quants) = quantize(v);
        block[2 * at..][..2].copy_from_slice(&scale.to_le_bytes());
        let halves = block[SCALES_BYTES..].as_chunks_mut::<Q8_0_BYTES>().0;
        for (half, quants) in halves.iter_mut().zip(quants.as_chunks::<PANEL_ROWS>().0) {
            for (column, quant) in quants.iter().enumerate() {
                half[(at / 4 * PANEL_ROWS + column) * 4 + at % 4] = *quant as u8;
            }
        }
    }
}

/// The scale is NaN if a number is not finite, or too large for the scale.
fn quantize(values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let (mut largest, mut non_finite) = ([0f32; 8], [0f32; 8]);
    for eight in values.as_chunks::<8>().0 {
        for lane in 0..8 {
            largest[lane] = largest[lane].max(eight[lane].abs());
            non_finite[lane] += eight[lane] * 0.0;
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    let scale = f16::from_f32(largest / 127.0 + non_finite.into_iter().sum::<f32>());
    let exact = scale.to_f32();
    if !exact.is_finite() {
        return (f16::NAN, [0; BLOCK]);
    }
    let inverse = if exact > 0.0 { 1.0 / exact } else { 0.0 };
    // The rounded scale may be too small for the largest number.
    (scale, values.map(|value| round((value * inverse).clamp(-127.0, 127.0)) as i8))
}

/// An f16 that is not negative, as f32; infinity as NaN. In plain arithmetic, which compilers
/// vectorize.
#[inline(always)]
fn scale_to_f32(bits: [u8; 2]) -> f32 {
    /// 2^112: the difference of the exponents' offsets.
    const EXPONENT: f32 = f32::from_bits((112 + 127) << 23);
    let bits = u32::from(u16::from_le_bytes(bits));
    if bits >= 0x7c00 { f32::NAN } else { f32::from_bits(bits << 13) * EXPONENT }
}

/// The scales of sixteen rows or positions. Loops, here and below: closures would be compiled
/// without the instructions of a tier.
#[inline(always)]
fn scales_to_f32(bits: &[[u8; 2]]) -> F32x16 {
    let mut scales = [0.0; PANEL_ROWS];
    for (scale, bits) in scales.iter_mut().zip(bits) {
        *scale = scale_to_f32(*bits);
    }
    scales
}

/// Byte `number` of each group of four times the scale of the group.
#[inline(always)]
fn dequantize(line: &[u8; 4 * PANEL_ROWS], number: usize, scales: &F32x16) -> F32x16 {
    let (left, words) = (24 - 8 * number as u32, line.as_chunks::<4>().0);
    let mut values = [0.0; PANEL_ROWS];
    for lane in 0..PANEL_ROWS {
        let quant = i32::from_le_bytes(words[lane]) << left >> 24;
        values[lane] = quant as f32 * scales[lane];
    }
    values
}

/// Sixteen pairs of bf16, the even one in the lower half, as they lie in lines of a bf16 page and
/// in AMX tiles.
#[cfg(any(test, target_arch = "x86_64"))]
#[inline(always)]
fn to_bf16_pairs(even: &F32x16, odd: &F32x16) -> [[u8; 4]; PANEL_ROWS] {
    let mut pairs = [[0; 4]; PANEL_ROWS];
    for lane in 0..PANEL_ROWS {
        let (even, odd) = (u32::from(f32_to_bf16(even[lane])), u32::from(f32_to_bf16(odd[lane])));
        pairs[lane] = (even | odd << 16).to_le_bytes();
    }
    pairs
}

/// Calls `write(column / 4, [four columns])` of sixteen keys.
#[inline(always)]
fn for_each_column(panel: &[u8], width: usize, mut write: impl FnMut(usize, [F32x16; 4])) {
    for number in 0..width / BLOCK {
        let [scales, block] = paired_block_offsets(Q8_0_BYTES, number);
        let scales = scales_to_f32(&panel[scales..].as_chunks().0[..PANEL_ROWS]);
        let lines = panel[block..][..Q8_0_BYTES].as_chunks().0;
        for (group, line) in lines.iter().enumerate() {
            // Unrolled, here and below: the compiler would vectorize this loop, with scatters.
            let column = |byte| dequantize(line, byte, &scales);
            let columns = [column(0), column(1), column(2), column(3)];
            write(number * (BLOCK / 4) + group, columns);
        }
    }
}

/// Calls `write(chunk, position / 4, [four positions])` for chunks of sixteen columns of values.
#[inline(always)]
fn for_each_position(page: &[u8], mut write: impl FnMut(usize, usize, [F32x16; 4])) {
    for (number, block) in page.as_chunks::<VALUES_BYTES>().0.iter().enumerate() {
        let (scales, quants) = block.split_at(SCALES_BYTES);
        let scales = scales.as_chunks::<2>().0;
        for (half, quants) in quants.as_chunks::<Q8_0_BYTES>().0.iter().enumerate() {
            for (group, line) in quants.as_chunks().0.iter().enumerate() {
                let scales = &scales[4 * group..][..4];
                let position =
                    |byte: usize| dequantize(line, byte, &[scale_to_f32(scales[byte]); PANEL_ROWS]);
                let positions = [position(0), position(1), position(2), position(3)];
                write(2 * number + half, group, positions);
            }
        }
    }
}

multiversion! {
    /// The keys of a page in f32, `[2][width][16]`.
    pub(crate) fn dequantize_keys(page: &[u8], width: usize, lines: &mut [F32x16]) {
        let panels = page.chunks_exact(WeightFormat::Q8_0.panel_bytes(width));
        for (panel, lines) in panels.zip(lines.chunks_exact_mut(width)) {
            for_each_column(panel, width, |four, columns| {
                lines[4 * four..][..4].copy_from_slice(&columns);
            });
        }
    }
}

multiversion! {
    /// The values of a page in f32, `[32][width]`.
    pub(crate) fn dequantize_values(page: &[u8], width: usize, lines: &mut [F32x16]) {
        let chunks = width / PANEL_ROWS;
        for_each_position(page, |chunk, four, positions| {
            for (i, line) in positions.into_iter().enumerate() {
                lines[(4 * four + i) * chunks + chunk] = line;
            }
        });
    }
}

multiversion! {
    /// The keys of a page as a bf16 page has them.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub(crate) fn round_keys(page: &[u8], width: usize, tiles: &mut [AmxTile]) {
        let lines: &mut [[[u8; 4]; PANEL_ROWS]] = bytemuck::cast_slice_mut(tiles);
        let panels = page.chunks_exact(WeightFormat::Q8_0.panel_bytes(width));
        for (panel, lines) in panels.zip(lines.chunks_exact_mut(width / 2)) {
            for_each_column(panel, width, |four, [a, b, c, d]| {
                lines[2 * four] = to_bf16_pairs(&a, &b);
                lines[2 * four + 1] = to_bf16_pairs(&c, &d);
            });
        }
    }
}

multiversion! {
    /// The values of a page as a bf16 page has them.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub(crate) fn round_values(page: &[u8], width: usize, tiles: &mut [AmxTile]) {
        let lines: &mut [[[u8; 4]; PANEL_ROWS]] = bytemuck::cast_slice_mut(tiles);
        let chunks = width / PANEL_ROWS;
        for_each_position(page, |chunk, four, [a, b, c, d]| {
            lines[2 * four * chunks + chunk] = to_bf16_pairs(&a, &b);
            lines[(2 * four + 1) * chunks + chunk] = to_bf16_pairs(&c, &d);
        });
    }
}

multiversion! {
    /// Softmax weights of rows, each multiplied with the scale of its position.
    pub(crate) fn scale_weights(
        weights: &[[f32; PAGE]],
        scales: &[u8; SCALES_BYTES],
        scaled: &mut [[f32; PAGE]],
    ) {
        let halves = scales.as_chunks::<2>().0.as_chunks::<PANEL_ROWS>().0.iter();
        for (half, scales) in halves.enumerate() {
            let (first, scales) = (half * PANEL_ROWS, scales_to_f32(scales));
            for (weights, scaled) in weights.iter().zip(&mut *scaled) {
                for lane in 0..PANEL_ROWS {
                    scaled[first + lane] = weights[first + lane] * scales[lane];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    const WIDTH: usize = 64;

    fn page() -> (Vec<u8>, Vec<u8>) {
        (vec![0; key_bytes(WIDTH)], vec![0; value_bytes(WIDTH)])
    }

    /// The key and the value of a position, as stored.
    fn read(keys: &[u8], values: &[u8], at: usize) -> [Vec<f32>; 2] {
        let mut lines = vec![[0.0; PANEL_ROWS]; PAGE * WIDTH / PANEL_ROWS];
        dequantize_keys(Isa::PORTABLE, keys, WIDTH, &mut lines);
        let block = &lines[at / PANEL_ROWS * WIDTH..][..WIDTH];
        let key = block.iter().map(|line| line[at % PANEL_ROWS]).collect();
        dequantize_values(Isa::PORTABLE, values, WIDTH, &mut lines);
        [key, lines.as_flattened()[at * WIDTH..][..WIDTH].to_vec()]
    }

    #[test]
    fn a_number_takes_eight_and_a_half_bits() {
        for width in [64, 128, 256] {
            let numbers = 2 * PAGE * width;
            assert_eq!((key_bytes(width) + value_bytes(width)) * 8 * 2, numbers * 17);
        }
        // Keys of an odd number of blocks have half a line of scales to spare.
        assert_eq!(key_bytes(96) + value_bytes(96), 2 * PAGE * 96 / 32 * 34 + 2 * 32);
    }

    #[test]
    fn known_numbers_are_stored_and_no_position_changes_another() {
        let (mut keys, mut values) = page();
        let key = |at: usize| -> Vec<f32> { (0..WIDTH).map(|i| (i + at) as f32).collect() };
        let value = |at: usize| -> Vec<f32> { (0..WIDTH).map(|i| at as f32 - i as f32).collect() };
        let mut known: Vec<[Vec<f32>; 2]> = Vec::new();
        for at in 0..PAGE {
            write(at, &key(at), &value(at), &mut keys, &mut values);
            for (before, known) in known.iter().enumerate() {
                assert_eq!(read(&keys, &values, before), *known, "{before} at {at}");
            }
            let [k, v] = read(&keys, &values, at);
            for (near, exact) in [(&k, key(at)), (&v, value(at))] {
                for (near, exact) in near.as_chunks::<BLOCK>().0.iter().zip(exact.as_chunks().0) {
                    let largest = exact.iter().fold(0f32, |max, x: &f32| max.max(x.abs()));
                    for (near, exact) in near.iter().zip::<&[f32; BLOCK]>(exact) {
                        assert!((near - exact).abs() <= largest / 127.0 * 0.51, "{near} {exact}");
                    }
                }
            }
            known.push([k, v]);
        }
        // 127 times a scale that f16 holds is exact.
        let exact: Vec<f32> = (0..WIDTH).map(|i| if i % 2 == 0 { 127.0 } else { -5.0 }).collect();
        write(7, &exact, &exact, &mut keys, &mut values);
        assert_eq!(read(&keys, &values, 7), [exact.clone(), exact]);
    }

    #[test]
    fn zeros_and_numbers_that_are_not_finite_or_too_large() {
        let (mut keys, mut values) = page();
        write(3, &[0.0; WIDTH], &[1e-12; WIDTH], &mut keys, &mut values);
        assert_eq!(read(&keys, &values, 3), [vec![0.0; WIDTH], vec![0.0; WIDTH]]);
        for number in [f32::NAN, f32::INFINITY, 1e30] {
            let mut numbers = [1.0; WIDTH];
            numbers[40] = number;
            write(3, &numbers, &numbers, &mut keys, &mut values);
            for stored in read(&keys, &values, 3) {
                assert!(stored[..32].iter().all(|v| *v == 1.0 || (v - 1.0).abs() < 1e-3));
                assert!(stored[32..].iter().all(|v| v.is_nan()), "{number}");
            }
        }
        clear(&mut values);
        assert_eq!(read(&keys, &values, 3)[1], [0.0; WIDTH]);
    }

    #[test]
    fn every_tier_dequantizes_alike_and_bf16_is_the_same_rounded() {
        let (mut keys, mut values) = page();
        for at in 0..PAGE {
            let numbers = crate::tests::numbers(2 * WIDTH, at as u64);
            write(at, &numbers[..WIDTH], &numbers[WIDTH..], &mut keys, &mut values);
        }
        let count = PAGE * WIDTH;
        let f32_page = |isa| {
            let mut lines = vec![[0.0; PANEL_ROWS]; 2 * count / PANEL_ROWS];
            let (key_lines, value_lines) = lines.split_at_mut(count / PANEL_ROWS);
            dequantize_keys(isa, &keys, WIDTH, key_lines);
            dequantize_values(isa, &values, WIDTH, value_lines);
            lines.into_flattened()
        };
        let exact = f32_page(Isa::PORTABLE);
        for isa in Isa::for_tests() {
            assert_eq!(f32_page(isa), exact, "{}", isa.name());
            let mut tiles = vec![AmxTile::ZERO; 2 * count / 512];
            let (key_tiles, value_tiles) = tiles.split_at_mut(count / 512);
            round_keys(isa, &keys, WIDTH, key_tiles);
            round_values(isa, &values, WIDTH, value_tiles);
            let bits: &[u16] = bytemuck::cast_slice(&tiles);
            for at in 0..PAGE {
                for column in 0..WIDTH {
                    let key = (at / 16 * WIDTH + column / 2 * 2) * 16 + at % 16 * 2 + column % 2;
                    let exact_key = exact[(at / 16 * WIDTH + column) * 16 + at % 16];
                    assert_eq!(bits[key], f32_to_bf16(exact_key), "{}", isa.name());
                    let value = count + (at / 2 * WIDTH + column) * 2 + at % 2;
                    let exact_value = exact[count + at * WIDTH + column];
                    assert_eq!(bits[value], f32_to_bf16(exact_value), "{}", isa.name());
                }
            }
        }
    }
}
