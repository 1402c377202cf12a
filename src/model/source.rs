//! Opens a model: finds its files, downloads them if they are on the hub, and checks them without
//! reading weights.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::KvDtype;
use crate::model::config::{self, Config};
use crate::model::decoder::Footprint;
use crate::model::file::refuse_lfs_pointer;
use crate::model::gguf::Gguf;
#[cfg(feature = "hub")]
use crate::model::hub;
use crate::model::progress::Progress;
use crate::model::safetensors::SafetensorsFolder;
use crate::model::spec::ModelSpec;
use crate::model::synthetic::SyntheticWeights;
use crate::model::weights::{WeightSource, check_shapes, row_bytes};
use crate::settings::RopeScaling;

/// Where a model's tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The tokenizer of `fixtures/tiny`, for synthetic models.
    Tiny,
    /// A folder with tokenizer.json.
    Folder(PathBuf),
    /// The metadata of a GGUF file.
    Gguf(PathBuf),
}

/// A model that was found and checked, but not loaded.
pub struct ModelSource {
    /// The name that it was asked for by.
    pub spec: String,
    /// Its shape.
    pub config: Config,
    /// Its tensors.
    pub weights: Box<dyn WeightSource>,
    /// Its tokenizer.
    pub tokenizer: TokenizerSource,
    /// The hub's commit.
    pub commit: Option<String>,
}

impl ModelSource {
    /// Types and sizes of the matrices as they are stored, with a KV cache of 16 bits.
    pub(crate) fn stored_footprint(&self) -> Footprint {
        let matrix = |(name, shape): (String, Vec<usize>)| {
            let &[rows, columns] = shape.as_slice() else { return None };
            let dtype = self.weights.info(&name)?.dtype;
            Some((dtype, (row_bytes(dtype, columns)? * rows) as u64))
        };
        let types = self.config.tensors().into_iter().filter_map(matrix).collect();
        Footprint::new(types, &self.config, KvDtype::Bf16, Vec::new())
    }
}

/// Checks a model's name and, unless it is on the hub, its files. Reads no weights and downloads
/// nothing.
///
/// # Errors
/// As [`open`]; for a model on the hub only those of its name.
pub fn check(spec: &str, seed: u64, scaling: Option<RopeScaling>) -> Result<()> {
    #[cfg(feature = "hub")]
    if let ModelSpec::Hub(name) = ModelSpec::parse(spec)? {
        return name.parse::<hub::HubSpec>().map(drop);
    }
    open(spec, seed, scaling, &mut ()).map(drop)
}

/// Finds a model, downloads it if it is on the hub, and checks its files without reading weights.
///
/// `seed` is that of synthetic weights; `scaling` replaces the model's own RoPE scaling.
///
/// # Errors
/// When the model is missing, damaged or not supported.
pub fn open(
    spec: &str,
    seed: u64,
    scaling: Option<RopeScaling>,
    progress: &mut dyn Progress,
) -> Result<ModelSource> {
    let mut notes = Vec::new();
    let mut model = match ModelSpec::parse(spec)? {
        ModelSpec::Synthetic(shape) => {
            let config = Config::named(&shape)?;
            let weights = Box::new(SyntheticWeights::new(config.clone(), seed));
            let (spec, tokenizer) = (spec.into(), TokenizerSource::Tiny);
            ModelSource { spec, config, weights, tokenizer, commit: None }
        }
        ModelSpec::Gguf(path) => open_gguf(spec, &path, &mut notes)?,
        ModelSpec::Folder(path) => open_folder(spec, &path, &mut notes)?,
        ModelSpec::Hub(name) => download(&name, progress, &mut notes)?,
    };
    check_tensors(&model.config, model.weights.as_ref())?;
    for note in &notes {
        progress.note(note);
    }
    if let Some(scaling) = &scaling {
        config::check_scaling(scaling).map_err(Error::Usage)?;
    }
    model.config = model.config.with_rope_scaling(scaling).validate().map_err(Error::Usage)?;
    Ok(model)
}

fn open_gguf(spec: &str, path: &Path, notes: &mut Vec<String>) -> Result<ModelSource> {
    let gguf = Gguf::open(path)?;
    let (config, tokenizer) = (gguf.config(notes)?, TokenizerSource::Gguf(gguf.path().into()));
    let (spec, weights) = (spec.into(), Box::new(gguf));
    Ok(ModelSource { spec, config, weights, tokenizer, commit: None })
}

