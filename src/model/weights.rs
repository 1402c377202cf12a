//! Sources of weights: the trait that GGUF, safetensors and synthetic models share. Knows nothing
//! of a forward pass.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernel::{GgmlType, dequantize, quantize};
use crate::model::config::Config;

/// Target of the tracing spans around kernels; only the profiler subscribes to it.
pub(crate) const TRACE_TARGET: &str = "candlemark::kernel";

/// Shape and type of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// `[out, in]`, or `[n]` for norms and biases.
    pub shape: Vec<usize>,
    /// The stored type.
    pub dtype: GgmlType,
}

/// Rows and columns of a tensor; one of one dimension is a row.
pub(super) fn as_matrix(shape: &[usize]) -> [usize; 2] {
    match *shape {
        [columns] => [1, columns],
        [rows, columns] => [rows, columns],
        _ => unreachable!("the shape of a model's tensor was checked"),
    }
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
    Bytes(GgmlType, Vec<u8>),
}

impl StoredRows {
    /// From a file's bytes.
    pub fn from_bytes(dtype: GgmlType, bytes: Vec<u8>) -> Self {
        match dtype {
            GgmlType::F32 => StoredRows::F32(
                bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            ),
            _ => StoredRows::Bytes(dtype, bytes),
        }
    }

    /// Dequantizes the rows.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            StoredRows::F32(values) => values,
            StoredRows::Bytes(dtype, bytes) => dequantize(dtype, &bytes),
        }
    }
}

/// Weights that are read at a time: 16 MiB as f32.
const WEIGHTS_PER_READ: usize = 1 << 22;

/// The bytes of a whole matrix in a type, read in parallel, some rows at a time.
///
/// # Errors
/// When the source cannot be read.
pub(super) fn read_matrix(
    source: &dyn WeightSource,
    name: &str,
    shape: &[usize],
    dtype: GgmlType,
) -> Result<Vec<u8>> {
    let [rows, columns] = as_matrix(shape);
    let row = row_bytes(dtype, columns).expect("blocks divide a row");
    let height = (WEIGHTS_PER_READ / columns).clamp(1, rows);
    let mut bytes = vec![0; rows * row];
    let read = |(i, chunk): (usize, &mut [u8])| -> Result<()> {
        let rows = i * height..i * height + chunk.len() / row;
        chunk.copy_from_slice(&read_rows_as(source, name, rows, dtype)?);
        Ok(())
    };
    bytes.par_chunks_mut(height * row).enumerate().try_for_each(read)?;
    Ok(bytes)
}

/// The bytes of some rows of a matrix in a type: as stored, or dequantized and quantized again.
///
/// # Errors
/// When the source cannot be read.
pub(super) fn read_rows_as(
    source: &dyn WeightSource,
    name: &str,
    rows: Range<usize>,
    dtype: GgmlType,
) -> Result<Vec<u8>> {
    match source.rows(name, rows)? {
        StoredRows::Bytes(stored, bytes) if stored == dtype => Ok(bytes),
        other => {
            let values = other.into_f32();
            let _span = tracing::trace_span!(target: TRACE_TARGET, "pack").entered();
            Ok(quantize(dtype, &values))
        }
    }
}

/// Bytes of a row of `columns` values, if that is a whole number of the type's blocks.
pub(super) fn row_bytes(dtype: GgmlType, columns: usize) -> Option<usize> {
    columns
        .is_multiple_of(dtype.block_size())
        .then(|| columns / dtype.block_size() * dtype.block_bytes())
}

/// Shape and type of a tensor of an opened model.
///
/// # Errors
/// When there is none of this name.
pub(super) fn tensor_info(source: &dyn WeightSource, name: &str) -> Result<TensorInfo> {
    source.info(name).ok_or_else(|| {
        Error::Failed(format!("the weights lack the tensor `{name}`; is the download complete?"))
    })
}

/// Refuses weights that lack a tensor of the model or have one of another shape.
pub(super) fn check_shapes(config: &Config, weights: &dyn WeightSource) -> Result<()> {
    for (name, shape) in &config.tensors() {
        let found = tensor_info(weights, name)?.shape;
        if found != *shape {
            return Err(Error::Failed(format!(
                "tensor `{name}` has shape {found:?}, the configuration asks for {shape:?}"
            )));
        }
    }
    Ok(())
}
