//! Rows of activations in the forms that kernels multiply weights with.
//!
//! * 8 bits with a scale per 32 columns: integers as in ggml's `q8_0`, for weights of 4, 6 and 8
//!   bits.
//! * 16 bits with a scale per 256 columns, for many rows: 13 bits are used, weights have 12, so
//!   that 256 products fit in 32 bits. Finer than bf16 for all but the smallest numbers beside a
//!   large one.
//! * bf16 in squares of 16 rows and 32 columns, for many rows where there is a matrix unit.
//! * f32, for plain weights.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::isa::{Isa, Tier, tiered};
use super::pool::Pool;
use super::tiles::{BLOCK, SUPER, TILE};

/// Largest magnitude of an activation of 16 bits. With [`WEIGHT_16`]: 256 x 4095 x 2047 < 2^31.
pub const INPUT_16: f32 = 4095.0;

/// Largest magnitude of a weight of 16 bits.
pub const WEIGHT_16: f32 = 2047.0;

/// How activations are rounded before they meet weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not at all.
    F32,
    /// To 8 bits.
    Int8,
    /// To 16 bits.
    Int16,
    /// To the upper 16 bits of f32.
    Bf16,
}

/// What a matrix unit takes at once, sixteen lines of bf16: sixteen rows of 32 activations, or of
/// as many weights in pairs of columns, `[16][16][2]`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Square(pub [[u16; BLOCK]; TILE]);

impl Square {
    pub(super) const ZERO: Self = Self([[0; BLOCK]; TILE]);
}

// SAFETY: an array of integers, without padding: its size is a multiple of its alignment.
unsafe impl bytemuck::Zeroable for Square {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Square {}

/// Some rows of activations, `[rows, columns]`, and the forms that were made of them. The memory is
/// kept for the next rows.
#[derive(Debug, Default)]
pub struct Inputs {
    rows: usize,
    /// Columns as they are multiplied: a multiple of [`BLOCK`].
    columns: usize,
    made: Vec<Kind>,
    values: Vec<f32>,
    /// `[rows, columns / 32]`
    int8: Vec<Rounded>,
    /// Block by block of 256 columns, the last may be narrower: `[rows, 256]`, as they are
    /// multiplied with a panel.
    int16: Vec<i16>,
    /// `[columns / 256, rows]`, rounded up: the scales of `int16`.
    scales16: Vec<f32>,
    /// `[rows / 16, columns / 32]`, rounded up; rows beyond the last have any numbers.
    squares: Vec<Square>,
}

/// A run of 32 activations of 8 bits, and what is needed of them: together, so that a kernel has
/// one place of each row to follow.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct Rounded {
    pub quants: [[i8; 4]; 8],
    pub scale: f32,
    /// The sum of the quants, times the scale.
    pub sum: f32,
    /// Minus 128 times the sum of the quants: takes 128 off weights of 8 bits.
    pub minus_128: i32,
    /// Minus 32 times the sum of either half: takes 32 off weights of 6 bits.
    pub minus_32: [i32; 2],
    /// Half of that.
    pub minus_16: [i16; 2],
}

impl Rounded {
    /// Keeps what is needed of the sums of either half, once there is a scale.
    #[inline(always)]
    pub(super) fn keep_sums(&mut self, halves: [i32; 2]) {
        let sum = halves[0].wrapping_add(halves[1]);
        self.sum = self.scale * sum as f32;
        self.minus_128 = sum.wrapping_mul(-128);
        self.minus_32 = halves.map(|half| half.wrapping_mul(-32));
        self.minus_16 = halves.map(|half| half.wrapping_mul(-16) as i16);
    }
}

/// Rows of 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Int8<'a> {
    pub columns: usize,
    /// `[rows, columns / 32]`
    pub runs: &'a [Rounded],
}

impl<'a> Int8<'a> {
    /// The runs of a row.
    pub(super) fn row(&self, number: usize) -> &'a [Rounded] {
        let across = self.columns / BLOCK;
        &self.runs[number * across..(number + 1) * across]
    }
}

/// A block of columns of 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Int16<'a> {
    /// At most 256, and even.
    pub columns: usize,
    /// `[rows, columns]`
    pub quants: &'a [i16],
    /// One a row.
    pub scales: &'a [f32],
}

