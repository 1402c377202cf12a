//! A repository's folder in the hub's cache, laid out as Python's `huggingface_hub` does.
//!
//! `blobs/<etag>` has content, `snapshots/<commit>/<file>` links to it, `refs/<revision>` has a
//! commit, `.no_exist/<commit>/<file>` marks a file that the commit lacks. Every file is written
//! atomically. Knows nothing of the network.

use std::fs::File;
use std::iter::repeat_n;
#[cfg(unix)]
use std::os::unix::fs::symlink;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, process};

use crate::error::{Error, Result};
use crate::files;

/// One repository's folder in the cache.
pub(crate) struct RepoCache {
    /// The folder of the whole cache.
    pub cache: PathBuf,
    /// `models--owner--name`.
    pub name: String,
}

impl RepoCache {
    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path("snapshots", commit)
    }

    /// The commit of a revision when it was last fetched; a full commit is its own.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = fs::read_to_string(self.path("refs", revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Stores the commit of a revision.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        create_atomically(&self.path("refs", revision), |temporary| fs::write(temporary, commit))
    }

    /// Whether the commit is known to lack the file.
    pub(crate) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.path(".no_exist", commit).join(file).is_file()
    }

    /// Stores that the commit lacks the file.
    pub(crate) fn set_absent(&self, commit: &str, file: &str) -> Result<()> {
        let path = self.path(".no_exist", commit).join(file);
        create_atomically(&path, |temporary| File::create(temporary).map(drop))
    }

    /// The commit's cached files, by their names on the hub.
    pub fn files(&self, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(commit))
    }

    /// Locks content against other processes that download it, until the value is dropped.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let path = self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::create(&path).map_err(at(&path))?;
        match file.lock() {
            // Some network file systems lack locks; sizes and hashes are checked anyway.
            Err(err) if err.kind() != io::ErrorKind::Unsupported => Err(at(&path)(err)),
            _ => Ok(file),
        }
    }

    /// The file of an unfinished download, named as Python's client names it.
    pub(crate) fn incomplete(&self, etag: &str) -> Result<PathBuf> {
        let path = self.path("blobs", &format!("{etag}.incomplete"));
        make_parent(&path)?;
        Ok(path)
    }

    /// Whether the content is complete.
    pub fn has(&self, etag: &str) -> bool {
        self.path("blobs", etag).is_file()
    }

    /// Renames a finished download. An etag of 64 hex digits is the content's SHA-256 and is
    /// checked.
    pub fn complete(&self, etag: &str, file: &str) -> Result<()> {
        let incomplete = self.incomplete(etag)?;
        // The etag of a small file is git's own hash.
        if etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()) {
            let actual = files::sha256(&incomplete).map_err(at(&incomplete))?;
            if actual != etag.to_lowercase() {
                fs::remove_file(&incomplete).map_err(at(&incomplete))?;
                return Err(Error::HubHash { file: file.into(), expected: etag.into(), actual });
            }
        }
        let blob = self.path("blobs", etag);
        fs::rename(&incomplete, &blob).map_err(at(&blob))
    }

    /// Links content into a snapshot with a relative link; copies it where links are not possible.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<()> {
        let up = file.split('/').count() + 1; // The folders of the file, the commit, `snapshots`.
        let target: PathBuf = repeat_n("..", up).chain(["blobs", etag]).collect();
        create_atomically(&self.snapshot(commit).join(file), |temporary| {
            symlink(&target, temporary)
                .or_else(|_| fs::copy(self.path("blobs", etag), temporary).map(drop))
        })
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.cache.join(&self.name).join(kind).join(name)
    }
}

/// Whether the revision is a full commit hash, whose content never changes.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the name, joined to a folder, stays inside it on every system.
pub(crate) fn is_inside(name: &str) -> bool {
    let parts_are_names = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    parts_are_names && !name.contains(['\\', ':', '\0'])
}

/// Adds the path to an error.
pub fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    |source| Error::HubCache { path: path.into(), source }
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_below(&entry.path()).iter().map(|file| format!("{name}/{file}")));
        } else if entry.path().is_file() {
            files.push(name); // A link whose blob was deleted is not a file.
        }
    }
    files
}

/// Creates a file atomically: under a temporary name that is then renamed.
fn create_atomically(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    make_parent(path)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{}-{count}.temporary", process::id()));
    make(&temporary).and_then(|()| fs::rename(&temporary, path)).map_err(at(path))
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(at(path))
}
