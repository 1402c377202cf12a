//! Activations in the formats that the GEMM kernels multiply weights with:
//!
//! * 8 bits with one scale per 32 columns, as ggml's `q8_0`: for quantized weights.
//! * 16 bits with one scale per 256 columns, for prefill of some formats without VNNI: activations
//!   use 13 bits and weights 12, so that 256 products fit in an i32. Finer than bf16 except for
//!   numbers that are very small beside the largest of their block.
//! * bf16 in AMX tiles of 16 rows and 32 columns, where the CPU multiplies bf16.
//! * f32, for weights of 16 and 32 bits.

use super::dispatch;
use super::isa::{Isa, multiversion};
use super::operands::{AmxTile, INT16_ACTIVATION_MAX, Int16Rows, Q8Block, Q8Rows, round};
use super::packed::{BLOCK, PANEL_ROWS, SUPER_BLOCK};
use super::pool::Pool;

/// Number format of activations in a GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationFormat {
    /// Single precision, as computed.
    F32,
    /// 8-bit integers.
    Int8,
    /// 16-bit integers.
    Int16,
    /// bfloat16.
    Bf16,
}

/// Rows of activations, `[rows, columns]`, and their conversions to other formats. Buffers are
/// reused for the next rows.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    /// Columns with padding: a multiple of [`BLOCK`].
    columns: usize,
    /// Formats that the current rows were converted to.
    converted: Vec<ActivationFormat>,
    values: Vec<f32>,
    /// `[rows, columns / 32]`
    q8: Vec<Q8Block>,
    /// Blocks of 256 columns, of which the last may be narrower: each `[rows, 256]`.
    int16: Vec<i16>,
    /// `[columns / 256, rows]`, rounded up: the scales of `int16`.
    int16_scales: Vec<f32>,
    /// `[rows / 16, columns / 32]`, rounded up; padding rows may hold any number.
    amx_tiles: Vec<AmxTile>,
}

impl Activations {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Replaces the rows: `row(number, values)` writes each. Drops all conversions.
    pub fn fill(
        &mut self,
        pool: &Pool,
        rows: usize,
        columns: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let padded = self.resize(rows, columns);
        let height = rows_per_task(rows, pool);
        pool.run_chunks(&mut self.values, height * padded, |number, chunk| {
            for (i, out) in chunk.chunks_exact_mut(padded).enumerate() {
                row(number * height + i, &mut out[..columns]);
            }
        });
    }

    /// Replaces the rows, to be written by the caller: `[rows, padded columns]`, padding zeroed.
    pub(super) fn rows_mut(&mut self, rows: usize, columns: usize) -> &mut [f32] {
        self.resize(rows, columns);
        &mut self.values
    }

    /// Sets the shape; returns the padded columns.
    fn resize(&mut self, rows: usize, columns: usize) -> usize {
        (self.rows, self.columns) = (rows, columns.next_multiple_of(BLOCK));
        self.converted.clear();
        if self.columns != columns {
            self.values.clear();
        }
        self.values.resize(rows * self.columns, 0.0);
        self.columns
    }

    /// Converts the rows to a format, unless they have been.
    pub(super) fn convert(&mut self, isa: Isa, pool: &Pool, format: ActivationFormat) {
        if format == ActivationFormat::F32 || self.converted.contains(&format) {
            return;
        }
        self.converted.push(format);
        let (rows, columns) = (self.rows, self.columns);
        let height = rows_per_task(rows, pool);
        match format {
            ActivationFormat::F32 => {}
            ActivationFormat::Int8 => {
                let row_blocks = columns / BLOCK;
                self.q8.resize(rows * row_blocks, Q8Block::default());
                let values = &self.values;
                pool.run_chunks(&mut self.q8, height * row_blocks, |number, blocks| {
                    let values = &values[number * height * columns..];
                    quantize_q8(isa, values, blocks);
                });
            }
            ActivationFormat::Int16 => {
                let blocks = columns.div_ceil(SUPER_BLOCK);
                self.int16.resize(rows * columns, 0);
                self.int16_scales.resize(rows * blocks, 0.0);
                let values = &self.values;
                let mut parts: Vec<_> = self
                    .int16
                    .chunks_mut(rows * SUPER_BLOCK)
                    .zip(self.int16_scales.chunks_mut(rows))
                    .enumerate()
                    .flat_map(|(block, (quants, scales))| {
                        let width = quants.len() / rows;
                        let quants = quants.chunks_mut(height * width);
                        quants.zip(scales.chunks_mut(height)).enumerate().map(
                            move |(i, (quants, scales))| {
                                (i * height * columns + block * SUPER_BLOCK, quants, scales)
                            },
                        )
                    })
                    .collect();
                pool.run_chunks(&mut parts, 1, |_, parts| {
                    for (first, quants, scales) in parts {
                        quantize_int16(isa, &values[*first..], columns, quants, scales);
                    }
                });
            }
            ActivationFormat::Bf16 => {
                let row_tiles = columns / BLOCK;
                self.amx_tiles.resize(rows.div_ceil(PANEL_ROWS) * row_tiles, AmxTile::ZERO);
                let mut parts: Vec<_> = self
                    .values
                    .chunks(PANEL_ROWS * columns)
                    .zip(self.amx_tiles.chunks_mut(row_tiles))
                    .collect();
                pool.run_chunks(&mut parts, 1, |_, parts| {
                    for (values, tiles) in parts {
                        round_to_amx_tiles(isa, columns, values, tiles);
                    }
                });
            }
        }
    }

