//! Where weights come from and what they are held as: the trait that GGUF, safetensors and
//! synthetic sources share, rows of a tensor as they are stored, and the choice of a stored type
//! for `--quant`. Knows nothing of a forward pass.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::{GgmlMatrix, RowData, ggml_matrix};
use crate::model::config::Config;

/// A tensor of a source, before it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// `[out, in]`, or `[n]` for norms and biases.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub dtype: GgmlDType,
}

/// Something that has the tensors of a model, under their names in safetensors.
pub trait Source: Send + Sync {
    /// Shape and stored type of a tensor, or `None` if there is none of this name.
    fn info(&self, name: &str) -> Option<Info>;

    /// Some rows of a tensor, as stored. A tensor of one dimension is one row.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<Rows>;

    /// The tensors that are none of these, by the names that the source has for them.
    fn beyond(&self, known: &[(String, Vec<usize>)]) -> Vec<String>;

    /// SHA-256 over what decides the weights: the files' bytes, or a generator's identity.
    ///
    /// # Errors
    /// When a file cannot be read.
    fn sha256(&self) -> Result<String>;
}

/// Rows of a tensor as they are stored.
pub enum Rows {
    /// Plain numbers.
    F32(Vec<f32>),
    /// Bytes of another type, f16 and bf16 among them.
    Bytes(GgmlDType, Vec<u8>),
}

impl Rows {
    /// From the bytes of a file.
    pub fn from_bytes(dtype: GgmlDType, bytes: Vec<u8>) -> Self {
        match dtype {
            GgmlDType::F32 => {
                Rows::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            _ => Rows::Bytes(dtype, bytes),
        }
    }

    /// The numbers, in rows of `columns`.
    pub fn into_f32(self, columns: usize) -> Vec<f32> {
        match self {
            Rows::F32(values) => values,
            Rows::Bytes(dtype, bytes) => {
                let row = row_bytes(dtype, columns).expect("what was read has whole rows");
                let rows = bytes.len() / row;
                let one = |range: Range<usize>| {
                    Ok::<_, Infallible>(RowData::Bytes(
                        bytes[range.start * row..range.end * row].to_vec(),
                    ))
                };
                match ggml_matrix(dtype, [rows, columns], one) {
                    Ok(blocks) => blocks.dequantize(0..rows),
                    Err(never) => match never {},
                }
            }
        }
    }
}

/// A whole matrix of a source, held as blocks of a type. Read, expanded and quantised in parallel,
/// some rows at a time.
///
/// # Errors
/// When the source cannot be read.
pub fn blocks(
    source: &dyn Source,
    name: &str,
    shape: [usize; 2],
    dtype: GgmlDType,
) -> Result<Box<dyn GgmlMatrix>> {
    ggml_matrix(dtype, shape, |rows| match source.rows(name, rows)? {
        Rows::Bytes(stored, bytes) if stored == dtype => Ok(RowData::Bytes(bytes)),
        other => Ok(RowData::F32(other.into_f32(shape[1]))),
    })
}

/// Some rows of a matrix as bytes of a type: as they are stored, or expanded and quantised.
///
/// # Errors
/// When the source cannot be read.
pub fn bytes_of_rows(
    source: &dyn Source,
    name: &str,
    rows: Range<usize>,
    columns: usize,
    dtype: GgmlDType,
) -> Result<Vec<u8>> {
    let count = rows.len();
    match source.rows(name, rows)? {
        Rows::Bytes(stored, bytes) if stored == dtype => Ok(bytes),
        other => {
            let values = other.into_f32(columns);
            if dtype == GgmlDType::F32 {
                return Ok(bytemuck::cast_slice(&values).to_vec());
            }
            let fill = |rows: Range<usize>| {
                Ok::<_, Infallible>(RowData::F32(
                    values[rows.start * columns..rows.end * columns].to_vec(),
                ))
            };
            match ggml_matrix(dtype, [count, columns], fill) {
                Ok(blocks) => Ok(blocks.data().to_vec()),
                Err(never) => match never {},
            }
        }
    }
}

/// Bytes of a row of `columns` values, if the type's blocks divide it.
pub fn row_bytes(dtype: GgmlDType, columns: usize) -> Option<usize> {
    columns
        .is_multiple_of(dtype.block_size())
        .then(|| columns / dtype.block_size() * dtype.type_size())
}

/// A file that is read at positions from several threads.
pub struct Positioned {
    path: PathBuf,
    file: File,
    /// Length in bytes when it was opened.
    pub size: u64,
}

impl Positioned {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        Ok(Self { path: path.into(), file, size })
    }

