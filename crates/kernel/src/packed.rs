//! Weight matrices packed for the kernels: panels of sixteen rows, interleaved so that one vector
//! load reads a weight (or a group of four) of each row. The layout, and the dequantization of
//! single weights; the same for all instruction sets. [`super::pack`] fills panels.
//!
//! A panel of `K` columns consists of lines of 64 bytes (a cache line, an AVX-512 register):
//!
//! | format | lines |
//! |---|---|
//! | f32 | `[K][16]` |
//! | f16 | `[K][16]` |
//! | bf16 | `[K/2][16][2]` |
//! | Q8_0, block pairs | a block of 32 columns: `[8][16][4]` i8 |
//! | Q8 super-blocks | a super-block of 256 columns: see [`Q8Super`] |
//! | Q4_K | a super-block of 256 columns: see [`Q4K`] |
//! | Q6_K, block pairs | a super-block of 256 columns: see [`Q6K`] |
//! | asymmetric | a block of 32 columns: see [`Asymmetric`] |
//!
//! Block pairs: one line holds the scales of two blocks, `[2][16]` f16, and the two blocks follow.
//! The last block may be alone. A kernel so reads a panel strictly in order: scales stored
//! elsewhere would be a second stream, which the hardware prefetcher follows less well.

use std::ops::Range;

use half::{bf16, f16};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// Columns per scale in [`WeightFormat::Q8_0`] and in 8-bit activations. Columns are padded to a
/// multiple of it.
pub(super) const BLOCK: usize = 32;

/// Columns of a k-quant super-block, and columns per scale in 16-bit activations.
pub(super) const SUPER_BLOCK: usize = 256;

/// Storage format of a weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits, one f16 scale per 32 weights.
    Q8_0,
    /// 8 bits, an f16 scale per 32 weights and an f32 scale per 256: for types whose product of
    /// both scales does not fit an f16.
    Q8Super,
    /// 4 bits, a 6-bit scale and minimum per 32 weights.
    Q4K,
    /// 6 bits, an 8-bit scale per 16 weights.
    Q6K,
    /// 8 bits, of which five are used, with an f32 scale and offset per 32 weights: for types that
    /// have no kernels of their own.
    Asymmetric,
}

/// Layout of a Q4_K super-block of a panel, 256 columns in eight sub-blocks of 32:
///
/// * scales of the super-block and of its minima, `[2][16]` f16;
/// * lower four bits of the sub-blocks' scales and minima, one byte for both: even sub-blocks
///   `[4][16]`, then odd ones;
/// * upper two bits of an even and the next sub-block, one byte for both (scale, minimum, scale,
///   minimum from the lowest bit on), `[4][16]`;
/// * quants, `[4][8][16][4]` nibbles: the lower nibbles of `[i][g]` are columns `64i + 4g`, the
///   upper ones the columns 32 further.
#[derive(Debug)]
pub(super) struct Q4K;

impl Q4K {
    /// Offset of the lower bits of the scales and minima.
    pub(super) const LOW: usize = 4 * PANEL_ROWS;
    /// Offset of their upper bits.
    pub(super) const HIGH: usize = Self::LOW + 8 * PANEL_ROWS;
    /// Offset of the quants.
    pub(super) const NIBBLES: usize = Self::HIGH + 4 * PANEL_ROWS;
    /// Size: sixteen times the 144 bytes of `block_q4_K`.
    pub(super) const BYTES: usize = Self::NIBBLES + 2048;
}

/// Layout of a Q6_K super-block of a panel, 256 columns in sixteen sub-blocks of 16: scales of the
/// sub-blocks, `[16][16]` i8; then for each sub-block a line with the upper two bits of its four
/// groups of four columns, and two lines of nibbles (groups 0 and 1, groups 2 and 3, the even one
/// in the lower nibble), each `[16][4]`.
#[derive(Debug)]
pub(super) struct Q6K;

impl Q6K {
    /// Offset of the first sub-block.
    pub(super) const SUB_BLOCKS: usize = 16 * PANEL_ROWS;
    /// Size of a sub-block of 16 columns.
    pub(super) const SUB_BLOCK_BYTES: usize = 3 * 64;
    /// Size. With the super-block's scale, which lies outside: sixteen times the 210 bytes of
    /// `block_q6_K`.
    pub(super) const BYTES: usize = Self::SUB_BLOCKS + 16 * Self::SUB_BLOCK_BYTES;
}

/// Layout of a block of 32 columns of an asymmetric panel: scales `[16]` f32, offsets `[16]` f32,
/// quants `[8][16][4]` u8. A weight is `scale * quant + offset`.
#[derive(Debug)]
pub(super) struct Asymmetric;

