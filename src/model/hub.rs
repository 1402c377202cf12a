//! Models from the Hugging Face hub, kept in the cache that Python's `huggingface_hub` shares.
//!
//! Only what a run needs is downloaded, at one commit that is reported back. What is interrupted
//! goes on later; what is cut short or altered never gets its final name. Names in the cache and in
//! the API are those of `hf-hub`, whose downloads take any length for the whole file and are not
//! used. Knows nothing of what the files hold, save which shards an index names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::{env, fs};

use hf_hub::Repo;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::Progress;
use crate::model::gguf::{part, part_name};

mod cache;
mod web;

use cache::{Folder, at, is_commit, is_inside};
use web::{Token, Web};

/// Names shown beside a missing file.
const NEAR: usize = 5;

const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 4] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
const WEIGHTS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];

/// A model on the hub: `owner/name[@revision][:file]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `owner/name`.
    pub repo: String,
    /// A branch, tag or full commit; `main` if absent.
    pub revision: Option<String>,
    /// The weights, where the repository holds more than one set: a file, or the quantisation of a
    /// `.gguf` file, such as `Q8_0`. A `.gguf` file is fetched alone, with all its parts.
    pub file: Option<String>,
}

impl FromStr for HubSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, file) = optional(text, ':');
        let (repo, revision) = optional(rest, '@');
        let spec = Self { repo: repo.into(), revision, file };
        spec.check().map_err(|problem| Error::HubSpec { spec: text.into(), problem })?;
        Ok(spec)
    }
}

impl HubSpec {
    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Each part becomes a piece of a path and of a URL, so each is held to what the hub allows.
    fn check(&self) -> std::result::Result<(), &'static str> {
        let plain = |text: &str, marks: &str| {
            text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
        };
        let name =
            |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && plain(part, "-_.");
        let Some((owner, model)) = self.repo.split_once('/') else {
            return Err("there is no `owner/`");
        };
        if !name(owner) || !name(model) || self.repo.contains("--") || self.repo.contains("..") {
            return Err("owner and name take letters, digits, `-`, `_` and `.`");
        }
        if !is_inside(self.revision()) || !plain(self.revision(), "-_./+") {
            return Err("the revision is no branch, tag or commit");
        }
        if self.file.as_deref().is_some_and(|file| !is_inside(file)) {
            return Err("the file is no path inside the repository");
        }
        Ok(())
    }

    fn missing(&self, file: &str, names: &[String]) -> Error {
        let (repo, revision) = (self.repo.clone(), self.revision().into());
        Error::HubMissingFile { file: file.into(), repo, revision, near: near(file, names) }
    }
}

/// The text before the mark, and what follows it if the mark is there.
fn optional(text: &str, mark: char) -> (&str, Option<String>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after.into())))
}

/// One commit of a model on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit's folder in the cache.
    pub dir: PathBuf,
    /// The full commit.
    pub commit: String,
    /// The files that were asked for, below `dir`, weights last.
    pub files: Vec<PathBuf>,
}

/// Where models come from and where they are kept.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The folder that holds `models--owner--name`.
    pub cache: PathBuf,
    /// Whether only the cache may answer.
    pub offline: bool,
    web: Web,
}

