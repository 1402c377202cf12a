//! A matrix as blocks of a GGML type, in the bytes of its file: what quantises, reads and writes
//! weights. Products are made with [`super::tiles`] or by candle.

use std::ops::Range;

use candle_core::quantized::{GgmlDType, GgmlType, QuantizedType, k_quants};
use rayon::prelude::*;

/// Weights of one chunk while a matrix is filled: 16 MiB once they are f32.
const CHUNK: usize = 1 << 22;

/// What a chunk of a matrix is filled with.
pub enum Fill {
    /// Numbers, to be quantised.
    F32(Vec<f32>),
    /// Bytes of the matrix's own type.
    Bytes(Vec<u8>),
}

/// A matrix `[outputs, columns]` of blocks.
pub trait Blocks: Send + Sync {
    /// Type of the blocks.
    fn dtype(&self) -> GgmlDType;
    /// Bytes of the blocks.
    fn bytes(&self) -> u64;
    /// The blocks as in a file, row by row.
    fn data(&self) -> &[u8];
    /// Rows of the matrix as f32.
    fn expand(&self, rows: Range<usize>) -> Vec<f32>;
    /// The same blocks as candle holds them.
    fn into_candle(self: Box<Self>) -> Box<dyn QuantizedType>;
}

struct Typed<T> {
    blocks: Vec<T>,
    columns: usize,
}

/// Makes a matrix of a type, filled in parallel by ranges of rows.
///
/// # Errors
/// What `fill` returns.
///
/// # Panics
/// When the type's blocks do not divide a row, or `fill` gives another number of values or bytes
/// than the rows have.
pub fn matrix<E: Send>(
    dtype: GgmlDType,
    [outputs, columns]: [usize; 2],
    fill: impl Fn(Range<usize>) -> Result<Fill, E> + Sync,
) -> Result<Box<dyn Blocks>, E> {
    macro_rules! typed {
        ($type:ty) => {{
            let blocks = filled::<$type, E>(outputs, columns, fill)?;
            Ok(Box::new(Typed { blocks, columns }))
        }};
    }
    match dtype {
        GgmlDType::F32 => typed!(f32),
        GgmlDType::F16 => typed!(half::f16),
        GgmlDType::BF16 => typed!(half::bf16),
        GgmlDType::Q4_0 => typed!(k_quants::BlockQ4_0),
        GgmlDType::Q4_1 => typed!(k_quants::BlockQ4_1),
        GgmlDType::Q5_0 => typed!(k_quants::BlockQ5_0),
        GgmlDType::Q5_1 => typed!(k_quants::BlockQ5_1),
        GgmlDType::Q8_0 => typed!(k_quants::BlockQ8_0),
        GgmlDType::Q8_1 => typed!(k_quants::BlockQ8_1),
        GgmlDType::Q2K => typed!(k_quants::BlockQ2K),
        GgmlDType::Q3K => typed!(k_quants::BlockQ3K),
        GgmlDType::Q4K => typed!(k_quants::BlockQ4K),
        GgmlDType::Q5K => typed!(k_quants::BlockQ5K),
        GgmlDType::Q6K => typed!(k_quants::BlockQ6K),
        GgmlDType::Q8K => typed!(k_quants::BlockQ8K),
    }
}

fn filled<T: GgmlType, E: Send>(
    outputs: usize,
    columns: usize,
    fill: impl Fn(Range<usize>) -> Result<Fill, E> + Sync,
) -> Result<Vec<T>, E> {
    assert!(columns.is_multiple_of(T::BLCK_SIZE), "blocks divide a row");
    let row = columns / T::BLCK_SIZE;
    let height = (CHUNK / columns.max(1)).clamp(1, outputs.max(1));
    let mut blocks = vec![T::zeros(); outputs * row];
    let fill_chunk = |(i, chunk): (usize, &mut [T])| {
        match fill(i * height..(i * height + chunk.len() / row))? {
            Fill::F32(values) => {
                let _span = tracing::trace_span!(target: super::SPANS, "pack").entered();
                T::from_float(&values, chunk);
            }
            Fill::Bytes(bytes) => bytes_of(chunk).copy_from_slice(&bytes),
        }
        Ok(())
    };
    blocks.par_chunks_mut(height * row).enumerate().try_for_each(fill_chunk)?;
    Ok(blocks)
}

fn bytes_of<T: GgmlType>(blocks: &mut [T]) -> &mut [u8] {
    let bytes = size_of_val(blocks);
    assert_eq!(size_of::<T>(), T::DTYPE.type_size(), "blocks are packed as in a file");
    // SAFETY: the slice covers just the blocks, bytes need no alignment, and blocks are packed
    // integers and floats, for which every pattern of bits is a value.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast::<u8>(), bytes) }
}

impl<T: GgmlType + 'static> Blocks for Typed<T> {
    fn dtype(&self) -> GgmlDType {
        T::DTYPE
    }

    fn bytes(&self) -> u64 {
        size_of_val(self.blocks.as_slice()) as u64
    }

    fn data(&self) -> &[u8] {
        let blocks = self.blocks.as_slice();
        assert_eq!(size_of::<T>(), T::DTYPE.type_size(), "blocks are packed as in a file");
        // SAFETY: the slice covers just the blocks, bytes need no alignment, and blocks are packed
        // without gaps.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(blocks)) }
    }

    fn expand(&self, rows: Range<usize>) -> Vec<f32> {
        let row = self.columns / T::BLCK_SIZE;
        let mut values = vec![0f32; rows.len() * self.columns];
        T::to_float(&self.blocks[rows.start * row..rows.end * row], &mut values);
        values
    }

    fn into_candle(self: Box<Self>) -> Box<dyn QuantizedType> {
        Box::new(self.blocks)
    }
}
