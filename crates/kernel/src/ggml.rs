//! Blocks of a GGML type as bytes, as GGUF files store them. GEMM runs on [`super::packed`]
//! matrices or in candle.

use candle_core::CpuStorage;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

/// Quantizes rows of numbers.
///
/// # Panics
/// When the type's blocks do not divide the numbers.
pub fn quantize(dtype: GgmlDType, values: &[f32]) -> Vec<u8> {
    let mut blocks = dtype.cpu_zeros(values.len());
    blocks.from_float(values);
    let tensor = QTensor::new(QStorage::Cpu(blocks), values.len()).expect("whole blocks");
    tensor.data().expect("it is in memory").into_owned()
}

/// Dequantizes whole blocks.
///
/// # Panics
/// When the bytes are not whole blocks.
pub fn dequantize(dtype: GgmlDType, bytes: &[u8]) -> Vec<f32> {
    let count = bytes.len() / dtype.type_size() * dtype.block_size();
    match dtype.from_data(bytes.into()).dequantize(count) {
        Ok(CpuStorage::F32(values)) => values,
        other => unreachable!("candle dequantizes to f32: {other:?}"),
    }
}
