//! GGUF files: reading tensors by position, from one file or several parts, and writing a model
//! that llama.cpp loads too. candle writes the container; reading its header is our own.

mod header;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{QStorage, QTensor, gguf_file};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::files;
use crate::model::config::Config;
use crate::model::gguf::header::{Entry, Header, Problem};
use crate::model::matrix::check_shape;
use crate::model::weights::{
    Info, Positioned, Quant, Rows, Source, blocks, hash_files, held_as, row_bytes,
};
use crate::tokenizer::GgufVocabulary;

pub(crate) use header::plain;

/// An opened GGUF model: one file, or the parts that it was split into.
pub struct Gguf {
    /// The first has the keys of all.
    parts: Vec<Part>,
    metadata: HashMap<String, Value>,
    /// By name, the number of the part and the place in it.
    tensors: HashMap<String, (usize, Entry)>,
}

struct Part {
    path: PathBuf,
    file: Positioned,
}

impl Gguf {
    /// Opens a file, with the other parts where it is one of several, and checks their headers:
    /// that every tensor lies inside its file, and none twice.
    ///
    /// # Errors
    /// When a file cannot be read, is no GGUF or cut off, a part is missing, or a tensor is of a
    /// type that is not known.
    pub fn open(path: &Path) -> Result<Self> {
        let (part, header) = open_part(path)?;
        let Some((number, count)) = split(&header.metadata)
            .map_err(|why| Error::Invalid { path: path.into(), why })?
            .filter(|(_, count)| *count > 1)
        else {
            let tensors = header.tensors.into_iter().map(|(name, entry)| (name, (0, entry)));
            let (metadata, tensors) = (header.metadata, tensors.collect());
            return Ok(Self { parts: vec![part], metadata, tensors });
        };
        let invalid = |why: String| Error::Invalid { path: path.into(), why };
        let paths = parts(path).filter(|paths| paths.len() == count).ok_or_else(|| {
            invalid(format!(
                "it is part {} of {count}, whose names end in `-00001-of-{count:05}.gguf` and so \
                 on; give it and the others their names back",
                number + 1
            ))
        })?;
        let missing: Vec<String> = paths
            .iter()
            .filter(|part| !part.exists())
            .map(|part| file_name(part).to_owned())
            .collect();
        if !missing.is_empty() {
            let (some, missing) = (missing.len(), missing.join(", "));
            let why = format!("{some} of its {count} parts are missing: {missing}; download them");
            return Err(invalid(why));
        }
        let mut all = Self { parts: Vec::new(), metadata: HashMap::new(), tensors: HashMap::new() };
        let mut expected = None;
        for (at, path) in paths.iter().enumerate() {
            let invalid = |why: String| Error::Invalid { path: path.clone(), why };
            let (part, header) = open_part(path)?;
            if split(&header.metadata).map_err(invalid)? != Some((at, count)) {
                let why = format!("its keys do not say that it is part {} of {count}", at + 1);
                return Err(invalid(why));
            }
            for (name, entry) in header.tensors {
                if all.tensors.contains_key(&name) {
                    return Err(invalid(format!("the tensor `{name}` is in another part, too")));
                }
                all.tensors.insert(name, (at, entry));
            }
            if at == 0 {
                expected = whole(&header.metadata, "split.tensors.count").map_err(invalid)?;
                all.metadata = header.metadata;
            }
            all.parts.push(part);
        }
        if let Some(expected) = expected.filter(|expected| *expected != all.tensors.len() as u64) {
            let has = all.tensors.len();
            let why = format!(
                "its parts have {has} tensors together, `split.tensors.count` says {expected}"
            );
            return Err(invalid(why));
        }
        Ok(all)
    }

    /// The file, or the first part.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// What candle's models read the tensors by, in the bytes of [`Gguf::bytes`]. The keys are
    /// those of the shape alone, of the types that candle asks for.
    pub fn content(&self, config: &Config) -> gguf_file::Content {
        let before =
            |part: usize| self.parts[..part].iter().map(|part| part.file.size).sum::<u64>();
        let info = |(name, (part, entry)): (&String, &(usize, Entry))| {
            let info = gguf_file::TensorInfo {
                ggml_dtype: entry.dtype,
                shape: entry.shape.as_slice().into(),
                offset: before(*part) + entry.at,
            };
            (name.clone(), info)
        };
        gguf_file::Content {
            magic: gguf_file::VersionedMagic::GgufV3,
            metadata: shape_metadata(config, "").into_iter().collect(),
            tensor_infos: self.tensors.iter().map(info).collect(),
            tensor_data_offset: 0,
        }
    }