fn open_folder(spec: &str, dir: &Path, notes: &mut Vec<String>) -> Result<ModelSource> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(not_a_model(dir));
    }
    for file in [&path, &dir.join("tokenizer.json")] {
        if file.exists() {
            refuse_lfs_pointer(file)?;
        }
    }
    let text = files::read(&path).map_err(Error::of_named_file)?;
    let config = Config::from_json(&path, &text, notes)?;
    let folder = SafetensorsFolder::open(dir, notes)?;
    let lacks_output = !config.tied && folder.info("lm_head.weight").is_none();
    if folder.is_bare() && lacks_output {
        let dir = dir.display();
        return Err(Error::UnsupportedModel(format!(
            "`{dir}` is an embedding model: it has no output matrix, and `tie_word_embeddings` is \
             not true, so it cannot generate text"
        )));
    }
    if lacks_output && folder.info("model.embed_tokens.weight").is_some() {
        let why = "the weights have no output matrix `lm_head.weight`, and `tie_word_embeddings` \
                   is not true; set it to true if the embedding is the output matrix too";
        return Err(Error::invalid(path, why));
    }
    if folder.is_bare() {
        notes.push(config::embedding_model_note(dir));
    }
    let tokenizer = TokenizerSource::Folder(dir.into());
    let (spec, weights) = (spec.into(), Box::new(folder));
    Ok(ModelSource { spec, config, weights, tokenizer, commit: None })
}

/// The error for a folder without `config.json`, which says what is in it instead.
fn not_a_model(dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let gguf = names.iter().find(|name| name.ends_with(".gguf"));
    let what = if let Some(name) = gguf {
        format!("it has no `config.json`; give its GGUF file, as in `{}`", dir.join(name).display())
    } else if names.iter().any(|name| name == "adapter_config.json") {
        "it is an adapter (LoRA) without its base model; merge the two and give the result".into()
    } else if names.is_empty() {
        "it is empty".into()
    } else {
        "it has no `config.json`".into()
    };
    Error::Usage(format!("`{}` is not a model: {what}", dir.display()))
}

/// Refuses weights that lack a tensor of the model, have one of another shape, or have tensors that
/// the model does not use: leaving one out computes another model.
fn check_tensors(config: &Config, weights: &dyn WeightSource) -> Result<()> {
    check_shapes(config, weights)?;
    let mut unused = weights.unused(&config.tensors());
    // Redundant copies are allowed: RoPE frequencies, and the output matrix of tied embeddings.
    unused.retain(|name| {
        let is_output = ["lm_head.weight", "output.weight"].contains(&name.as_str());
        !(name.ends_with("rotary_emb.inv_freq") || config.tied && is_output)
    });
    unused.sort();
    let Some(first) = unused.first() else { return Ok(()) };
    let layers = config.layers;
    let next = [format!("model.layers.{layers}."), format!("blk.{layers}.")];
    if unused.iter().any(|name| next.iter().any(|layer| name.starts_with(layer))) {
        return Err(Error::Failed(format!(
            "the weights have more layers than the {layers} of the configuration"
        )));
    }
    let heads = ["score.", "classifier", "cls.", "v_head", "value_head"];
    let head = unused.iter().find(|name| heads.iter().any(|head| name.starts_with(head)));
    if let Some(head) = head {
        return Err(Error::UnsupportedModel(format!(
            "the weights have `{head}`, the head of a classifier, reranker or reward model"
        )));
    }
    let others = match unused.len() {
        1 => String::new(),
        count => format!(" and {} others", count - 1),
    };
    Err(Error::UnsupportedModel(format!(
        "the weights have `{first}`{others}, which this model configuration does not use"
    )))
}

#[cfg(feature = "hub")]
fn download(
    name: &str,
    progress: &mut dyn Progress,
    notes: &mut Vec<String>,
) -> Result<ModelSource> {
    let snapshot = hub::Hub::from_env()?.fetch(&name.parse()?, progress)?;
    let is_gguf = |path: &&PathBuf| {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    };
    // The first shard stands for all.
    let model = match snapshot.files.iter().find(is_gguf) {
        Some(path) => open_gguf(name, path, notes)?,
        None => open_folder(name, &snapshot.dir, notes)?,
    };
    Ok(ModelSource { commit: Some(snapshot.commit), ..model })
}

#[cfg(not(feature = "hub"))]
fn download(name: &str, _: &mut dyn Progress, _: &mut Vec<String>) -> Result<ModelSource> {
    Err(Error::Usage(format!("`{name}` is on the hub, and this build lacks the feature `hub`")))
}
