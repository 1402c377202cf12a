//! Writes GGUF files that llama.cpp and candle load. candle writes the container.

use std::io;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{QStorage, QTensor, gguf_file};
use rayon::prelude::*;

use super::names::gguf_name;
use crate::error::Result;
use crate::files;
use crate::model::config::Config;
use crate::model::quant::{Quant, weight_dtype};
use crate::model::weights::{WeightSource, read_matrix, tensor_info};
use crate::tokenizer::GgufTokenizer;

/// The metadata of a tokenizer. Where llama.cpp and candle spell a key differently, both are
/// written.
pub fn tokenizer_metadata(tokenizer: &GgufTokenizer) -> Vec<(String, Value)> {
    let texts = |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
    let types = tokenizer.token_types.iter().map(|&kind| Value::I32(kind as i32)).collect();
    let mut all = vec![
        ("tokenizer.ggml.model".to_string(), Value::String(tokenizer.model.clone())),
        ("tokenizer.ggml.tokens".into(), texts(&tokenizer.tokens)),
        ("tokenizer.ggml.token_type".into(), Value::Array(types)),
        ("tokenizer.ggml.merges".into(), texts(&tokenizer.merges)),
        ("tokenizer.ggml.add_bos_token".into(), Value::Bool(tokenizer.bos.is_some())),
    ];
    if let Some(pre) = &tokenizer.pre {
        all.push(("tokenizer.ggml.pre".into(), Value::String(pre.clone())));
    }
    if let Some(bos) = tokenizer.bos {
        all.push(("tokenizer.ggml.bos_token_id".into(), Value::U32(bos)));
    }
    if let Some(&eos) = tokenizer.ends.first() {
        for key in ["eos_token_id", "padding_token_id", "pad_token_id"] {
            all.push((format!("tokenizer.ggml.{key}"), Value::U32(eos)));
        }
    }
    if let Some(template) = &tokenizer.chat_template {
        all.push(("tokenizer.chat_template".into(), Value::String(template.clone())));
    }
    all
}

/// The metadata of a shape without RoPE scaling, without the tokenizer.
pub fn shape_metadata(config: &Config, name: &str) -> Vec<(String, Value)> {
    let arch = config.family.name();
    let text = |text: &str| Value::String(text.into());
    let mut all = vec![
        ("general.architecture".to_string(), text(arch)),
        ("general.name".into(), text(name)),
        // candle-transformers computes its RoPE tables in this type, and in f16 without the key.
        ("general.dtype".into(), Value::U32(0)),
    ];
    for (key, size) in [
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("block_count", config.layers),
        ("feed_forward_length", config.intermediate),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ] {
        all.push((format!("{arch}.{key}"), Value::U32(size as u32)));
    }
    let eps = Value::F32(config.rms_eps as f32);
    all.push((format!("{arch}.attention.layer_norm_rms_epsilon"), eps));
    all.push((format!("{arch}.rope.freq_base"), Value::F32(config.rope_theta as f32)));
    all
}

/// Every tensor of a model under its GGUF name, with the types that `quant` chooses.
///
/// # Errors
/// When the source lacks a tensor or cannot be read.
pub(crate) fn quantized_tensors(
    config: &Config,
    source: &dyn WeightSource,
    quant: Option<Quant>,
) -> Result<Vec<(String, QTensor)>> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let dtype = weight_dtype(&name, &tensor_info(source, &name)?, quant, config);
        let bytes = read_matrix(source, &name, &shape, dtype)?;
        let blocks = QStorage::Cpu(dtype.from_data(bytes.into()));
        Ok((gguf_name(&name), QTensor::new(blocks, shape)?))
    };
    config.tensors().into_par_iter().map(tensor).collect()
}

/// Writes a GGUF file, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[(String, QTensor)],
) -> Result<()> {
    files::write_with(path, |draft| {
        let mut draft = BufWriter::new(draft);
        write_to(&mut draft, metadata, tensors)
            .map_err(|error| io::Error::other(first_line(&error)))?;
        draft.flush()
    })
}

/// Writes the container.
pub(in crate::model) fn write_to(
    out: &mut (impl Write + Seek),
    metadata: &[(String, Value)],
    tensors: &[(String, QTensor)],
) -> candle_core::Result<()> {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(out, &metadata, &tensors)
}

/// The message of a candle error, without its backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}