    /// Columns, with padding.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The rows in f32, padded.
    pub fn f32(&self) -> &[f32] {
        &self.values
    }

    /// The rows in 8 bits, after their conversion.
    pub(super) fn q8(&self) -> Q8Rows<'_> {
        self.assert_converted(ActivationFormat::Int8);
        Q8Rows::new(self.columns, &self.q8)
    }

    /// A block of 256 columns, or of those left, in 16 bits, after their conversion.
    pub(super) fn int16(&self, block: usize) -> Int16Rows<'_> {
        self.assert_converted(ActivationFormat::Int16);
        let columns = SUPER_BLOCK.min(self.columns - block * SUPER_BLOCK);
        let at = self.rows * block * SUPER_BLOCK;
        Int16Rows {
            columns,
            quants: &self.int16[at..at + self.rows * columns],
            scales: &self.int16_scales[block * self.rows..(block + 1) * self.rows],
        }
    }

    /// All rows as AMX tiles of bf16, after their conversion.
    pub(super) fn amx_tiles(&self) -> &[AmxTile] {
        self.assert_converted(ActivationFormat::Bf16);
        &self.amx_tiles
    }

    /// Otherwise the buffer holds earlier rows, or nothing.
    fn assert_converted(&self, format: ActivationFormat) {
        assert!(self.converted.contains(&format), "activations were not converted to {format:?}");
    }
}

/// One or two rows take less time than waking threads.
fn rows_per_task(rows: usize, pool: &Pool) -> usize {
    if rows <= 2 { rows.max(1) } else { rows.div_ceil(4 * pool.threads()) }
}

/// The largest magnitude, and NaN if a value is NaN or infinite, else 0. Integers cannot represent
/// these values, so the scale of their block becomes NaN.
#[inline(always)]
fn abs_max_and_non_finite(values: &[f32]) -> (f32, f32) {
    let (mut abs_max, mut non_finite) = ([0f32; 16], [0f32; 16]);
    for chunk in values.as_chunks::<16>().0 {
        for lane in 0..16 {
            abs_max[lane] = abs_max[lane].max(chunk[lane].abs());
            non_finite[lane] += chunk[lane] * 0.0;
        }
    }
    (abs_max.into_iter().fold(0.0, f32::max), non_finite.into_iter().sum())
}

/// Quantizes as many values as `blocks` hold.
pub(super) fn quantize_q8(isa: Isa, values: &[f32], blocks: &mut [Q8Block]) {
    if !dispatch::quantize_q8(isa, values, blocks) {
        quantize_q8_autovectorized(isa, values, blocks);
    }
}

multiversion! {
    /// See [`quantize_q8`].
    fn quantize_q8_autovectorized(values: &[f32], blocks: &mut [Q8Block]) {
        for (values, block) in values.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            let (abs_max, non_finite) = abs_max_and_non_finite(values);
            let inverse = if abs_max > 0.0 { 127.0 / abs_max } else { 0.0 };
            let mut halves = [0i32; 2];
            let quants = block.quants.as_flattened_mut().as_chunks_mut::<16>().0;
            for (half, (values, quants)) in
                values.as_chunks::<16>().0.iter().zip(quants).enumerate()
            {
                for lane in 0..16 {
                    let quant = round(values[lane] * inverse);
                    quants[lane] = quant as i8;
                    halves[half] = halves[half].wrapping_add(quant);
                }
            }
            block.scale = abs_max / 127.0 + non_finite;
            block.set_sums(halves);
        }
    }
}

multiversion! {
    /// Quantizes rows of a block of columns; rows of `values` begin `stride` apart.
    fn quantize_int16(values: &[f32], stride: usize, quants: &mut [i16], scales: &mut [f32]) {
        let width = quants.len() / scales.len();
        for ((row, quants), scale) in quants.chunks_exact_mut(width).enumerate().zip(scales) {
            let values = &values[row * stride..][..width];
            let (abs_max, non_finite) = abs_max_and_non_finite(values);
            let inverse = if abs_max > 0.0 { INT16_ACTIVATION_MAX / abs_max } else { 0.0 };
            for (value, quant) in values.iter().zip(quants) {
                *quant = round(value * inverse) as i16;
            }
            *scale = abs_max / INT16_ACTIVATION_MAX + non_finite;
        }
    }
}

/// Rounds to the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { rounded as u16 }
}

