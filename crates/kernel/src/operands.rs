//! What the GEMM kernels of all tiers share: vectors of sums, quantized activations and AMX tiles,
//! rounding, and register blocking. Knows no instruction set.

use super::packed::{BLOCK, PANEL_ROWS, SUPER_BLOCK, WeightFormat};

/// Sixteen f32, one for each row of a weight panel: one AVX-512 register, two AVX2 registers.
pub(super) type F32x16 = [f32; PANEL_ROWS];

/// Rows up to which a GEMM counts as decode. More rows (prefill) pay for converting weights to
/// 16-bit integers or bf16 tiles. An AMX tile has as many rows: with fewer, VNNI is as fast.
pub const DECODE_MAX_ROWS: usize = 16;

/// Rows up to which decode may read two panels at a time. More rows are faster with one, whose rows
/// a kernel keeps in registers.
pub(super) const STREAMS_MAX_ROWS: usize = 4;

/// Largest magnitude of an activation in [`Int16Rows`].
pub const INT16_ACTIVATION_MAX: f32 = 4095.0;

/// Largest magnitude of a weight in [`Int16Block`].
pub const INT16_WEIGHT_MAX: f32 = 2047.0;

/// The sum of 256 products fits in an i32, in any order of additions.
const _: () =
    assert!(SUPER_BLOCK as i64 * INT16_ACTIVATION_MAX as i64 * (INT16_WEIGHT_MAX as i64) < 1 << 31);

/// 256 columns of a weight panel as i16, for `vpmaddwd`: pairs of columns interleaved by row,
/// `[128][16][2]`, with one scale per row.
#[repr(align(64))]
pub(super) struct Int16Block {
    pub quants: [[i16; 2 * PANEL_ROWS]; SUPER_BLOCK / 2],
    pub scales: F32x16,
}

impl Int16Block {
    /// i16 fraction that stands for the largest of the Q8_0 scales of a row.
    pub(super) const LARGEST_FRACTION: f32 = 32767.0;

    /// Ratio of the block's scale to the largest Q8_0 scale of the row: weights are stored in
    /// sixteenths of a quant, times a fraction of 32768.
    pub(super) const SCALE_RATIO: f32 = 32768.0 / 32767.0 / 16.0;

    pub(super) const EMPTY: Self =
        Self { quants: [[0; 2 * PANEL_ROWS]; SUPER_BLOCK / 2], scales: [0.0; PANEL_ROWS] };
}

/// One operand of `tdpbf16ps`, 16 rows of 64 bytes: 16 rows of 32 activations in bf16, or 32
/// columns of a weight panel with pairs of columns interleaved by row, `[16][16][2]`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct AmxTile(pub [[u16; BLOCK]; PANEL_ROWS]);

impl AmxTile {
    pub(super) const ZERO: Self = Self([[0; BLOCK]; PANEL_ROWS]);
}

// SAFETY: an array of integers, without padding: its size is a multiple of its alignment.
unsafe impl bytemuck::Zeroable for AmxTile {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for AmxTile {}

/// 32 activations quantized to 8 bits, as ggml's `block_q8_0`, with the sums that kernels need. All
/// of it lies together, so that a kernel follows one address stream per row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct Q8Block {
    pub quants: [[i8; 4]; 8],
    pub scale: f32,
    /// `scale` times the sum of the quants: multiplies the minima of Q4_K.
    pub sum: f32,
    /// -128 times the sum of the quants: corrects Q8_0 weights that are offset by 128 for
    /// `vpdpbusd`.
    pub minus_128_sum: i32,
    /// -32 times the sum of each half: corrects Q6_K weights, which are stored with an offset of
    /// 32.
    pub minus_32_sums: [i32; 2],
    /// -16 times the sum of each half, for `vpmaddwd`, which adds two products.
    pub minus_16_sums: [i16; 2],
}

impl Q8Block {
    /// Sets the sums from those of the quants of each half. The scale must be set before.
    #[inline(always)]
    pub(super) fn set_sums(&mut self, halves: [i32; 2]) {
        let sum = halves[0].wrapping_add(halves[1]);
        self.sum = self.scale * sum as f32;
        self.minus_128_sum = sum.wrapping_mul(-128);
        self.minus_32_sums = halves.map(|half| half.wrapping_mul(-32));
        self.minus_16_sums = halves.map(|half| half.wrapping_mul(-16) as i16);
    }
}

/// Rows of activations in 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Q8Rows<'a> {
    pub columns: usize,
    /// Blocks from one row to the next.
    stride: usize,
    pub blocks: &'a [Q8Block],
}

impl<'a> Q8Rows<'a> {
    /// Rows of whole blocks, `[rows, columns / 32]`.
    pub(super) fn new(columns: usize, blocks: &'a [Q8Block]) -> Self {
        Self { columns, stride: columns / BLOCK, blocks }
    }

    /// The rows from `row` on, of which `columns` from the block `first` on.
    pub(super) fn window(self, row: usize, first: usize, columns: usize) -> Self {
        Self { columns, blocks: &self.blocks[row * self.stride + first..], ..self }
    }

    /// The blocks of one row.
    pub(super) fn row(&self, number: usize) -> &'a [Q8Block] {
        &self.blocks[number * self.stride..][..self.columns / BLOCK]
    }
}

/// Up to 256 columns of rows of activations in 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Int16Rows<'a> {
    /// At most 256, and even.
    pub columns: usize,
    /// `[rows, columns]`
    pub quants: &'a [i16],
    /// One per row.
    pub scales: &'a [f32],
}

#[cfg(target_arch = "x86_64")]
impl Int16Rows<'_> {
    /// `ROWS` rows from `first` on, as pointers to `columns / 2` pairs each, which need no
    /// alignment: the bounds check of kernels that read without one.
    ///
    /// # Panics
    /// When there are fewer rows.
    #[inline(always)]
    pub(super) fn pairs<const ROWS: usize>(self, first: usize) -> [*const i32; ROWS] {
        std::array::from_fn(|row| {
            self.quants[(first + row) * self.columns..][..self.columns].as_ptr().cast()
        })
    }
}

/// 1.5 x 2^23. Adding it to a magnitude below 2^22 rounds to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// Rounds to the nearest integer, ties to even, with one addition that every CPU vectorizes.
#[inline(always)]
pub(super) fn round(value: f32) -> i32 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// Columns of F16 and BF16 weights that are widened, multiplied and added to the sums at a time.
pub(super) const WIDENED_COLUMNS: usize = 64;

/// A dispatch that `activation_format` rules out.
#[cold]
pub(super) fn no_kernel(format: WeightFormat) -> ! {
    unreachable!("no kernel of this type for {format:?} weights")
}

/// Register blocking: calls a kernel for `$most` rows of activations at a time, as many as the
/// registers hold sums for, then once for the rest. Each row count is compiled on its own.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! for_row_blocks {
    (
        $out:expr,
        [$most:literal $($fewer:literal)*],
        |$first:ident, $block:ident: $rows:ident| $call:expr
    ) => {{
        let (blocks, rest) = $out.as_chunks_mut::<$most>();
        let whole = blocks.len() * $most;
        for (i, $block) in blocks.iter_mut().enumerate() {
            let $first = i * $most;
            const $rows: usize = $most;
            $call;
        }
        let $first = whole;
        match rest.len() {
            $($fewer => {
                let $block: &mut [_; $fewer] = rest.try_into().expect("just counted");
                const $rows: usize = $fewer;
                $call;
            })*
            0 => {}
            rows => unreachable!("no kernel for {rows} rows"),
        }
    }};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use for_row_blocks;

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
}
