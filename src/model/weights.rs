//! Sources of weights: the trait that GGUF, safetensors and synthetic models share. Knows nothing
//! of a forward pass.

use std::convert::Infallible;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};
use crate::kernel::{GgmlMatrix, RowData, ggml_matrix};

/// Shape and type of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// `[out, in]`, or `[n]` for norms and biases.
    pub shape: Vec<usize>,
    /// The stored type.
    pub dtype: GgmlDType,
}

/// The tensors of a model, under their names in safetensors.
pub trait WeightSource: Send + Sync {
    /// Shape and stored type of a tensor; `None` if there is no tensor of this name.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Some rows of a tensor, as stored. A tensor of one dimension is one row.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<StoredRows>;

    /// The tensors that are not among `used`, by their names in the file.
    fn unused(&self, used: &[(String, Vec<usize>)]) -> Vec<String>;

    /// SHA-256 over the bytes of all files, or over the seed and shape of synthetic weights.
    ///
    /// # Errors
    /// When a file cannot be read.
    fn sha256(&self) -> Result<String>;
}

/// Rows of a tensor as stored.
pub enum StoredRows {
    /// Values.
    F32(Vec<f32>),
    /// The bytes of any other type.
    Bytes(GgmlDType, Vec<u8>),
}

impl StoredRows {
    /// From a file's bytes.
    pub fn from_bytes(dtype: GgmlDType, bytes: Vec<u8>) -> Self {
        match dtype {
            GgmlDType::F32 => StoredRows::F32(
                bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            ),
            _ => StoredRows::Bytes(dtype, bytes),
        }
    }

    /// Dequantizes rows of `columns` values.
    pub fn into_f32(self, columns: usize) -> Vec<f32> {
        match self {
            StoredRows::F32(values) => values,
            StoredRows::Bytes(dtype, bytes) => {
                let row = row_bytes(dtype, columns).expect("what was read has whole rows");
                let rows = bytes.len() / row;
                let one = |range: Range<usize>| {
                    Ok::<_, Infallible>(RowData::Bytes(
                        bytes[range.start * row..range.end * row].to_vec(),
                    ))
                };
                match ggml_matrix(dtype, [rows, columns], one) {
                    Ok(blocks) => blocks.dequantize(0..rows),
                    Err(never) => match never {},
                }
            }
        }
    }
}

/// A whole matrix of a source, quantized to a block format unless it is stored so. Read in
/// parallel, some rows at a time.
///
/// # Errors
/// When the source cannot be read.
pub(super) fn read_blocks(
    source: &dyn WeightSource,
    name: &str,
    shape: [usize; 2],
    dtype: GgmlDType,
) -> Result<Box<dyn GgmlMatrix>> {
    ggml_matrix(dtype, shape, |rows| match source.rows(name, rows)? {
        StoredRows::Bytes(stored, bytes) if stored == dtype => Ok(RowData::Bytes(bytes)),
        other => Ok(RowData::F32(other.into_f32(shape[1]))),
    })
}

/// The bytes of some rows of a matrix in a type: as stored, or dequantized and quantized again.
///
/// # Errors
/// When the source cannot be read.
pub(super) fn read_rows_as(
    source: &dyn WeightSource,
    name: &str,
    rows: Range<usize>,
    columns: usize,
    dtype: GgmlDType,
) -> Result<Vec<u8>> {
    let count = rows.len();
    match source.rows(name, rows)? {
        StoredRows::Bytes(stored, bytes) if stored == dtype => Ok(bytes),
        other => {
            let values = other.into_f32(columns);
            if dtype == GgmlDType::F32 {
                return Ok(bytemuck::cast_slice(&values).to_vec());
            }
            let fill = |rows: Range<usize>| {
                Ok::<_, Infallible>(RowData::F32(
                    values[rows.start * columns..rows.end * columns].to_vec(),
                ))
            };
            match ggml_matrix(dtype, [count, columns], fill) {
                Ok(blocks) => Ok(blocks.data().to_vec()),
                Err(never) => match never {},
            }
        }
    }
}

/// Bytes of a row of `columns` values, if that is a whole number of the type's blocks.
pub(super) fn row_bytes(dtype: GgmlDType, columns: usize) -> Option<usize> {
    columns
        .is_multiple_of(dtype.block_size())
        .then(|| columns / dtype.block_size() * dtype.type_size())
}

/// Refuses a tensor that is missing or has another shape than the configuration asks for.
pub(super) fn check_shape(source: &dyn WeightSource, name: &str, shape: &[usize]) -> Result<()> {
    match source.info(name) {
        None => Err(Error::Failed(format!(
            "the weights lack the tensor `{name}`; is the download complete?"
        ))),
        Some(info) if info.shape != shape => Err(Error::Failed(format!(
            "tensor `{name}` has shape {:?}, the configuration asks for {shape:?}",
            info.shape
        ))),
        Some(_) => Ok(()),
    }
}
