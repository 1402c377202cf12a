//! A weight matrix as it is multiplied: sixteen rows side by side in a tile, so that one load has a
//! weight of each, in just as many bytes as in a file. What is the same for all instruction sets
//! lives here: the layout, packing, and reading back.
//!
//! A tile of `K` columns, with lines of 64 bytes:
//!
//! | form | lines |
//! |---|---|
//! | f32 | `[K][16]` |
//! | f16 | `[K][16]` |
//! | bf16 | `[K/2][16][2]` |
//! | q8_0, in twos | a block of 32 columns: `[8][16][4]` i8 |
//! | q4_k | a block of 256 columns: see [`Q4K`] |
//! | q6_k, in twos | a block of 256 columns: see [`Q6K`] |
//!
//! "In twos": two blocks at a time stand behind a line with their scales, `[2][16]` f16; the last
//! may be alone. So what a kernel reads lies in the order in which it is read. A scale that lies
//! elsewhere is a second place in memory, which a CPU does not look ahead for.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

/// Rows of a matrix that lie side by side.
pub const TILE: usize = 16;

/// Columns that share a scale in [`Form::Q8_0`] and in activations of 8 bits; columns are padded to
/// a multiple of it.
pub const BLOCK: usize = 32;

/// Columns of a block of k-quants, and those that share a scale in activations of 16 bits.
pub const SUPER: usize = 256;

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper 16 bits of f32.
    Bf16,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 4 bits, a scale and a minimum of 6 bits per 32.
    Q4K,
    /// 6 bits, a scale of 8 bits per 16.
    Q6K,
}

/// Bytes of a tile's block of 256 columns in [`Form::Q4K`]: the block's scale and the minima's,
/// `[2][16]` f16; scales and minima of the eight runs of 32 columns, the lower four bits of both in
/// a byte, of the even runs `[4][16]` and then of the odd ones; the upper two bits of an even and
/// the next run in a byte (scale, minimum, scale, minimum from the lowest on), `[4][16]`; then the
/// nibbles, `[4][8][16][4]`: the lower of `[i][g]` are columns `64i + 4g`, the upper 32 further.
#[derive(Debug)]
pub struct Q4K;

impl Q4K {
    /// Where the lower bits of scales and minima begin, behind the block's scale and that of the
    /// minima.
    pub const LOW: usize = 4 * TILE;
    /// Where their upper bits begin.
    pub const HIGH: usize = Self::LOW + 8 * TILE;
    /// Where the nibbles begin.
    pub const NIBBLES: usize = Self::HIGH + 4 * TILE;
    /// Bytes of the block: sixteen times 144, as in a file.
    pub const BYTES: usize = Self::NIBBLES + 2048;
}

/// Bytes of a tile's block of 256 columns in [`Form::Q6K`]: scales of the 16 runs of 16 columns,
/// `[16][16]` i8; then for each run a line with the upper two bits of its four groups of four, and
/// two lines of nibbles (groups 0 and 1, groups 2 and 3, the even one lower), each `[16][4]`.
#[derive(Debug)]
pub struct Q6K;

impl Q6K {
    /// Where the runs begin, behind their scales.
    pub const RUNS: usize = 16 * TILE;
    /// Bytes of a run of 16 columns.
    pub const RUN: usize = 3 * 64;
    /// Bytes of the block. With the scale outside, sixteen times 210, as in a file.
    pub const BYTES: usize = Self::RUNS + 16 * Self::RUN;
}

/// Bytes of the line with the scales of two blocks.
const OF_TWO: usize = 2 * 2 * TILE;

/// Bytes of a block of 32 columns in [`Form::Q8_0`].
pub(super) const Q8_0_BYTES: usize = BLOCK * TILE;

