//! A weight matrix as candle multiplies it, on GPUs: plain, or blocks with candle's own quantised
//! products.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module as _, Tensor};

use crate::error::{Error, Result};
use crate::kernel::TRACE_TARGET;
use crate::model::weights::{Source, blocks};

/// Weights that are expanded at a time: 16 MiB as f32.
const EXPANDED: usize = 1 << 22;

/// A matrix `[out, in]` of weights.
pub enum Matrix {
    /// f32 or bf16.
    Dense(Tensor),
    /// Blocks.
    Device {
        /// candle's product.
        product: QMatMul,
        /// The same blocks, for looking up rows.
        blocks: Arc<QTensor>,
    },
}

impl Matrix {
    /// Reads a matrix and holds it as `dtype` on a device.
    ///
    /// # Errors
    /// When the source has no such tensor, it has another shape, or reading or the device fails.
    pub fn load(
        source: &dyn Source,
        name: &str,
        shape: [usize; 2],
        dtype: GgmlDType,
        device: &Device,
    ) -> Result<Self> {
        check_shape(source, name, &shape)?;
        if dtype == GgmlDType::F32 || (dtype == GgmlDType::BF16 && !device.is_cpu()) {
            let mut values = Vec::with_capacity(shape[0] * shape[1]);
            for start in (0..shape[0]).step_by(height(shape)) {
                let rows = start..(start + height(shape)).min(shape[0]);
                values.extend_from_slice(&source.rows(name, rows)?.into_f32(shape[1]));
            }
            let tensor = Tensor::from_vec(values, (shape[0], shape[1]), &Device::Cpu)?;
            let kept = if dtype == GgmlDType::F32 { DType::F32 } else { DType::BF16 };
            return Ok(Matrix::Dense(tensor.to_dtype(kept)?.to_device(device)?));
        }
        let blocks = blocks(source, name, shape, dtype)?;
        let host = QTensor::new(QStorage::Cpu(blocks.into_candle()), (shape[0], shape[1]))?;
        let blocks = Arc::new(QTensor::new(
            QStorage::from_data(host.data()?, device, dtype)?,
            (shape[0], shape[1]),
        )?);
        Ok(Matrix::Device { product: QMatMul::from_arc(blocks.clone())?, blocks })
    }

    /// Bytes of the weights as held.
    pub fn bytes(&self) -> u64 {
        match self {
            Matrix::Dense(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Matrix::Device { blocks, .. } => blocks.storage_size_in_bytes() as u64,
        }
    }

    /// What the weights are held as.
    pub fn dtype(&self) -> GgmlDType {
        match self {
            Matrix::Dense(tensor) if tensor.dtype() == DType::BF16 => GgmlDType::BF16,
            Matrix::Dense(_) => GgmlDType::F32,
            Matrix::Device { blocks, .. } => blocks.dtype(),
        }
    }

    /// Activations `[rows, in]` times the transposed matrix: `[rows, out]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "product").entered();
        match self {
            Matrix::Dense(w) => Ok(x.to_dtype(w.dtype())?.matmul(&w.t()?)?),
            Matrix::Device { product, .. } => Ok(product.forward(&x.to_dtype(DType::F32)?)?),
        }
    }

    /// The rows of these numbers, `[ids, in]`.
    ///
    /// # Errors
    /// When a number is out of range, or the device fails.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let _span = tracing::trace_span!(target: TRACE_TARGET, "embedding").entered();
        match self {
            Matrix::Dense(w) => Ok(w.index_select(&Tensor::new(ids, w.device())?, 0)?),
            Matrix::Device { blocks, .. } => {
                Ok(blocks.embedding(&Tensor::new(ids, &blocks.device())?)?)
            }
        }
    }
}

/// Rows that are read or expanded at a time.
fn height([out, columns]: [usize; 2]) -> usize {
    (EXPANDED / columns.max(1)).clamp(1, out.max(1))
}

/// Compares the shape that a source has with the one that the configuration asks for.
///
/// # Errors
/// When they differ, or there is no such tensor.
pub fn check_shape(source: &dyn Source, name: &str, shape: &[usize]) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;
    use crate::model::synthetic::Synthetic;

    const NAME: &str = "model.layers.0.mlp.up_proj.weight";

    fn matrix(dtype: GgmlDType) -> Matrix {
        let source = Synthetic::new(Config::named("nano").unwrap(), 1);
        Matrix::load(&source, NAME, [512, 256], dtype, &Device::Cpu).unwrap()
    }

    /// The relative distance of two tensors, ‖a − b‖ / ‖b‖.
    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        let norm =
            |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        norm(&(a - b).unwrap()) / norm(b)
    }

    #[test]
    fn every_type_is_near_its_definition_for_few_rows_and_many() {
        let f32 = matrix(GgmlDType::F32);
        let Matrix::Dense(definition) = &f32 else { panic!("f32 is dense") };
        for (dtype, bound) in [
            (GgmlDType::F32, 1e-6),
            (GgmlDType::F16, 1e-3),
            (GgmlDType::BF16, 5e-3),
            (GgmlDType::Q8_0, 0.02),
            (GgmlDType::Q4_0, 0.15),
            (GgmlDType::Q4K, 0.12),
            (GgmlDType::Q5K, 0.06),
            (GgmlDType::Q6K, 0.04),
        ] {
            for rows in [1, 3, 65] {
                let x = Tensor::randn(0f32, 1f32, (rows, 256), &Device::Cpu).unwrap();
                let exact = x.matmul(&definition.t().unwrap()).unwrap();
                let far = distance(&matrix(dtype).forward(&x).unwrap(), &exact);
                assert!(far < bound, "{dtype:?} with {rows} rows: {far}");
            }
        }
    }

    #[test]
    fn rows_are_looked_up_by_number() {
        for dtype in [GgmlDType::F32, GgmlDType::Q8_0] {
            let found = matrix(dtype).rows(&[511, 0]).unwrap();
            let Matrix::Dense(exact) = matrix(GgmlDType::F32) else { panic!("f32 is dense") };
            let exact =
                exact.index_select(&Tensor::new(&[511u32, 0], &Device::Cpu).unwrap(), 0).unwrap();
            assert!(distance(&found, &exact) < 0.01);
            assert!(matrix(dtype).rows(&[512]).is_err());
        }
    }
}
