//! Weight matrices packed for the kernels: panels of sixteen rows, interleaved so that one vector
//! load reads a weight (or a group of four) of each row, in as many bytes as the GGUF file has. The
//! layout, packing and dequantization of single weights; the same for all instruction sets.
//!
//! A panel of `K` columns consists of lines of 64 bytes (a cache line, an AVX-512 register):
//!
//! | format | lines |
//! |---|---|
//! | f32 | `[K][16]` |
//! | f16 | `[K][16]` |
//! | bf16 | `[K/2][16][2]` |
//! | Q8_0, block pairs | a block of 32 columns: `[8][16][4]` i8 |
//! | Q4_K | a super-block of 256 columns: see [`Q4K`] |
//! | Q6_K, block pairs | a super-block of 256 columns: see [`Q6K`] |
//!
//! Block pairs: one line holds the scales of two blocks, `[2][16]` f16, and the two blocks follow.
//! The last block may be alone. A kernel so reads a panel strictly in order: scales stored
//! elsewhere would be a second stream, which the hardware prefetcher follows less well.

use candle_core::quantized::GgmlDType;
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
    /// 4 bits, a 6-bit scale and minimum per 32 weights.
    Q4K,
    /// 6 bits, an 8-bit scale per 16 weights.
    Q6K,
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
fn paired_block_offsets(bytes: usize, number: usize) -> [usize; 2] {
    let (pair, odd) = (number / 2 * (PAIR_SCALES_BYTES + 2 * bytes), number % 2);
    [pair + odd * PAIR_SCALES_BYTES / 2, pair + PAIR_SCALES_BYTES + odd * bytes]
}

impl WeightFormat {
    /// All formats; the tests of every tier run over them.
    pub(super) const ALL: [Self; 6] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4K, Self::Q6K];

    /// The format that stores a GGML type without loss, if kernels have one.
    pub fn from_dtype(dtype: GgmlDType) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.dtype() == dtype)
    }

    /// The GGML type of the weights.
    pub fn dtype(self) -> GgmlDType {
        match self {
            WeightFormat::F32 => GgmlDType::F32,
            WeightFormat::F16 => GgmlDType::F16,
            WeightFormat::Bf16 => GgmlDType::BF16,
            WeightFormat::Q8_0 => GgmlDType::Q8_0,
            WeightFormat::Q4K => GgmlDType::Q4K,
            WeightFormat::Q6K => GgmlDType::Q6K,
        }
    }

    /// Size of a panel, a multiple of 64.
    pub fn panel_bytes(self, columns: usize) -> usize {
        let columns = columns.next_multiple_of(BLOCK);
        let pairs = |blocks: usize| blocks.div_ceil(2) * PAIR_SCALES_BYTES;
        let bytes = match self {
            WeightFormat::F32 => columns * PANEL_ROWS * 4,
            WeightFormat::F16 | WeightFormat::Bf16 => columns * PANEL_ROWS * 2,
            WeightFormat::Q8_0 => columns * PANEL_ROWS + pairs(columns / BLOCK),
            WeightFormat::Q4K => columns / SUPER_BLOCK * Q4K::BYTES,
            WeightFormat::Q6K => columns / SUPER_BLOCK * Q6K::BYTES + pairs(columns / SUPER_BLOCK),
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
        let size = self.format.panel_bytes(self.columns);
        &self.bytes[number * size..(number + 1) * size]
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
        WeightFormat::F32 => {
            let at = (column * PANEL_ROWS + lane) * 4;
            f32::from_le_bytes(panel[at..at + 4].try_into().expect("four bytes"))
        }
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
    }
}

/// The f16 at an index, as f32.
pub(super) fn f16_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

/// Scale and minimum of a Q4_K sub-block of 32 columns.
pub(super) fn q4k_scale_and_min(block: &[u8], sub: usize, lane: usize) -> (u8, u8) {
    let low = block[q4k_low(sub) + lane];
    let high = block[Q4K::HIGH + sub / 2 * PANEL_ROWS + lane] >> (4 * (sub % 2));
    (low & 15 | (high & 3) << 4, low >> 4 | (high >> 2 & 3) << 4)
}

/// Offset of the lower bits of a sub-block's scales and minima.
fn q4k_low(sub: usize) -> usize {
    Q4K::LOW + (sub % 2 * 4 + sub / 2) * PANEL_ROWS
}

/// Offset of the byte of a column in a line of a Q6_K sub-block.
fn q6k_byte(sub: usize, line: usize, lane: usize, column: usize) -> usize {
    Q6K::SUB_BLOCKS + sub * Q6K::SUB_BLOCK_BYTES + line * 64 + lane * 4 + column % 4
}

