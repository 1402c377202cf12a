//! Where candlemark's files lie, how every one of them is written, and what two processes, or one
//! that was killed, leave to each other.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Cursor, ErrorKind, Read as _, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

use serde::Deserialize;

use crate::error::{Error, Result};

/// The build folder, where runs and pages are kept. Found as Criterion finds it, so that both write
/// into one: `CARGO_TARGET_DIR`, then what `cargo metadata` says, then `target`.
pub fn build_folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let found = || match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => configured_folder().unwrap_or_else(|| "target".into()),
    };
    FOLDER.get_or_init(found).clone()
}

/// The build folder that Cargo is configured to use for the package around the current folder.
fn configured_folder() -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let here = std::env::current_dir().ok()?;
    if !here.ancestors().any(|folder| folder.join("Cargo.toml").exists()) {
        // Cargo would find no package; this variable holds for all of them.
        return std::env::var_os("CARGO_BUILD_TARGET_DIR").map(PathBuf::from);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .ok()?;
    let Metadata { target_directory: folder } = serde_json::from_slice(&output.stdout).ok()?;
    Some(folder.strip_prefix(&here).map(Path::to_owned).unwrap_or(folder))
}

/// The folder of Criterion's own files.
pub fn criterion_folder() -> PathBuf {
    std::env::var_os("CRITERION_HOME")
        .map_or_else(|| build_folder().join("criterion"), PathBuf::from)
}

/// The folder of runs, one folder a session below it.
pub fn runs() -> PathBuf {
    build_folder().join("candlemark").join("runs")
}

/// A folder of runs that no other process has. It goes again if nothing was written into it.
#[derive(Debug)]
pub struct RunFolder {
    /// The session's id: the one that was asked for, with a number where another run has that.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
}

impl RunFolder {
    /// Refuses to begin where no folder could be made later.
    ///
    /// # Errors
    /// When none could be made, with `instead` as the way out.
    pub fn check(instead: &str) -> Result<()> {
        let runs = runs();
        let known = runs.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        Temporary::new(known, Temporary::make_folder).map(drop).map_err(|source| {
            let runs = runs.display();
            Error::Usage(format!("cannot make a folder in `{runs}`: {source}; {instead}"))
        })
    }

    /// Makes the folder of a session, and removes what killed processes left in those of others.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(id: &str) -> Result<Self> {
        Self::within(&runs(), id)
    }

    fn within(runs: &Path, id: &str) -> Result<Self> {
        let failed = |source| Error::Write { path: runs.into(), source };
        fs::create_dir_all(runs).map_err(failed)?;
        for folder in fs::read_dir(runs).into_iter().flatten().flatten() {
            remove_leftovers(&folder.path());
        }
        let mut number = 1;
        loop {
            let id = if number == 1 { id.to_owned() } else { format!("{id}-{number}") };
            let path = runs.join(&id);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { id, path }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path); // Only an empty one can be removed so.
    }
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// Standard output of this process, under any of its names.
    Stdout,
    /// Standard error of this process.
    Stderr,
    /// A device, a pipe, or something that is open already: it is written through, never replaced.
    Stream(PathBuf),
    /// A regular file, or one that is yet to be made; links are followed.
    File(PathBuf),
}

/// Symbolic links that are followed before they count as a circle, as in Linux.
const LINKS: usize = 40;

fn destination(path: &Path) -> io::Result<Destination> {
    if path == Path::new("-") {
        return Ok(Destination::Stdout);
    }
    let is_folder = || io::Error::from(ErrorKind::IsADirectory);
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(is_folder());
    }
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match descriptor(&path) {
            Some(1) => return Ok(Destination::Stdout),
            Some(2) => return Ok(Destination::Stderr),
            Some(_) => return Ok(Destination::Stream(path)),
            None => {}
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                path = folder_of(&path).join(fs::read_link(&path)?);
            }
            Ok(found) if found.is_dir() => return Err(is_folder()),
            Ok(found) if found.is_file() => return Ok(Destination::File(path)),
            Ok(_) => return Ok(Destination::Stream(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Destination::File(path));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("its symbolic links lead in a circle"))
}

