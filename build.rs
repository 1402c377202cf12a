//! Stamps the build with commit, compiler, flags, features and lock file. Unknown values are empty
//! strings; a missing git or lock file never fails a build. `src/machine/stamp.rs` reads the
//! stamps.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

/// The inputs of a build. Only changes to these make it dirty, and each reruns this script, so that
/// the flag is never stale. Records, baselines and reports are no inputs.
const SOURCES: &[&str] =
    &[".cargo", "Cargo.lock", "Cargo.toml", "benches", "build.rs", "crates", "fixtures", "src"];

/// Set by `candlemark pair` when it builds: leaves the commit out.
const NO_COMMIT: &str = "CANDLEMARK_PLAIN_STAMP";

fn main() {
    // Cargo reruns this script on every build if a watched path does not exist.
    for source in SOURCES.iter().filter(|source| Path::new(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    // Builds that `pair` compares byte for byte must not differ by a stamped commit.
    println!("cargo::rerun-if-env-changed={NO_COMMIT}");
    let no_commit = env::var_os(NO_COMMIT).is_some();
    // A checkout may have CRLF line ends; the hash is that of git's content.
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default().replace("\r\n", "\n");
    let tree = if no_commit { Tree::default() } else { packaged_tree().unwrap_or_else(git_tree) };
    stamp("COMMIT", &tree.commit);
    stamp("DIRTY", &tree.dirty);
    // `cargo install` without `--locked` ignores a package's lock file.
    let lock_is_used = !tree.packaged && !lock.is_empty();
    stamp("LOCK_SHA256", &if lock_is_used { sha256(lock.as_bytes()) } else { String::new() });
    stamp(
        "CRATES",
        &["candle-core", "criterion"].map(|name| locked_version(&lock, name)).join(","),
    );
    stamp("RUSTC", &output(&variable("RUSTC"), &["--version"]).unwrap_or_else(|| "unknown".into()));
    stamp("RUSTFLAGS", &variable("CARGO_ENCODED_RUSTFLAGS").replace('\x1f', " "));
    stamp("PROFILE", &variable("PROFILE"));
    stamp("OPT_LEVEL", &variable("OPT_LEVEL"));
    stamp("TARGET", &variable("TARGET"));
    stamp("TARGET_FEATURES", &variable("CARGO_CFG_TARGET_FEATURE"));
    stamp("FEATURES", &features().join(","));
}

/// Sets a variable for `env!`. The prefix is not `CANDLEMARK_`: Cargo also sets these variables for
/// programs that it runs, where they would look like settings.
fn stamp(name: &str, value: &str) {
    println!("cargo::rustc-env=STAMP_{name}={value}");
}

/// The source tree of the build.
#[derive(Default)]
struct Tree {
    commit: String,
    dirty: String,
    packaged: bool,
}

/// The tree as `cargo package` recorded it. The folder may be inside another repository, so git is
/// not asked.
fn packaged_tree() -> Option<Tree> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let commit = text.split_once("\"sha1\": \"")?.1.split('"').next()?.to_string();
    Some(Tree { commit, dirty: text.contains("\"dirty\": true").to_string(), packaged: true })
}

/// The tree according to git; empty without git, or if it does not track this package.
fn git_tree() -> Tree {
    if git(&["ls-files", "--error-unmatch", "Cargo.toml"]).is_none() {
        return Tree::default();
    }
    // Which of these changes with the commit depends on the repository's state and format.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", "reftable/tables.list", &branch] {
        // In a worktree, some of these are beside HEAD and some in the main repository.
        if let Some(path) =
            git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists())
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let status = git(&[&["status", "--porcelain", "--"], SOURCES].concat());
    Tree {
        commit: git(&["rev-parse", "--verify", "HEAD"]).unwrap_or_default(),
        dirty: status.map_or(String::new(), |changes| (!changes.is_empty()).to_string()),
        packaged: false,
    }
}

/// Output of git for this package's folder, even inside a hook of another repository.
fn git(args: &[&str]) -> Option<String> {
    output("git", &[&["--no-optional-locks"], args].concat())
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    for hook in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(hook);
    }
    let output = command.args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// `name version` from the lock file; empty if it is missing.
fn locked_version(lock: &str, name: &str) -> String {
    let entry = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    entry
        .and_then(|rest| rest.split('"').next())
        .map_or(String::new(), |version| format!("{name} {version}"))
}

/// The enabled Cargo features.
fn features() -> Vec<String> {
    // Other variables may not be UTF-8.
    let enabled = |(name, _): (OsString, OsString)| {
        Some(name.to_str()?.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-"))
    };
    let mut features: Vec<String> = env::vars_os().filter_map(enabled).collect();
    features.sort();
    features
}

fn variable(name: &str) -> String {
    env::var_os(name).map_or(String::new(), |value| value.to_string_lossy().into_owned())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