impl Asymmetric {
    /// Offset of the offsets.
    pub(super) const OFFSETS: usize = 4 * PANEL_ROWS;
    /// Offset of the quants.
    pub(super) const QUANTS: usize = 8 * PANEL_ROWS;
    /// Size.
    pub(super) const BYTES: usize = Self::QUANTS + BLOCK * PANEL_ROWS;
    /// Largest quant, so that eight products with 8-bit activations, added in pairs by
    /// `vpmaddubsw`, fit in an i16: 8 x 31 x 127 < 2^15.
    pub(super) const MAX: u8 = 31;
}

/// Layout of a super-block of 256 columns: scales `[16]` f32, then a Q8_0 panel of 256 columns, so
/// that the kernels of Q8_0 multiply it.
#[derive(Debug)]
pub(super) struct Q8Super;

impl Q8Super {
    /// Offset of the Q8_0 panel.
    pub(super) const PANEL: usize = 4 * PANEL_ROWS;
    /// Size.
    pub(super) const BYTES: usize =
        Self::PANEL + SUPER_BLOCK / BLOCK * (Q8_0_BYTES + PAIR_SCALES_BYTES / 2);
}

/// Size of the line with the scales of a block pair.
const PAIR_SCALES_BYTES: usize = 2 * 2 * PANEL_ROWS;

/// Size of a block of 32 columns in [`WeightFormat::Q8_0`].
pub(super) const Q8_0_BYTES: usize = BLOCK * PANEL_ROWS;

/// A block of `BYTES` and its f16 scale per row, in a panel of block pairs.
///
/// # Panics
/// When the panel has no such block.
#[inline(always)]
pub(super) fn paired_block<const BYTES: usize>(
    panel: &[u8],
    number: usize,
) -> (&[u8; 2 * PANEL_ROWS], &[u8; BYTES]) {
    let [scales, block] = paired_block_offsets(BYTES, number);
    let scales = panel[scales..].first_chunk().expect("scales of a block");
    (scales, panel[block..].first_chunk().expect("a block"))
}

/// Offsets of a block's scales and of the block.
pub(super) fn paired_block_offsets(bytes: usize, number: usize) -> [usize; 2] {
    let (pair, odd) = (number / 2 * (PAIR_SCALES_BYTES + 2 * bytes), number % 2);
    [pair + odd * PAIR_SCALES_BYTES / 2, pair + PAIR_SCALES_BYTES + odd * bytes]
}

impl WeightFormat {
    /// Size of a panel, a multiple of 64.
    pub fn panel_bytes(self, columns: usize) -> usize {
        let columns = columns.next_multiple_of(BLOCK);
        let pairs = |blocks: usize| blocks.div_ceil(2) * PAIR_SCALES_BYTES;
        let bytes = match self {
            WeightFormat::F32 => columns * PANEL_ROWS * 4,
            WeightFormat::F16 | WeightFormat::Bf16 => columns * PANEL_ROWS * 2,
            WeightFormat::Q8_0 => columns * PANEL_ROWS + pairs(columns / BLOCK),
            WeightFormat::Q8Super => columns / SUPER_BLOCK * Q8Super::BYTES,
            WeightFormat::Q4K => columns / SUPER_BLOCK * Q4K::BYTES,
            WeightFormat::Q6K => columns / SUPER_BLOCK * Q6K::BYTES + pairs(columns / SUPER_BLOCK),
            WeightFormat::Asymmetric => columns / BLOCK * Asymmetric::BYTES,
        };
        bytes.next_multiple_of(64)
    }

    /// Size of a matrix `[outputs, columns]`.
    pub fn bytes(self, outputs: usize, columns: usize) -> usize {
        outputs.div_ceil(PANEL_ROWS) * self.panel_bytes(columns)
    }
}

/// A packed matrix `[outputs, columns]`, borrowed from an arena.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrix<'a> {
    /// Storage format.
    pub format: WeightFormat,
    /// Rows of the matrix, columns of the product.
    pub outputs: usize,
    /// Columns, without padding.
    pub columns: usize,
    bytes: &'a [u8],
}

impl<'a> PackedMatrix<'a> {
    /// A view of packed bytes.
    ///
    /// # Panics
    /// When the number of bytes does not fit the shape.
    pub fn new(format: WeightFormat, [outputs, columns]: [usize; 2], bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len(), format.bytes(outputs, columns), "a matrix is whole panels");
        Self { format, outputs, columns, bytes }
    }

    pub(super) fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL_ROWS)
    }

    pub(super) fn panel(&self, number: usize) -> &'a [u8] {
        self.panels(number..number + 1)
    }

    /// Panels, one after the other.
    pub(super) fn panels(&self, numbers: Range<usize>) -> &'a [u8] {
        let size = self.format.panel_bytes(self.columns);
        &self.bytes[numbers.start * size..numbers.end * size]
    }

    /// Dequantizes one row.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        let panel = self.panel(output / PANEL_ROWS);
        for (column, value) in values.iter_mut().enumerate() {
            *value = weight(self.format, panel, column, output % PANEL_ROWS);
        }
    }
}