/// The number of the open file of this process that a path names, `/dev/fd/63` for example.
fn descriptor(path: &Path) -> Option<u32> {
    let own = format!("/proc/{}/fd", std::process::id());
    let folders = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd", &own];
    let folder = path.parent()?;
    let is_one = folders.iter().any(|known| folder == Path::new(known));
    path.file_name()?.to_str()?.parse().ok().filter(|_| is_one)
}

/// Whether a path leads to no regular file: what is written there cannot be written anew, and has
/// nothing beside it.
pub fn is_stream(path: &Path) -> bool {
    !matches!(destination(path), Ok(Destination::File(_)) | Err(_))
}

/// Whether a path leads to the standard output of this process.
pub fn is_stdout(path: &Path) -> bool {
    matches!(destination(path), Ok(Destination::Stdout))
}

/// Refuses a path that could not be written later, before anything is measured. Changes nothing,
/// but removes what killed processes left beside the file.
///
/// # Errors
/// When the file could not be written.
pub fn check(path: &Path) -> Result<()> {
    let can_be = || match destination(path)? {
        Destination::Stdout | Destination::Stderr => Ok(()),
        // Opening and closing a pipe would tell its reader that it has ended.
        Destination::Stream(path) if is_pipe(&path) => Ok(()),
        Destination::Stream(path) => stream(&path).map(drop),
        Destination::File(path) if path.exists() => {
            remove_leftovers(folder_of(&path));
            OpenOptions::new().append(true).open(&path).map(drop)
        }
        Destination::File(path) => {
            let mut folders = folder_of(&path).ancestors();
            let known = folders.find(|folder| folder.exists()).unwrap_or(Path::new("."));
            remove_leftovers(known);
            Temporary::file(known).map(drop)
        }
    };
    can_be().map_err(|source| {
        let path = path.display();
        Error::Usage(format!("cannot write `{path}`: {source}; name another file"))
    })
}

/// Writes a file as a whole. A regular file appears under its name only when it is complete, and
/// keeps its mode; where it cannot be replaced (a folder that cannot be written, a mounted file) it
/// is written in place. Links are followed; devices, pipes and `/dev/stdout` are written through.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// What a file is written to until it is complete.
pub trait Draft: Write + Seek {}

impl<T: Write + Seek> Draft for T {}

/// [`write`](fn@write) of what is made piece by piece.
///
/// # Errors
/// When `fill` fails, or as [`write`](fn@write).
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Draft) -> io::Result<()>) -> Result<()> {
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
            // A reader that has seen enough, as `head` does, is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    };
    written().map_err(|source| Error::Write { path: path.into(), source })
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Draft) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    // What may not be written is not replaced either.
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
    // A file that is mounted cannot be replaced.
    new.rename(path).or_else(|_| overwrite(old, &mut draft))
}

/// Whether there is no room for a file, nor for a new version of an old one.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Writes a draft over a file, which keeps its links.
fn overwrite(mut file: File, draft: &mut (impl io::Read + Seek)) -> io::Result<()> {
    draft.rewind()?;
    let length = io::copy(draft, &mut file)?;
    file.set_len(length)?;
    file.sync_all()
}

#[cfg(unix)]
fn keep_owner(file: &File, of: &fs::Metadata) {
    use std::os::unix::fs::MetadataExt as _;
    // Only a privileged process can; for others the file is theirs from now on.
    let _ = std::os::unix::fs::fchown(file, Some(of.uid()), Some(of.gid()));
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &fs::Metadata) {}

