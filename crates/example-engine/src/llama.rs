//! A model of candle-transformers as people have it wrapped: Llama from a folder with
//! `config.json`, safetensors and `tokenizer.json`, with a KV cache per sequence.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use candlemark::model::config::{Config, Family};
use candlemark::model::safetensors::SafetensorsFolder;
use candlemark::model::{Decoder, Footprint, Logits, ModelSource, Progress, Step, TokenizerSource};
use candlemark::settings::Setup;
use candlemark::tokenizer::Tokenizer;
use candlemark::{Error, Result};

/// Llama, with the cache and the length of each sequence.
pub struct Llama {
    model: llama::Llama,
    /// No tokens, but the table of RoPE.
    empty: llama::Cache,
    shape: Config,
    weight_bytes: u64,
    sequences: Vec<(llama::Cache, usize)>,
}

/// Finds the model; what `candlemark::engine::register_engine` takes as `open`.
///
/// # Errors
/// When a file of the folder is missing or damaged.
pub fn open(setup: &Setup, progress: &mut dyn Progress) -> Result<(ModelSource, Tokenizer)> {
    let folder = Path::new(&setup.model);
    let json = config(folder)?;
    let shape = Config {
        family: Family::Other("llama"),
        layers: json.num_hidden_layers,
        hidden: json.hidden_size,
        intermediate: json.intermediate_size,
        heads: json.num_attention_heads,
        kv_heads: json.num_key_value_heads,
        head_dim: json.hidden_size / json.num_attention_heads,
        vocab: json.vocab_size,
        context: json.max_position_embeddings,
        rope_theta: json.rope_theta.into(),
        rms_eps: json.rms_norm_eps,
        tied: json.tie_word_embeddings,
        rope_scaling: None,
    };
    let mut notes = Vec::new();
    let weights = Box::new(SafetensorsFolder::open(folder, &mut notes)?);
    notes.iter().for_each(|note| progress.note(note));
    let tokenizer = TokenizerSource::Folder(folder.into());
    let spec = setup.model.clone();
    let source = ModelSource { spec, config: shape, weights, tokenizer, commit: None };
    Ok((source, Tokenizer::from_folder(folder)?))
}

/// Loads the model in f32 on the CPU.
///
/// # Errors
/// When a tensor is missing.
pub fn load(source: &ModelSource, setup: &Setup) -> Result<Box<dyn Decoder>> {
    let config = config(Path::new(&setup.model))?;
    let mut tensors = std::collections::HashMap::new();
    for (name, shape) in source.config.tensors() {
        // A vector is one row.
        let rows = if shape.len() == 1 { 1 } else { shape[0] };
        let values = source.weights.rows(&name, 0..rows)?.into_f32();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    let weight_bytes = 4 * source.config.parameters();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let (model, shape) = (llama::Llama::load(vb, &config)?, source.config.clone());
    let empty = llama::Cache::new(true, DType::F32, &config, &Device::Cpu)?;
    Ok(Box::new(Llama { model, empty, shape, weight_bytes, sequences: Vec::new() }))
}

fn config(folder: &Path) -> Result<llama::Config> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::Read { path: path.clone(), source })?;
    let json: llama::LlamaConfig =
        serde_json::from_str(&text).map_err(|error| Error::invalid(&path, error.to_string()))?;
    Ok(json.into_config(false))
}

impl Decoder for Llama {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let vocab = self.shape.vocab;
        let mut values = Vec::with_capacity(steps.len() * vocab);
        for step in steps {
            let (cache, length) = &mut self.sequences[step.sequence];
            self.shape.check_length(*length + step.tokens.len())?;
            let tokens = Tensor::new(step.tokens, &Device::Cpu)?.unsqueeze(0)?;
            let logits = self.model.forward(&tokens, *length, cache)?;
            values.extend(logits.flatten_all()?.to_vec1::<f32>()?);
            *length += step.tokens.len();
        }
        Ok(Logits { vocab, values })
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.sequences = vec![(self.empty.clone(), 0); sequences];
        Ok(())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.shape.check_length(length)
    }

    fn footprint(&self) -> Footprint {
        Footprint::of_f32(self.weight_bytes)
    }
}
