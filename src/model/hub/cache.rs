//! A repository's folder in the hub's cache, laid out as Python's `huggingface_hub` does.
//!
//! `blobs/<etag>` holds content, `snapshots/<commit>/<file>` links to it, `refs/<revision>` holds a
//! commit, `.no_exist/<commit>/<file>` stands for a file the commit lacks. Everything appears under
//! its name in one step and in full. Knows nothing of the network.

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

/// One repository's part of the cache.
pub struct Folder {
    /// The whole cache.
    pub cache: PathBuf,
    /// `models--owner--name`.
    pub name: String,
}

impl Folder {
    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.path("snapshots", commit)
    }

    /// The commit a revision was when it was last fetched; a full commit is itself.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = fs::read_to_string(self.path("refs", revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit a revision is.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        place(&self.path("refs", revision), |temporary| fs::write(temporary, commit))
    }

    /// Whether the commit is known not to have the file.
    pub fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.path(".no_exist", commit).join(file).is_file()
    }

    /// Notes that the commit does not have the file.
    pub fn set_absent(&self, commit: &str, file: &str) -> Result<()> {
        let path = self.path(".no_exist", commit).join(file);
        place(&path, |temporary| File::create(temporary).map(drop))
    }

    /// The commit's files that are here, named as on the hub.
    pub fn files(&self, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(commit))
    }

    /// Waits for whoever downloads the same content; the lock ends with the value.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let path = self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::create(&path).map_err(at(&path))?;
        match file.lock() {
            // Some network file systems have no locks; sizes and hashes are checked all the same.
            Err(err) if err.kind() != io::ErrorKind::Unsupported => Err(at(&path)(err)),
            _ => Ok(file),
        }
    }

    /// Where content grows. Every version of Python's client knows the ending as unfinished.
    pub fn part(&self, etag: &str) -> Result<PathBuf> {
        let path = self.path("blobs", &format!("{etag}.incomplete"));
        make_parent(&path)?;
        Ok(path)
    }

    /// Whether the content is here in full.
    pub fn has(&self, etag: &str) -> bool {
        self.path("blobs", etag).is_file()
    }

    /// Gives complete content its name. A name of 64 hex digits is its sha256 and has to be true.
    pub fn keep(&self, etag: &str, file: &str) -> Result<()> {
        let part = self.part(etag)?;
        // Small files are named by git's own hash.
        if etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()) {
            let actual = crate::files::sha256(&part).map_err(at(&part))?;
            if actual != etag.to_lowercase() {
                fs::remove_file(&part).map_err(at(&part))?;
                return Err(Error::HubHash { file: file.into(), expected: etag.into(), actual });
            }
        }
        let blob = self.path("blobs", etag);
        fs::rename(&part, &blob).map_err(at(&blob))
    }

    /// Puts content into a snapshot: a relative link, or a copy where there are no links.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<()> {
        let up = file.split('/').count() + 1; // The file's own folders, the commit's, `snapshots`.
        let target: PathBuf = repeat_n("..", up).chain(["blobs", etag]).collect();
        place(&self.snapshot(commit).join(file), |temporary| {
            symlink(&target, temporary)
                .or_else(|_| fs::copy(self.path("blobs", etag), temporary).map(drop))
        })
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.cache.join(&self.name).join(kind).join(name)
    }
}

/// Whether the revision is a full commit, whose content never changes.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether joining the name to a folder stays inside that folder, on any system.
pub fn is_inside(name: &str) -> bool {
    let parts_are_names = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    parts_are_names && !name.contains(['\\', ':', '\0'])
}

/// Says which path an error is about.
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
            files.push(name); // A link whose blob was deleted is no file.
        }
    }
    files
}

/// Makes a file under a passing name, then renames it, so that nobody meets half of it.
fn place(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    make_parent(path)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{}-{count}.temporary", process::id()));
    make(&temporary).and_then(|()| fs::rename(&temporary, path)).map_err(at(path))
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(at(path))
}