/// Opens what is written through: nothing of it is cut off.
fn stream(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

#[cfg(unix)]
fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

#[cfg(not(unix))]
fn is_pipe(_: &Path) -> bool {
    false
}

/// The folder that a file lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// How the names of temporary files and folders begin and end; between is the process.
const TEMPORARY: [&str; 2] = [".candlemark-", ".tmp"];

/// A file or a folder that is no one else's, and goes with this process: it is locked until then,
/// by which the next process sees whether the one that made it still lives.
#[derive(Debug)]
pub struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    /// A file.
    fn file(folder: &Path) -> io::Result<Self> {
        let new =
            |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        Self::new(folder, new)
    }

    /// A folder in another one, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(within: &Path) -> Result<Self> {
        let made = fs::create_dir_all(within).and_then(|()| Self::new(within, Self::make_folder));
        made.map_err(|source| Error::Write { path: within.into(), source })
    }

    fn make_folder(path: &Path) -> io::Result<File> {
        fs::create_dir(path)?;
        File::open(path)
    }

    fn new(folder: &Path, make: impl Fn(&Path) -> io::Result<File>) -> io::Result<Self> {
        let [begin, end] = TEMPORARY;
        let mut number = 0;
        loop {
            let name = format!("{begin}{}-{number}{end}", std::process::id());
            let path = folder.join(name);
            match make(&path) {
                Ok(file) => {
                    // Without locks nobody removes it before its time, nor after.
                    let _ = file.try_lock();
                    // Another process may have removed it before it was locked.
                    if is_at(&file, &path) {
                        return Ok(Self { file, path });
                    }
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name; it stays.
    ///
    /// # Errors
    /// When something is in the way.
    pub fn rename(mut self, path: &Path) -> io::Result<()> {
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

/// Removes the temporary files and folders whose processes have ended.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_temporary = name.starts_with(TEMPORARY[0]) && name.ends_with(TEMPORARY[1]);
        if is_temporary && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            remove(&entry.path());
        }
    }
}

/// Whether an open file is the one that lies there.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().map(id).ok() == fs::metadata(path).map(id).ok()
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// A leftover that cannot be removed harms nobody.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// A file that no other process may write while this lives. That of a process that has died holds
/// nobody up, however it died. Folders that were made for it go with it if they stay empty.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    made: Vec<PathBuf>,
    _file: File,
}

impl Lock {
    /// Takes a file, or a folder, for this process alone; `None` for a device or a pipe.
    ///
    /// # Errors
    /// When another process has it, which is named, or when it cannot be written.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        check(path)?;
        let failed = |source| Error::Write { path: path.into(), source };
        let Destination::File(file) = destination(path).map_err(failed)? else { return Ok(None) };
        let folder = folder_of(&file);
        let missing = folder.ancestors().take_while(|folder| !folder.exists());
        let made: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        fs::create_dir_all(folder).map_err(failed)?;
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        loop {
            let lock = folder.join(&name);
            let options = OpenOptions::new().read(true).write(true).create(true).clone();
            let Ok(mut held) = options.open(&lock) else {
                // Nothing can be made beside the file, which is then written in place.
                return Ok(None);
            };
            match held.try_lock() {
                // A file system without locks holds nobody up.
                Ok(()) | Err(TryLockError::Error(_)) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut held)),
            }
            // Who had it before may have removed it meanwhile.
            if is_at(&held, &lock) {
                let _ = held.set_len(0).and_then(|()| write!(held, "{}", std::process::id()));
                return Ok(Some(Self { path: lock, made, _file: held }));
            }
        }
    }
}

