//! GGUF files: reading tensors by position, and writing a model that llama.cpp loads too. candle parses and writes the container;
//! it checks sizes against the file, and this module checks what candle takes on trust.

use std::fs::File;
use std::io;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::QStorage;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file;
use candle_core::quantized::gguf_file::Value;
use rayon::prelude::*;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::model::config::Config;
use crate::model::matrix::check_shape;
use crate::model::weights::Info;
use crate::model::weights::Positioned;
use crate::model::weights::Quant;
use crate::model::weights::Rows;
use crate::model::weights::Source;
use crate::model::weights::blocks;
use crate::model::weights::hash_files;
use crate::model::weights::held_as;
use crate::model::weights::row_bytes;
use crate::tokenizer::GgufVocabulary;

/// An opened GGUF file.
pub struct Gguf {
    path: PathBuf,
    file: Positioned,
    content: gguf_file::Content,
}

impl Gguf {
    /// Opens a file and checks that every tensor it names lies inside it.
    ///
    /// # Errors
    /// When the file cannot be read, is no GGUF, is cut off, or names a tensor type that is not known.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { path: path.into(), why };
        let file = Positioned::open(path)?;
        // What does not even begin as a GGUF is no model, and not a damaged one.
        let begins = file.read(0, 4).is_ok_and(|magic| magic == b"GGUF");
        refuse_zero_alignment(&file).map_err(invalid)?;
        let reader =
            File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let content = gguf_file::Content::read(&mut BufReader::new(reader)).map_err(|error| {
            let why = format!("no readable GGUF ({}); is the download whole?", first_line(&error));
            if begins { invalid(why) } else { invalid(why).of_named_file() }
        })?;
        for (name, tensor) in &content.tensor_infos {
            let dims = tensor.shape.dims();
            let count = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
            let columns = dims.last().copied().unwrap_or(0);
            let bytes = row_bytes(tensor.ggml_dtype, columns)
                .zip(count)
                .and_then(|(row, count)| count.checked_div(columns)?.checked_mul(row))
                .ok_or_else(|| {
                    invalid(format!("tensor `{name}` has the impossible shape {dims:?}"))
                })?;
            let end = content
                .tensor_data_offset
                .checked_add(tensor.offset)
                .and_then(|at| at.checked_add(bytes as u64));
            if end.is_none_or(|end| end > file.size) {
                return Err(invalid(format!(
                    "the file is cut off: tensor `{name}` needs {bytes} bytes at {}, the file has {}; download it again",
                    content.tensor_data_offset.saturating_add(tensor.offset),
                    file.size
                )));
            }
        }
        Ok(Self { path: path.into(), file, content })
    }

    /// The model's shape.
    ///
    /// # Errors
    /// As [`Config::from_gguf`], and when there is no embedding.
    pub fn config(&self) -> Result<Config> {
        let Some(embedding) = self.content.tensor_infos.get("token_embd.weight") else {
            return Err(Error::Invalid {
                path: self.path.clone(),
                why: "no tensor `token_embd.weight`".into(),
            });
        };
        let tied = !self.content.tensor_infos.contains_key("output.weight");
        let rows = embedding.shape.dims().first().copied().unwrap_or(0);
        Config::from_gguf(&self.path, &self.content.metadata, rows, tied)
    }

    /// The tokenizer's keys.
    ///
    /// # Errors
    /// When one is missing or of another type.
    pub fn vocabulary(&self) -> Result<GgufVocabulary> {
        let get = |key: &str| self.content.metadata.get(&format!("tokenizer.{key}"));
        let missing = |key: &str| Error::Invalid {
            path: self.path.clone(),
            why: format!("no usable `tokenizer.{key}`"),
        };
        let text = |key: &str| match get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        let texts = |key: &str| match get(key) {
            Some(Value::Array(values)) => {
                values.iter().map(|v| v.to_string().ok().cloned()).collect::<Option<Vec<String>>>()
            }
            _ => None,
        };
        let types = match get("ggml.token_type") {
            Some(Value::Array(values)) => values.iter().map(whole).collect::<Option<Vec<u32>>>(),
            _ => None,
        };
        Ok(GgufVocabulary {
            model: text("ggml.model").ok_or_else(|| missing("ggml.model"))?,
            pre: text("ggml.pre"),
            tokens: texts("ggml.tokens").ok_or_else(|| missing("ggml.tokens"))?,
            token_types: types.ok_or_else(|| missing("ggml.token_type"))?,
            merges: texts("ggml.merges").ok_or_else(|| missing("ggml.merges"))?,
            eos: get("ggml.eos_token_id").and_then(whole),
            add_bos: match get("ggml.add_bos_token") {
                Some(Value::Bool(add)) => Some(*add),
                _ => None,
            },
            chat_template: text("chat_template"),
        })
    }
}

