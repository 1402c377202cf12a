//! The one error type of the library. A regression is a value (`compare::Verdict`), never an error.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

/// A result with the library's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Every error of the library: one variant for each case that a caller or a reader can tell apart.
/// The cause is the `source`; no message repeats it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot start {threads} threads; give fewer with `--threads` or CANDLEMARK_THREADS")]
    Threads { threads: usize, source: io::Error },
    #[error("`{path}` is not valid: {why}")]
    Invalid { path: PathBuf, why: String },
    #[error("{0}")]
    Usage(String),
    #[error("no {kind} `{name}`{hint}; known are {known}")]
    Unknown { kind: &'static str, name: String, hint: String, known: String },
    #[error("`{path}` has record schema {found}, this build reads {known}; {remedy}")]
    Schema { path: PathBuf, found: String, known: u32, remedy: &'static str },
    #[error("not comparable: {0}")]
    NotComparable(String),
    #[error("undecided: {0}")]
    Undecided(String),
    #[error("interrupted")]
    Interrupted,
    #[error("unsupported: {0}")]
    Unsupported(String),
    #[error("skipped: {0}")]
    SkippedTime(String),
    #[error("skipped: {0}")]
    SkippedMemory(String),
    #[error("unsupported model: {0}")]
    UnsupportedModel(String),
    #[cfg(feature = "engine")]
    #[error("the tensor library failed")]
    Tensor(#[from] candle_core::Error),
    #[error("a worker ended with {status} and printed {stderr}")]
    Worker { status: String, code: Option<i32>, stderr: String },
    #[error("{0}")]
    Failed(String),
    #[error("`{spec}` is not a model on the hub: {problem}; write `owner/name[@revision][:file]`")]
    HubSpec { spec: String, problem: &'static str },
    #[error("no home folder for the hub's cache; set HF_HOME")]
    HubNoHome,
    #[error(
        "`{file}` of `{repo}` at `{revision}` is not in {cache}, and the hub is offline; \
         fetch it once with HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE unset"
    )]
    HubOffline { file: String, repo: String, revision: String, cache: PathBuf },
    #[error(
        "the hub refuses `{repo}` (status {status}); check the name, set HF_TOKEN to a token with \
         access, and if the model is gated, accept its terms on {page}"
    )]
    HubDenied { repo: String, status: u16, page: String },
    #[error("no model `{repo}` on {endpoint}; check the name, or set HF_TOKEN if it is private")]
    HubMissingRepo { repo: String, endpoint: String },
    #[error("`{repo}` has no revision `{revision}`; name a branch, a tag or a full commit")]
    HubMissingRevision { repo: String, revision: String },
    #[error("no `{file}` in `{repo}` at `{revision}`; {near}")]
    HubMissingFile { file: String, repo: String, revision: String, near: String },
    #[error(
        "`{repo}` holds several gguf files; pick one, as in `{repo}:{first}`; they are {files}"
    )]
    HubSeveralGguf { repo: String, first: String, files: String },
    #[error(
        "`{repo}` names a file `{name}`, which could leave the cache folder; do not use this model"
    )]
    HubUnsafeName { repo: String, name: String },
    #[cfg(feature = "hub")]
    #[error(
        "cannot get `{what}` from {host}; check HF_ENDPOINT and the network, or set \
         HF_HUB_OFFLINE=1"
    )]
    HubConnection { what: String, host: String, source: Box<ureq::Error> },
    #[cfg(feature = "hub")]
    #[error(
        "cannot get `{what}` from {host}: its certificate is not trusted; add its CA to the \
         system's store, or name a PEM file that holds it in SSL_CERT_FILE"
    )]
    HubCertificate { what: String, host: String, source: Box<ureq::Error> },
    #[error("{host} answers `{what}` with status {status}; try again later")]
    HubStatus { what: String, host: String, status: u16, wait_s: Option<u64> },
    #[error("the answer for `{what}` {problem}; is {endpoint} a Hugging Face hub?")]
    HubAnswer { what: String, problem: &'static str, endpoint: String },
    #[error("the download of `{file}` stopped after {got} of {size} bytes; run again to resume it")]
    HubCut { file: String, got: u64, size: u64, source: Option<io::Error> },
    #[error("`{file}` has the sha256 {actual} instead of {expected} and was deleted; run again")]
    HubHash { file: String, expected: String, actual: String },
    #[error("`{file}` is not an index of safetensors")]
    HubIndex { file: String, source: serde_json::Error },
    #[error(
        "cannot use {path} in the hub's cache; set HF_HUB_CACHE to a folder that can be written"
    )]
    HubCache { path: PathBuf, source: io::Error },
}

