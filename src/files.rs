//! The folders of candlemark's files, atomic writes, temporary files, locks, hashes, and git.

mod git;
mod hash;
mod lock;
mod temporary;
mod write;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::error::{Error, Result};

pub(crate) use git::git;
#[cfg(feature = "engine")]
pub(crate) use hash::hash_file;
pub(crate) use hash::hex;
pub use hash::sha256;
pub use lock::Lock;
pub use temporary::Temporary;
pub use write::{Draft, check, read, write};
pub(crate) use write::{folder_of, is_stdout, is_stream, write_with};

use temporary::remove_leftovers;

/// The build folder, where runs and pages are stored. Chosen as Criterion does, so that both use
/// the same one: `CARGO_TARGET_DIR`, the folder that `cargo metadata` names, or `target`.
pub(crate) fn build_folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = || match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => configured_folder().unwrap_or_else(|| "target".into()),
    };
    FOLDER.get_or_init(folder).clone()
}

/// Cargo's build folder for the package that contains the current folder.
fn configured_folder() -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let here = std::env::current_dir().ok()?;
    if !here.ancestors().any(|folder| folder.join("Cargo.toml").exists()) {
        // `cargo metadata` fails outside of a package; this variable applies to all packages.
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
pub(crate) fn criterion_folder() -> PathBuf {
    std::env::var_os("CRITERION_HOME")
        .map_or_else(|| build_folder().join("criterion"), PathBuf::from)
}

/// The path of this program, to start it again.
///
/// # Errors
/// When the system does not tell it.
pub(crate) fn this_binary() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|source| Error::Read { path: "this binary, to start it again".into(), source })
}

/// What is in a folder, in the order of names; nothing if it cannot be read.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

/// A file or folder of candlemark in the build folder.
pub(crate) fn default_path(name: &str) -> PathBuf {
    build_folder().join("candlemark").join(name)
}

/// The folder of runs, with one folder per session.
pub fn runs() -> PathBuf {
    default_path("runs")
}

/// The records of all runs, oldest first: names of run folders begin with their UTC time.
pub(crate) fn run_records() -> Vec<PathBuf> {
    let records = entries(&runs()).into_iter().map(|folder| folder.join("record.json"));
    records.filter(|record| record.exists()).collect()
}

/// The folder of one run, removed on drop if it is empty.
#[derive(Debug)]
pub(crate) struct RunFolder {
    /// The session's id, with a number appended if another run has the same.
    pub id: String,
    /// Its path.
    pub path: PathBuf,
}

impl RunFolder {
    /// Checks before a run that a folder can be created.
    ///
    /// # Errors
    /// When it cannot; the message ends with `remedy`.
    pub fn check(remedy: &str) -> Result<()> {
        let runs = runs();
        let existing = runs.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        Temporary::empty_folder(existing).map(drop).map_err(|source| {
            let runs = runs.display();
            Error::Usage(format!("cannot create a folder in `{runs}`: {source}; {remedy}"))
        })
    }

    /// Creates the folder of a session, and removes temporary files that killed processes left in
    /// other folders.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new(id: &str) -> Result<Self> {
        Self::within(&runs(), id)
    }

    fn within(runs: &Path, id: &str) -> Result<Self> {
        let failed = |source| Error::Write { path: runs.into(), source };
        fs::create_dir_all(runs).map_err(failed)?;
        entries(runs).iter().for_each(|folder| remove_leftovers(folder));
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
        let _ = fs::remove_dir(&self.path); // Fails unless it is empty.
    }
}

/// The file of a run: the one that the user named, or one in a folder of its own. Locked until it
/// is dropped.
#[derive(Debug)]
pub(crate) struct RunFile {
    /// Its path.
    pub path: PathBuf,
    _lock: Option<Lock>, // Dropped before the folder, which then is empty unless a file was written.
    /// The folder, unless the file was named.
    pub folder: Option<RunFolder>,
}

impl RunFile {
    /// Checks before a run that the file can be written.
    ///
    /// # Errors
    /// When it cannot; `remedy` ends the message about a folder.
    pub fn check(named: Option<&Path>, remedy: &str) -> Result<()> {
        named.map_or_else(|| RunFolder::check(remedy), check)
    }

    /// Locks the named file, or one of this name in a new folder of the session.
    ///
    /// # Errors
    /// When another process holds the lock, or the file or folder cannot be created.
    pub fn new(named: Option<&Path>, name: &str, session: &str) -> Result<Self> {
        let folder = named.is_none().then(|| RunFolder::new(session)).transpose()?;
        let default = folder.as_ref().map(|folder| folder.path.join(name));
        let path = default.or(named.map(Path::to_owned)).expect("one of them is there");
        let lock = Lock::take(&path)?;
        Ok(Self { path, _lock: lock, folder })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::files::write::{Destination, destination, is_pipe};

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
        // A dangling link creates its target.
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
    fn names_of_standard_streams_and_open_files_are_recognized() {
        let own = format!("/proc/{}/fd/2", std::process::id());
        assert!(is_stdout(Path::new("-")) && !is_stdout(Path::new("./-")));
        assert_eq!(destination(Path::new("/dev/fd/1")).unwrap(), Destination::Stdout);
        assert_eq!(destination(Path::new(&own)).unwrap(), Destination::Stderr);
        assert!(is_stream(Path::new("/dev/fd/63")) && is_stream(Path::new("/dev/null")));
    }

    #[test]
    fn a_path_that_cannot_be_written_is_refused_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        symlink("circle", folder.path().join("circle")).unwrap();
        for (path, why) in [
            (file.join("below"), "Not a directory"),
            (folder.path().to_owned(), "is a directory"),
            (folder.path().join("circle"), "too many levels"),
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
    fn leftovers_of_dead_processes_are_removed_and_files_in_use_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let in_use = Temporary::folder(folder.path()).unwrap();
        for name in [".candlemark-1-0.tmp", "mine.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join(".candlemark-2-0.tmp")).unwrap();
        fs::write(folder.path().join(".candlemark-2-0.tmp/A"), "").unwrap();
        check(&folder.path().join("new")).unwrap();
        let kept = in_use.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(names(folder.path()), [kept, "mine.tmp"]);
        drop(in_use);
        assert_eq!(names(folder.path()), ["mine.tmp"]);
    }

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("record.json");
        fs::write(folder.path().join("record.json.lock"), "1").unwrap(); // Left by a dead process.
        let lock = Lock::take(&file).unwrap();
        let error = Lock::take(&file).unwrap_err().to_string();
        let holder = format!("in use by process {}; wait", std::process::id());
        assert!(error.contains(&holder), "{error}");
        drop(lock);
        assert!(Lock::take(&file).unwrap().is_some());
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn runs_of_the_same_second_have_a_folder_each() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        let one = RunFolder::within(&runs, "s").unwrap();
        let other = RunFolder::within(&runs, "s").unwrap();
        assert_eq!([one.id.as_str(), &other.id], ["s", "s-2"]);
        fs::write(one.path.join("record.json"), "").unwrap();
        drop((one, other));
        assert_eq!(names(&runs), ["s"], "an empty folder is removed");
    }
}
