//! Builds the binaries to compare, from git refs, the working tree or files. Both arms are checked
//! out into one folder and built there one after the other with the same toolchain and flags and
//! without the commit, so that equal sources give equal binaries byte for byte, paths included.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result, quoted};
use crate::files;
use crate::files::{Lock, git, hex};
use crate::pair::target::Target;
use crate::record::Build;
use crate::suite::spawn_thread;

/// Tells `build.rs` to leave the commit out.
const OMIT_COMMIT: &str = "CANDLEMARK_PLAIN_STAMP";

/// Most binaries in the cache, which saves building the same base again.
const MAX_CACHED: usize = 12;

/// The name of the working tree in messages.
const WORKING_TREE: &str = "the working tree";

/// Last lines of a failed build that are shown; they have the error.
const ERROR_LINES: usize = 30;

/// A binary and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// As requested.
    pub asked: String,
    /// Its file.
    pub path: PathBuf,
    /// SHA-256 of the binary.
    pub sha256: String,
    /// The commit that it was built from; `None` for a given file.
    pub commit: Option<String>,
    /// Whether the tree had uncommitted changes.
    pub dirty: Option<bool>,
    /// Features of this program that its tree does not have yet, so that it was built without them.
    pub missing_features: Vec<String>,
}

impl Binary {
    /// A given file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        let sha256 =
            files::sha256(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let asked = path.display().to_string();
        let path = path.into();
        Ok(Self { asked, path, sha256, commit: None, dirty: None, missing_features: Vec::new() })
    }

    /// Adds the hash and the commit, which is left out of the binary on purpose.
    pub fn stamp(&self, build: &mut Build) {
        build.binary_sha256 = Some(self.sha256.clone());
        if self.commit.is_some() {
            build.commit.clone_from(&self.commit);
            build.dirty = self.dirty;
        }
    }
}

/// Builds trees of the git repository around the current folder.
pub(crate) struct Builder<'a> {
    built: Target,
    folder: PathBuf,
    target: PathBuf,
    /// The package within the repository, as `git rev-parse --show-prefix` gives it.
    prefix: String,
    progress: &'a mut dyn FnMut(&str),
    _lock: Option<Lock>,
}

impl<'a> Builder<'a> {
    /// Keeps the checkout and the binaries under `folder`, and Cargo's files under `target`.
    /// `progress` receives lines of output.
    ///
    /// # Errors
    /// When this is no git repository, or another process builds there.
    pub fn new(
        built: Target,
        folder: &Path,
        target: &Path,
        progress: &'a mut dyn FnMut(&str),
    ) -> Result<Self> {
        let at = |path: &Path| {
            let path = PathBuf::from(path);
            move |source| Error::Write { path, source }
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        fs::create_dir_all(target).map_err(at(target))?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(at(path));
        let lock = Lock::take(&folder.join("build"))?;
        // Left by a git that was killed; we hold the lock, so none is running now.
        let _ = fs::remove_file(folder.join("index.lock"));
        let prefix = git(Path::new("."), &["rev-parse", "--show-prefix"], &[])?;
        let (folder, target) = (absolute(folder)?, absolute(target)?);
        Ok(Self { built, folder, target, prefix, progress, _lock: lock })
    }

    /// The commit of a branch, a tag or an abbreviated hash. A branch that exists only at `origin`,
    /// as in a CI job's checkout, is resolved there.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn resolve(&mut self, reference: &str) -> Result<String> {
        let here = Path::new(".");
        let commit = |reference: &str| {
            let spec = format!("{reference}^{{commit}}");
            git(here, &["rev-parse", "--verify", "--quiet", "--end-of-options", &spec], &[])
        };
        if let Ok(found) = commit(reference) {
            return Ok(found);
        }
        let branch = reference.strip_prefix("origin/").unwrap_or(reference);
        let remote = format!("origin/{branch}");
        if let Ok(found) = commit(&format!("refs/remotes/{remote}")) {
            (self.progress)(&format!("there is no local branch `{reference}`: using `{remote}`"));
            return Ok(found);
        }
        let is_hash = reference.len() >= 7 && reference.chars().all(|c| c.is_ascii_hexdigit());
        let fetch = match is_hash {
            true => "git fetch --unshallow".into(),
            false => {
                format!("git fetch origin {}", quoted(format!("{branch}:refs/remotes/{remote}")))
            }
        };
        Err(Error::Usage(format!(
            "`{reference}` is neither a file nor a commit of this repository, which has no \
             `{remote}` either; name a branch, a tag, a commit or a binary (a CI job's checkout \
             has few: `{fetch}`)"
        )))
    }

