//! The `candle` engine: candle-transformers' Qwen models as published, as a reference to compare
//! with. What they do not support is an [`Error::Unsupported`] with its reason, never a number.

use std::collections::HashMap;
use std::io::{Cursor, Read, Seek};

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{quantized_qwen2, quantized_qwen3, qwen2, qwen3};

use crate::error::{Error, Result};
use crate::kernel::{GgmlType, KvDtype};
use crate::model::config::{Config, Family};
use crate::model::decoder::{Decoder, Footprint, Logits, Step};
use crate::model::gguf;
use crate::model::gguf::Gguf;
use crate::model::quant::Quant;
use crate::model::source::{ModelSource, TokenizerSource};
use crate::model::weights::as_matrix;

/// The longest supported context: candle-transformers makes RoPE tables for all of it at once, here
/// 256 MiB.
const MAX_CONTEXT: usize = 1 << 19;

/// A model of candle-transformers.
pub(super) struct CandleDecoder {
    model: Model,
    config: Config,
    device: Device,
    footprint: Footprint,
    sequences: usize,
    past: usize,
}

enum Model {
    Qwen3(qwen3::ModelForCausalLM),
    Qwen2(qwen2::ModelForCausalLM),
    QuantizedQwen3(quantized_qwen3::ModelWeights),
    QuantizedQwen2(quantized_qwen2::ModelWeights),
}

impl CandleDecoder {
    /// Loads a model: candle's quantized models for GGUF files and quantizations, the dense ones
    /// otherwise.
    ///
    /// # Errors
    /// When the model scales RoPE, which candle-transformers ignores, or loading fails.
    pub(super) fn load(
        source: &ModelSource,
        quant: Option<Quant>,
        device: &Device,
    ) -> Result<Self> {
        let config = &source.config;
        if config.rope_scaling.is_some() {
            return Err(unsupported("RoPE scaling: its Qwen models ignore it"));
        }
        if config.context > MAX_CONTEXT {
            return Err(unsupported(&format!(
                "a context of {}: it makes RoPE tables for all of it at once",
                config.context
            )));
        }
        let from_file = match &source.tokenizer {
            TokenizerSource::Gguf(path) if quant.is_none() => Some(path),
            _ => None,
        };
        let (model, types) = match (from_file, quant) {
            (Some(path), _) => {
                let gguf = Gguf::open(path)?;
                load_quantized(config, gguf.content(config)?, &mut gguf.reader(), device)?
            }
            (None, Some(quant @ (Quant::Iq4Nl | Quant::Iq4Xs | Quant::Mxfp4))) => {
                return Err(unsupported(&format!(
                    "{} weights: candle lacks the type",
                    quant.name()
                )));
            }
            (None, Some(Quant::Q8_0 | Quant::Q4KM)) => {
                let tensors = gguf::quantized_tensors(config, source.weights.as_ref(), quant)?;
                let mut file = Cursor::new(Vec::new());
                let metadata = gguf::shape_metadata(config, &source.spec);
                gguf::write_to(&mut file, &metadata, &tensors).map_err(candle_core::Error::from)?;
                file.set_position(0);
                let content = gguf_file::Content::read(&mut file)?;
                load_quantized(config, content, &mut file, device)?
            }
            (None, Some(Quant::Bf16)) => load_dense(source, DType::BF16, device)?,
            (None, Some(Quant::F32) | None) => load_dense(source, DType::F32, device)?,
        };
        let weight_bytes = types.iter().map(|(_, bytes)| bytes).sum();
        let footprint = Footprint {
            types,
            weight_bytes,
            step_bytes: weight_bytes,
            kv_dtype: KvDtype::F32,
            dequantized: Vec::new(),
        };
        Ok(Self {
            model,
            config: config.clone(),
            device: device.clone(),
            footprint,
            sequences: 0,
            past: 0,
        })
    }

    fn is_quantized(&self) -> bool {
        matches!(self.model, Model::QuantizedQwen3(_) | Model::QuantizedQwen2(_))
    }
}

/// `content` has the keys of [`gguf::shape_metadata`]: those that candle reads, and
/// `general.dtype`, without which it computes RoPE angles in f16, which is wrong after a few
/// hundred positions.
fn load_quantized(
    config: &Config,
    content: gguf_file::Content,
    file: &mut (impl Read + Seek),
    device: &Device,
) -> Result<(Model, Vec<(GgmlType, u64)>)> {
    let matrices = content.tensor_infos.values().filter(|info| info.shape.rank() == 2);
    let bytes = |info: &gguf_file::TensorInfo| {
        (info.shape.elem_count() / info.ggml_dtype.block_size() * info.ggml_dtype.type_size())
            as u64
    };
    let types = matrices.map(|info| (info.ggml_dtype.into(), bytes(info))).collect();
    let model = match config.family {
        Family::Qwen3 => {
            Model::QuantizedQwen3(quantized_qwen3::ModelWeights::from_gguf(content, file, device)?)
        }
        Family::Qwen2 => {
            Model::QuantizedQwen2(quantized_qwen2::ModelWeights::from_gguf(content, file, device)?)
        }
        Family::Other(name) => return Err(Family::unsupported(name)),
    };
    Ok((model, types))
}