/// Packs up to sixteen rows, one after the other in the bytes of a file, into a panel. Lanes
/// without a row keep their bytes, which are zero in a new arena.
///
/// # Panics
/// When the format's blocks do not divide a row, or the bytes are not whole rows.
pub fn pack(format: WeightFormat, columns: usize, rows: &[u8], panel: &mut [u8]) {
    let dtype = format.dtype();
    assert!(columns.is_multiple_of(dtype.block_size()), "blocks divide a row");
    let row_bytes = columns / dtype.block_size() * dtype.type_size();
    let whole = rows.len().is_multiple_of(row_bytes) && rows.len() <= PANEL_ROWS * row_bytes;
    assert!(whole, "whole rows");
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        match format {
            WeightFormat::F32 => interleave(panel, lane, row.as_chunks::<4>().0),
            WeightFormat::F16 => interleave(panel, lane, row.as_chunks::<2>().0),
            WeightFormat::Bf16 => {
                let (pairs, odd) = row.as_chunks::<4>();
                interleave(panel, lane, pairs);
                if let [a, b] = *odd {
                    put(panel, pairs.len() * PANEL_ROWS + lane, [a, b, 0, 0]);
                }
            }
            WeightFormat::Q8_0 => {
                for (i, block) in row.as_chunks::<34>().0.iter().enumerate() {
                    let [scales, at] = paired_block_offsets(Q8_0_BYTES, i);
                    put(&mut panel[scales..], lane, [block[0], block[1]]);
                    interleave(&mut panel[at..], lane, block[2..].as_chunks::<4>().0);
                }
            }
            WeightFormat::Q4K => {
                let blocks = row.as_chunks::<144>().0;
                for (block, to) in blocks.iter().zip(panel.chunks_exact_mut(Q4K::BYTES)) {
                    pack_q4k(block, lane, to);
                }
            }
            WeightFormat::Q6K => {
                for (i, block) in row.as_chunks::<210>().0.iter().enumerate() {
                    let [scales, at] = paired_block_offsets(Q6K::BYTES, i);
                    put(&mut panel[scales..], lane, [block[208], block[209]]);
                    pack_q6k(block, lane, &mut panel[at..][..Q6K::BYTES]);
                }
            }
        }
    }
}

/// Writes one item.
fn put<const N: usize>(bytes: &mut [u8], index: usize, item: [u8; N]) {
    bytes[index * N..(index + 1) * N].copy_from_slice(&item);
}

/// Writes the items of one row to its lane, one per sixteen.
fn interleave<const N: usize>(bytes: &mut [u8], lane: usize, items: &[[u8; N]]) {
    for (line, item) in bytes.as_chunks_mut::<N>().0.chunks_exact_mut(PANEL_ROWS).zip(items) {
        line[lane] = *item;
    }
}

/// Packs ggml's `block_q4_K`: scale, scale of the minima, scales and minima of 6 bits in twelve
/// bytes, nibbles.
fn pack_q4k(block: &[u8; 144], lane: usize, to: &mut [u8]) {
    let (d, d_min, packed) = ([block[0], block[1]], [block[2], block[3]], &block[4..16]);
    interleave(&mut to[Q4K::NIBBLES..], lane, block[16..].as_chunks::<4>().0);
    for sub in 0..8 {
        let (scale, minimum) = if sub < 4 {
            (packed[sub] & 63, packed[sub + 4] & 63)
        } else {
            let (low, scale, minimum) = (packed[sub + 4], packed[sub - 4], packed[sub]);
            (low & 15 | scale >> 6 << 4, low >> 4 | minimum >> 6 << 4)
        };
        to[q4k_low(sub) + lane] = scale & 15 | minimum << 4;
        to[Q4K::HIGH + sub / 2 * PANEL_ROWS + lane] |=
            (scale >> 4 | minimum >> 4 << 2) << (4 * (sub % 2));
    }
    put(to, lane, d);
    put(&mut to[2 * PANEL_ROWS..], lane, d_min);
}

/// Packs ggml's `block_q6_K`: lower four bits, upper two bits, scales, scale of the super-block.
fn pack_q6k(block: &[u8; 210], lane: usize, to: &mut [u8]) {
    let (low, rest) = block.split_at(128);
    let (high, scales) = rest.split_at(64);
    for column in 0..SUPER_BLOCK {
        // ggml's order: halves of 128 columns, in which four quarters of 32 share bytes.
        let (half, quarter, within) = (column / 128, column % 128 / 32, column % 32);
        let low = low[half * 64 + quarter % 2 * 32 + within] >> (4 * (quarter / 2)) & 15;
        let high = high[half * 32 + within] >> (2 * quarter) & 3;
        let (sub, group) = (column / 16, column % 16 / 4);
        to[q6k_byte(sub, 1 + group / 2, lane, column)] |= low << (4 * (group % 2));
        to[q6k_byte(sub, 0, lane, column)] |= high << (2 * group);
    }
    for sub in 0..16 {
        to[sub * PANEL_ROWS + lane] = scales[sub];
    }
}
