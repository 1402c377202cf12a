//! Sampling: candle's samplers with the repetition penalty of Keskar et al. 2019 before them.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::error::{Error, Result};
use crate::settings::Generation;

/// The sampler of one sequence.
pub(crate) struct Sampler {
    processor: LogitsProcessor,
    repetition_penalty: f32,
}

impl Sampler {
    /// One sampler per sequence; `None` for plain greedy decoding.
    pub(crate) fn for_batch(settings: &Generation, sequences: usize) -> Result<Option<Vec<Self>>> {
        let &Generation { temperature, repetition_penalty, top_k, top_p, seed, .. } = settings;
        let is_valid = temperature >= 0.0
            && temperature.is_finite()
            && repetition_penalty.is_finite()
            && repetition_penalty > 0.0
            && top_p.is_none_or(|p| p > 0.0 && p <= 1.0)
            && top_k != Some(0);
        if !is_valid {
            return Err(Error::Failed(
                "the sampler needs temperature >= 0, top_k >= 1, 0 < top_p <= 1 and \
                 repetition_penalty > 0"
                    .into(),
            ));
        }
        let greedy = settings.is_greedy();
        if greedy && repetition_penalty == 1.0 {
            return Ok(None);
        }
        let sampling = match (top_k, top_p) {
            _ if greedy => Sampling::ArgMax,
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        let seeds = (0..sequences as u64).map(|i| seed.wrapping_add(i));
        let sampler = |seed| Self {
            processor: LogitsProcessor::from_sampling(seed, sampling.clone()),
            repetition_penalty: repetition_penalty as f32,
        };
        Ok(Some(seeds.map(sampler).collect()))
    }

    /// Samples a token; the repetition penalty applies to the tokens of `context`.
    pub(crate) fn sample(&mut self, logits: &[f32], context: &[u32]) -> Result<u32> {
        let mut logits = Tensor::new(logits, &Device::Cpu)?;
        if self.repetition_penalty != 1.0 {
            logits = candle_transformers::utils::apply_repeat_penalty(
                &logits,
                self.repetition_penalty,
                context,
            )?;
        }
        Ok(self.processor.sample(&logits)?)
    }
}