impl Hub {
    /// The hub as the `HF_*` variables describe it.
    ///
    /// # Errors
    /// When neither they nor the system name a folder for the cache.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| env::var(name).ok(), env::home_dir())
    }

    /// Takes the variables in the order of `huggingface_hub`; an empty one counts as absent.
    fn from_vars(var: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let some = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let var = |name: &str| var(name).and_then(some);
        let path = |name: &str| var(name).map(PathBuf::from);
        let is_on = |name: &str| {
            let value = var(name).unwrap_or_default().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let folder = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.map(|home| home.join(".cache").join("huggingface")))
            .ok_or(Error::HubNoHome)?;
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| folder.join("token"));
        let token = var("HF_TOKEN")
            .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fs::read_to_string(token_file).ok().and_then(some));
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            cache: cache.unwrap_or_else(|| folder.join("hub")),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            web: Web::new(&endpoint, token.map(Token)),
        })
    }

    /// The model's files at one commit, downloaded where the cache lacks them.
    ///
    /// A full commit that is cached is taken from there without asking the hub; a branch or tag is
    /// looked up each time.
    ///
    /// # Errors
    /// When the hub cannot be reached, refuses, or lacks the model, the revision or a needed file;
    /// when what it sends is cut short, altered or named to leave the cache; when offline and
    /// something is not cached.
    pub fn fetch(&self, spec: &HubSpec, progress: &mut dyn Progress) -> Result<Snapshot> {
        spec.check().map_err(|problem| Error::HubSpec { spec: spec.repo.clone(), problem })?;
        let name = Repo::model(spec.repo.clone()).folder_name();
        let folder = Folder { cache: self.cache.clone(), name };
        if self.offline {
            return match cached(spec, &folder) {
                Err(Error::HubMissingFile { file, repo, revision, .. }) => {
                    Err(Error::HubOffline { file, repo, revision, cache: self.cache.clone() })
                }
                cached => Ok(cached?.0),
            };
        }
        if is_commit(spec.revision())
            && let Ok((snapshot, absent)) = cached(spec, &folder)
            && absent.iter().all(|file| folder.is_absent(&snapshot.commit, file))
        {
            return Ok(snapshot);
        }
        self.download(spec, &folder, progress)
    }

    fn download(
        &self,
        spec: &HubSpec,
        folder: &Folder,
        progress: &mut dyn Progress,
    ) -> Result<Snapshot> {
        let (commit, names) = self.web.list(spec)?;
        let plan = plan(spec, &names)?;
        let mut get = |file: &str| -> Result<PathBuf> {
            let path = folder.snapshot(&commit).join(file);
            if path.is_file() {
                return Ok(path); // What a commit holds never changes.
            }
            let ask = self.web.file(spec, &commit, file);
            let content = self.web.content(&ask)?;
            let _lock = folder.lock(&content.etag)?;
            if !folder.has(&content.etag) {
                self.web.download(&ask, &content, &folder.part(&content.etag)?, progress)?;
                folder.keep(&content.etag, file)?;
            }
            folder.link(&content.etag, &commit, file)?;
            Ok(path)
        };
        let mut files = plan.files.iter().map(|file| get(file)).collect::<Result<Vec<_>>>()?;
        for shard in shards(spec, &files, &names)? {
            files.push(get(&shard)?);
        }
        for file in plan.absent {
            folder.set_absent(&commit, file)?;
        }
        // Last, so that a revision moves only to a commit that is here in full.
        folder.set_commit(spec.revision(), &commit)?;
        Ok(Snapshot { dir: folder.snapshot(&commit), commit, files })
    }
}

/// What `fetch` would give if all of it is cached, and the files it takes to be absent on the hub.
fn cached(spec: &HubSpec, folder: &Folder) -> Result<(Snapshot, Vec<&'static str>)> {
    let Some(commit) = folder.commit(spec.revision()) else {
        return Err(spec.missing(spec.file.as_deref().unwrap_or(NEEDED[0]), &[]));
    };
    let (dir, names) = (folder.snapshot(&commit), folder.files(&commit));
    let plan = plan(spec, &names)?;
    let mut files: Vec<PathBuf> = plan.files.iter().map(|file| dir.join(file)).collect();
    let shards = shards(spec, &files, &names)?;
    files.extend(shards.iter().map(|shard| dir.join(shard)));
    Ok((Snapshot { dir, commit, files }, plan.absent))
}

/// What to fetch, and what the choice takes to be absent.
struct Plan {
    files: Vec<String>,
    absent: Vec<&'static str>,
}