impl Inputs {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes in new rows, which `row` writes, given their numbers; what was made of the old ones is
    /// forgotten.
    pub fn fill(
        &mut self,
        pool: &Pool,
        rows: usize,
        columns: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let padded = self.begin(rows, columns);
        let part = rows_a_task(rows, pool);
        pool.chunks(&mut self.values, part * padded, |number, part_rows| {
            for (i, out) in part_rows.chunks_exact_mut(padded).enumerate() {
                row(number * part + i, &mut out[..columns]);
            }
        });
    }

    /// Room for new rows, `[rows, columns with padding]`; the padding is 0.
    pub(super) fn room(&mut self, rows: usize, columns: usize) -> &mut [f32] {
        self.begin(rows, columns);
        &mut self.values
    }

    fn begin(&mut self, rows: usize, columns: usize) -> usize {
        (self.rows, self.columns) = (rows, columns.next_multiple_of(BLOCK));
        self.made.clear();
        if self.columns != columns {
            self.values.clear();
        }
        self.values.resize(rows * self.columns, 0.0);
        self.columns
    }

    /// Makes a form, if it was not made before.
    pub fn make(&mut self, isa: Isa, pool: &Pool, kind: Kind) {
        if kind == Kind::F32 || self.made.contains(&kind) {
            return;
        }
        self.made.push(kind);
        let (rows, columns) = (self.rows, self.columns);
        let part = rows_a_task(rows, pool);
        match kind {
            Kind::F32 => {}
            Kind::Int8 => {
                let across = columns / BLOCK;
                self.int8.resize(rows * across, Rounded::default());
                let values = &self.values;
                pool.chunks(&mut self.int8, part * across, |number, runs| {
                    to_int8(isa, &values[number * part * columns..], runs);
                });
            }
            Kind::Int16 => {
                let blocks = columns.div_ceil(SUPER);
                self.int16.resize(rows * columns, 0);
                self.scales16.resize(rows * blocks, 0.0);
                let values = &self.values;
                let mut parts: Vec<_> = self
                    .int16
                    .chunks_mut(rows * SUPER)
                    .zip(self.scales16.chunks_mut(rows))
                    .enumerate()
                    .flat_map(|(block, (quants, scales))| {
                        let width = quants.len() / rows;
                        let parts = quants.chunks_mut(part * width).zip(scales.chunks_mut(part));
                        parts.enumerate().map(move |(i, (quants, scales))| {
                            (i * part * columns + block * SUPER, quants, scales)
                        })
                    })
                    .collect();
                pool.chunks(&mut parts, 1, |_, parts| {
                    for (first, quants, scales) in parts {
                        to_int16(isa, &values[*first..], columns, quants, scales);
                    }
                });
            }
            Kind::Bf16 => {
                let across = columns / BLOCK;
                self.squares.resize(rows.div_ceil(TILE) * across, Square::ZERO);
                let mut parts: Vec<_> = self
                    .values
                    .chunks(TILE * columns)
                    .zip(self.squares.chunks_mut(across))
                    .collect();
                pool.chunks(&mut parts, 1, |_, parts| {
                    for (values, squares) in parts {
                        to_bf16(isa, columns, values, squares);
                    }
                });
            }
        }
    }

    /// The columns of the rows, with padding.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The rows as they were set, padded.
    pub fn f32(&self) -> &[f32] {
        &self.values
    }

    /// The rows of 8 bits. To be made before.
    pub(super) fn int8(&self) -> Int8<'_> {
        self.assert_made(Kind::Int8);
        Int8 { columns: self.columns, runs: &self.int8 }
    }

    /// A block of 256 columns, or what is left of them. To be made before.
    pub(super) fn int16(&self, block: usize) -> Int16<'_> {
        self.assert_made(Kind::Int16);
        let columns = SUPER.min(self.columns - block * SUPER);
        let at = self.rows * block * SUPER;
        Int16 {
            columns,
            quants: &self.int16[at..at + self.rows * columns],
            scales: &self.scales16[block * self.rows..(block + 1) * self.rows],
        }
    }

    /// As [`Inputs::int8`], but of all rows.
    pub(super) fn squares(&self) -> &[Square] {
        self.assert_made(Kind::Bf16);
        &self.squares
    }

    /// What lies there otherwise is of other rows, or nothing.
    fn assert_made(&self, kind: Kind) {
        assert!(self.made.contains(&kind), "activations were not made {kind:?}");
    }
}

