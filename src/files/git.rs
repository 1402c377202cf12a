//! Runs git.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result, command};

const GIT_VARIABLES: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_PREFIX",
];

/// Runs git in a folder and returns its output, trimmed.
///
/// # Errors
/// When git is not there, or fails.
pub(crate) fn git(
    folder: &Path,
    arguments: &[&str],
    variables: &[(&str, &Path)],
) -> Result<String> {
    let mut git = Command::new("git");
    // In a hook, these name the user's repository and index, which must not be used.
    for variable in GIT_VARIABLES {
        git.env_remove(variable);
    }
    let output = git
        .current_dir(folder)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value.as_os_str())))
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Read { path: "git".into(), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let words: Vec<String> =
            ["git"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        return Err(Error::Failed(format!("`{}` failed: {stderr}", command(&words))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