/// The error for a file that another process writes.
fn in_use(path: &Path, lock: &mut File) -> Error {
    let mut holder = String::new();
    let _ = lock.read_to_string(&mut holder);
    let holder = match holder.trim().parse::<u32>() {
        Ok(process) => format!("process {process}"),
        Err(_) => "another process".into(),
    };
    let path = path.display();
    Error::Usage(format!("`{path}` is in use by {holder}; wait until that ends, or end it"))
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        for folder in &self.made {
            let _ = fs::remove_dir(folder); // Only an empty one can be removed so.
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, new] = ["file", "link", "new"].map(|name| folder.path().join(name));
        fs::write(&file, "a longer text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", &link).unwrap();
        check(&link).unwrap();
        write(&link, b"short").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "short");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // One that leads to nothing yet makes what it leads to.
        fs::remove_file(&file).unwrap();
        write(&link, b"made").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "made");
        write(&new, b"").unwrap();
        assert_eq!(names(folder.path()), ["file", "link", "new"]);
    }

    #[test]
    fn a_pipe_is_written_through_and_stays_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(is_stream(&pipe) && !is_stream(&folder.path().join("new")));
        check(&pipe).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        write_with(&pipe, |draft| {
            draft.write_all(b"text")?;
            draft.rewind()?;
            draft.write_all(b"n")
        })
        .unwrap();
        assert_eq!(reader.join().unwrap(), "next");
        assert!(is_pipe(&pipe));
        assert_eq!(names(folder.path()), ["pipe"]);
    }

    #[test]
    fn names_of_standard_streams_and_open_files_are_known() {
        let own = format!("/proc/{}/fd/2", std::process::id());
        assert!(is_stdout(Path::new("-")) && !is_stdout(Path::new("./-")));
        assert_eq!(destination(Path::new("/dev/fd/1")).unwrap(), Destination::Stdout);
        assert_eq!(destination(Path::new(&own)).unwrap(), Destination::Stderr);
        assert!(is_stream(Path::new("/dev/fd/63")) && is_stream(Path::new("/dev/null")));
    }

    #[test]
    fn what_could_not_be_written_is_refused_before_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        symlink("circle", folder.path().join("circle")).unwrap();
        for (path, why) in [
            (file.join("below"), "Not a directory"),
            (folder.path().to_owned(), "is a directory"),
            (folder.path().join("circle"), "lead in a circle"),
            (PathBuf::from("/proc/candlemark/x"), "No such file"),
            (PathBuf::new(), "is a directory"),
        ] {
            let error = check(&path).unwrap_err();
            assert_eq!(error.cause(), crate::error::Cause::Usage);
            let error = error.to_string();
            assert!(error.starts_with("cannot write `") && error.contains(why), "{error}");
        }
        check(&folder.path().join("a/b/c")).unwrap();
        assert_eq!(names(folder.path()), ["circle", "file"]);
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let held = Temporary::folder(folder.path()).unwrap();
        for name in [".candlemark-1-0.tmp", "mine.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join(".candlemark-2-0.tmp")).unwrap();
        fs::write(folder.path().join(".candlemark-2-0.tmp/A"), "").unwrap();
        check(&folder.path().join("new")).unwrap();
        let kept = held.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(names(folder.path()), [kept, "mine.tmp"]);
        drop(held);
        assert_eq!(names(folder.path()), ["mine.tmp"]);
    }

    #[test]
    fn a_file_is_one_process_s_until_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("record.json");
        fs::write(folder.path().join("record.json.lock"), "1").unwrap(); // Of a process that died.
        let lock = Lock::take(&file).unwrap();
        let error = Lock::take(&file).unwrap_err().to_string();
        let holder = format!("in use by process {}; wait", std::process::id());
        assert!(error.contains(&holder), "{error}");
        drop(lock);
        assert!(Lock::take(&file).unwrap().is_some());
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn runs_that_begin_in_one_second_have_a_folder_each() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        let one = RunFolder::within(&runs, "s").unwrap();
        let other = RunFolder::within(&runs, "s").unwrap();
        assert_eq!([one.id.as_str(), &other.id], ["s", "s-2"]);
        fs::write(one.path.join("record.json"), "").unwrap();
        drop((one, other));
        assert_eq!(names(&runs), ["s"], "an empty one goes again");
    }
}
