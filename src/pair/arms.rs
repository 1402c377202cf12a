//! The binaries of the arms, side by side under names of one length.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::pair::build::Built;

/// A folder beside the file, for the copies of the binaries.
pub(super) fn arms_folder(path: &Path) -> Result<PathBuf> {
    let folder = path.with_extension(format!("{}.arms", std::process::id()));
    std::fs::create_dir_all(&folder)
        .map_err(|source| Error::Write { path: folder.clone(), source })?;
    std::path::absolute(&folder).map_err(|source| Error::Read { path: folder, source })
}

/// Copies of the binaries under names of one length: the path of a program lies on its stack, and a longer one moves it.
pub(super) fn copies(arms: &[(char, &Built)], folder: &Path) -> Result<BTreeMap<char, PathBuf>> {
    let copy = |(arm, built): &(char, &Built)| {
        let copy = folder.join(arm.to_string());
        let fail = |source| Error::Write { path: copy.clone(), source };
        let read = |source| Error::Read { path: built.binary.clone(), source };
        let mut from = std::fs::File::open(&built.binary).map_err(read)?;
        let mut to = std::fs::File::create(&copy).map_err(fail)?;
        std::io::copy(&mut from, &mut to).map_err(fail)?;
        let permissions = from.metadata().map_err(read)?.permissions();
        to.set_permissions(permissions).map_err(fail)?;
        Ok((*arm, copy))
    };
    arms.iter().map(copy).collect()
}