    /// Builds a commit, a branch or a tag.
    ///
    /// # Errors
    /// When there is no such ref, or it does not build.
    pub fn commit(&mut self, reference: &str) -> Result<Binary> {
        let commit = self.resolve(reference)?;
        let built = self.build(&commit, reference)?;
        Ok(Binary { commit: Some(commit), dirty: Some(false), ..built })
    }

    /// Builds the working tree with uncommitted changes and new files that git does not ignore.
    ///
    /// # Errors
    /// When git fails, or it does not build.
    pub(crate) fn working_tree(&mut self) -> Result<Binary> {
        let here = Path::new(".");
        let commit = git(here, &["rev-parse", "--verify", "HEAD"], &[])?;
        let index = self.folder.join("index");
        let with: &[(&str, &Path)] = &[("GIT_INDEX_FILE", &index)];
        let top = PathBuf::from(git(here, &["rev-parse", "--show-toplevel"], &[])?);
        git(&top, &["read-tree", "HEAD"], with)?;
        git(&top, &["add", "--all"], with)?;
        let tree = git(&top, &["write-tree"], with)?;
        let dirty = tree != git(here, &["rev-parse", "HEAD^{tree}"], &[])?;
        let built = self.build(&tree, WORKING_TREE)?;
        let asked = "working tree".into();
        Ok(Binary { asked, commit: Some(commit), dirty: Some(dirty), ..built })
    }

    /// Links a tree's binary with its functions in another order: the same program in another code
    /// layout.
    ///
    /// # Errors
    /// When it does not build, or the linker cannot shuffle.
    pub(crate) fn shuffled(&mut self, reference: &str, seed: u64) -> Result<Binary> {
        let mut built = self.commit(reference)?;
        let commit = built.commit.clone().unwrap_or_default();
        let (arguments, _) = self.arguments(&commit)?;
        let key = format!("{}-layout-{seed}", cache_key(&self.tree(&commit)?, &arguments));
        built.asked = format!("{reference}, layout {seed}");
        if let Some((path, sha256)) = self.cached(&key)? {
            return Ok(Binary { path, sha256, ..built });
        }
        self.check_out(&commit)?;
        let link = format!("-Clink-arg=-Wl,--shuffle-sections=.text*={seed}");
        let flags = ["--", "-Clink-arg=-fuse-ld=lld", &link];
        (self.progress)(&format!("linking {reference} in another order (seed {seed})"));
        let built_file = self.cargo("rustc", &arguments, &flags)?.map_err(|lines| {
            Error::Failed(format!(
                "the linker cannot put functions in another order, which needs lld:\n{lines}"
            ))
        })?;
        let (path, sha256) = self.cache(&key, &built_file)?;
        Ok(Binary { path, sha256, ..built })
    }

    /// Builds a tree or a commit, which `name` names in messages.
    fn build(&mut self, tree: &str, name: &str) -> Result<Binary> {
        let (arguments, missing_features) = self.arguments(tree)?;
        let key = cache_key(&self.tree(tree)?, &arguments);
        let (path, sha256) = match self.cached(&key)? {
            Some(cached) => {
                (self.progress)(&format!("{name}: built before"));
                cached
            }
            None => {
                (self.progress)(&format!("building {name}"));
                self.check_out(tree)?;
                let file = self.cargo("build", &arguments, &[])?.map_err(|lines| {
                    let why = format!("{name} does not build:\n{lines}");
                    match name {
                        WORKING_TREE => Error::Failed(why),
                        _ => Error::NotComparable(why),
                    }
                })?;
                self.cache(&key, &file)?
            }
        };
        let asked = name.into();
        Ok(Binary { asked, path, sha256, commit: None, dirty: None, missing_features })
    }

    /// The id of the tree of a commit.
    fn tree(&self, commit: &str) -> Result<String> {
        git(Path::new("."), &["rev-parse", &format!("{commit}^{{tree}}")], &[])
    }

    /// Cargo's arguments for a tree, and the features that it lacks.
    fn arguments(&self, tree: &str) -> Result<(Vec<String>, Vec<String>)> {
        let manifest = format!("{tree}:{}Cargo.toml", self.prefix);
        // A tree without the package does not build, and Cargo says why.
        let manifest = git(Path::new("."), &["show", &manifest], &[]).unwrap_or_default();
        Ok(self.built.arguments(&manifest))
    }