    /// The bytes of all parts, one after the other.
    pub fn bytes(&self) -> impl Read + Seek + '_ {
        Bytes { parts: &self.parts, at: 0 }
    }

    fn entry(&self, name: &str) -> Option<&(usize, Entry)> {
        self.tensors.get(&gguf_name(name))
    }

    /// The model's shape.
    ///
    /// # Errors
    /// As [`Config::from_gguf`], and when there is no embedding.
    pub fn config(&self, notes: &mut Vec<String>) -> Result<Config> {
        let Some((_, embedding)) = self.tensors.get("token_embd.weight") else {
            let (path, why) = (self.path().into(), "no tensor `token_embd.weight`".into());
            return Err(Error::Invalid { path, why });
        };
        let tied = !self.tensors.contains_key("output.weight");
        Config::from_gguf(self.path(), &self.metadata, embedding.shape[0], tied, notes)
    }

    /// The tokenizer's keys.
    ///
    /// # Errors
    /// When one is missing or of another type.
    pub fn vocabulary(&self) -> Result<GgufVocabulary> {
        let get = |key: &str| self.metadata.get(&format!("tokenizer.{key}"));
        let missing = |key: &str| Error::Invalid {
            path: self.path().into(),
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
            Some(Value::Array(values)) => values.iter().map(id).collect::<Option<Vec<u32>>>(),
            _ => None,
        };
        // llama.cpp ends at each of them.
        let ends = ["ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id"];
        Ok(GgufVocabulary {
            model: text("ggml.model").ok_or_else(|| missing("ggml.model"))?,
            pre: text("ggml.pre"),
            tokens: texts("ggml.tokens").ok_or_else(|| missing("ggml.tokens"))?,
            token_types: types.ok_or_else(|| missing("ggml.token_type"))?,
            merges: texts("ggml.merges").ok_or_else(|| missing("ggml.merges"))?,
            ends: ends.iter().filter_map(|key| get(key).and_then(id)).collect(),
            bos: match get("ggml.add_bos_token") {
                Some(Value::Bool(true)) => Some(
                    get("ggml.bos_token_id")
                        .and_then(id)
                        .ok_or_else(|| missing("ggml.bos_token_id"))?,
                ),
                _ => None,
            },
            chat_template: text("chat_template"),
            named_templates: self
                .metadata
                .keys()
                .filter_map(|key| key.strip_prefix("tokenizer.chat_template."))
                .map(String::from)
                .collect(),
        })
    }
}

