//! GGUF files: reads tensors by position from one file or several shards. The header is parsed by
//! our own code; `write` makes files that llama.cpp loads too.

mod config;
mod header;
mod names;
mod shards;
mod value;
mod write;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::gguf_file;
use candle_core::quantized::gguf_file::Value;

use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::file::{PositionedFile, check_shards, hash_files, refuse_lfs_pointer};
use crate::model::weights::{StoredRows, TensorInfo, WeightSource, as_matrix, row_bytes};
use crate::tokenizer::GgufTokenizer;

use header::{Header, HeaderError, TensorEntry};
use names::gguf_name;
use shards::{ConcatReader, Shard};
use value::{Metadata, token_id, unsigned};

pub(super) use shards::shard_paths;
#[cfg(feature = "hub")]
pub(super) use shards::{parse_shard_name, shard_name};
pub(crate) use write::quantized_tensors;
pub(super) use write::write_to;
pub use write::{Tensor, shape_metadata, tokenizer_metadata, write};

/// An opened GGUF model: one file, or all its shards.
pub struct Gguf {
    shards: Vec<Shard>,
    /// That of the first shard.
    metadata: Metadata,
    /// By name, the index of the shard and the place in it.
    tensors: HashMap<String, (usize, TensorEntry)>,
}

impl Gguf {
    /// Opens a file, or all shards where it is one of several, and checks their headers: that every
    /// tensor lies inside its file, and none is there twice.
    ///
    /// # Errors
    /// When a file cannot be read, is truncated or not GGUF, a shard is missing, or a tensor's type
    /// is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let (shard, header) = open_shard(path)?;
        let Some((index, count)) = shard_position(&header.metadata)
            .map_err(|why| Error::invalid(path, why))?
            .filter(|(_, count)| *count > 1)
        else {
            let tensors = header.tensors.into_iter().map(|(name, entry)| (name, (0, entry)));
            let (metadata, tensors) = (header.metadata, tensors.collect());
            return Ok(Self { shards: vec![shard], metadata, tensors });
        };
        let paths = shard_paths(path).filter(|paths| paths.len() == count).ok_or_else(|| {
            let number = index + 1;
            let why = format!(
                "it is shard {number} of {count}, but its name does not end in \
                 `-{number:05}-of-{count:05}.gguf`; restore the names of all shards"
            );
            Error::invalid(path, why)
        })?;
        check_shards(path, &paths)?;
        let mut all =
            Self { shards: Vec::new(), metadata: HashMap::new(), tensors: HashMap::new() };
        let mut expected = None;
        for (at, path) in paths.iter().enumerate() {
            let invalid = |why: String| Error::invalid(path, why);
            let (shard, header) = open_shard(path)?;
            if shard_position(&header.metadata).map_err(invalid)? != Some((at, count)) {
                let why = format!("its metadata do not say that it is shard {} of {count}", at + 1);
                return Err(invalid(why));
            }
            for (name, entry) in header.tensors {
                if all.tensors.contains_key(&name) {
                    return Err(invalid(format!("the tensor `{name}` is in another shard too")));
                }
                all.tensors.insert(name, (at, entry));
            }
            if at == 0 {
                expected = unsigned(&header.metadata, "split.tensors.count").map_err(invalid)?;
                all.metadata = header.metadata;
            }
            all.shards.push(shard);
        }
        if let Some(expected) = expected.filter(|expected| *expected != all.tensors.len() as u64) {
            let has = all.tensors.len();
            let why = format!("its shards have {has} tensors, `split.tensors.count` is {expected}");
            return Err(Error::invalid(path, why));
        }
        Ok(all)
    }

    /// The file, or the first shard.
    pub fn path(&self) -> &Path {
        &self.shards[0].path
    }

    /// The header for candle's models; offsets are those of [`Gguf::reader`]. The metadata are
    /// those of the shape alone, with the value types that candle expects.
    ///
    /// # Errors
    /// When candle does not have the type of a tensor.
    pub(super) fn content(&self, config: &Config) -> Result<gguf_file::Content> {
        let before = |shard: usize| -> u64 {
            self.shards[..shard].iter().map(|shard| shard.file.size).sum()
        };
        let info = |(name, (shard, entry)): (&String, &(usize, TensorEntry))| -> Result<_> {
            let ggml_dtype = entry.dtype.candle().ok_or_else(|| {
                let dtype = entry.dtype.name();
                Error::Unsupported(format!(
                    "candle does not have the type {dtype} of the tensor `{name}`; the native \
                     engine does"
                ))
            })?;
            let (shape, offset) = (entry.shape.as_slice().into(), before(*shard) + entry.offset);
            Ok((name.clone(), gguf_file::TensorInfo { ggml_dtype, shape, offset }))
        };
        Ok(gguf_file::Content {
            magic: gguf_file::VersionedMagic::GgufV3,
            metadata: shape_metadata(config, "").into_iter().collect(),
            tensor_infos: self.tensors.iter().map(info).collect::<Result<_>>()?,
            tensor_data_offset: 0,
        })
    }

    /// The concatenated bytes of all shards.
    pub(super) fn reader(&self) -> impl Read + Seek + '_ {
        ConcatReader { shards: &self.shards, offset: 0 }
    }

    fn entry(&self, name: &str) -> Option<&(usize, TensorEntry)> {
        self.tensors.get(&gguf_name(name))
    }

    /// The model's shape. `notes` receives what was assumed or ignored.
    ///
    /// # Errors
    /// When a key is missing or of another type, there is no embedding, or the model is not
    /// supported.
    pub fn config(&self, notes: &mut Vec<String>) -> Result<Config> {
        let Some((_, embedding)) = self.tensors.get("token_embd.weight") else {
            return Err(Error::invalid(self.path(), "no tensor `token_embd.weight`"));
        };
        let tied = !self.tensors.contains_key("output.weight");
        config::read(self.path(), &self.metadata, embedding.shape[0], tied, notes)
    }

    /// The metadata of the tokenizer.
    ///
    /// # Errors
    /// When a key is missing or of another type.
    pub fn tokenizer(&self) -> Result<GgufTokenizer> {
        let get = |key: &str| self.metadata.get(&format!("tokenizer.{key}"));
        let missing =
            |key: &str| Error::invalid(self.path(), format!("no usable `tokenizer.{key}`"));
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
            Some(Value::Array(values)) => values.iter().map(token_id).collect::<Option<Vec<u32>>>(),
            _ => None,
        };
        // llama.cpp ends generation at each of them.
        let ends = ["ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id"];
        Ok(GgufTokenizer {
            model: text("ggml.model").ok_or_else(|| missing("ggml.model"))?,
            pre: text("ggml.pre"),
            tokens: texts("ggml.tokens").ok_or_else(|| missing("ggml.tokens"))?,
            token_types: types.ok_or_else(|| missing("ggml.token_type"))?,
            merges: texts("ggml.merges").ok_or_else(|| missing("ggml.merges"))?,
            ends: ends.iter().filter_map(|key| get(key).and_then(token_id)).collect(),
            bos: match get("ggml.add_bos_token") {
                Some(Value::Bool(true)) => Some(
                    get("ggml.bos_token_id")
                        .and_then(token_id)
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

impl WeightSource for Gguf {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (_, entry) = self.entry(name)?;
        Some(TensorInfo { shape: entry.shape.clone(), dtype: entry.dtype })
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<StoredRows> {
        let (shard, entry) = self.entry(name).ok_or_else(|| {
            Error::invalid(self.path(), format!("no tensor `{}`", gguf_name(name)))
        })?;
        let [_, columns] = as_matrix(&entry.shape);
        let row = row_bytes(entry.dtype, columns).expect("checked when the file was opened");
        let offset = entry.offset + (rows.start * row) as u64;
        let bytes = self.shards[*shard].file.read(offset, rows.len() * row)?;
        Ok(StoredRows::from_bytes(entry.dtype, bytes))
    }

    fn unused(&self, used: &[(String, Vec<usize>)]) -> Vec<String> {
        let used: HashSet<String> = used.iter().map(|(name, _)| gguf_name(name)).collect();
        self.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect()
    }

    fn sha256(&self) -> Result<String> {
        hash_files(&self.shards.iter().map(|shard| shard.path.clone()).collect::<Vec<_>>())
    }
}

/// Opens one file and reads its header.
fn open_shard(path: &Path) -> Result<(Shard, Header)> {
    let file = PositionedFile::open(path)?;
    refuse_lfs_pointer(path)?;
    let reader = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let header = header::read(BufReader::new(reader), file.size).map_err(|error| match error {
        HeaderError::Invalid(why) => Error::invalid(path, why),
        HeaderError::Unsupported(what) => {
            Error::UnsupportedModel(format!("{what} (`{}`)", path.display()))
        }
    })?;
    Ok((Shard { path: path.into(), file }, header))
}

/// A shard's index from 0 and the number of shards, if the metadata have them.
fn shard_position(metadata: &Metadata) -> std::result::Result<Option<(usize, usize)>, String> {
    let (index, count) = (unsigned(metadata, "split.no")?, unsigned(metadata, "split.count")?);
    if index.is_none()
        && let Some(count) = count.filter(|count| *count > 1)
    {
        return Err(format!("it is one of {count} shards, but has no `split.no`"));
    }
    Ok(index.zip(count).map(|(index, count)| (index as usize, count as usize)))
}
