//! Models from the Hugging Face hub, in the cache that Python's `huggingface_hub` uses.
//!
//! Downloads only the files that a run needs, at one commit. Interrupted downloads resume; a
//! truncated or altered file never gets its final name. Names in the cache and in the API are those
//! of the crate `hf-hub`, whose own downloads do not check lengths and are not used. Knows nothing
//! of the files' contents, except the shards in an index.

use std::path::PathBuf;
use std::{env, fs};

use hf_hub::Repo;

use crate::error::{Error, Result};
use crate::model::progress::Progress;

mod cache;
mod client;
mod plan;
mod spec;

use cache::{RepoCache, is_commit};
use client::HubClient;
use plan::{REQUIRED_FILES, indexed_shards, plan};

pub use spec::HubSpec;

/// A commit of a model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The commit's folder in the cache.
    pub dir: PathBuf,
    /// The full commit.
    pub commit: String,
    /// The files of the plan, below `dir`, weights last.
    pub files: Vec<PathBuf>,
}

/// The hub and its cache.
pub(crate) struct Hub {
    /// The folder with `models--owner--name`.
    pub cache: PathBuf,
    /// Whether to use the cache only.
    pub offline: bool,
    client: HubClient,
}

impl Hub {
    /// The hub of the `HF_*` environment variables.
    ///
    /// # Errors
    /// When neither they nor the system give a folder for the cache.
    pub(crate) fn from_env() -> Result<Self> {
        Self::from_vars(|name| env::var(name).ok(), env::home_dir())
    }

    /// Reads the variables in the order of `huggingface_hub`; an empty one counts as absent.
    fn from_vars(var: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let non_empty = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let var = |name: &str| var(name).and_then(non_empty);
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
            .or_else(|| fs::read_to_string(token_file).ok().and_then(non_empty));
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            cache: cache.unwrap_or_else(|| folder.join("hub")),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            client: HubClient::new(&endpoint, token),
        })
    }

    /// Downloads the files of a model that the cache lacks.
    ///
    /// A cached full commit needs no request; a branch or tag is resolved each time.
    ///
    /// # Errors
    /// When the hub cannot be reached, denies access, or lacks the model, the revision or a
    /// required file; when a file is truncated, has another hash, or a name that leads out of the
    /// cache; when offline and a file is not cached.
    pub fn fetch(&self, spec: &HubSpec, progress: &mut dyn Progress) -> Result<Snapshot> {
        let name = Repo::model(spec.repo.clone()).folder_name();
        let folder = RepoCache { cache: self.cache.clone(), name };
        if self.offline {
            return match find_cached(spec, &folder) {
                Err(Error::HubMissingFile { file, repo, revision, .. }) => {
                    Err(Error::HubOffline { file, repo, revision, cache: self.cache.clone() })
                }
                found => Ok(found?.0),
            };
        }
        if is_commit(spec.revision())
            && let Ok((snapshot, absent)) = find_cached(spec, &folder)
            && absent.iter().all(|file| folder.is_absent(&snapshot.commit, file))
        {
            return Ok(snapshot);
        }
        self.download(spec, &folder, progress)
    }

    fn download(
        &self,
        spec: &HubSpec,
        folder: &RepoCache,
        progress: &mut dyn Progress,
    ) -> Result<Snapshot> {
        let (commit, names) = self.client.list(spec)?;
        let plan = plan(spec, &names)?;
        let mut get = |file: &str| -> Result<PathBuf> {
            let path = folder.snapshot(&commit).join(file);
            if path.is_file() {
                return Ok(path); // The files of a commit never change.
            }
            let request = self.client.file(spec, &commit, file);
            let metadata = self.client.metadata(&request)?;
            let _lock = folder.lock(&metadata.etag)?;
            if !folder.has(&metadata.etag) {
                let incomplete = folder.incomplete(&metadata.etag)?;
                self.client.download(&request, &metadata, &incomplete, progress)?;
                folder.complete(&metadata.etag, file)?;
            }
            folder.link(&metadata.etag, &commit, file)?;
            Ok(path)
        };
        let mut files = plan.files.iter().map(|file| get(file)).collect::<Result<Vec<_>>>()?;
        for shard in indexed_shards(spec, &files, &names)? {
            files.push(get(&shard)?);
        }
        for file in plan.absent {
            folder.set_absent(&commit, file)?;
        }
        // Last, so that a revision refers only to complete commits.
        folder.set_commit(spec.revision(), &commit)?;
        Ok(Snapshot { dir: folder.snapshot(&commit), commit, files })
    }
}

/// The snapshot if all its files are cached, and the files that it assumes to be absent on the hub.
fn find_cached(spec: &HubSpec, folder: &RepoCache) -> Result<(Snapshot, Vec<&'static str>)> {
    let Some(commit) = folder.commit(spec.revision()) else {
        return Err(spec.missing(spec.file.as_deref().unwrap_or(REQUIRED_FILES[0]), &[]));
    };
    let (dir, names) = (folder.snapshot(&commit), folder.files(&commit));
    let plan = plan(spec, &names)?;
    let mut files: Vec<PathBuf> = plan.files.iter().map(|file| dir.join(file)).collect();
    let shards = indexed_shards(spec, &files, &names)?;
    files.extend(shards.iter().map(|shard| dir.join(shard)));
    Ok((Snapshot { dir, commit, files }, plan.absent))
}

#[cfg(test)]
mod tests;