impl Source for Gguf {
    fn info(&self, name: &str) -> Option<Info> {
        let (_, entry) = self.entry(name)?;
        Some(Info { shape: entry.shape.clone(), dtype: entry.dtype })
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Rows> {
        let (part, entry) = self.entry(name).ok_or_else(|| Error::Invalid {
            path: self.path().into(),
            why: format!("no tensor `{}`", gguf_name(name)),
        })?;
        let columns = *entry.shape.last().expect("tensors have a dimension");
        let row = row_bytes(entry.dtype, columns).expect("checked when the file was opened");
        let bytes =
            self.parts[*part].file.read(entry.at + (rows.start * row) as u64, rows.len() * row)?;
        Ok(Rows::from_bytes(entry.dtype, bytes))
    }

    fn beyond(&self, known: &[(String, Vec<usize>)]) -> Vec<String> {
        let known: HashSet<String> = known.iter().map(|(name, _)| gguf_name(name)).collect();
        self.tensors.keys().filter(|name| !known.contains(*name)).cloned().collect()
    }

    fn sha256(&self) -> Result<String> {
        hash_files(&self.parts.iter().map(|part| part.path.clone()).collect::<Vec<_>>())
    }
}

/// Opens one file and reads its header.
fn open_part(path: &Path) -> Result<(Part, Header)> {
    let file = Positioned::open(path)?;
    super::refuse_pointer(path)?;
    let reader = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let header =
        header::read(BufReader::new(reader), file.size).map_err(|problem| match problem {
            Problem::Invalid(why) => Error::Invalid { path: path.into(), why },
            Problem::Unsupported(what) => {
                Error::UnsupportedModel(format!("{what} (`{}`)", path.display()))
            }
        })?;
    Ok((Part { path: path.into(), file }, header))
}

/// The number of a part, counted from 0, and how many there are, if the keys say so.
fn split(metadata: &HashMap<String, Value>) -> std::result::Result<Option<(usize, usize)>, String> {
    let (number, count) = (whole(metadata, "split.no")?, whole(metadata, "split.count")?);
    if number.is_none()
        && let Some(count) = count.filter(|count| *count > 1)
    {
        return Err(format!("it is one of {count} parts, and no `split.no` says which"));
    }
    Ok(number.zip(count).map(|(number, count)| (number as usize, count as usize)))
}

/// The files of a model that was split, in their order, of which one is given: names that end in
/// `-00001-of-00003.gguf` and so on. `None` for another name.
pub fn parts(path: &Path) -> Option<Vec<PathBuf>> {
    let (stem, number, count) = part(file_name(path))?;
    let name = |number: usize| path.with_file_name(part_name(stem, number, count));
    (1..=count).contains(&number).then(|| (1..=count).map(name).collect())
}

/// What the name of a part consists of: the model, the number of the part from 1, and how many
/// there are. `None` for another name.
pub(super) fn part(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (model, number) = rest.rsplit_once('-')?;
    let read = |digits: &str| -> Option<usize> {
        (digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse().ok())?
    };
    Some((model, read(number)?, read(count)?))
}

/// The name of a part.
pub(super) fn part_name(model: &str, number: usize, count: usize) -> String {
    format!("{model}-{number:05}-of-{count:05}.gguf")
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The parts as one file.
struct Bytes<'a> {
    parts: &'a [Part],
    at: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut start = 0;
        for Part { file, .. } in self.parts {
            let at = self.at - start;
            if at < file.size {
                let count = (buffer.len() as u64).min(file.size - at) as usize;
                file.fill(at, &mut buffer[..count])?;
                self.at += count as u64;
                return Ok(count);
            }
            start += file.size;
        }
        Ok(0)
    }
}

impl Seek for Bytes<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let size: u64 = self.parts.iter().map(|part| part.file.size).sum();
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
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

/// The id of a token.
fn id(value: &Value) -> Option<u32> {
    integer(value).and_then(|id| u32::try_from(id).ok())
}

fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        _ => return None,
    })
}

/// A whole number, 0 or more, if there is the key.
///
/// # Errors
/// When its value is another.
pub(crate) fn whole(
    metadata: &HashMap<String, Value>,
    key: &str,
) -> std::result::Result<Option<u64>, String> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let number = integer(value).and_then(|number| u64::try_from(number).ok());
    let wrong = || format!("`{key}` is {}, which is no whole number", plain(value));
    number.map(Some).ok_or_else(wrong)
}

/// Metadata that describes a tokenizer. Both llama.cpp's and candle's spellings of keys are written
/// where they differ.
pub fn vocabulary_metadata(vocabulary: &GgufVocabulary) -> Vec<(String, Value)> {
    let texts = |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
    let types = vocabulary.token_types.iter().map(|&kind| Value::I32(kind as i32)).collect();
    let mut all = vec![
        ("tokenizer.ggml.model".to_string(), Value::String(vocabulary.model.clone())),
        ("tokenizer.ggml.tokens".into(), texts(&vocabulary.tokens)),
        ("tokenizer.ggml.token_type".into(), Value::Array(types)),
        ("tokenizer.ggml.merges".into(), texts(&vocabulary.merges)),
        ("tokenizer.ggml.add_bos_token".into(), Value::Bool(vocabulary.bos.is_some())),
    ];
    if let Some(pre) = &vocabulary.pre {
        all.push(("tokenizer.ggml.pre".into(), Value::String(pre.clone())));
    }
    if let Some(bos) = vocabulary.bos {
        all.push(("tokenizer.ggml.bos_token_id".into(), Value::U32(bos)));
    }
    if let Some(&eos) = vocabulary.ends.first() {
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
        // candle-transformers builds its RoPE tables in this type, and in F16 if there is no such
        // key.
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
