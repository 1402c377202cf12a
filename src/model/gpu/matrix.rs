//! A weight matrix on a device: dense, or quantized blocks with candle's own matrix product.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module as _, Tensor};

use crate::error::Result;
use crate::kernel::GgmlType;
use crate::model::weights::{TRACE_TARGET, WeightSource, read_matrix};

/// A weight matrix `[out, in]`.
pub(super) enum Matrix {
    /// f32 or bf16.
    Dense(Tensor),
    Quantized {
        product: QMatMul,
        /// The same blocks, for looking up rows.
        blocks: Arc<QTensor>,
    },
}

impl Matrix {
    /// Reads a matrix onto a device as `dtype`, or as bf16 where candle does not have the
    /// type.
    pub(super) fn load(
        source: &dyn WeightSource,
        name: &str,
        shape: &[usize],
        dtype: GgmlType,
        device: &Device,
    ) -> Result<Self> {
        let dtype = if dtype.candle().is_some() { dtype } else { GgmlType::BF16 };
        let bytes = read_matrix(source, name, shape, dtype)?;
        let dense = match dtype {
            GgmlType::F32 => Some(DType::F32),
            GgmlType::BF16 if !device.is_cpu() => Some(DType::BF16),
            _ => None,
        };
        if let Some(dense) = dense {
            return Ok(Matrix::Dense(Tensor::from_raw_buffer(&bytes, dense, shape, device)?));
        }
        let candle = dtype.candle().expect("bf16 in place of a type that candle lacks");
        let blocks = QStorage::from_data(bytes.into(), device, candle)?;
        let blocks = Arc::new(QTensor::new(blocks, shape)?);
        Ok(Matrix::Quantized { product: QMatMul::from_arc(blocks.clone())?, blocks })
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Matrix::Dense(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Matrix::Quantized { blocks, .. } => blocks.storage_size_in_bytes() as u64,
        }
    }

    pub(super) fn dtype(&self) -> GgmlType {
        match self {
            Matrix::Dense(tensor) if tensor.dtype() == DType::BF16 => GgmlType::BF16,
            Matrix::Dense(_) => GgmlType::F32,
            Matrix::Quantized { blocks, .. } => blocks.dtype().into(),
        }
    }

    /// Activations `[rows, in]` times the transposed matrix: `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
        match self {
            Matrix::Dense(w) => Ok(x.to_dtype(w.dtype())?.matmul(&w.t()?)?),
            Matrix::Quantized { product, .. } => Ok(product.forward(&x.to_dtype(DType::F32)?)?),
        }
    }

    /// Embedding lookup: the rows of these ids, `[ids, in]`.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "embedding").entered();
        match self {
            Matrix::Dense(w) => Ok(w.index_select(&Tensor::new(ids, w.device())?, 0)?),
            Matrix::Quantized { blocks, .. } => {
                Ok(blocks.embedding(&Tensor::new(ids, &blocks.device())?)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;
    use crate::model::synthetic::SyntheticWeights;

    const NAME: &str = "model.layers.0.mlp.up_proj.weight";

    fn matrix(dtype: GgmlType) -> Matrix {
        let source = SyntheticWeights::new(Config::named("nano").unwrap(), 1);
        Matrix::load(&source, NAME, &[512, 256], dtype, &Device::Cpu).unwrap()
    }

    /// The relative distance of two tensors, ‖a − b‖ / ‖b‖.
    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        let norm =
            |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        norm(&(a - b).unwrap()) / norm(b)
    }

    #[test]
    fn every_type_is_close_to_f32_for_few_rows_and_many() {
        let f32 = matrix(GgmlType::F32);
        let Matrix::Dense(reference) = &f32 else { panic!("f32 is dense") };
        for (dtype, bound) in [
            (GgmlType::F32, 1e-6),
            (GgmlType::F16, 1e-3),
            (GgmlType::BF16, 5e-3),
            (GgmlType::Q8_0, 0.02),
            (GgmlType::Q4_0, 0.15),
            (GgmlType::Q4K, 0.12),
            (GgmlType::Q5K, 0.06),
            (GgmlType::Q6K, 0.04),
        ] {
            for rows in [1, 3, 65] {
                let x = Tensor::randn(0f32, 1f32, (rows, 256), &Device::Cpu).unwrap();
                let exact = x.matmul(&reference.t().unwrap()).unwrap();
                let error = distance(&matrix(dtype).forward(&x).unwrap(), &exact);
                assert!(error < bound, "{dtype:?} with {rows} rows: {error}");
            }
        }
    }

    #[test]
    fn rows_are_looked_up_by_number() {
        for dtype in [GgmlType::F32, GgmlType::Q8_0] {
            let found = matrix(dtype).rows(&[511, 0]).unwrap();
            let Matrix::Dense(exact) = matrix(GgmlType::F32) else { panic!("f32 is dense") };
            let exact =
                exact.index_select(&Tensor::new(&[511u32, 0], &Device::Cpu).unwrap(), 0).unwrap();
            assert!(distance(&found, &exact) < 0.01);
            assert!(matrix(dtype).rows(&[512]).is_err());
        }
    }
}