/// A block of so many bytes in a tile where they stand in twos, behind their scales: that of each
/// row, and the block.
///
/// # Panics
/// When the tile ends before.
#[inline(always)]
pub(super) fn of_two<const BYTES: usize>(
    tile: &[u8],
    number: usize,
) -> (&[u8; 2 * TILE], &[u8; BYTES]) {
    let [scales, block] = in_twos(BYTES, number);
    let scales = tile[scales..].first_chunk().expect("scales of a block");
    (scales, tile[block..].first_chunk().expect("a block"))
}

/// Where the scales of a block begin, and where it does.
fn in_twos(bytes: usize, number: usize) -> [usize; 2] {
    let (two, odd) = (number / 2 * (OF_TWO + 2 * bytes), number % 2);
    [two + odd * OF_TWO / 2, two + OF_TWO + odd * bytes]
}

impl Form {
    /// The form that holds a stored type as it is, if there is one.
    pub fn of(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::F32 => Some(Form::F32),
            GgmlDType::F16 => Some(Form::F16),
            GgmlDType::BF16 => Some(Form::Bf16),
            GgmlDType::Q8_0 => Some(Form::Q8_0),
            GgmlDType::Q4K => Some(Form::Q4K),
            GgmlDType::Q6K => Some(Form::Q6K),
            _ => None,
        }
    }

    /// The stored type that is held so.
    pub fn dtype(self) -> GgmlDType {
        match self {
            Form::F32 => GgmlDType::F32,
            Form::F16 => GgmlDType::F16,
            Form::Bf16 => GgmlDType::BF16,
            Form::Q8_0 => GgmlDType::Q8_0,
            Form::Q4K => GgmlDType::Q4K,
            Form::Q6K => GgmlDType::Q6K,
        }
    }

    /// Bytes of a tile of so many columns, which is a multiple of a line.
    pub fn tile_bytes(self, columns: usize) -> usize {
        let columns = columns.next_multiple_of(BLOCK);
        let bytes = match self {
            Form::F32 => columns * TILE * 4,
            Form::F16 | Form::Bf16 => columns * TILE * 2,
            Form::Q8_0 => columns * TILE + (columns / BLOCK).div_ceil(2) * OF_TWO,
            Form::Q4K => columns / SUPER * Q4K::BYTES,
            Form::Q6K => columns / SUPER * Q6K::BYTES + (columns / SUPER).div_ceil(2) * OF_TWO,
        };
        bytes.next_multiple_of(64)
    }

    /// Bytes of a matrix `[outputs, columns]`.
    pub fn bytes(self, outputs: usize, columns: usize) -> usize {
        outputs.div_ceil(TILE) * self.tile_bytes(columns)
    }
}

/// A packed matrix `[outputs, columns]`.
#[derive(Debug, Clone, Copy)]
pub struct Tiles<'a> {
    /// How its weights are held.
    pub form: Form,
    /// Rows.
    pub outputs: usize,
    /// Columns, without padding.
    pub columns: usize,
    bytes: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// A view of packed bytes.
    ///
    /// # Panics
    /// When they are not as many as such a matrix has.
    pub fn new(form: Form, [outputs, columns]: [usize; 2], bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len(), form.bytes(outputs, columns), "a matrix is whole tiles");
        Self { form, outputs, columns, bytes }
    }

    /// Tiles of the matrix.
    pub fn count(&self) -> usize {
        self.outputs.div_ceil(TILE)
    }

    /// The bytes of a tile.
    pub fn tile(&self, number: usize) -> &'a [u8] {
        let size = self.form.tile_bytes(self.columns);
        &self.bytes[number * size..(number + 1) * size]
    }

    /// One row as f32.
    pub fn row(&self, output: usize, values: &mut [f32]) {
        let tile = self.tile(output / TILE);
        for (column, value) in values.iter_mut().enumerate() {
            *value = weight(self.form, tile, column, output % TILE);
        }
    }
}