    /// Checks out a tree into the folder in which everything is built.
    fn check_out(&self, tree: &str) -> Result<()> {
        let tree_folder = self.folder.join("tree");
        if !tree_folder.join(".git").exists() {
            let path = tree_folder.to_string_lossy().into_owned();
            let add = ["worktree", "add", "--detach", "--no-checkout", "--force", &path, "HEAD"];
            git(Path::new("."), &add, &[])?;
        }
        let _ =
            fs::remove_file(git(&tree_folder, &["rev-parse", "--git-path", "index.lock"], &[])?);
        git(&tree_folder, &["read-tree", "-u", "--reset", tree], &[])?;
        git(&tree_folder, &["clean", "-fdq"], &[])?;
        Ok(())
    }

    /// Runs Cargo in the checkout; the path of the built file, or the last lines of Cargo's output.
    fn cargo(
        &mut self,
        command: &str,
        arguments: &[String],
        more: &[&str],
    ) -> Result<std::result::Result<PathBuf, String>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut child = Command::new(&cargo)
            .current_dir(self.folder.join("tree").join(&self.prefix))
            .args([command, "--locked", "--release", "--message-format=json-render-diagnostics"])
            .args(arguments)
            .arg("--target-dir")
            .arg(&self.target)
            .args(more)
            .env(OMIT_COMMIT, "1")
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Read { path: cargo.into(), source })?;
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let name = self.built.name.clone();
        let built = spawn_thread(move || {
            let messages = stdout.lines().map_while(io::Result::ok);
            messages.filter_map(|line| executable(&line, &name)).last()
        })?;
        let mut last = VecDeque::new();
        for line in BufReader::new(child.stderr.take().expect("it is piped"))
            .lines()
            .map_while(io::Result::ok)
        {
            (self.progress)(&line);
            if last.len() == ERROR_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        let status = child.wait().map_err(|source| Error::Read { path: "cargo".into(), source })?;
        if !status.success() {
            return Ok(Err(Vec::from(last).join("\n")));
        }
        let built = built.join().ok().flatten();
        built.map(Ok).ok_or_else(|| Error::Failed("Cargo built, but names no executable".into()))
    }

    fn cache_path(&self, key: &str) -> PathBuf {
        self.folder.join("binaries").join(key)
    }

    /// A cached binary with its hash; its age is reset.
    fn cached(&self, key: &str) -> Result<Option<(PathBuf, String)>> {
        let cached = self.cache_path(key);
        if !cached.exists() {
            return Ok(None);
        }
        let touch = File::options().append(true).open(&cached);
        let _ = touch.and_then(|file| file.set_modified(std::time::SystemTime::now()));
        let binary = Binary::from_file(&cached)?;
        Ok(Some((cached, binary.sha256)))
    }

    /// Copies a built file into the cache, and removes the oldest entries.
    fn cache(&self, key: &str, file: &Path) -> Result<(PathBuf, String)> {
        let cached = self.cache_path(key);
        let folder = self.folder.join("binaries");
        let write = |source| Error::Write { path: cached.clone(), source };
        fs::create_dir_all(&folder).map_err(write)?;
        let temporary = folder.join("new");
        fs::copy(file, &temporary).and_then(|_| fs::rename(&temporary, &cached)).map_err(write)?;
        let age = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
        let mut all = files::entries(&folder);
        all.sort_by_key(age);
        for old in all.iter().rev().skip(MAX_CACHED) {
            let _ = fs::remove_file(old);
        }
        let binary = Binary::from_file(&cached)?;
        Ok((cached, binary.sha256))
    }
}

/// The executable that a message of Cargo names, if it is that of the target.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_target = message["target"]["name"] == name;
    message["executable"].as_str().filter(|_| is_target).map(PathBuf::from)
}

/// Hash of all that a build depends on: tree, Cargo's arguments, compiler, and the environment
/// variables and configuration files of Cargo.
fn cache_key(tree: &str, arguments: &[String]) -> String {
    let mut text = format!("{tree}\n{arguments:?}\n");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Ok(output) = Command::new(rustc).arg("-vV").output() {
        text += &String::from_utf8_lossy(&output.stdout);
    }
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| {
            [
                "CARGO_BUILD",
                "CARGO_PROFILE",
                "CARGO_ENCODED",
                "RUSTFLAGS",
                "RUSTUP_TOOLCHAIN",
                "RUSTC",
            ]
            .iter()
            .any(|part| name.starts_with(part))
        })
        .collect();
    variables.sort();
    text += &format!("{variables:?}\n");
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let here = std::env::current_dir().unwrap_or_default();
    let folders = here.ancestors().map(|folder| folder.join(".cargo")).chain(home);
    for file in folders.flat_map(|folder| [folder.join("config.toml"), folder.join("config")]) {
        text += &fs::read_to_string(file).unwrap_or_default();
    }
    hex(&Sha256::digest(text))[..24].to_owned()
}
