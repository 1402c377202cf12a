//! safetensors: a single `model.safetensors`, or shards with `model.safetensors.index.json`.
//! Tensors are read by position, so loading never holds a whole file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Formatter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::model::weights::{Info, Positioned, Rows, Source, hash_files, row_bytes};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The format's own limit on a header; a larger claim is garbage.
const LARGEST_HEADER: u64 = 100_000_000;

/// The opened files of a model.
pub struct Folder {
    files: Vec<(PathBuf, Positioned)>,
    tensors: HashMap<String, (usize, Info, u64)>,
    is_bare: bool,
}

/// What the names of a bare model lack.
const PREFIX: &str = "model.";

/// The names of a header, each as often as it stands there: a map would keep the last of two.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;
            fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: serde_json::Value,
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    /// Opens a folder's weights. `notes` gets what was left out of account.
    ///
    /// # Errors
    /// When there are none, a shard is missing, or a file is cut off, contradicts itself or is no
    /// safetensors.
    pub fn open(dir: &Path, notes: &mut Vec<String>) -> Result<Self> {
        let mut folder = Self { files: Vec::new(), tensors: HashMap::new(), is_bare: false };
        for path in files(dir)? {
            folder.add(path)?;
        }
        if dir.join(SINGLE).exists()
            && let Ok(shards) = shards(dir)
            && shards.iter().any(|name| name != SINGLE)
        {
            let index = dir.join(INDEX);
            notes.push(format!("{}: left out, `{SINGLE}` is whole", index.display()));
        }
        let has = |name: &str| folder.tensors.contains_key(name);
        folder.is_bare = has("embed_tokens.weight") && !has("model.embed_tokens.weight");
        if folder.is_bare {
            let named = |(name, tensor)| (format!("{PREFIX}{name}"), tensor);
            folder.tensors = folder.tensors.into_iter().map(named).collect();
        }
        Ok(folder)
    }

    /// Whether the tensors are those of the bare model, as models for embeddings are stored:
    /// without `model.` before their names.
    pub fn is_bare(&self) -> bool {
        self.is_bare
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let invalid = |why: String| Error::Invalid { path: path.clone(), why };
        let file = Positioned::open(&path)?;
        super::refuse_pointer(&path)?;
        if file.size < 8 {
            return Err(invalid(format!("{} bytes are too few for a safetensors file", file.size)));
        }
        let header = u64::from_le_bytes(file.read(0, 8)?.try_into().expect("eight were read"));
        if header > LARGEST_HEADER || header > file.size - 8 {
            return Err(invalid(format!(
                "no safetensors: it claims a header of {header} bytes and has {}",
                file.size
            )));
        }
        let text = file.read(8, header as usize)?;
        for (name, info, at) in tensors(&path, &text, file.size)? {
            if self.tensors.contains_key(&name) {
                return Err(invalid(format!("the tensor `{name}` is in another file, too")));
            }
            self.tensors.insert(name, (self.files.len(), info, at));
        }
        self.files.push((path, file));
        Ok(())
    }
}

/// The tensors that a file's header names, with the place of each in the file of `size` bytes.
///
/// # Errors
/// When the header contradicts itself or the file, or a type is not known.
fn tensors(path: &Path, header: &[u8], size: u64) -> Result<Vec<(String, Info, u64)>> {
    let invalid = |why: String| Error::Invalid { path: path.into(), why };
    let no_header = |error| invalid(format!("no safetensors header: {error}"));
    let Names(mut names) = serde_json::from_slice(header).map_err(no_header)?;
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!("the tensor `{}` stands twice in its header", twice[0])));
    }
    // This compares offsets with shapes, and lets no two tensors overlap.
    let metadata: Metadata = serde_json::from_slice(header).map_err(no_header)?;
    let data = 8 + header.len() as u64;
    let mut last = data;
    let mut tensors = Vec::new();
    for (name, tensor) in metadata.tensors() {
        let dtype = match tensor.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            other => {
                return Err(Error::UnsupportedModel(format!(
                    "tensor `{name}` of type {other:?} in `{}`; known are F32, F16 and BF16",
                    path.display()
                )));
            }
        };
        let (start, end) = tensor.data_offsets;
        let end = data.saturating_add(end as u64);
        if end > size {
            return Err(invalid(format!(
                "the file is cut off: tensor `{name}` ends at {end}, the file at {size}; download \
                 it again"
            )));
        }
        last = last.max(end);
        tensors.push((name, Info { shape: tensor.shape.clone(), dtype }, data + start as u64));
    }
    if last < size {
        let more = size - last;
        let why = format!("it has {more} bytes more than its header says; download it again");
        return Err(invalid(why));
    }
    Ok(tensors)
}

/// The names that the index of a folder has for the files of its weights.
fn shards(dir: &Path) -> Result<BTreeSet<String>> {
    let index = dir.join(INDEX);
    super::refuse_pointer(&index)?;
    let text = std::fs::read_to_string(&index)
        .map_err(|source| Error::Read { path: index.clone(), source })?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|error| Error::Invalid { path: index, why: error.to_string() })?;
    Ok(parsed.weight_map.into_values().collect())
}

