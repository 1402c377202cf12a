//! safetensors: a single `model.safetensors`, or shards with `model.safetensors.index.json`.
//! Tensors are read by position, so no file is in memory as a whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::GgmlType;
use crate::model::file::{PositionedFile, check_shards, hash_files, refuse_lfs_pointer};
use crate::model::weights::{StoredRows, TensorInfo, WeightSource, as_matrix, row_bytes};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The format's own limit on the size of a header.
const MAX_HEADER: u64 = 100_000_000;

/// The opened weight files of a folder.
pub struct SafetensorsFolder {
    files: Vec<(PathBuf, PositionedFile)>,
    /// By name, the number of the file, shape and type, and the offset in the file.
    tensors: HashMap<String, (usize, TensorInfo, u64)>,
    is_bare: bool,
}

/// Prefix of tensor names; the tensors of a bare model (`Qwen3Model`) lack it.
const PREFIX: &str = "model.";

/// `model.safetensors.index.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct ShardIndex {
    #[serde(default)]
    metadata: serde_json::Value,
    /// By tensor name, the file.
    pub(super) weight_map: BTreeMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens a folder's weights. `notes` receives what was ignored.
    ///
    /// # Errors
    /// When there are none, a shard is missing, or a file is truncated, inconsistent or not
    /// safetensors.
    pub fn open(dir: &Path, notes: &mut Vec<String>) -> Result<Self> {
        let mut folder = Self { files: Vec::new(), tensors: HashMap::new(), is_bare: false };
        for path in weight_files(dir)? {
            folder.add(path)?;
        }
        if dir.join(SINGLE).exists()
            && let Ok(shards) = shard_names(dir)
            && shards.iter().any(|name| name != SINGLE)
        {
            let index = dir.join(INDEX);
            notes.push(format!("{}: ignored, `{SINGLE}` has all weights", index.display()));
        }
        let has = |name: &str| folder.tensors.contains_key(name);
        folder.is_bare = has("embed_tokens.weight") && !has("model.embed_tokens.weight");
        if folder.is_bare {
            let named = |(name, tensor)| (format!("{PREFIX}{name}"), tensor);
            folder.tensors = folder.tensors.into_iter().map(named).collect();
        }
        Ok(folder)
    }

    /// Whether the tensors are those of a bare model without a head, as embedding models are
    /// stored: their names lack the prefix `model.`.
    pub(super) fn is_bare(&self) -> bool {
        self.is_bare
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let invalid = |why: String| Error::invalid(&path, why);
        let file = PositionedFile::open(&path)?;
        refuse_lfs_pointer(&path)?;
        if file.size < 8 {
            return Err(invalid(format!("{} bytes are too few for a safetensors file", file.size)));
        }
        let header = u64::from_le_bytes(file.read(0, 8)?.try_into().expect("eight were read"));
        if header > MAX_HEADER || header > file.size - 8 {
            return Err(invalid(format!(
                "not safetensors: it claims a header of {header} bytes and has {}",
                file.size
            )));
        }
        let text = file.read(8, header as usize)?;
        for (name, info, offset) in parse_header(&path, &text, file.size)? {
            if self.tensors.contains_key(&name) {
                return Err(invalid(format!("the tensor `{name}` is in another file too")));
            }
            self.tensors.insert(name, (self.files.len(), info, offset));
        }
        self.files.push((path, file));
        Ok(())
    }
}

/// The tensors of a header and their offsets in the file of `size` bytes.
///
/// # Errors
/// When the header is inconsistent or does not fit the file, or a type is not supported.
fn parse_header(path: &Path, header: &[u8], size: u64) -> Result<Vec<(String, TensorInfo, u64)>> {
    let invalid = |why: String| Error::invalid(path, why);
    // This checks offsets against shapes, and that no two tensors overlap.
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|error| invalid(format!("not a safetensors header: {error}")))?;
    let data = 8 + header.len() as u64;
    let mut last = data;
    let mut tensors = Vec::new();
    for (name, tensor) in metadata.tensors() {
        let dtype = match tensor.dtype {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            other => {
                return Err(Error::UnsupportedModel(format!(
                    "tensor `{name}` of type {other:?} in `{}`; supported: F32, F16 and BF16",
                    path.display()
                )));
            }
        };
        let (start, end) = tensor.data_offsets;
        let end = data.saturating_add(end as u64);
        if end > size {
            return Err(invalid(format!(
                "the file is truncated: tensor `{name}` ends at {end}, the file at {size}; \
                 download it again"
            )));
        }
        last = last.max(end);
        let info = TensorInfo { shape: tensor.shape.clone(), dtype };
        tensors.push((name, info, data + start as u64));
    }
    if last < size {
        let more = size - last;
        let why = format!("it has {more} bytes more than its header says; download it again");
        return Err(invalid(why));
    }
    Ok(tensors)
}

