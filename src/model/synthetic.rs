//! Seeded random weights of any shape: the speed of the real model without a download. A weight
//! depends only on the seed, the tensor's name and its index, so the bits are the same on every
//! machine and for any number of threads.

use std::ops::Range;

use rayon::prelude::*;
use sha2::Digest as _;

use crate::error::{Error, Result};
use crate::files::hex;
use crate::kernel::GgmlType;
use crate::model::config::Config;
use crate::model::weights::{StoredRows, TensorInfo, WeightSource, as_matrix};
use crate::stats::Random;

/// Weights are uniform in ± this: a standard deviation of 0.02, Qwen's `initializer_range`.
const AMPLITUDE: f32 = 0.034_641_016;

/// Factor on the embedding, a power of two. With tied embeddings, a residual stream dominated by
/// the last token's own row would only repeat that token. Scaled down, the layers dominate, and
/// greedy output depends on the whole model.
const EMBEDDING_SCALE: f32 = 0.125;

/// Part of the model's hash; raised when the values change.
const VERSION: u32 = 1;

/// A model of random weights.
pub(super) struct SyntheticWeights {
    config: Config,
    seed: u64,
    shapes: std::collections::HashMap<String, Vec<usize>>,
}

impl SyntheticWeights {
    pub(super) fn new(config: Config, seed: u64) -> Self {
        let shapes = config.tensors().into_iter().collect();
        Self { config, seed, shapes }
    }
}

impl WeightSource for SyntheticWeights {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.shapes.get(name).map(|shape| TensorInfo { shape: shape.clone(), dtype: GgmlType::F32 })
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<StoredRows> {
        let shape = self
            .shapes
            .get(name)
            .ok_or_else(|| Error::Failed(format!("no tensor `{name}` in this shape")))?;
        let [_, columns] = as_matrix(shape);
        let (start, count) = (rows.start * columns, rows.len() * columns);
        if name.ends_with("norm.weight") {
            return Ok(StoredRows::F32(vec![1.0; count]));
        }
        let key = tensor_seed(self.seed, name);
        let mut values = vec![0f32; count];
        values
            .par_chunks_mut(1 << 16)
            .enumerate()
            .for_each(|(chunk, values)| fill(key, start + (chunk << 16), values));
        if name.contains("embed_tokens") {
            values.par_iter_mut().for_each(|value| *value *= EMBEDDING_SCALE);
        }
        Ok(StoredRows::F32(values))
    }

    fn unused(&self, used: &[(String, Vec<usize>)]) -> Vec<String> {
        let is_used = |name: &&String| used.iter().any(|(used, _)| used == *name);
        self.shapes.keys().filter(|name| !is_used(name)).cloned().collect()
    }

    fn sha256(&self) -> Result<String> {
        let identity = format!("synthetic {VERSION} seed {} {}", self.seed, self.config.to_json());
        Ok(hex(&sha2::Sha256::digest(identity)))
    }
}

fn tensor_seed(seed: u64, name: &str) -> u64 {
    let digest = sha2::Sha256::digest(format!("{seed}/{name}"));
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// The values from index `start` on. Two values share one 64-bit hash, so an odd start begins with
/// the second half of one.
fn fill(key: u64, start: usize, values: &mut [f32]) {
    let (head, rest) = values.split_at_mut((start % 2).min(values.len()));
    if let [first] = head {
        *first = uniform((Random::at(key, start as u64 / 2).bits() >> 32) as u32);
    }
    let first = start.div_ceil(2);
    for (i, pair) in rest.chunks_mut(2).enumerate() {
        let bits = Random::at(key, (first + i) as u64).bits();
        pair[0] = uniform(bits as u32);
        if let Some(second) = pair.get_mut(1) {
            *second = uniform((bits >> 32) as u32);
        }
    }
}

/// Uniform in ±[`AMPLITUDE`]. 24 bits are exact in an f32, so the product is the only rounding, and
/// the same on every machine.
fn uniform(bits: u32) -> f32 {
    ((bits >> 8) as i32 - (1 << 23)) as f32 * (AMPLITUDE / (1 << 23) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, rows: Range<usize>) -> Vec<f32> {
        let source = SyntheticWeights::new(Config::named("nano").unwrap(), 42);
        source.rows(name, rows).unwrap().into_f32()
    }

    #[test]
    fn weights_have_pinned_bits() {
        let bits: Vec<u32> =
            values("model.embed_tokens.weight", 0..1)[..4].iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, PINNED);
    }
    const PINNED: [u32; 4] = [3119348937, 996076353, 994763724, 3144750227];

    #[test]
    fn rows_read_alone_equal_rows_read_together() {
        let name = "model.layers.1.mlp.up_proj.weight";
        let all = values(name, 0..512);
        assert_eq!(values(name, 300..512), all[300 * 256..]);
        let mut odd = vec![0.0; 7];
        fill(tensor_seed(42, name), 3, &mut odd);
        assert_eq!(odd, all[3..10]);
    }

    #[test]
    fn weights_are_uniform_around_zero() {
        let all = values("model.layers.0.mlp.up_proj.weight", 0..512);
        let n = all.len() as f64;
        let mean = all.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = all.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 2e-4, "{mean}");
        assert!((variance.sqrt() - 0.02).abs() < 1e-4, "{}", variance.sqrt());
        assert!(all.iter().all(|v| v.abs() <= AMPLITUDE));
    }

    #[test]
    fn norms_are_one() {
        assert!(values("model.norm.weight", 0..1).iter().all(|&v| v == 1.0));
    }
}