/// Dequantizes one weight of a panel: the definition of the layout.
pub(super) fn weight(format: WeightFormat, panel: &[u8], column: usize, lane: usize) -> f32 {
    match format {
        WeightFormat::F32 => f32_at(panel, column * PANEL_ROWS + lane),
        WeightFormat::F16 => f16_at(panel, column * PANEL_ROWS + lane),
        WeightFormat::Bf16 => {
            let at = (column / 2 * PANEL_ROWS + lane) * 4 + column % 2 * 2;
            bf16::from_le_bytes([panel[at], panel[at + 1]]).to_f32()
        }
        WeightFormat::Q8_0 => {
            let [scales, block] = paired_block_offsets(Q8_0_BYTES, column / BLOCK);
            let at = (column % BLOCK / 4 * PANEL_ROWS + lane) * 4 + column % 4;
            f32::from(panel[block + at] as i8) * f16_at(&panel[scales..], lane)
        }
        WeightFormat::Q8Super => {
            let block = &panel[column / SUPER_BLOCK * Q8Super::BYTES..][..Q8Super::BYTES];
            let (scales, panel) = block.split_at(Q8Super::PANEL);
            f32_at(scales, lane) * weight(WeightFormat::Q8_0, panel, column % SUPER_BLOCK, lane)
        }
        WeightFormat::Q4K => {
            let block = &panel[column / SUPER_BLOCK * Q4K::BYTES..][..Q4K::BYTES];
            let (sub, within) = (column % SUPER_BLOCK / 32, column % 32);
            let nibbles = &block[Q4K::NIBBLES..];
            let byte = nibbles[((sub / 2 * 8 + within / 4) * PANEL_ROWS + lane) * 4 + within % 4];
            let quant = byte >> (4 * (sub % 2)) & 15;
            let (scale, minimum) = q4k_scale_and_min(block, sub, lane);
            let (d, d_min) = (f16_at(block, lane), f16_at(block, PANEL_ROWS + lane));
            d * f32::from(scale) * f32::from(quant) - d_min * f32::from(minimum)
        }
        WeightFormat::Q6K => {
            let [scales, block] = paired_block_offsets(Q6K::BYTES, column / SUPER_BLOCK);
            let block = &panel[block..][..Q6K::BYTES];
            let (sub, group) = (column % SUPER_BLOCK / 16, column % 16 / 4);
            let at = |line| q6k_byte(sub, line, lane, column);
            let low = block[at(1 + group / 2)] >> (4 * (group % 2)) & 15;
            let high = block[at(0)] >> (2 * group) & 3;
            let scale = block[sub * PANEL_ROWS + lane] as i8;
            f16_at(&panel[scales..], lane) * f32::from(scale) * (f32::from(low | high << 4) - 32.0)
        }
        WeightFormat::Asymmetric => {
            let block = &panel[column / BLOCK * Asymmetric::BYTES..][..Asymmetric::BYTES];
            let at = (column % BLOCK / 4 * PANEL_ROWS + lane) * 4 + column % 4;
            let quant = block[Asymmetric::QUANTS + at];
            f32_at(block, lane) * f32::from(quant) + f32_at(&block[Asymmetric::OFFSETS..], lane)
        }
    }
}

/// The f16 at an index, as f32.
pub(super) fn f16_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

/// The f32 at an index.
pub(super) fn f32_at(bytes: &[u8], index: usize) -> f32 {
    let (numbers, _) = bytes.as_chunks::<4>();
    f32::from_le_bytes(numbers[index])
}

/// Scale and minimum of a Q4_K sub-block of 32 columns.
pub(super) fn q4k_scale_and_min(block: &[u8], sub: usize, lane: usize) -> (u8, u8) {
    let low = block[q4k_low(sub) + lane];
    let high = block[Q4K::HIGH + sub / 2 * PANEL_ROWS + lane] >> (4 * (sub % 2));
    (low & 15 | (high & 3) << 4, low >> 4 | (high >> 2 & 3) << 4)
}

/// Offset of the lower bits of a sub-block's scales and minima.
pub(super) fn q4k_low(sub: usize) -> usize {
    Q4K::LOW + (sub % 2 * 4 + sub / 2) * PANEL_ROWS
}

/// Offset of the byte of a column in a line of a Q6_K sub-block.
pub(super) fn q6k_byte(sub: usize, line: usize, lane: usize, column: usize) -> usize {
    Q6K::SUB_BLOCKS + sub * Q6K::SUB_BLOCK_BYTES + line * 64 + lane * 4 + column % 4
}
