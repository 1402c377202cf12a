//! A weight matrix in the form it is multiplied in. On the CPU quantised and 16-bit matrices stay in panels of rows as stored, with
//! no second copy: few rows of activations are multiplied with the blocks directly, many with a panel that is expanded to
//! f32 for the moment. Other devices use candle's own quantised products.

use candle_core::CpuStorage;
use candle_core::DType;
use candle_core::Device;
use candle_core::Module as _;
use candle_core::Tensor;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::QMatMul;
use candle_core::quantized::QStorage;
use candle_core::quantized::QTensor;
use candle_core::quantized::QuantizedType;
use rayon::prelude::*;

use crate::error::Error;
use crate::error::Result;
use crate::model::weights::Source;

/// Values in a panel: 16 MiB once it is expanded to f32.
const PANEL: usize = 1 << 22;

/// Rows of activations from which expanding a panel costs less than it saves (measured on AVX2 and AVX-512 machines).
const EXPAND_FROM: usize = 24;

/// Rows of activations below which a dense product is split over the threads by us: candle's product of a single row uses one.
const SPLIT_BELOW: usize = 4;

/// A matrix `[out, in]` of weights.
pub enum Matrix {
    /// f32 on the CPU; f32 or bf16 elsewhere.
    Dense(Tensor),
    /// Blocks on the CPU, in panels of rows.
    Packed(Packed),
    /// Blocks on another device.
    Device {
        /// candle's product.
        product: QMatMul,
        /// The same blocks, for looking up rows.
        blocks: std::sync::Arc<QTensor>,
    },
}

/// Panels of rows, each as its blocks.
pub struct Packed {
    panels: Vec<Box<dyn QuantizedType>>,
    /// Rows of every panel but the last.
    height: usize,
    out: usize,
    columns: usize,
    dtype: GgmlDType,
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
        let [out, columns] = shape;
        let height = (PANEL / columns.max(1)).max(1).min(out);
        let starts: Vec<usize> = (0..out).step_by(height).collect();
        let panel = |&start: &usize| {
            let rows = start..(start + height).min(out);
            let count = rows.len() * columns;
            Ok::<_, Error>((source.rows(name, rows)?, count))
        };
        if dtype == GgmlDType::F32 || (dtype == GgmlDType::BF16 && !device.is_cpu()) {
            let mut values = Vec::with_capacity(out * columns);
            for start in &starts {
                let (rows, count) = panel(start)?;
                values.extend_from_slice(&rows.into_f32(count)?);
            }
            let tensor = Tensor::from_vec(values, (out, columns), &Device::Cpu)?;
            let dense =
                if dtype == GgmlDType::F32 { tensor } else { tensor.to_dtype(DType::BF16)? };
            return Ok(Matrix::Dense(dense.to_device(device)?));
        }
        let panels: Result<Vec<_>> = starts
            .par_iter()
            .map(|start| panel(start).and_then(|(rows, count)| rows.into_blocks(dtype, count)))
            .collect();
        let packed = Packed { panels: panels?, height, out, columns, dtype };
        if device.is_cpu() { Ok(Matrix::Packed(packed)) } else { packed.upload(device) }
    }

    /// Bytes of the weights as held.
    pub fn bytes(&self) -> u64 {
        match self {
            Matrix::Dense(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Matrix::Packed(packed) => {
                packed.panels.iter().map(|panel| panel.storage_size_in_bytes() as u64).sum()
            }
            Matrix::Device { blocks, .. } => blocks.storage_size_in_bytes() as u64,
        }
    }

    /// What the weights are held as.
    pub fn dtype(&self) -> GgmlDType {
        match self {
            Matrix::Dense(tensor) if tensor.dtype() == DType::BF16 => GgmlDType::BF16,
            Matrix::Dense(_) => GgmlDType::F32,
            Matrix::Packed(packed) => packed.dtype,
            Matrix::Device { blocks, .. } => blocks.dtype(),
        }
    }

    /// Activations `[rows, in]` times the transposed matrix: `[rows, out]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::Dense(w) if w.device().is_cpu() && x.dim(0)? < SPLIT_BELOW => {
                split_product(x, w)
            }
            Matrix::Dense(w) => Ok(x.to_dtype(w.dtype())?.matmul(&w.t()?)?),
            Matrix::Packed(packed) => packed.forward(x),
            Matrix::Device { product, .. } => Ok(product.forward(&x.to_dtype(DType::F32)?)?),
        }
    }

    /// The rows of these numbers, `[ids, in]`.
    ///
    /// # Errors
    /// When a number is out of range, or the device fails.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Matrix::Dense(w) => Ok(w.index_select(&Tensor::new(ids, w.device())?, 0)?),
            Matrix::Packed(packed) => packed.rows(ids),
            Matrix::Device { blocks, .. } => {
                Ok(blocks.embedding(&Tensor::new(ids, &blocks.device())?)?)
            }
        }
    }
}

/// Compares the shape that a source has with the one that the configuration asks for.
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

fn split_product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let out = w.dim(0)?;
    let part = out.div_ceil(rayon::current_num_threads()).max(64);
    let starts: Vec<usize> = (0..out).step_by(part).collect();
    let parts: candle_core::Result<Vec<Tensor>> = starts
        .par_iter()
        .map(|&start| x.matmul(&w.narrow(0, start, part.min(out - start))?.t()?))
        .collect();
    Ok(Tensor::cat(&parts?, 1)?)
}