/// The weight files that the index of a folder names.
fn shard_names(dir: &Path) -> Result<BTreeSet<String>> {
    let index = dir.join(INDEX);
    refuse_lfs_pointer(&index)?;
    let text = files::read(&index)?;
    let parsed: ShardIndex =
        serde_json::from_str(&text).map_err(|error| Error::invalid(index, error.to_string()))?;
    Ok(parsed.weight_map.into_values().collect())
}

/// The weight files of a folder, without opening them: the single file if there is one, as in
/// transformers, otherwise the shards of the index.
///
/// # Errors
/// When there are none, the index cannot be read, or a shard is missing.
pub(super) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        let pytorch = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let pytorch = pytorch.iter().any(|name| dir.join(name).exists());
        let advice =
            if pytorch { "; PyTorch's own format is not supported: convert it" } else { "" };
        let why = format!("it has neither `{SINGLE}` nor `{INDEX}`{advice}");
        return Err(Error::invalid(dir, why));
    }
    let names = shard_names(dir)?;
    if let Some(path) =
        names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with('.'))
    {
        return Err(Error::invalid(index, format!("shard `{path}` is not a plain file name")));
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    check_shards(&index, &paths)?;
    Ok(paths)
}

impl WeightSource for SafetensorsFolder {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|(_, info, _)| info.clone())
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<StoredRows> {
        let Some((file, info, offset)) = self.tensors.get(name) else {
            return Err(Error::Failed(format!("no tensor `{name}` in the safetensors files")));
        };
        let [_, columns] = as_matrix(&info.shape);
        let row = row_bytes(info.dtype, columns).expect("blocks of one weight fit any row");
        let at = offset + (rows.start * row) as u64;
        let bytes = self.files[*file].1.read(at, rows.len() * row)?;
        Ok(StoredRows::from_bytes(info.dtype, bytes))
    }

    fn unused(&self, used: &[(String, Vec<usize>)]) -> Vec<String> {
        let used: HashSet<&str> = used.iter().map(|(name, _)| name.as_str()).collect();
        self.tensors.keys().filter(|name| !used.contains(name.as_str())).cloned().collect()
    }

    fn sha256(&self) -> Result<String> {
        hash_files(&self.files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())
    }
}

/// A tensor that is read when it is written, so that only one is in memory at a time.
struct LazyTensor<'a> {
    source: &'a dyn WeightSource,
    name: &'a str,
    shape: &'a [usize],
}

impl View for &LazyTensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let rows = self.source.rows(self.name, 0..as_matrix(self.shape)[0]);
        let rows = rows.expect("a source that has the tensor's shape has its values");
        Cow::Owned(rows.into_f32().into_iter().flat_map(f32::to_le_bytes).collect())
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 4
    }
}

/// Writes a source as f32: one file, or shards with their index. A shard has at most `shard_bytes`,
/// or a single tensor.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    dir: &Path,
    source: &dyn WeightSource,
    tensors: &[(String, Vec<usize>)],
    shard_bytes: Option<u64>,
) -> Result<()> {
    let mut shards: Vec<Vec<LazyTensor<'_>>> = vec![Vec::new()];
    let mut size = 0;
    for (name, shape) in tensors {
        let bytes = shape.iter().product::<usize>() as u64 * 4;
        if size > 0 && shard_bytes.is_some_and(|limit| size + bytes > limit) {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        shards.last_mut().expect("there is one from the start").push(LazyTensor {
            source,
            name,
            shape,
        });
    }
    let mut index = ShardIndex { metadata: serde_json::Value::Null, weight_map: BTreeMap::new() };
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

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[32,38]}}"#;

    fn parse(header: &str, data: u64) -> Result<Vec<(String, TensorInfo, u64)>> {
        parse_header(Path::new("x.safetensors"), header.as_bytes(), 8 + header.len() as u64 + data)
    }

    #[test]
    fn an_inconsistent_header_is_refused() {
        assert_eq!(parse(GOOD, 38).unwrap().len(), 2);
        for (from, to, data, expected) in [
            ("[32,38]", "[30,36]", 38, "not a safetensors header: "),
            ("[32,38]", "[36,42]", 42, "not a safetensors header: "),
            ("[0,32]", "[32,0]", 38, "not a safetensors header: "),
            ("[2,4]", "[4611686018427387904,8]", 38, "not a safetensors header: "),
            ("[2,4]", "[2,5]", 38, "not a safetensors header: "),
            ("[2,4]", "[-2,4]", 38, "not a safetensors header: "),
            ("\"b\"", "\"a\"", 38, "not a safetensors header: "),
            ("BF16", "F8_E4M3", 38, "not a safetensors header: "),
            ("BF16", "I16", 38, "tensor `b` of type I16 in `x.safetensors`; supported: F32, F16"),
            ("GOOD", "GOOD", 37, "tensor `b` ends at "),
            ("GOOD", "GOOD", 40, "it has 2 bytes more than its header says; download it again"),
        ] {
            let error = parse(&GOOD.replace(from, to), data).unwrap_err().to_string();
            assert!(error.contains(expected), "{from} {to}: {error}");
        }
    }
}
