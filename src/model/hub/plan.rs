//! Which files of a repository a run needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::cache::{at, is_inside};
use super::spec::{HubSpec, quoted};
use crate::error::{Error, Result};
use crate::model::gguf::{parse_shard_name, shard_name};
use crate::model::safetensors::ShardIndex;

pub(super) const REQUIRED_FILES: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL_FILES: [&str; 4] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
pub(super) const WEIGHT_FILES: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];

/// The files to fetch.
pub(super) struct DownloadPlan {
    pub(super) files: Vec<String>,
    /// Files that would have changed the choice if the repository had them.
    pub(super) absent: Vec<&'static str>,
}

/// Chooses among the files of a commit.
pub(super) fn plan(spec: &HubSpec, names: &[String]) -> Result<DownloadPlan> {
    let has = |file: &str| names.iter().any(|name| name == file);
    let weights = weight_files(spec, names)?;
    let plan = if weights.iter().all(|file| is_gguf(file)) {
        let absent = if spec.file.is_none() { WEIGHT_FILES.to_vec() } else { Vec::new() };
        DownloadPlan { files: weights, absent }
    } else {
        let (optional, absent): (Vec<_>, _) =
            OPTIONAL_FILES.into_iter().partition(|file| has(file));
        let files =
            REQUIRED_FILES.into_iter().chain(optional).map(String::from).chain(weights).collect();
        DownloadPlan { files, absent }
    };
    for file in &plan.files {
        if !is_inside(file) {
            return Err(Error::HubUnsafeName { repo: spec.repo.clone(), name: file.clone() });
        }
        if !has(file) {
            return Err(spec.missing(file, names));
        }
    }
    Ok(plan)
}

/// The weight files: one, or the shards of a `.gguf`. A single `model.safetensors` goes before an
/// index, which is stale then.
fn weight_files(spec: &HubSpec, names: &[String]) -> Result<Vec<String>> {
    let safetensors = WEIGHT_FILES.into_iter().find(|file| names.iter().any(|name| name == file));
    let models = gguf_models(names);
    let models: Vec<(&String, &Vec<&String>)> = match &spec.file {
        None if safetensors.is_some() => {
            return Ok(safetensors.iter().map(|s| s.to_string()).collect());
        }
        None => models.iter().collect(),
        Some(file) if is_gguf(file) || models.is_empty() || names.contains(file) => {
            let shards = models.into_values().find(|shards| shards.contains(&file));
            return shards
                .map_or(Ok(vec![file.clone()]), |shards| all_shards(spec, &shards, names));
        }
        Some(quant) => {
            let fitting: Vec<_> =
                models.iter().filter(|(name, _)| has_quant(name, quant)).collect();
            if fitting.is_empty() {
                let near = format!("its gguf files are {}", quoted(models.keys()));
                let (repo, revision) = (spec.repo.clone(), spec.revision().into());
                return Err(Error::HubMissingFile { file: quant.clone(), repo, revision, near });
            }
            fitting
        }
    };
    match models[..] {
        [] => Err(spec.missing(WEIGHT_FILES[0], names)),
        [(_, shards)] => all_shards(spec, shards, names),
        [(_, shards), ..] => Err(Error::HubSeveralGguf {
            repo: spec.repo.clone(),
            first: shards[0].clone(),
            files: quoted(models.iter().map(|(name, _)| *name)),
        }),
    }
}

fn is_gguf(name: &str) -> bool {
    name.to_lowercase().ends_with(".gguf")
}

/// The GGUF models by name (without the number of a shard), with their files in order. Image
/// projectors (`mmproj`) do not count.
fn gguf_models(names: &[String]) -> BTreeMap<String, Vec<&String>> {
    let mut models: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    let is_model = |name: &str| !name.rsplit('/').next().unwrap_or(name).starts_with("mmproj");
    for name in names.iter().filter(|name| is_gguf(name) && is_model(name)) {
        let model =
            parse_shard_name(name).map_or(name.clone(), |(model, ..)| format!("{model}.gguf"));
        models.entry(model).or_default().push(name);
    }
    models.values_mut().for_each(|shards| shards.sort());
    models
}

/// The shards of one model, if none is missing.
fn all_shards(spec: &HubSpec, shards: &[&String], names: &[String]) -> Result<Vec<String>> {
    let parsed = || shards.iter().map(|name| parse_shard_name(name));
    let count = parsed().next().flatten().map_or(1, |(_, _, count)| count);
    let has = |number| parsed().any(|shard| shard.is_none_or(|shard| shard.1 == number));
    match (1..=count).find(|number| !has(*number)) {
        None => Ok(shards.iter().map(|name| (*name).clone()).collect()),
        Some(number) => {
            let model = parse_shard_name(shards[0]).map_or(shards[0].as_str(), |(model, ..)| model);
            Err(spec.missing(&shard_name(model, number, count), names))
        }
    }
}

/// Whether a path has the name of a quantization as a whole word: `Q4_K` is not `Q4_K_M`.
fn has_quant(name: &str, quant: &str) -> bool {
    let (name, quant) = (name.to_lowercase(), quant.to_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    name.match_indices(&quant).any(|(at, _)| {
        !name[..at].ends_with(is_word) && !name[at + quant.len()..].starts_with(is_word)
    })
}

/// The shards of the safetensors index among `files`, if there is one.
pub(super) fn indexed_shards(
    spec: &HubSpec,
    files: &[PathBuf],
    names: &[String],
) -> Result<BTreeSet<String>> {
    let Some(path) = files.iter().find(|path| path.to_string_lossy().ends_with(".index.json"))
    else {
        return Ok(BTreeSet::new());
    };
    let text = fs::read_to_string(path).map_err(at(path))?;
    let index: ShardIndex = serde_json::from_str(&text)
        .map_err(|source| Error::HubIndex { file: path.display().to_string(), source })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    for shard in &shards {
        if !is_inside(shard) {
            return Err(Error::HubUnsafeName { repo: spec.repo.clone(), name: shard.clone() });
        }
        if !names.contains(shard) {
            return Err(spec.missing(shard, names));
        }
    }
    Ok(shards)
}
