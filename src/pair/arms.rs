//! Copies of the arms' binaries under names of one length.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::files::Temporary;
use crate::pair::build::Binary;

/// A folder for the copies: beside the output file, where there is room, or the system's temporary
/// folder if the output is a stream.
pub(super) fn arms_folder(path: &Path) -> Result<(Temporary, PathBuf)> {
    let parent = match files::is_stream(path) {
        true => std::env::temp_dir(),
        false => files::folder_of(path).to_owned(),
    };
    let folder = Temporary::folder(&parent)?;
    let absolute = std::path::absolute(folder.path());
    let absolute = absolute.map_err(|source| Error::Read { path: folder.path().into(), source })?;
    Ok((folder, absolute))
}

/// Copies the binaries to names of one length: the path of a program is on its stack, and a longer
/// one changes the alignment.
pub(super) fn copy_binaries(
    arms: &[(char, &Binary)],
    folder: &Path,
) -> Result<BTreeMap<char, PathBuf>> {
    let copy = |(arm, binary): &(char, &Binary)| {
        let copy = folder.join(arm.to_string());
        let fail = |source| Error::Write { path: copy.clone(), source };
        let read = |source| Error::Read { path: binary.path.clone(), source };
        let mut from = std::fs::File::open(&binary.path).map_err(read)?;
        let mut to = std::fs::File::create(&copy).map_err(fail)?;
        std::io::copy(&mut from, &mut to).map_err(fail)?;
        let permissions = from.metadata().map_err(read)?.permissions();
        to.set_permissions(permissions).map_err(fail)?;
        Ok((*arm, copy))
    };
    arms.iter().map(copy).collect()
}