fn load_dense(
    source: &ModelSource,
    dtype: DType,
    device: &Device,
) -> Result<(Model, Vec<(GgmlType, u64)>)> {
    let config = &source.config;
    let mut tensors = HashMap::new();
    for (name, shape) in config.tensors() {
        let values = source.weights.rows(&name, 0..as_matrix(&shape)[0])?.into_f32();
        tensors.insert(
            name,
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?,
        );
    }
    let bytes = config.parameters() * dtype.size_in_bytes() as u64;
    let vb = VarBuilder::from_tensors(tensors, dtype, device);
    let model = match config.family {
        Family::Qwen3 => Model::Qwen3(qwen3::ModelForCausalLM::new(
            &qwen3::Config {
                vocab_size: config.vocab,
                hidden_size: config.hidden,
                intermediate_size: config.intermediate,
                num_hidden_layers: config.layers,
                num_attention_heads: config.heads,
                head_dim: config.head_dim,
                attention_bias: false,
                num_key_value_heads: config.kv_heads,
                max_position_embeddings: config.context,
                sliding_window: None,
                max_window_layers: config.layers,
                tie_word_embeddings: config.tied,
                rope_theta: config.rope_theta,
                rms_norm_eps: config.rms_eps,
                use_sliding_window: false,
                hidden_act: candle_nn::Activation::Silu,
            },
            vb,
        )?),
        Family::Qwen2 => Model::Qwen2(qwen2::ModelForCausalLM::new(
            &qwen2::Config {
                vocab_size: config.vocab,
                hidden_size: config.hidden,
                intermediate_size: config.intermediate,
                num_hidden_layers: config.layers,
                num_attention_heads: config.heads,
                num_key_value_heads: config.kv_heads,
                max_position_embeddings: config.context,
                sliding_window: config.context,
                max_window_layers: config.layers,
                tie_word_embeddings: config.tied,
                rope_theta: config.rope_theta,
                rms_norm_eps: config.rms_eps,
                use_sliding_window: false,
                hidden_act: candle_nn::Activation::Silu,
            },
            vb,
        )?),
        Family::Other(name) => return Err(Family::unsupported(name)),
    };
    let stored = if dtype == DType::F32 { GgmlType::F32 } else { GgmlType::BF16 };
    Ok((model, vec![(stored, bytes)]))
}

impl Decoder for CandleDecoder {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let rows = steps.first().map_or(0, |step| step.tokens.len());
        if steps.len() != self.sequences
            || steps.iter().enumerate().any(|(i, step)| step.sequence != i)
        {
            return Err(unsupported("steps of some of the sequences: its batch has one position"));
        }
        if rows == 0 || steps.iter().any(|step| step.tokens.len() != rows) {
            return Err(unsupported("ragged batches: its batch has one position"));
        }
        if self.is_quantized() && self.past > 0 && rows > 1 {
            return Err(unsupported(
                "chunked prefill or prefill after decode with quantized weights: it reads a stale \
                 cache",
            ));
        }
        self.config.check_length(self.past + rows)?;
        let ids: Vec<u32> = steps.iter().flat_map(|step| step.tokens).copied().collect();
        let ids = Tensor::from_vec(ids, (steps.len(), rows), &self.device)?;
        let logits = match &mut self.model {
            Model::Qwen3(model) => model.forward(&ids, self.past)?,
            Model::Qwen2(model) => model.forward(&ids, self.past)?,
            Model::QuantizedQwen3(model) => model.forward(&ids, self.past)?,
            Model::QuantizedQwen2(model) => model.forward(&ids, self.past)?,
        };
        self.past += rows;
        let values = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Logits { vocab: self.config.vocab, values })
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        if self.is_quantized() && sequences > 1 {
            return Err(unsupported(
                "batches with quantized weights: its quantized models have one sequence",
            ));
        }
        match &mut self.model {
            Model::Qwen3(model) => model.clear_kv_cache(),
            Model::Qwen2(model) => model.clear_kv_cache(),
            Model::QuantizedQwen3(model) => model.clear_kv_cache(),
            Model::QuantizedQwen2(model) => model.clear_kv_cache(),
        }
        (self.sequences, self.past) = (sequences, 0);
        Ok(())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.config.check_length(length)
    }

    fn prefill_chunk(&self) -> Option<usize> {
        Some(usize::MAX) // All sequences have to be in one pass.
    }

    fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(format!("candle-transformers does not support {what}"))
}