multiversion! {
    /// Rounds at most sixteen rows of `columns` numbers to a row of AMX tiles.
    pub(super) fn round_to_amx_tiles(columns: usize, values: &[f32], tiles: &mut [AmxTile]) {
        for (row, values) in values.chunks_exact(columns).enumerate() {
            for (values, tile) in values.as_chunks::<BLOCK>().0.iter().zip(&mut *tiles) {
                for (value, to) in values.iter().zip(&mut tile.0[row]) {
                    *to = f32_to_bf16(*value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_values_are_near_and_their_sums_are_exact() {
        let pool = Pool::new(2).unwrap();
        let (rows, columns) = (3, 300);
        let values: Vec<f32> =
            (0..rows * columns).map(|i| (i * 7919 % 1009) as f32 / 100.0 - 5.0).collect();
        for isa in Isa::for_tests() {
            let mut x = Activations::default();
            x.fill(&pool, rows, columns, |row, out| {
                out.copy_from_slice(&values[row * columns..][..columns])
            });
            assert_eq!((x.rows(), x.columns()), (3, 320));
            x.convert(isa, &pool, ActivationFormat::Int8);
            x.convert(isa, &pool, ActivationFormat::Int16);
            let q8 = x.q8();
            for row in 0..rows {
                for column in 0..320 {
                    let value = if column < 300 { values[row * 300 + column] } else { 0.0 };
                    let at = row * 320 + column;
                    let block = q8.blocks[at / 32];
                    let near = f32::from(block.quants.as_flattened()[at % 32]) * block.scale;
                    assert!((near - value).abs() <= 5.1 / 127.0 * 0.51, "{near} {value}");
                    let int16 = x.int16(column / 256);
                    let quant = int16.quants[row * int16.columns + column % 256];
                    let near = f32::from(quant) * int16.scales[row];
                    assert!((near - value).abs() <= 5.1 / 4095.0 * 0.51, "{near} {value}");
                }
            }
            for block in q8.blocks {
                let halves = block.quants.as_flattened().chunks(16);
                let sums: Vec<i32> =
                    halves.map(|h| h.iter().map(|&q| i32::from(q)).sum()).collect();
                assert_eq!(block.sum, block.scale * (sums[0] + sums[1]) as f32);
                assert_eq!(block.minus_128_sum, -128 * (sums[0] + sums[1]));
                assert_eq!(block.minus_32_sums, [-32 * sums[0], -32 * sums[1]]);
                assert_eq!(block.minus_16_sums.map(i32::from), [-16 * sums[0], -16 * sums[1]]);
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_makes_the_scale_nan() {
        let pool = Pool::new(1).unwrap();
        for isa in Isa::for_tests() {
            for non_finite in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = Activations::default();
                x.fill(&pool, 1, 96, |_, out| {
                    out.fill(1.0);
                    out[32 + 7] = non_finite;
                });
                x.convert(isa, &pool, ActivationFormat::Int8);
                x.convert(isa, &pool, ActivationFormat::Int16);
                let nan_scales: Vec<bool> =
                    x.q8().blocks.iter().map(|block| block.scale.is_nan()).collect();
                assert_eq!(nan_scales, [false, true, false], "{} {non_finite}", isa.name());
                assert!(x.int16(0).scales[0].is_nan(), "{} {non_finite}", isa.name());
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let pool = Pool::new(1).unwrap();
        for isa in Isa::for_tests() {
            let mut x = Activations::default();
            x.fill(&pool, 1, 32, |_, out| out.fill(0.0));
            x.convert(isa, &pool, ActivationFormat::Int8);
            x.convert(isa, &pool, ActivationFormat::Int16);
            assert_eq!(x.q8().blocks, [Q8Block::default()]);
            assert!(x.int16(0).quants.iter().all(|&q| q == 0));
        }
    }

    #[test]
    fn a_format_that_these_rows_were_not_converted_to_is_never_read() {
        let pool = Pool::new(1).unwrap();
        let mut x = Activations::default();
        x.fill(&pool, 1, 32, |_, out| out.fill(1.0));
        for format in [ActivationFormat::Int8, ActivationFormat::Int16, ActivationFormat::Bf16] {
            x.convert(Isa::PORTABLE, &pool, format);
        }
        x.fill(&pool, 1, 32, |_, out| out.fill(2.0));
        type Read = fn(&Activations);
        let reads: [(ActivationFormat, Read); 3] = [
            (ActivationFormat::Int8, |x| _ = x.q8()),
            (ActivationFormat::Int16, |x| _ = x.int16(0)),
            (ActivationFormat::Bf16, |x| _ = x.amx_tiles()),
        ];
        for (format, read) in reads {
            let panic = std::panic::catch_unwind(|| read(&x)).unwrap_err();
            let message = panic.downcast_ref::<String>().unwrap();
            assert_eq!(*message, format!("activations were not converted to {format:?}"));
        }
    }
}