/// One weight of a tile: what the layout means.
pub fn weight(form: Form, tile: &[u8], column: usize, lane: usize) -> f32 {
    let half = |at: usize| f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32();
    match form {
        Form::F32 => {
            let at = (column * TILE + lane) * 4;
            f32::from_le_bytes(tile[at..at + 4].try_into().expect("four bytes"))
        }
        Form::F16 => half((column * TILE + lane) * 2),
        Form::Bf16 => {
            let at = (column / 2 * TILE + lane) * 4 + column % 2 * 2;
            bf16::from_le_bytes([tile[at], tile[at + 1]]).to_f32()
        }
        Form::Q8_0 => {
            let [scales, block] = in_twos(Q8_0_BYTES, column / BLOCK);
            let quant = tile[block + (column % BLOCK / 4 * TILE + lane) * 4 + column % 4] as i8;
            f32::from(quant) * half(scales + 2 * lane)
        }
        Form::Q4K => {
            let block = &tile[column / SUPER * Q4K::BYTES..][..Q4K::BYTES];
            let (run, within) = (column % SUPER / 32, column % 32);
            let nibbles = &block[Q4K::NIBBLES..];
            let byte = nibbles[((run / 2 * 8 + within / 4) * TILE + lane) * 4 + within % 4];
            let quant = byte >> (4 * (run % 2)) & 15;
            let (scale, minimum) = q4k_scales(block, run, lane);
            let at = column / SUPER * Q4K::BYTES + 2 * lane;
            let (d, of_minima) = (half(at), half(at + 2 * TILE));
            d * f32::from(scale) * f32::from(quant) - of_minima * f32::from(minimum)
        }
        Form::Q6K => {
            let [scales, block] = in_twos(Q6K::BYTES, column / SUPER);
            let block = &tile[block..][..Q6K::BYTES];
            let (run, group) = (column % SUPER / 16, column % 16 / 4);
            let at = |line| Q6K::RUNS + run * Q6K::RUN + line * 64 + lane * 4 + column % 4;
            let low = block[at(1 + group / 2)] >> (4 * (group % 2)) & 15;
            let high = block[at(0)] >> (2 * group) & 3;
            let scale = block[run * TILE + lane] as i8;
            half(scales + 2 * lane) * f32::from(scale) * (f32::from(low | high << 4) - 32.0)
        }
    }
}

/// Scale and minimum of a run of 32 columns.
pub(super) fn q4k_scales(block: &[u8], run: usize, lane: usize) -> (u8, u8) {
    let low = block[q4k_low(run) + lane];
    let high = block[Q4K::HIGH + run / 2 * TILE + lane] >> (4 * (run % 2));
    (low & 15 | (high & 3) << 4, low >> 4 | (high >> 2 & 3) << 4)
}

/// Where the lower bits of a run's scales and minima begin.
fn q4k_low(run: usize) -> usize {
    Q4K::LOW + (run % 2 * 4 + run / 2) * TILE
}

/// Packs up to sixteen rows into a tile; lanes without a row stay as they are, zero in a new arena.
///
/// `rows` are the bytes of a file, one row of `columns` after the other.
///
/// # Panics
/// When the type's blocks do not divide a row, or the bytes are not whole rows.
pub fn pack(form: Form, columns: usize, rows: &[u8], tile: &mut [u8]) {
    let dtype = form.dtype();
    assert!(columns.is_multiple_of(dtype.block_size()), "blocks divide a row");
    let row_bytes = columns / dtype.block_size() * dtype.type_size();
    assert!(rows.len().is_multiple_of(row_bytes) && rows.len() <= TILE * row_bytes, "whole rows");
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        match form {
            Form::F32 => copy(tile, lane, row.as_chunks::<4>().0),
            Form::F16 => copy(tile, lane, row.as_chunks::<2>().0),
            Form::Bf16 => {
                let (pairs, odd) = row.as_chunks::<4>();
                copy(tile, lane, pairs);
                if let [a, b] = *odd {
                    put(tile, pairs.len() * TILE + lane, [a, b, 0, 0]);
                }
            }
            Form::Q8_0 => {
                for (i, block) in row.as_chunks::<34>().0.iter().enumerate() {
                    let [scales, at] = in_twos(Q8_0_BYTES, i);
                    put(&mut tile[scales..], lane, [block[0], block[1]]);
                    for (g, quants) in block[2..].as_chunks::<4>().0.iter().enumerate() {
                        put(&mut tile[at..], g * TILE + lane, *quants);
                    }
                }
            }
            Form::Q4K => {
                let blocks = row.as_chunks::<144>().0;
                for (block, tile) in blocks.iter().zip(tile.chunks_exact_mut(Q4K::BYTES)) {
                    pack_q4k(block, lane, tile);
                }
            }
            Form::Q6K => {
                for (i, block) in row.as_chunks::<210>().0.iter().enumerate() {
                    let [scales, at] = in_twos(Q6K::BYTES, i);
                    put(&mut tile[scales..], lane, [block[208], block[209]]);
                    pack_q6k(block, lane, &mut tile[at..][..Q6K::BYTES]);
                }
            }
        }
    }
}

