//! Writing files: where a path leads, whether it can be written, and atomic replacement.

use std::fs::{File, OpenOptions};
use std::io::{Cursor, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::{Error, Result};
use crate::files::temporary::{Temporary, remove_leftovers};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Standard output of this process, under any of its names.
    Stdout,
    /// Standard error of this process.
    Stderr,
    /// A device, a pipe or an open file: written through, never replaced.
    Stream(PathBuf),
    /// A regular file, or one to be created; symbolic links are followed.
    File(PathBuf),
}

/// Limit of symbolic links to follow, as in Linux.
const MAX_LINKS: usize = 40;

pub(super) fn destination(path: &Path) -> io::Result<Destination> {
    if path == Path::new("-") {
        return Ok(Destination::Stdout);
    }
    let is_folder = || io::Error::from(ErrorKind::IsADirectory);
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(is_folder());
    }
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match descriptor(&path) {
            Some(1) => return Ok(Destination::Stdout),
            Some(2) => return Ok(Destination::Stderr),
            Some(_) => return Ok(Destination::Stream(path)),
            None => {}
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                path = folder_of(&path).join(fs::read_link(&path)?);
            }
            Ok(metadata) if metadata.is_dir() => return Err(is_folder()),
            Ok(metadata) if metadata.is_file() => return Ok(Destination::File(path)),
            Ok(_) => return Ok(Destination::Stream(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Destination::File(path));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// The file descriptor of this process that a path names, such as `/dev/fd/63`.
fn descriptor(path: &Path) -> Option<u32> {
    let own = format!("/proc/{}/fd", std::process::id());
    let folders = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd", &own];
    let folder = path.parent()?;
    let is_known = folders.iter().any(|known| folder == Path::new(known));
    path.file_name()?.to_str()?.parse().ok().filter(|_| is_known)
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })
}

/// Whether a path names no regular file: it can be written only once, and no file can be created
/// beside it.
pub(crate) fn is_stream(path: &Path) -> bool {
    !matches!(destination(path), Ok(Destination::File(_)) | Err(_))
}

/// Whether a path names the standard output of this process.
pub(crate) fn is_stdout(path: &Path) -> bool {
    matches!(destination(path), Ok(Destination::Stdout))
}

/// Checks before a run that a path can be written. Changes nothing, except that temporary files of
/// killed processes beside it are removed.
///
/// # Errors
/// When it cannot be written.
pub fn check(path: &Path) -> Result<()> {
    let checked = || match destination(path)? {
        Destination::Stdout | Destination::Stderr => Ok(()),
        // Opening and closing a pipe would signal its end to the reader.
        Destination::Stream(path) if is_pipe(&path) => Ok(()),
        Destination::Stream(path) => stream(&path).map(drop),
        Destination::File(path) if path.exists() => {
            remove_leftovers(folder_of(&path));
            OpenOptions::new().append(true).open(&path).map(drop)
        }
        Destination::File(path) => {
            let mut folders = folder_of(&path).ancestors();
            let existing = folders.find(|folder| folder.exists()).unwrap_or(Path::new("."));
            remove_leftovers(existing);
            Temporary::file(existing).map(drop)
        }
    };
    checked().map_err(|source| {
        let path = path.display();
        Error::Usage(format!("cannot write `{path}`: {source}; name another file"))
    })
}

/// Writes a file atomically: a regular file is replaced only when the new one is complete, and
/// keeps its mode. Where it cannot be replaced (a read-only folder, a mounted file), it is written
/// in place. Symbolic links are followed; devices, pipes and `/dev/stdout` are written through.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// The new content of a file, until it is complete.
pub trait Draft: Write + Seek {}

impl<T: Write + Seek> Draft for T {}

/// As [`write`](fn@write), for content written in pieces.
///
/// # Errors
/// When `fill` fails, or as [`write`](fn@write).
pub(crate) fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Draft) -> io::Result<()>,
) -> Result<()> {
    let written = || {
        let destination = destination(path)?;
        if let Destination::File(path) = destination {
            return replace(&path, fill);
        }
        let mut draft = Cursor::new(Vec::new());
        fill(&mut draft)?;
        let bytes = draft.get_ref();
        let written = match &destination {
            Destination::Stdout => {
                io::stdout().write_all(bytes).and_then(|()| io::stdout().flush())
            }
            Destination::Stderr => io::stderr().write_all(bytes),
            Destination::Stream(path) | Destination::File(path) => {
                stream(path).and_then(|mut file| file.write_all(bytes))
            }
        };
        match written {
            // A reader that stops early, such as `head`, is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    };
    written().map_err(|source| Error::Write { path: path.into(), source })
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Draft) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    // A read-only file is not replaced either.
    let old = path.exists().then(|| File::options().write(true).open(path)).transpose()?;
    let Some(old) = old else {
        let mut new = Temporary::file(folder)?;
        fill(&mut new.file)?;
        new.file.sync_all()?;
        return new.rename(path);
    };
    let mut new = match Temporary::file(folder) {
        Ok(new) => new,
        Err(error) if is_full(&error) => return Err(error),
        Err(_) => {
            let mut draft = Cursor::new(Vec::new());
            fill(&mut draft)?;
            return overwrite(old, &mut draft);
        }
    };
    let metadata = old.metadata()?;
    keep_owner(&new.file, &metadata);
    new.file.set_permissions(metadata.permissions())?;
    fill(&mut new.file)?;
    new.file.sync_all()?;
    let mut draft = new.file.try_clone()?;
    // A mounted file cannot be replaced.
    new.rename(path).or_else(|_| overwrite(old, &mut draft))
}

/// Whether the disk is full: writing in place would fail as well.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Overwrites a file in place, so that its hard links stay.
fn overwrite(mut file: File, draft: &mut (impl io::Read + Seek)) -> io::Result<()> {
    draft.rewind()?;
    let length = io::copy(draft, &mut file)?;
    file.set_len(length)?;
    file.sync_all()
}

#[cfg(unix)]
fn keep_owner(file: &File, old: &fs::Metadata) {
    use std::os::unix::fs::MetadataExt as _;
    // Only a privileged process may; otherwise this user becomes the owner.
    let _ = std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()));
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &fs::Metadata) {}

/// Opens a stream without truncating it.
fn stream(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

#[cfg(unix)]
pub(super) fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[cfg(not(unix))]
fn is_pipe(_: &Path) -> bool {
    false
}

/// The folder that contains a path.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
