//! Temporary files and folders, and the leftovers of killed processes.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::{Error, Result};

/// Prefix and suffix of temporary names; the process id is between them.
const TEMPORARY: [&str; 2] = [".candlemark-", ".tmp"];

/// A file or folder of this process alone, removed on drop. It is locked for as long as the process
/// runs, so that another process can tell a leftover from one in use.
#[derive(Debug)]
pub struct Temporary {
    pub(super) file: File,
    path: PathBuf,
}

impl Temporary {
    pub(super) fn file(folder: &Path) -> io::Result<Self> {
        let new =
            |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        Self::new(folder, new)
    }

    /// Creates a folder in another one, which is created if it is missing.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(within: &Path) -> Result<Self> {
        let created = fs::create_dir_all(within).and_then(|()| Self::empty_folder(within));
        created.map_err(|source| Error::Write { path: within.into(), source })
    }

    /// As [`Temporary::folder`] in a folder that exists.
    pub(super) fn empty_folder(within: &Path) -> io::Result<Self> {
        Self::new(within, |path| {
            fs::create_dir(path)?;
            File::open(path)
        })
    }

    fn new(folder: &Path, create: impl Fn(&Path) -> io::Result<File>) -> io::Result<Self> {
        let [prefix, suffix] = TEMPORARY;
        let mut number = 0;
        loop {
            let name = format!("{prefix}{}-{number}{suffix}", std::process::id());
            let path = folder.join(name);
            match create(&path) {
                Ok(file) => {
                    // On a file system without locks, no other process removes it.
                    let _ = file.try_lock();
                    // Another process may have removed it before the lock was taken.
                    if is_at(&file, &path) {
                        return Ok(Self { file, path });
                    }
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames it; it is no longer temporary.
    ///
    /// # Errors
    /// When the system refuses the rename.
    pub(crate) fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            remove(&self.path);
        }
    }
}

/// Removes the temporary files and folders of processes that have ended.
pub(super) fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_temporary = name.starts_with(TEMPORARY[0]) && name.ends_with(TEMPORARY[1]);
        if is_temporary && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            remove(&entry.path());
        }
    }
}

/// Whether an open file is still the one at this path.
#[cfg(unix)]
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(id).ok() == fs::metadata(path).map(id).ok()
}

#[cfg(not(unix))]
pub(super) fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes a file or folder, or leaves it: a leftover does no harm.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}