impl Packed {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        // 16-bit dot products of candle are not vectorised for a baseline build; the f32 product is.
        let plain = matches!(self.dtype, GgmlDType::F16 | GgmlDType::BF16);
        if plain || rows >= EXPAND_FROM { self.expanded(x) } else { self.direct(x, rows) }
    }

    fn expanded(&self, x: &Tensor) -> Result<Tensor> {
        let product = |panel: &dyn QuantizedType, height: usize| {
            let CpuStorage::F32(values) = panel.dequantize(height * self.columns)? else {
                return Err(Error::Failed(format!("{:?} does not expand to f32", self.dtype)));
            };
            let w = Tensor::from_vec(values, (height, self.columns), &Device::Cpu)?;
            if x.dim(0)? < SPLIT_BELOW { split_product(x, &w) } else { Ok(x.matmul(&w.t()?)?) }
        };
        let parts: Result<Vec<Tensor>> =
            self.heights().map(|(panel, height)| product(panel, height)).collect();
        let mut parts = parts?;
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Ok(Tensor::cat(&parts, 1)?) }
    }

    fn direct(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        let mut all = vec![0f32; rows * self.out];
        if let [panel] = self.panels.as_slice() {
            panel.matmul_t((rows, self.columns, self.out), &x, &mut all)?;
        } else {
            let mut part = vec![0f32; rows * self.height];
            let mut start = 0;
            for (panel, height) in self.heights() {
                let part = &mut part[..rows * height];
                panel.matmul_t((rows, self.columns, height), &x, part)?;
                for (all, part) in all.chunks_exact_mut(self.out).zip(part.chunks_exact(height)) {
                    all[start..start + height].copy_from_slice(part);
                }
                start += height;
            }
        }
        Ok(Tensor::from_vec(all, (rows, self.out), &Device::Cpu)?)
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let mut all = Vec::with_capacity(ids.len() * self.columns);
        for &id in ids {
            let Some((panel, height)) = self.heights().nth(id as usize / self.height) else {
                return Err(Error::Failed(format!(
                    "token id {id} is beyond the {} rows of the embedding",
                    self.out
                )));
            };
            match panel.embedding(&[id % self.height as u32], height, self.columns)? {
                CpuStorage::F32(row) => all.extend_from_slice(&row),
                _ => return Err(Error::Failed(format!("{:?} does not expand to f32", self.dtype))),
            }
        }
        Ok(Tensor::from_vec(all, (ids.len(), self.columns), &Device::Cpu)?)
    }

    /// Every panel with its number of rows.
    fn heights(&self) -> impl Iterator<Item = (&dyn QuantizedType, usize)> {
        let panels = self.panels.iter().enumerate();
        panels.map(|(i, panel)| (panel.as_ref(), self.height.min(self.out - i * self.height)))
    }

    fn upload(self, device: &Device) -> Result<Matrix> {
        let mut bytes = Vec::new();
        let (out, columns, dtype, height) = (self.out, self.columns, self.dtype, self.height);
        for (i, panel) in self.panels.into_iter().enumerate() {
            let rows = height.min(out - i * height);
            bytes.extend_from_slice(&QTensor::new(QStorage::Cpu(panel), (rows, columns))?.data()?);
        }
        let storage = QStorage::from_data(std::borrow::Cow::Owned(bytes), device, dtype)?;
        let blocks = std::sync::Arc::new(QTensor::new(storage, (out, columns))?);
        Ok(Matrix::Device { product: QMatMul::from_arc(blocks.clone())?, blocks })
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
    fn every_type_is_near_its_definition_on_both_paths() {
        let f32 = matrix(GgmlDType::F32);
        for (dtype, bound) in [
            (GgmlDType::F16, 1e-3),
            (GgmlDType::BF16, 5e-3),
            (GgmlDType::Q8_0, 0.02),
            (GgmlDType::Q4_0, 0.15),
            (GgmlDType::Q4K, 0.12),
            (GgmlDType::Q5K, 0.06),
            (GgmlDType::Q6K, 0.04),
        ] {
            for rows in [1, 3, EXPAND_FROM - 1, EXPAND_FROM, 65] {
                let x = Tensor::randn(0f32, 1f32, (rows, 256), &Device::Cpu).unwrap();
                let far = distance(&matrix(dtype).forward(&x).unwrap(), &f32.forward(&x).unwrap());
                assert!(far < bound, "{dtype:?} with {rows} rows: {far}");
            }
        }
    }

    #[test]
    fn panels_are_seamless() {
        let source = Synthetic::new(Config::named("nano").unwrap(), 1);
        let cut = |height: usize| {
            let panels = (0..512usize).step_by(height).map(|start| {
                let rows = start..(start + height).min(512);
                let count = rows.len() * 256;
                source.rows(NAME, rows).unwrap().into_blocks(GgmlDType::Q8_0, count).unwrap()
            });
            Packed {
                panels: panels.collect(),
                height,
                out: 512,
                columns: 256,
                dtype: GgmlDType::Q8_0,
            }
        };
        for rows in [1, 5, 40] {
            let x = Tensor::randn(0f32, 1f32, (rows, 256), &Device::Cpu).unwrap();
            let whole = cut(512).forward(&x).unwrap();
            assert!(distance(&cut(100).forward(&x).unwrap(), &whole) < 1e-6);
        }
        let ids = [0, 99, 100, 511];
        assert_eq!(distance(&cut(100).rows(&ids).unwrap(), &cut(512).rows(&ids).unwrap()), 0.0);
        assert!(cut(100).rows(&[600]).is_err());
    }
}