impl Source for Gguf {
    fn info(&self, name: &str) -> Option<Info> {
        let tensor = self.content.tensor_infos.get(&gguf_name(name))?;
        Some(Info { shape: tensor.shape.dims().to_vec(), dtype: tensor.ggml_dtype })
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Rows> {
        let tensor =
            self.content.tensor_infos.get(&gguf_name(name)).ok_or_else(|| Error::Invalid {
                path: self.path.clone(),
                why: format!("no tensor `{}`", gguf_name(name)),
            })?;
        let columns = tensor.shape.dims().last().copied().unwrap_or(0);
        let row = row_bytes(tensor.ggml_dtype, columns).expect("checked when the file was opened");
        let at = self.content.tensor_data_offset + tensor.offset + (rows.start * row) as u64;
        let bytes = rows.len() * row;
        Ok(Rows::from_bytes(tensor.ggml_dtype, self.file.read(at, bytes)?))
    }

    fn sha256(&self) -> Result<String> {
        hash_files(std::slice::from_ref(&self.path))
    }
}

/// candle divides by the alignment that the file states.
fn refuse_zero_alignment(file: &Positioned) -> std::result::Result<(), String> {
    const KEY: &[u8] = b"general.alignment";
    let Ok(head) = file.read(0, file.size.min(1 << 16) as usize) else { return Ok(()) };
    let Some(at) = head.windows(KEY.len()).position(|window| window == KEY) else { return Ok(()) };
    match head.get(at + KEY.len() + 4..at + KEY.len() + 8) {
        Some([0, 0, 0, 0]) => Err("`general.alignment` is 0".into()),
        _ => Ok(()),
    }
}

/// candle's errors carry a backtrace; the first line is the message.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}

/// The name that a tensor has in GGUF files.
pub fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let Some((layer, part)) =
        name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
    else {
        return name.into();
    };
    let (part, kind) = part.rsplit_once('.').unwrap_or((part, "weight"));
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    format!("blk.{layer}.{part}.{kind}")
}

fn whole(value: &Value) -> Option<u32> {
    match value {
        Value::U32(v) => Some(*v),
        Value::I32(v) => u32::try_from(*v).ok(),
        Value::U64(v) => u32::try_from(*v).ok(),
        _ => None,
    }
}

/// Metadata that describes a tokenizer. Both llama.cpp's and candle's spellings of keys are written where they differ.
pub fn vocabulary_metadata(vocabulary: &GgufVocabulary) -> Vec<(String, Value)> {
    let texts = |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
    let types = vocabulary.token_types.iter().map(|&kind| Value::I32(kind as i32)).collect();
    let mut all = vec![
        ("tokenizer.ggml.model".to_string(), Value::String(vocabulary.model.clone())),
        ("tokenizer.ggml.tokens".into(), texts(&vocabulary.tokens)),
        ("tokenizer.ggml.token_type".into(), Value::Array(types)),
        ("tokenizer.ggml.merges".into(), texts(&vocabulary.merges)),
        ("tokenizer.ggml.add_bos_token".into(), Value::Bool(vocabulary.add_bos.unwrap_or(false))),
    ];
    if let Some(pre) = &vocabulary.pre {
        all.push(("tokenizer.ggml.pre".into(), Value::String(pre.clone())));
    }
    if let Some(eos) = vocabulary.eos {
        for key in ["eos_token_id", "padding_token_id", "pad_token_id"] {
            all.push((format!("tokenizer.ggml.{key}"), Value::U32(eos)));
        }
    }
    if let Some(template) = &vocabulary.chat_template {
        all.push(("tokenizer.chat_template".into(), Value::String(template.clone())));
    }
    all
}

/// Metadata that describes a shape, without the tokenizer's keys.
pub fn shape_metadata(config: &Config, name: &str) -> Vec<(String, Value)> {
    let arch = config.family.name();
    let text = |text: &str| Value::String(text.into());
    let mut all = vec![
        ("general.architecture".to_string(), text(arch)),
        ("general.name".into(), text(name)),
        // candle-transformers builds its RoPE tables in this type, and in F16 if there is no such key.
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

/// Every tensor of a model under its name in GGUF files, held as `quant` says.
///
/// # Errors
/// When the source lacks a tensor or cannot be read.
pub fn tensors(
    config: &Config,
    source: &dyn Source,
    quant: Option<Quant>,
) -> Result<Vec<(String, QTensor)>> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        check_shape(source, &name, &shape)?;
        let info = source.info(&name).expect("its shape was just compared");
        let dtype = held_as(&name, &info, quant, config);
        let matrix = [
            if shape.len() < 2 { 1 } else { shape[0] },
            *shape.last().expect("tensors have a dimension"),
        ];
        let blocks = blocks(source, &name, matrix, dtype)?.into_candle();
        Ok((gguf_name(&name), QTensor::new(QStorage::Cpu(blocks), shape)?))
    };
    config.tensors().into_par_iter().map(tensor).collect()
}

/// Writes a GGUF file. It appears under its name only when it is whole.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (ours, theirs) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.11.self_attn.q_norm.weight", "blk.11.attn_q_norm.weight"),
            ("model.layers.0.self_attn.v_proj.bias", "blk.0.attn_v.bias"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ] {
            assert_eq!(gguf_name(ours), theirs);
        }
    }
}