/// Chooses among the names of a commit's files.
fn plan(spec: &HubSpec, names: &[String]) -> Result<Plan> {
    let has = |file: &str| names.iter().any(|name| name == file);
    let weights = weights(spec, names)?;
    let plan = if weights.iter().all(|file| is_gguf(file)) {
        let absent = if spec.file.is_none() { WEIGHTS.to_vec() } else { Vec::new() };
        Plan { files: weights, absent }
    } else {
        let (optional, absent): (Vec<_>, _) = OPTIONAL.into_iter().partition(|file| has(file));
        let files = NEEDED.into_iter().chain(optional).map(String::from).chain(weights).collect();
        Plan { files, absent }
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

/// The files of weights: one, or the parts of a split `.gguf`. A whole `model.safetensors` goes
/// before an index, which then is stale.
fn weights(spec: &HubSpec, names: &[String]) -> Result<Vec<String>> {
    let safetensors = WEIGHTS.into_iter().find(|file| names.iter().any(|name| name == file));
    let models = gguf_models(names);
    let models: Vec<(&String, &Vec<&String>)> = match &spec.file {
        None if safetensors.is_some() => {
            return Ok(safetensors.iter().map(|s| s.to_string()).collect());
        }
        None => models.iter().collect(),
        Some(file) if is_gguf(file) || models.is_empty() || names.contains(file) => {
            let parts = models.into_values().find(|parts| parts.contains(&file));
            return parts.map_or(Ok(vec![file.clone()]), |parts| whole(spec, &parts, names));
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
        [] => Err(spec.missing(WEIGHTS[0], names)),
        [(_, parts)] => whole(spec, parts, names),
        [(_, parts), ..] => Err(Error::HubSeveralGguf {
            repo: spec.repo.clone(),
            first: parts[0].clone(),
            files: quoted(models.iter().map(|(name, _)| *name)),
        }),
    }
}

fn is_gguf(name: &str) -> bool {
    name.to_lowercase().ends_with(".gguf")
}

/// The models in GGUF by their name, that of a split one without the number of the part, with
/// their files in order. A projector for pictures is no model of its own.
fn gguf_models(names: &[String]) -> BTreeMap<String, Vec<&String>> {
    let mut models: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    let is_model = |name: &str| !name.rsplit('/').next().unwrap_or(name).starts_with("mmproj");
    for name in names.iter().filter(|name| is_gguf(name) && is_model(name)) {
        let model = part(name).map_or(name.clone(), |(model, ..)| format!("{model}.gguf"));
        models.entry(model).or_default().push(name);
    }
    models.values_mut().for_each(|parts| parts.sort());
    models
}

/// The parts of one model, all of them.
fn whole(spec: &HubSpec, parts: &[&String], names: &[String]) -> Result<Vec<String>> {
    let count = parts.first().and_then(|name| part(name)).map_or(1, |(_, _, count)| count);
    let has = |number| parts.iter().any(|name| part(name).is_none_or(|part| part.1 == number));
    match (1..=count).find(|number| !has(*number)) {
        None => Ok(parts.iter().map(|name| (*name).clone()).collect()),
        Some(number) => {
            let model = part(parts[0]).map_or(parts[0].as_str(), |(model, ..)| model);
            Err(spec.missing(&part_name(model, number, count), names))
        }
    }
}

/// Whether a path names the quantisation, as a word of its own: `Q4_K` is not `Q4_K_M`.
fn has_quant(name: &str, quant: &str) -> bool {
    let (name, quant) = (name.to_lowercase(), quant.to_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    name.match_indices(&quant).any(|(at, _)| {
        !name[..at].ends_with(is_word) && !name[at + quant.len()..].starts_with(is_word)
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards that the index among `files` names, if there is one.
fn shards(spec: &HubSpec, files: &[PathBuf], names: &[String]) -> Result<BTreeSet<String>> {
    let Some(path) = files.iter().find(|path| path.to_string_lossy().ends_with(".index.json"))
    else {
        return Ok(BTreeSet::new());
    };
    let text = fs::read_to_string(path).map_err(at(path))?;
    let index: Index = serde_json::from_str(&text)
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

/// The names most like the missing one: first those that end alike, of them those that begin alike.
fn near(file: &str, names: &[String]) -> String {
    let ending = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let alike = |name: &str| name.bytes().zip(file.bytes()).take_while(|(a, b)| a == b).count();
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_by_key(|name| (ending(name) != ending(file), Reverse(alike(name)), *name));
    names.truncate(NEAR);
    if names.is_empty() {
        "nothing is known of its files".into()
    } else {
        format!("nearest are {}", quoted(names))
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