/// The class of an error; the exit status follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A wrong command line, configuration or file: nothing was measured.
    Usage,
    /// The data allow no verdict.
    Undecided,
    /// There is no baseline, or it belongs to another machine, model or schema.
    NotComparable,
    /// Stopped by the user.
    Interrupted,
    /// Any other failure.
    Failed,
}

#[cfg(feature = "engine")]
impl From<candlemark_kernel::Error> for Error {
    fn from(error: candlemark_kernel::Error) -> Self {
        use candlemark_kernel::Error as Kernel;
        match error {
            Kernel::Threads { threads, source } => Error::Threads { threads, source },
            Kernel::UnknownIsa { name, known } => Error::unknown("instruction set", &name, known),
            Kernel::UnsupportedIsa { .. }
            | Kernel::UnknownOperation { .. }
            | Kernel::UnknownVariant { .. } => Error::Usage(error.to_string()),
            Kernel::Pin(source) => Error::Failed(format!("cannot pin threads to CPUs ({source})")),
        }
    }
}

impl Error {
    /// The class of the error.
    pub fn cause(&self) -> Cause {
        match self {
            Error::Usage(_)
            | Error::Unknown { .. }
            // The exit status of a worker for a usage error.
            | Error::Worker { code: Some(2), .. }
            // The engine, the build or the model lacks the requested feature.
            | Error::Unsupported(_)
            | Error::UnsupportedModel(_)
            // More threads than the system allows.
            | Error::Threads { .. }
            | Error::HubSpec { .. }
            | Error::HubNoHome
            | Error::HubOffline { .. }
            | Error::HubDenied { .. }
            | Error::HubMissingRepo { .. }
            | Error::HubMissingRevision { .. }
            | Error::HubMissingFile { .. }
            | Error::HubSeveralGguf { .. } => Cause::Usage,
            #[cfg(feature = "hub")]
            Error::HubCertificate { .. } => Cause::Usage,
            Error::Undecided(_) => Cause::Undecided,
            Error::NotComparable(_) | Error::Schema { .. } => Cause::NotComparable,
            Error::Interrupted => Cause::Interrupted,
            _ => Cause::Failed,
        }
    }

    /// The same error for a file that the user named: one that cannot be read, or is of another
    /// kind, is a usage error. A file that candlemark found by itself is damaged instead.
    #[must_use]
    pub(crate) fn of_named_file(self) -> Self {
        let is_wrong_file = match &self {
            Error::Read { .. } | Error::Invalid { .. } => true,
            Error::Schema { found, .. } => found == "none",
            _ => false,
        };
        if is_wrong_file { Error::Usage(self.chain()) } else { self }
    }

    /// The message and those of its causes, shortened by [`brief`].
    pub fn chain(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        brief(&causes.fold(self.to_string(), |chain, cause| format!("{chain}: {cause}")))
    }

    /// The error for a file that is not valid, and why.
    pub fn invalid(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Error::Invalid { path: path.into(), why: why.into() }
    }

    /// The error for a name that is not in `known`, with the nearest one as a suggestion.
    pub fn unknown<'a>(
        kind: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        Self::unknown_but_near(kind, name, nearest(name, &known), &known)
    }

    /// The error for an unknown name; `near` is suggested.
    pub(crate) fn unknown_but_near(
        kind: &'static str,
        name: &str,
        near: Option<&str>,
        known: &[&str],
    ) -> Self {
        let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        Error::Unknown { kind, name: shortened(name), hint, known: known.join(", ") }
    }
}

/// A value from outside, short enough to be quoted in an error.
pub(crate) fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 400;
    text.char_indices().nth(MAX_CHARS).map_or(text.into(), |(at, _)| format!("{} …", &text[..at]))
}