/// Writes the item of this number.
fn put<const N: usize>(tile: &mut [u8], number: usize, item: [u8; N]) {
    tile[number * N..(number + 1) * N].copy_from_slice(&item);
}

/// Writes every item of a row at its lane.
fn copy<const N: usize>(tile: &mut [u8], lane: usize, items: &[[u8; N]]) {
    for (line, item) in tile.as_chunks_mut::<N>().0.chunks_exact_mut(TILE).zip(items) {
        line[lane] = *item;
    }
}

/// A block of a file: scale, that of the minima, scales and minima of 6 bits in twelve bytes,
/// nibbles. ggml's `block_q4_K`.
fn pack_q4k(block: &[u8; 144], lane: usize, tile: &mut [u8]) {
    let (d, of_minima, packed) = ([block[0], block[1]], [block[2], block[3]], &block[4..16]);
    for (word, nibbles) in block[16..].as_chunks::<4>().0.iter().enumerate() {
        put(&mut tile[Q4K::NIBBLES..], word * TILE + lane, *nibbles);
    }
    for run in 0..8 {
        let (scale, minimum) = if run < 4 {
            (packed[run] & 63, packed[run + 4] & 63)
        } else {
            let (low, scale, minimum) = (packed[run + 4], packed[run - 4], packed[run]);
            (low & 15 | scale >> 6 << 4, low >> 4 | minimum >> 6 << 4)
        };
        tile[q4k_low(run) + lane] = scale & 15 | minimum << 4;
        tile[Q4K::HIGH + run / 2 * TILE + lane] |=
            (scale >> 4 | minimum >> 4 << 2) << (4 * (run % 2));
    }
    put(tile, lane, d);
    put(&mut tile[2 * TILE..], lane, of_minima);
}

/// A block of a file: the lower four bits, the upper two, scales, and the block's scale. ggml's
/// `block_q6_K`.
fn pack_q6k(block: &[u8; 210], lane: usize, tile: &mut [u8]) {
    let (low, rest) = block.split_at(128);
    let (high, scales) = rest.split_at(64);
    for column in 0..SUPER {
        // Halves of 128 columns; in each, quarters of 32 share bytes.
        let (half, quarter, within) = (column / 128, column % 128 / 32, column % 32);
        let low = low[half * 64 + quarter % 2 * 32 + within] >> (4 * (quarter / 2)) & 15;
        let high = high[half * 32 + within] >> (2 * quarter) & 3;
        let (run, group) = (column / 16, column % 16 / 4);
        let at = |line| Q6K::RUNS + run * Q6K::RUN + line * 64 + lane * 4 + column % 4;
        tile[at(1 + group / 2)] |= low << (4 * (group % 2));
        tile[at(0)] |= high << (2 * group);
    }
    for run in 0..16 {
        tile[run * TILE + lane] = scales[run];
    }
}