/// Few rows are done sooner than threads are woken.
fn rows_a_task(rows: usize, pool: &Pool) -> usize {
    if rows <= 2 { rows.max(1) } else { rows.div_ceil(4 * pool.threads()) }
}

/// 1.5 x 2^23: what is added to it is rounded to an integer, the nearest and the even of two. For
/// magnitudes below 2^22.
const ROUND: f32 = 12_582_912.0;

/// Rounds to the nearest integer, in one addition that every CPU has.
#[inline(always)]
pub(super) fn round(value: f32) -> i32 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// The largest magnitude, and 0, or NaN where a value is none or not finite: an integer could not
/// show it, so a scale has to.
#[inline(always)]
fn extent(values: &[f32]) -> (f32, f32) {
    let (mut most, mut nan) = ([0f32; 16], [0f32; 16]);
    for some in values.as_chunks::<16>().0 {
        for lane in 0..16 {
            most[lane] = most[lane].max(some[lane].abs());
            nan[lane] += some[lane] * 0.0;
        }
    }
    (most.into_iter().fold(0.0, f32::max), nan.into_iter().sum())
}

/// Rounds as many values as there are runs for.
fn to_int8(isa: Isa, values: &[f32], runs: &mut [Rounded]) {
    match isa.tier() {
        Tier::Portable => to_int8_plain(isa, values, runs),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => to_int8_plain(isa, values, runs),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these tiers is only made on a CPU that has AVX-512.
        Tier::Avx512 | Tier::Amx => unsafe { avx512::to_int8(values, runs) },
    }
}

tiered! {
    fn to_int8_plain(values: &[f32], runs: &mut [Rounded]) {
        for (values, run) in values.as_chunks::<BLOCK>().0.iter().zip(runs) {
            let (most, nan) = extent(values);
            let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
            let mut halves = [0i32; 2];
            let quants = run.quants.as_flattened_mut().as_chunks_mut::<16>().0;
            for (half, (values, quants)) in
                values.as_chunks::<16>().0.iter().zip(quants).enumerate()
            {
                for lane in 0..16 {
                    let quant = round(values[lane] * inverse);
                    quants[lane] = quant as i8;
                    halves[half] = halves[half].wrapping_add(quant);
                }
            }
            run.scale = most / 127.0 + nan;
            run.keep_sums(halves);
        }
    }
}

tiered! {
    /// Rows of a block of columns; rows of `values` begin `stride` apart.
    fn to_int16(values: &[f32], stride: usize, quants: &mut [i16], scales: &mut [f32]) {
        let width = quants.len() / scales.len();
        for ((row, quants), scale) in quants.chunks_exact_mut(width).enumerate().zip(scales) {
            let values = &values[row * stride..][..width];
            let (most, nan) = extent(values);
            let inverse = if most > 0.0 { INPUT_16 / most } else { 0.0 };
            for (value, quant) in values.iter().zip(quants) {
                *quant = round(value * inverse) as i16;
            }
            *scale = most / INPUT_16 + nan;
        }
    }
}

/// Rounds to the nearest bf16, the even of two; NaN stays NaN.
#[inline(always)]
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { rounded as u16 }
}

