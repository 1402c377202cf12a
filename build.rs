//! Stamps the build with what is known only now: commit, compiler, flags, features, lock file.
//! Whatever cannot be told is stamped as the empty string; a missing git or lock file never stops a
//! build. `src/machine/stamp.rs` reads the stamps.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

/// What a binary or a bench is made from. Only these make a build dirty, and a change to any of
/// them stamps anew, so the flag is never stale; what a run writes (records, baselines, reports)
/// leaves it alone.
const SOURCES: &[&str] =
    &[".cargo", "Cargo.lock", "Cargo.toml", "benches", "build.rs", "crates", "fixtures", "src"];

/// Set by `candlemark pair` when it builds.
const PLAIN: &str = "CANDLEMARK_PLAIN_STAMP";

fn main() {
    // Cargo stamps anew on every build if it is told to watch a path that does not exist.
    for source in SOURCES.iter().filter(|source| Path::new(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    // Two builds that are to be compared byte for byte must not differ by the commit that is
    // stamped in.
    println!("cargo::rerun-if-env-changed={PLAIN}");
    let plain = env::var_os(PLAIN).is_some();
    // A checkout may have turned the ends of its lines; the hash is of what git has.
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default().replace("\r\n", "\n");
    let tree = if plain { Tree::default() } else { packaged().unwrap_or_else(checked_out) };
    stamp("COMMIT", &tree.commit);
    stamp("DIRTY", &tree.dirty);
    // `cargo install` resolves anew unless `--locked` is given, so a package's lock file may not be
    // the one in use.
    let lock_is_used = !tree.packaged && !lock.is_empty();
    stamp("LOCK_SHA256", &if lock_is_used { sha256(lock.as_bytes()) } else { String::new() });
    stamp("CRATES", &["candle-core", "criterion"].map(|name| locked(&lock, name)).join(","));
    stamp("RUSTC", &output(&variable("RUSTC"), &["--version"]).unwrap_or_else(|| "unknown".into()));
    stamp("RUSTFLAGS", &variable("CARGO_ENCODED_RUSTFLAGS").replace('\x1f', " "));
    stamp("PROFILE", &variable("PROFILE"));
    stamp("OPT_LEVEL", &variable("OPT_LEVEL"));
    stamp("TARGET", &variable("TARGET"));
    stamp("TARGET_FEATURES", &variable("CARGO_CFG_TARGET_FEATURE"));
    stamp("FEATURES", &features().join(","));
    if env::var_os("CARGO_FEATURE_LLAMA_CPP").is_some() {
        link_clangs_openmp();
    }
}

/// llama-cpp-sys-2 links gcc's OpenMP whatever compiled ggml, but clang's code wants clang's, which
/// also answers by the other's name. Both in one program would count threads each for itself. With
/// gcc, or without libomp, there is nothing to do.
fn link_clangs_openmp() {
    println!("cargo::rerun-if-env-changed=CC");
    let clang = variable("CC");
    let found = clang.contains("clang").then(|| output(&clang, &["-print-resource-dir"])).flatten();
    let library = found.and_then(|folder| {
        // `lib/clang/16` holds the headers, `lib` the libraries.
        let library = Path::new(&folder).ancestors().nth(2)?.join("libomp.so");
        library.exists().then_some(library)
    });
    let folder = variable("OUT_DIR");
    let link = Path::new(&folder).join("libgomp.so");
    let _ = fs::remove_file(&link);
    #[cfg(unix)]
    if let Some(library) = library
        && std::os::unix::fs::symlink(library, link).is_ok()
    {
        println!("cargo::rustc-link-search=native={folder}");
    }
}

/// Hands a value to `env!`. The prefix is not `CANDLEMARK_`, because Cargo sets these for the
/// programs it runs, too, and they would look like settings of the user.
fn stamp(name: &str, value: &str) {
    println!("cargo::rustc-env=STAMP_{name}={value}");
}

/// The tree that is built.
#[derive(Default)]
struct Tree {
    commit: String,
    dirty: String,
    packaged: bool,
}

/// The tree as `cargo package` recorded it. The folder may lie in someone else's repository, so git
/// is not asked.
fn packaged() -> Option<Tree> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let commit = text.split_once("\"sha1\": \"")?.1.split('"').next()?.to_string();
    Some(Tree { commit, dirty: text.contains("\"dirty\": true").to_string(), packaged: true })
}

/// The tree as git knows it; nothing when there is no git or it does not track this package.
fn checked_out() -> Tree {
    if git(&["ls-files", "--error-unmatch", "Cargo.toml"]).is_none() {
        return Tree::default();
    }
    // Any of these changes with the commit, depending on whether a branch is checked out, packed or
    // logged.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", "reftable/tables.list", &branch] {
        // In a worktree `.git` is a file, and some of these lie beside HEAD and some in the main
        // repository.
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

/// What git answers about the folder of this package, even inside a hook of another repository.
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

/// `name version` as the lock file has it; empty if it does not.
fn locked(lock: &str, name: &str) -> String {
    let entry = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    entry
        .and_then(|rest| rest.split('"').next())
        .map_or(String::new(), |version| format!("{name} {version}"))
}

/// The Cargo features that are on.
fn features() -> Vec<String> {
    // A variable of somebody else need not be text.
    let on = |(name, _): (OsString, OsString)| {
        Some(name.to_str()?.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-"))
    };
    let mut features: Vec<String> = env::vars_os().filter_map(on).collect();
    features.sort();
    features
}

fn variable(name: &str) -> String {
    env::var_os(name).map_or(String::new(), |value| value.to_string_lossy().into_owned())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
