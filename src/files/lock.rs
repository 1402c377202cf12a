//! Locks on files that a run writes.

use std::fs;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::temporary::is_at;
use crate::files::write::{Destination, check, destination, folder_of};

/// Keeps other processes from writing a file until it is dropped or the process ends. Folders
/// created for it are removed with it if they are still empty.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    created_folders: Vec<PathBuf>,
    _file: File,
}

impl Lock {
    /// Locks a file or folder by a file `NAME.lock` beside it; `None` for a device or a pipe.
    ///
    /// # Errors
    /// When another process holds the lock, or the file cannot be written.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        check(path)?;
        let failed = |source| Error::Write { path: path.into(), source };
        let Destination::File(file) = destination(path).map_err(failed)? else { return Ok(None) };
        let folder = folder_of(&file);
        let missing = folder.ancestors().take_while(|folder| !folder.exists());
        let created_folders: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        fs::create_dir_all(folder).map_err(failed)?;
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        loop {
            let lock = folder.join(&name);
            let options = OpenOptions::new().read(true).write(true).create(true).clone();
            let Ok(mut lock_file) = options.open(&lock) else {
                // No file can be created here: the file itself is written in place.
                return Ok(None);
            };
            match lock_file.try_lock() {
                // A file system without locks excludes no other process.
                Ok(()) | Err(TryLockError::Error(_)) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut lock_file)),
            }
            // The previous holder may have removed the file after it was opened here.
            if is_at(&lock_file, &lock) {
                let id = std::process::id();
                let _ = lock_file.set_len(0).and_then(|()| write!(lock_file, "{id}"));
                return Ok(Some(Self { path: lock, created_folders, _file: lock_file }));
            }
        }
    }
}

/// The error for a file that another process has locked.
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
        for folder in &self.created_folders {
            let _ = fs::remove_dir(folder); // Fails unless it is empty.
        }
    }
}