tiered! {
    /// Rows of `columns` numbers, at most sixteen, as a row of squares.
    pub(super) fn to_bf16(columns: usize, values: &[f32], squares: &mut [Square]) {
        for (row, values) in values.chunks_exact(columns).enumerate() {
            for (values, square) in values.as_chunks::<BLOCK>().0.iter().zip(&mut *squares) {
                for (value, to) in values.iter().zip(&mut square.0[row]) {
                    *to = bf16(*value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_has_known_values() {
        for (value, rounded) in
            [(0.0, 0), (0.5, 0), (1.5, 2), (-0.5, 0), (-2.5, -2), (126.6, 127), (-4095.0, -4095)]
        {
            assert_eq!(round(value), rounded, "{value}");
        }
    }

    #[test]
    fn what_is_rounded_is_near_and_its_sums_are_exact() {
        let pool = Pool::new(2).unwrap();
        let (rows, columns) = (3, 300);
        let values: Vec<f32> =
            (0..rows * columns).map(|i| (i * 7919 % 1009) as f32 / 100.0 - 5.0).collect();
        for isa in Isa::tested() {
            let mut inputs = Inputs::default();
            inputs.fill(&pool, rows, columns, |row, out| {
                out.copy_from_slice(&values[row * columns..][..columns])
            });
            assert_eq!((inputs.rows(), inputs.columns()), (3, 320));
            inputs.make(isa, &pool, Kind::Int8);
            inputs.make(isa, &pool, Kind::Int16);
            let int8 = inputs.int8();
            for row in 0..rows {
                for column in 0..320 {
                    let value = if column < 300 { values[row * 300 + column] } else { 0.0 };
                    let at = row * 320 + column;
                    let run = int8.runs[at / 32];
                    let near = f32::from(run.quants.as_flattened()[at % 32]) * run.scale;
                    assert!((near - value).abs() <= 5.1 / 127.0 * 0.51, "{near} {value}");
                    let int16 = inputs.int16(column / 256);
                    let quant = int16.quants[row * int16.columns + column % 256];
                    let near = f32::from(quant) * int16.scales[row];
                    assert!((near - value).abs() <= 5.1 / 4095.0 * 0.51, "{near} {value}");
                }
            }
            for run in int8.runs {
                let halves = run.quants.as_flattened().chunks(16);
                let sums: Vec<i32> =
                    halves.map(|h| h.iter().map(|&q| i32::from(q)).sum()).collect();
                assert_eq!(run.sum, run.scale * (sums[0] + sums[1]) as f32);
                assert_eq!(run.minus_128, -128 * (sums[0] + sums[1]));
                assert_eq!(run.minus_32, [-32 * sums[0], -32 * sums[1]]);
                assert_eq!(run.minus_16.map(i32::from), [-16 * sums[0], -16 * sums[1]]);
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_in_the_scale() {
        let pool = Pool::new(1).unwrap();
        for isa in Isa::tested() {
            for wild in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut inputs = Inputs::default();
                inputs.fill(&pool, 1, 96, |_, out| {
                    out.fill(1.0);
                    out[32 + 7] = wild;
                });
                inputs.make(isa, &pool, Kind::Int8);
                inputs.make(isa, &pool, Kind::Int16);
                let of_blocks: Vec<bool> =
                    inputs.int8().runs.iter().map(|run| run.scale.is_nan()).collect();
                assert_eq!(of_blocks, [false, true, false], "{} {wild}", isa.name());
                assert!(inputs.int16(0).scales[0].is_nan(), "{} {wild}", isa.name());
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let pool = Pool::new(1).unwrap();
        for isa in Isa::tested() {
            let mut inputs = Inputs::default();
            inputs.fill(&pool, 1, 32, |_, out| out.fill(0.0));
            inputs.make(isa, &pool, Kind::Int8);
            inputs.make(isa, &pool, Kind::Int16);
            assert_eq!(inputs.int8().runs, [Rounded::default()]);
            assert!(inputs.int16(0).quants.iter().all(|&q| q == 0));
        }
    }

    #[test]
    fn a_form_that_was_not_made_of_these_rows_is_never_read() {
        let pool = Pool::new(1).unwrap();
        let mut inputs = Inputs::default();
        inputs.fill(&pool, 1, 32, |_, out| out.fill(1.0));
        for kind in [Kind::Int8, Kind::Int16, Kind::Bf16] {
            inputs.make(Isa::PORTABLE, &pool, kind);
        }
        inputs.fill(&pool, 1, 32, |_, out| out.fill(2.0));
        type Read = fn(&Inputs);
        let reads: [(Kind, Read); 3] = [
            (Kind::Int8, |inputs| _ = inputs.int8()),
            (Kind::Int16, |inputs| _ = inputs.int16(0)),
            (Kind::Bf16, |inputs| _ = inputs.squares()),
        ];
        for (kind, read) in reads {
            let panic = std::panic::catch_unwind(|| read(&inputs)).unwrap_err();
            let said = panic.downcast_ref::<String>().unwrap();
            assert_eq!(*said, format!("activations were not made {kind:?}"));
        }
    }
}