    /// The bytes at a position.
    ///
    /// # Errors
    /// When the file ends before, or cannot be read.
    pub fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>> {
        let fail = |source| Error::Read { path: self.path.clone(), source };
        if at.checked_add(bytes as u64).is_none_or(|end| end > self.size) {
            return Err(fail(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        let mut buffer = vec![0u8; bytes];
        self.fill(at, &mut buffer).map_err(fail)?;
        Ok(buffer)
    }

    /// Fills a buffer with the bytes at a position.
    ///
    /// # Errors
    /// As [`Positioned::read`].
    pub fn fill(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        read_at(&self.file, buffer, at)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (buffer, at) = (&mut buffer[n..], at + n as u64),
        }
    }
    Ok(())
}

/// SHA-256 of files, one after the other.
///
/// # Errors
/// When one cannot be read.
pub fn hash_files(paths: &[PathBuf]) -> Result<String> {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for path in paths {
        let fail = |source| Error::Read { path: path.into(), source };
        files::hash_file(&mut hash, path).map_err(fail)?;
    }
    Ok(files::hex(&hash.finalize()))
}

/// What `--quant` asks for. It applies to what is not quantised yet; `f32` also expands what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// 32 bits.
    F32,
    /// The upper 16 bits of f32.
    Bf16,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// llama.cpp's mix: 4 bits, 6 for the output matrix and for about half of the value and down
    /// projections.
    Q4KM,
}

impl Quant {
    /// The names that `--quant` takes.
    pub const NAMES: [&str; 4] = ["f32", "bf16", "q8_0", "q4_k_m"];

    /// The quantisation of this name, in either case.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "f32" => Ok(Quant::F32),
            "bf16" => Ok(Quant::Bf16),
            "q8_0" => Ok(Quant::Q8_0),
            "q4_k_m" => Ok(Quant::Q4KM),
            _ => Err(Error::unknown("quantisation", name, Self::NAMES)),
        }
    }

    /// The name that [`Quant::parse`] takes.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The type that a matrix is held as.
    ///
    /// The mix is that of llama.cpp's `llama_tensor_get_type` for `Q4_K_M`: rows that 256 does not
    /// divide fall back from Q4_K to Q5_0 and from Q6_K to Q8_0.
    fn target(self, name: &str, columns: usize, config: &Config) -> GgmlDType {
        let (small, large) = match self {
            Quant::F32 => return GgmlDType::F32,
            Quant::Bf16 => return GgmlDType::BF16,
            Quant::Q8_0 => (GgmlDType::Q8_0, GgmlDType::Q8_0),
            Quant::Q4KM if columns.is_multiple_of(256) => (GgmlDType::Q4K, GgmlDType::Q6K),
            Quant::Q4KM => (GgmlDType::Q5_0, GgmlDType::Q8_0),
        };
        let chosen = if name == output_name(config)
            || (is_sensitive(name) && more_bits(name, config.layers))
        {
            large
        } else {
            small
        };
        if columns.is_multiple_of(chosen.block_size()) { chosen } else { GgmlDType::F16 }
    }
}

fn output_name(config: &Config) -> &'static str {
    if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" }
}

fn is_sensitive(name: &str) -> bool {
    name.ends_with("v_proj.weight") || name.ends_with("down_proj.weight")
}

