//! Matrices as blocks of a GGML type, as GGUF files store them: quantization, dequantization,
//! bytes. GEMM runs on [`super::packed`] matrices or in candle.

use std::ops::Range;

use candle_core::quantized::{GgmlDType, GgmlType, QuantizedType, k_quants};
use rayon::prelude::*;

/// Weights per chunk of parallel work: 16 MiB as f32.
const CHUNK: usize = 1 << 22;

/// The contents of some rows.
pub enum RowData {
    /// Numbers, which are then quantized.
    F32(Vec<f32>),
    /// Blocks of the matrix's own type, as bytes.
    Bytes(Vec<u8>),
}

/// A matrix `[outputs, columns]` of blocks.
pub trait GgmlMatrix: Send + Sync {
    /// The blocks as bytes of a GGUF file, row by row.
    fn data(&self) -> &[u8];
    /// Dequantizes rows.
    fn dequantize(&self, rows: Range<usize>) -> Vec<f32>;
    /// The same blocks as candle's type.
    fn into_candle(self: Box<Self>) -> Box<dyn QuantizedType>;
}

struct TypedBlocks<T> {
    blocks: Vec<T>,
    columns: usize,
}

/// Builds a matrix of a GGML type in parallel: `fill` returns the contents of a range of rows.
///
/// # Errors
/// What `fill` returns.
///
/// # Panics
/// When the type's blocks do not divide a row, or `fill` returns too few or too many values.
pub fn ggml_matrix<E: Send>(
    dtype: GgmlDType,
    [outputs, columns]: [usize; 2],
    fill: impl Fn(Range<usize>) -> Result<RowData, E> + Sync,
) -> Result<Box<dyn GgmlMatrix>, E> {
    macro_rules! typed {
        ($type:ty) => {{
            let blocks = fill_blocks::<$type, E>(outputs, columns, fill)?;
            Ok(Box::new(TypedBlocks { blocks, columns }))
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

fn fill_blocks<T: GgmlType, E: Send>(
    outputs: usize,
    columns: usize,
    fill: impl Fn(Range<usize>) -> Result<RowData, E> + Sync,
) -> Result<Vec<T>, E> {
    assert!(columns.is_multiple_of(T::BLCK_SIZE), "blocks divide a row");
    let row = columns / T::BLCK_SIZE;
    let height = (CHUNK / columns.max(1)).clamp(1, outputs.max(1));
    let mut blocks = vec![T::zeros(); outputs * row];
    let fill_chunk = |(i, chunk): (usize, &mut [T])| {
        match fill(i * height..(i * height + chunk.len() / row))? {
            RowData::F32(values) => {
                let _span = tracing::trace_span!(target: super::TRACE_TARGET, "pack").entered();
                T::from_float(&values, chunk);
            }
            RowData::Bytes(bytes) => as_bytes_mut(chunk).copy_from_slice(&bytes),
        }
        Ok(())
    };
    blocks.par_chunks_mut(height * row).enumerate().try_for_each(fill_chunk)?;
    Ok(blocks)
}

fn as_bytes_mut<T: GgmlType>(blocks: &mut [T]) -> &mut [u8] {
    let bytes = size_of_val(blocks);
    assert_eq!(size_of::<T>(), T::DTYPE.type_size(), "blocks are packed as in a file");
    // SAFETY: the slice covers just the blocks, bytes need no alignment, and blocks are packed
    // integers and floats, for which every bit pattern is a value.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast::<u8>(), bytes) }
}

impl<T: GgmlType + 'static> GgmlMatrix for TypedBlocks<T> {
    fn data(&self) -> &[u8] {
        let blocks = self.blocks.as_slice();
        assert_eq!(size_of::<T>(), T::DTYPE.type_size(), "blocks are packed as in a file");
        // SAFETY: the slice covers just the blocks, bytes need no alignment, and blocks have no
        // padding.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(blocks)) }
    }

    fn dequantize(&self, rows: Range<usize>) -> Vec<f32> {
        let row = self.columns / T::BLCK_SIZE;
        let mut values = vec![0f32; rows.len() * self.columns];
        T::to_float(&self.blocks[rows.start * row..rows.end * row], &mut values);
        values
    }

    fn into_candle(self: Box<Self>) -> Box<dyn QuantizedType> {
        Box::new(self.blocks)
    }
}