/// A message that may quote input from outside, with overlong words, lines and numbers of lines cut
/// in the middle: the remedy is at the end.
///
/// ```
/// let text = candlemark::error::brief(&format!("no model `{}`; name one", "x".repeat(1_000_000)));
/// assert!(text.starts_with("no model `xxx") && text.ends_with("xxx`; name one"));
/// assert!(text.len() < 300);
/// ```
pub fn brief(text: &str) -> String {
    let cut = |text: &str, head: usize, tail: usize| {
        let count = text.chars().count();
        if count <= head + tail {
            return text.to_owned();
        }
        let head: String = text.chars().take(head).collect();
        let tail: String = text.chars().skip(count - tail).collect();
        format!("{head} … {tail}")
    };
    let line = |line: &str| {
        let words: Vec<String> = line.split(' ').map(|word| cut(word, 150, 50)).collect();
        cut(&words.join(" "), 3000, 1000)
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    if lines.len() > 60 {
        let out = lines.len() - 50;
        lines.splice(30..30 + out, [format!("… {out} more lines …")]);
    }
    lines.join("\n")
}

/// A word of a command line, quoted for a POSIX shell where necessary.
///
/// ```
/// use candlemark::error::quoted;
/// assert_eq!(quoted("runs/record.json"), "runs/record.json");
/// assert_eq!(quoted("my runs/$1"), "'my runs/$1'");
/// assert_eq!(quoted("it's"), r"'it'\''s'");
/// ```
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A number of things in words: `1 process`, `2 scenarios`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('s') => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

/// The words of this process's command line, after the program's name.
pub(crate) fn command_words() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// A command line quoted for a POSIX shell. The first word is the program and is not quoted: it may
/// be `cargo bench --`.
///
/// ```
/// let words = ["cargo bench --", "code b4"].map(String::from);
/// assert_eq!(candlemark::error::command(&words), "cargo bench -- 'code b4'");
/// ```
pub fn command(words: &[String]) -> String {
    let Some((program, words)) = words.split_first() else { return String::new() };
    words.iter().fold(program.clone(), |line, word| line + " " + &quoted(word))
}

/// The known name nearest to a misspelt one (Damerau–Levenshtein distance), if it is near enough.
/// To `modle` that is `model`; to `zzz` nothing.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .filter(|near| name.len() <= 4 * near.len() + 4) // Far anyway, and slow to compute.
        .map(|near| (strsim::damerau_levenshtein(name, near), *near))
        .filter(|(distance, near)| *distance <= 1 + near.len() / 4)
        .min()
        .map(|(_, near)| near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_keeps_its_ends() {
        let (long, lines) = ("ab ".repeat(100_000), "line\n".repeat(10_000));
        for (text, end) in [
            (format!("no `{long}`; write one"), "`; write one"),
            (format!("no `{lines}`\nwrite one"), "\nwrite one"),
            (format!("no `{}`; write one", "é".repeat(100_000)), "`; write one"),
        ] {
            let short = brief(&text);
            assert!(short.starts_with("no `") && short.ends_with(end), "{short}");
            assert!(short.contains('…') && short.chars().count() < 4100, "{}", short.len());
        }
        let ours = "cannot read `a`\n  known are b, c";
        assert_eq!(brief(ours), ours);
        let unknown = Error::unknown("engine", &"x".repeat(1_000_000), ["native"]).to_string();
        assert!(unknown.len() < 500 && unknown.ends_with("known are native"), "{unknown}");
        assert_eq!(shortened(&"x".repeat(401)), format!("{} …", "x".repeat(400)));
    }

    #[test]
    fn an_error_has_a_class_and_a_named_file_is_a_usage_error() {
        let path = || PathBuf::from("x.json");
        let read = || Error::Read { path: path(), source: io::ErrorKind::NotFound.into() };
        let invalid = || Error::Invalid { path: path(), why: "no JSON".into() };
        let schema = |found: &str| Error::Schema {
            path: path(),
            found: found.into(),
            known: 1,
            remedy: "measure again",
        };
        let worker = |code| Error::Worker { status: "2".into(), code, stderr: "no".into() };
        for (error, found, named) in [
            (Error::Usage("no".into()), Cause::Usage, Cause::Usage),
            (Error::unknown("engine", "x", ["native"]), Cause::Usage, Cause::Usage),
            (Error::UnsupportedModel("llama".into()), Cause::Usage, Cause::Usage),
            (read(), Cause::Failed, Cause::Usage),
            (invalid(), Cause::Failed, Cause::Usage),
            (schema("99"), Cause::NotComparable, Cause::NotComparable),
            (schema("none"), Cause::NotComparable, Cause::Usage),
            (Error::Undecided("few".into()), Cause::Undecided, Cause::Undecided),
            (Error::Interrupted, Cause::Interrupted, Cause::Interrupted),
            (Error::Failed("broke".into()), Cause::Failed, Cause::Failed),
            (worker(Some(2)), Cause::Usage, Cause::Usage),
            (worker(Some(5)), Cause::Failed, Cause::Failed),
            (worker(None), Cause::Failed, Cause::Failed),
        ] {
            let text = error.chain();
            assert_eq!(error.cause(), found, "{text}");
            let error = error.of_named_file();
            assert_eq!((error.cause(), error.to_string()), (named, text));
        }
    }
}
