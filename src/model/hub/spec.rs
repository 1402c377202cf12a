//! A model's name on the hub, and what to say when it lacks a file.

use std::cmp::Reverse;
use std::str::FromStr;

use super::cache::is_inside;
use crate::error::{Error, Result};

/// The most names that are suggested for a missing file.
const MAX_SUGGESTIONS: usize = 5;

/// A model on the hub: `owner/name[@revision][:file]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `owner/name`.
    pub repo: String,
    /// A branch, tag or full commit; `main` if absent.
    pub revision: Option<String>,
    /// The weights, where the repository has several: a file, or the quantization of a `.gguf` file
    /// such as `Q8_0`. A `.gguf` file is fetched alone, with all its shards.
    pub file: Option<String>,
}

impl FromStr for HubSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, file) = split_suffix(text, ':');
        let (repo, revision) = split_suffix(rest, '@');
        let spec = Self { repo: repo.into(), revision, file };
        spec.check().map_err(|problem| Error::HubSpec { spec: text.into(), problem })?;
        Ok(spec)
    }
}

impl HubSpec {
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Each part goes into a path and a URL, so each must be what the hub allows.
    fn check(&self) -> std::result::Result<(), &'static str> {
        let consists_of = |text: &str, marks: &str| {
            text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
        };
        let name = |part: &str| {
            !part.is_empty() && !part.starts_with(['.', '-']) && consists_of(part, "-_.")
        };
        let Some((owner, model)) = self.repo.split_once('/') else {
            return Err("there is no `owner/`");
        };
        if !name(owner) || !name(model) || self.repo.contains("--") || self.repo.contains("..") {
            return Err("owner and name take letters, digits, `-`, `_` and `.`");
        }
        if !is_inside(self.revision()) || !consists_of(self.revision(), "-_./+") {
            return Err("the revision is not a branch, tag or commit");
        }
        if self.file.as_deref().is_some_and(|file| !is_inside(file)) {
            return Err("the file is not a path inside the repository");
        }
        Ok(())
    }

    /// The error for a missing file; `names` are the files that there are.
    pub(super) fn missing(&self, file: &str, names: &[String]) -> Error {
        let (repo, revision) = (self.repo.clone(), self.revision().into());
        Error::HubMissingFile {
            file: file.into(),
            repo,
            revision,
            near: nearest_names(file, names),
        }
    }
}

/// The text before the mark, and the text after it, if it has the mark.
fn split_suffix(text: &str, mark: char) -> (&str, Option<String>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after.into())))
}

/// The names nearest to the missing one: the same extension first, then the longest common prefix.
fn nearest_names(file: &str, names: &[String]) -> String {
    let extension = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let common_prefix =
        |name: &str| name.bytes().zip(file.bytes()).take_while(|(a, b)| a == b).count();
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_by_key(|name| {
        (extension(name) != extension(file), Reverse(common_prefix(name)), *name)
    });
    names.truncate(MAX_SUGGESTIONS);
    if names.is_empty() {
        "no files of it are known".into()
    } else {
        format!("nearest are {}", quoted(names))
    }
}

pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
