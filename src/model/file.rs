//! Files of weights: reads at positions, hashes, and Git LFS pointers in place of files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use crate::error::{Error, Result};
use crate::files;

/// The start of a Git LFS pointer, which stands for a file that was not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// A file that several threads read at positions of their own.
pub(super) struct PositionedFile {
    path: PathBuf,
    file: File,
    /// Bytes when it was opened.
    pub(super) size: u64,
}

impl PositionedFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        Ok(Self { path: path.into(), file, size })
    }

    /// The bytes at a position.
    ///
    /// # Errors
    /// When the file ends before, or cannot be read.
    pub(super) fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>> {
        let fail = |source| Error::Read { path: self.path.clone(), source };
        if at.checked_add(bytes as u64).is_none_or(|end| end > self.size) {
            return Err(fail(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        let mut buffer = vec![0u8; bytes];
        self.fill(at, &mut buffer).map_err(fail)?;
        Ok(buffer)
    }

    /// Fills a buffer from a position.
    ///
    /// # Errors
    /// As [`PositionedFile::read`].
    pub(super) fn fill(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
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

/// SHA-256 over the concatenated files.
///
/// # Errors
/// When one cannot be read.
pub(super) fn hash_files(paths: &[PathBuf]) -> Result<String> {
    let mut hash = sha2::Sha256::new();
    for path in paths {
        let fail = |source| Error::Read { path: path.into(), source };
        files::hash_file(&mut hash, path).map_err(fail)?;
    }
    Ok(files::hex(&hash.finalize()))
}

/// The first bytes of a file, at most 64.
pub(super) fn read_start(path: &Path) -> Result<Vec<u8>> {
    let file = PositionedFile::open(path)?;
    file.read(0, file.size.min(64) as usize)
}

/// The name of a file, or nothing if it has none or no UTF-8.
pub(super) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Refuses a model that lacks one of its shards; `path` is what names them.
pub(super) fn check_shards(path: &Path, shards: &[PathBuf]) -> Result<()> {
    let missing = shards.iter().filter(|shard| !shard.exists());
    let missing: Vec<&str> = missing.map(|shard| file_name(shard)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (some, count, names) = (missing.len(), shards.len(), missing.join(", "));
    let why = format!("{some} of {count} shards are missing: {names}; download them again");
    Err(Error::invalid(path, why))
}

/// Refuses a Git LFS pointer.
pub(super) fn refuse_lfs_pointer(path: &Path) -> Result<()> {
    if !read_start(path)?.starts_with(LFS_POINTER) {
        return Ok(());
    }
    let why = "it is a Git LFS pointer and not the file itself; fetch that with `git lfs pull`";
    Err(Error::invalid(path, why))
}
