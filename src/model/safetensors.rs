//! safetensors: a single `model.safetensors`, or shards with `model.safetensors.index.json`. Tensors are read by position, so
//! loading never holds a whole file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use safetensors::View;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::model::weights::Info;
use crate::model::weights::Positioned;
use crate::model::weights::Rows;
use crate::model::weights::Source;
use crate::model::weights::hash_files;
use crate::model::weights::row_bytes;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The format's own limit on a header; a larger claim is garbage.
const LARGEST_HEADER: u64 = 100_000_000;

/// The opened files of a model.
pub struct Folder {
    files: Vec<(PathBuf, Positioned)>,
    tensors: HashMap<String, (usize, Info, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: serde_json::Value,
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    /// Opens a folder's weights.
    ///
    /// # Errors
    /// When there are none, a shard is missing, or a file is cut off or no safetensors.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut folder = Self { files: Vec::new(), tensors: HashMap::new() };
        for path in files(dir)? {
            folder.add(path)?;
        }
        Ok(folder)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let invalid = |why: String| Error::Invalid { path: path.clone(), why };
        let file = Positioned::open(&path)?;
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
        let metadata: Metadata = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("no safetensors header: {error}")))?;
        let data = 8 + header;
        for (name, tensor) in metadata.tensors() {
            let dtype = match tensor.dtype {
                Dtype::F32 => GgmlDType::F32,
                Dtype::F16 => GgmlDType::F16,
                Dtype::BF16 => GgmlDType::BF16,
                other => {
                    return Err(Error::UnsupportedModel(format!(
                        "tensor `{name}` of type {other:?} in `{}`",
                        path.display()
                    )));
                }
            };
            let (start, end) = tensor.data_offsets;
            if data + end as u64 > file.size {
                return Err(invalid(format!(
                    "the file is cut off: tensor `{name}` ends at {}, the file at {}; download it again",
                    data + end as u64,
                    file.size
                )));
            }
            let info = Info { shape: tensor.shape.clone(), dtype };
            self.tensors.insert(name, (self.files.len(), info, data + start as u64));
        }
        self.files.push((path, file));
        Ok(())
    }
}

/// The weight files of a folder, without opening them.
///
/// # Errors
/// When there are none, the index cannot be read, or a shard it names is missing.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join(INDEX);
    if !index.exists() {
        let single = dir.join(SINGLE);
        return if single.exists() {
            Ok(vec![single])
        } else {
            Err(Error::Invalid {
                path: dir.into(),
                why: format!("it has neither `{SINGLE}` nor `{INDEX}`"),
            })
        };
    }
    let text = std::fs::read_to_string(&index)
        .map_err(|source| Error::Read { path: index.clone(), source })?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|error| Error::Invalid { path: index.clone(), why: error.to_string() })?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
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

/// Writes a source as f32: one file, or shards of at most `shard_bytes` (one tensor at least) with their index.
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
