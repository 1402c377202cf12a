//! Writes GGUF files that llama.cpp and candle load.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::{io, iter};

use candle_core::quantized::gguf_file::Value;
use rayon::prelude::*;

use super::header::{DEFAULT_ALIGNMENT, MAGIC};
use super::names::gguf_name;
use super::value::value_kind;
use crate::error::Result;
use crate::files;
use crate::kernel::GgmlType;
use crate::model::config::Config;
use crate::model::quant::{Quant, weight_dtype};
use crate::model::weights::{WeightSource, read_matrix, tensor_info};
use crate::tokenizer::GgufTokenizer;

/// Alignment of the data in bytes.
const ALIGNMENT: usize = DEFAULT_ALIGNMENT as usize;

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

/// A tensor to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// `[out, in]`, or `[n]`.
    pub shape: Vec<usize>,
    /// The type of its blocks.
    pub dtype: GgmlType,
    /// Its blocks, row by row.
    pub bytes: Vec<u8>,
}

/// Every tensor of a model under its GGUF name, with the types that `quant` chooses.
///
/// # Errors
/// When the source lacks a tensor or cannot be read.
pub(crate) fn quantized_tensors(
    config: &Config,
    source: &dyn WeightSource,
    quant: Option<Quant>,
) -> Result<Vec<Tensor>> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let dtype = weight_dtype(&name, &tensor_info(source, &name)?, quant, config);
        let bytes = read_matrix(source, &name, &shape, dtype)?;
        Ok(Tensor { name: gguf_name(&name), shape, dtype, bytes })
    };
    config.tensors().into_par_iter().map(tensor).collect()
}

/// Writes a GGUF file, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, metadata: &[(String, Value)], tensors: &[Tensor]) -> Result<()> {
    files::write_with(path, |draft| {
        let mut draft = BufWriter::new(draft);
        write_to(&mut draft, metadata, tensors)?;
        draft.flush()
    })
}

/// Writes the container: GGUF of version 3 with the default alignment.
pub(in crate::model) fn write_to(
    out: &mut impl Write,
    metadata: &[(String, Value)],
    tensors: &[Tensor],
) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut header, key);
        header.extend(value_kind(value).to_le_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        // The file begins with the contiguous dimension.
        for &dim in tensor.shape.iter().rev() {
            header.extend((dim as u64).to_le_bytes());
        }
        header.extend(tensor.dtype.number().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
    }
    for bytes in iter::once(&header).chain(tensors.iter().map(|tensor| &tensor.bytes)) {
        out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        out.write_all(&[0; ALIGNMENT][..padding])?;
    }
    Ok(())
}

fn put_text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

fn put_value(header: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => header.push(*v),
        Value::I8(v) => header.extend(v.to_le_bytes()),
        Value::U16(v) => header.extend(v.to_le_bytes()),
        Value::I16(v) => header.extend(v.to_le_bytes()),
        Value::U32(v) => header.extend(v.to_le_bytes()),
        Value::I32(v) => header.extend(v.to_le_bytes()),
        Value::U64(v) => header.extend(v.to_le_bytes()),
        Value::I64(v) => header.extend(v.to_le_bytes()),
        Value::F32(v) => header.extend(v.to_le_bytes()),
        Value::F64(v) => header.extend(v.to_le_bytes()),
        Value::Bool(v) => header.push((*v).into()),
        Value::String(v) => put_text(header, v),
        Value::Array(values) => {
            // Those of an empty array may be of any type.
            let kind = values.first().map_or(0, value_kind);
            header.extend(kind.to_le_bytes());
            header.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put_value(header, value));
        }
    }
}