/// The first and the last eighth of the layers, and every third between.
fn more_bits(name: &str, layers: usize) -> bool {
    let layer: usize = name.split('.').nth(2).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// The type that a tensor is held as: vectors as f32, quantised matrices as stored, others as asked
/// for.
pub fn held_as(name: &str, info: &Info, quant: Option<Quant>, config: &Config) -> GgmlDType {
    let plain = matches!(info.dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
    match quant {
        _ if info.shape.len() < 2 => GgmlDType::F32,
        Some(quant) if plain || quant == Quant::F32 => quant.target(name, info.shape[1], config),
        _ => info.dtype,
    }
}

/// What a model's matrices are held as, in one word: `q8_0`, `q4_k_m`, or the types it mixes, most
/// bytes first.
pub fn describe(types: &[(GgmlDType, u64)]) -> String {
    let mut sums: Vec<(GgmlDType, u64)> = Vec::new();
    for (dtype, bytes) in types {
        match sums.iter_mut().find(|(known, _)| known == dtype) {
            Some((_, sum)) => *sum += bytes,
            None => sums.push((*dtype, *bytes)),
        }
    }
    sums.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let names: Vec<String> = sums.iter().map(|(dtype, _)| type_name(*dtype)).collect();
    match names.join("+").as_str() {
        "q4_k+q6_k" | "q6_k+q4_k" => "q4_k_m".into(),
        mix => mix.into(),
    }
}

/// The name of a stored type as GGUF tools write it.
pub fn type_name(dtype: GgmlDType) -> String {
    let debug = format!("{dtype:?}").to_lowercase();
    match debug.strip_suffix('k') {
        Some(bits) => format!("{bits}_k"),
        None => debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_that_of_q4_k_m() {
        let config = Config::named("qwen3-0.6b").unwrap();
        let held = |name: &str, columns| {
            let info = Info { shape: vec![16, columns], dtype: GgmlDType::F32 };
            type_name(held_as(name, &info, Some(Quant::Q4KM), &config))
        };
        assert_eq!(held("model.embed_tokens.weight", 1024), "q6_k", "tied");
        assert_eq!(held("model.layers.0.self_attn.q_proj.weight", 1024), "q4_k");
        // 28 layers: 0..3 and 24.. have more bits, and 5, 8, 11, ...
        for (layer, name) in [
            (0, "q6_k"),
            (2, "q6_k"),
            (3, "q4_k"),
            (4, "q4_k"),
            (5, "q6_k"),
            (6, "q4_k"),
            (8, "q6_k"),
            (24, "q6_k"),
        ] {
            assert_eq!(
                held(&format!("model.layers.{layer}.self_attn.v_proj.weight"), 1024),
                name,
                "layer {layer}"
            );
            assert_eq!(
                held(&format!("model.layers.{layer}.mlp.down_proj.weight"), 3072),
                name,
                "layer {layer}"
            );
        }
        assert_eq!(held("model.layers.3.self_attn.q_proj.weight", 896), "q5_0");
        assert_eq!(held("model.layers.0.self_attn.v_proj.weight", 896), "q8_0");
        assert_eq!(held("model.layers.3.self_attn.q_proj.weight", 30), "f16");
    }

    #[test]
    fn what_is_quantised_stays_so_unless_f32_is_asked_for() {
        let config = Config::named("nano").unwrap();
        let info = Info { shape: vec![512, 256], dtype: GgmlDType::Q5K };
        let held = |quant| held_as("model.layers.0.mlp.up_proj.weight", &info, quant, &config);
        assert_eq!(held(None), GgmlDType::Q5K);
        assert_eq!(held(Some(Quant::Q8_0)), GgmlDType::Q5K);
        assert_eq!(held(Some(Quant::F32)), GgmlDType::F32);
    }

    #[test]
    fn quantisations_are_read_by_the_names_they_are_written_with() {
        for name in Quant::NAMES {
            assert_eq!(Quant::parse(name).unwrap().name(), name);
        }
        assert_eq!(Quant::parse("Q4_K_M").unwrap(), Quant::Q4KM);
        assert!(Quant::parse("q4_km").unwrap_err().to_string().contains("did you mean `q4_k_m`?"));
    }
}