/// The weight files of a folder, without opening them: the whole one if it is there, as in
/// transformers, and otherwise those that the index names.
///
/// # Errors
/// When there are none, the index cannot be read, or a shard it names is missing.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        let pytorch = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let pytorch = pytorch.iter().any(|name| dir.join(name).exists());
        let advice = if pytorch { "; PyTorch's own format is not read: convert it" } else { "" };
        let why = format!("it has neither `{SINGLE}` nor `{INDEX}`{advice}");
        return Err(Error::Invalid { path: dir.into(), why });
    }
    let names = shards(dir)?;
    if let Some(foreign) =
        names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with('.'))
    {
        return Err(Error::Invalid {
            path: index,
            why: format!("shard `{foreign}` is not a plain file name"),
        });
    }
    let missing: Vec<&str> =
        names.iter().filter(|name| !dir.join(name).exists()).map(|name| name.as_str()).collect();
    if !missing.is_empty() {
        let why = format!(
            "{} of {} shards are missing: {}; download them again",
            missing.len(),
            names.len(),
            missing.join(", ")
        );
        return Err(Error::Invalid { path: index, why });
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

impl Source for Folder {
    fn info(&self, name: &str) -> Option<Info> {
        self.tensors.get(name).map(|(_, info, _)| info.clone())
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Rows> {
        let Some((file, info, at)) = self.tensors.get(name) else {
            return Err(Error::Failed(format!("no tensor `{name}` in the safetensors files")));
        };
        let row = row_bytes(info.dtype, info.shape.last().copied().unwrap_or(0))
            .expect("plain types have any row");
        let all = if info.shape.len() < 2 { 1 } else { info.shape[0] };
        if rows.end > all {
            return Err(Error::Failed(format!(
                "tensor `{name}` has {all} rows, {} were asked for",
                rows.end
            )));
        }
        let bytes = rows.len() * row;
        Ok(Rows::from_bytes(
            info.dtype,
            self.files[*file].1.read(at + (rows.start * row) as u64, bytes)?,
        ))
    }

    fn beyond(&self, known: &[(String, Vec<usize>)]) -> Vec<String> {
        let known: HashSet<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        self.tensors.keys().filter(|name| !known.contains(name.as_str())).cloned().collect()
    }

    fn sha256(&self) -> Result<String> {
        hash_files(&self.files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())
    }
}

/// A tensor that is made when it is written, so that writing holds one at a time.
struct Lazy<'a> {
    source: &'a dyn Source,
    name: &'a str,
    shape: &'a [usize],
}

impl View for &Lazy<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let rows = if self.shape.len() < 2 { 1 } else { self.shape[0] };
        let rows = self
            .source
            .rows(self.name, 0..rows)
            .expect("a source that has the tensor's shape has its values");
        let values = rows.into_f32(*self.shape.last().expect("tensors have a dimension"));
        Cow::Owned(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 4
    }
}

/// Writes a source as f32: one file, or shards of at most `shard_bytes` (one tensor at least) with
/// their index.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    dir: &Path,
    source: &dyn Source,
    tensors: &[(String, Vec<usize>)],
    shard_bytes: Option<u64>,
) -> Result<()> {
    let mut shards: Vec<Vec<Lazy<'_>>> = vec![Vec::new()];
    let mut size = 0;
    for (name, shape) in tensors {
        let bytes = shape.iter().product::<usize>() as u64 * 4;
        if size > 0 && shard_bytes.is_some_and(|most| size + bytes > most) {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        shards.last_mut().expect("there is one from the start").push(Lazy { source, name, shape });
    }
    let mut index = Index { metadata: serde_json::Value::Null, weight_map: BTreeMap::new() };
    let count = shards.len();
    for (i, shard) in shards.iter().enumerate() {
        let file = if count == 1 {
            SINGLE.into()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", i + 1)
        };
        let path = dir.join(&file);
        index.weight_map.extend(shard.iter().map(|tensor| (tensor.name.to_string(), file.clone())));
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(
            shard.iter().map(|tensor| (tensor.name, tensor)),
            Some(metadata),
            &path,
        )
        .map_err(|error| Error::Write { path, source: std::io::Error::other(error.to_string()) })?;
    }
    if count > 1 {
        let total: u64 =
            tensors.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64 * 4).sum();
        index.metadata = serde_json::json!({ "total_size": total });
        let text = serde_json::to_string_pretty(&index).expect("plain data");
        crate::files::write(&dir.join(INDEX), text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fuzz;

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[32,38]}}"#;

    fn read(header: &str, data: u64) -> Result<Vec<(String, Info, u64)>> {
        tensors(Path::new("x.safetensors"), header.as_bytes(), 8 + header.len() as u64 + data)
    }

    #[test]
    fn a_header_that_contradicts_itself_or_the_file_is_refused() {
        assert_eq!(read(GOOD, 38).unwrap().len(), 2);
        for (from, to, data, says) in [
            ("[32,38]", "[30,36]", 38, "no safetensors header: "),
            ("[32,38]", "[36,42]", 42, "no safetensors header: "),
            ("[0,32]", "[32,0]", 38, "no safetensors header: "),
            ("[2,4]", "[4611686018427387904,8]", 38, "no safetensors header: "),
            ("[2,4]", "[2,5]", 38, "no safetensors header: "),
            ("[2,4]", "[-2,4]", 38, "no safetensors header: "),
            ("\"b\"", "\"a\"", 38, "the tensor `a` stands twice in its header"),
            ("BF16", "F8_E4M3", 38, "no safetensors header: "),
            ("BF16", "I16", 38, "tensor `b` of type I16 in `x.safetensors`; known are F32, F16"),
            ("GOOD", "GOOD", 37, "tensor `b` ends at "),
            ("GOOD", "GOOD", 40, "it has 2 bytes more than its header says; download it again"),
        ] {
            let error = read(&GOOD.replace(from, to), data).unwrap_err().to_string();
            assert!(error.contains(says), "{from} {to}: {error}");
        }
    }

    #[test]
    fn no_changed_header_panics() {
        fuzz::each(GOOD.as_bytes(), fuzz::Mutator::bytes, |header| {
            let _ = tensors(Path::new("x"), header, 8 + header.len() as u64 + 38);
        });
    }
}
