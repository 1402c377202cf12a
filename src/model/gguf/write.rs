//! Writes GGUF files that llama.cpp and candle load. candle writes the container.

use std::io;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{QStorage, QTensor, gguf_file};
use rayon::prelude::*;

use super::names::gguf_name;
use crate::error::Result;
use crate::files;
use crate::model::config::Config;
use crate::model::quant::{Quant, weight_dtype};
use crate::model::weights::{WeightSource, check_shape, read_blocks};
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

/// The metadata of a shape, without the tokenizer.
pub fn shape_metadata(config: &Config, name: &str) -> Vec<(String, Value)> {
    let arch = config.family.name();
    let text = |text: &str| Value::String(text.into());
    let mut all = vec![
        ("general.architecture".to_string(), text(arch)),
        ("general.name".into(), text(name)),
        // candle-transformers computes its RoPE tables in this type, and in f16 without the key.
        ("general.dtype".into(), Value::U32(0)),
    ];
    let mut add = |key: &str, value: Value| all.push((format!("{arch}.{key}"), value));
    add("context_length", Value::U32(config.context as u32));
    add("embedding_length", Value::U32(config.hidden as u32));
    add("block_count", Value::U32(config.layers as u32));
    add("feed_forward_length", Value::U32(config.intermediate as u32));
    add("attention.head_count", Value::U32(config.heads as u32));
    add("attention.head_count_kv", Value::U32(config.kv_heads as u32));
    add("attention.key_length", Value::U32(config.head_dim as u32));
    add("attention.value_length", Value::U32(config.head_dim as u32));
    add("attention.layer_norm_rms_epsilon", Value::F32(config.rms_eps as f32));
    add("rope.freq_base", Value::F32(config.rope_theta as f32));
    if let Some(scaling) = &config.rope_scaling {
        add("rope.scaling.type", text(&scaling.rope_type));
        add("rope.scaling.factor", Value::F32(scaling.factor as f32));
        add(
            "rope.scaling.original_context_length",
            Value::U32(scaling.original_max_position_embeddings as u32),
        );
    }
    all
}

/// Every tensor of a model under its GGUF name, with the types that `quant` chooses.
///
/// # Errors
/// When the source lacks a tensor or cannot be read.
pub fn quantized_tensors(
    config: &Config,
    source: &dyn WeightSource,
    quant: Option<Quant>,
) -> Result<Vec<(String, QTensor)>> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        check_shape(source, &name, &shape)?;
        let info = source.info(&name).expect("its shape was checked");
        let dtype = weight_dtype(&name, &info, quant, config);
        let matrix = [
            if shape.len() < 2 { 1 } else { shape[0] },
            *shape.last().expect("tensors have a dimension"),
        ];
        let blocks = read_blocks(source, &name, matrix, dtype)?.into_candle();
        Ok((gguf_name(&name), QTensor::new(QStorage::Cpu(blocks), shape)?))
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
    let metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    files::write_with(path, |draft| {
        let mut draft = BufWriter::new(draft);
        gguf_file::write(&mut draft, &metadata, &tensors)
            .map_err(|error| io::Error::other(first_line(&error)))?;
        draft.flush()
    })
}

/// The message of a candle error, without its backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}
