//! The one error type of the library. A regression is a value (`compare::Verdict`), never an error.

use std::io;
use std::path::PathBuf;

/// A result with the library's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, one variant for each thing that a caller or a reader can tell apart.
/// The cause is the `source`; no message repeats it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    #[error("`{path}` is not valid: {why}")]
    Invalid { path: PathBuf, why: String },
    #[error("no {kind} `{name}`{hint}; known are {known}")]
    Unknown { kind: &'static str, name: String, hint: String, known: String },
    #[error("`{path}` has record schema {found}, this build reads {known}; {remedy}")]
    Schema { path: PathBuf, found: String, known: u32, remedy: &'static str },
    #[error("not comparable: {0}")]
    NotComparable(String),
    #[error("cannot decide: {0}")]
    Undecided(String),
    #[error("unsupported: {0}")]
    Unsupported(String),
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The error for a name that is not one of `known`, with the nearest one as a suggestion.
    pub fn unknown<'a>(kind: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let hint = nearest(name, &known).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        Error::Unknown { kind, name: name.into(), hint, known: known.join(", ") }
    }
}

/// The known name that a misspelt one most likely meant.
///
/// ```
/// assert_eq!(candlemark::error::nearest("modle", &["model", "suite"]), Some("model"));
/// assert_eq!(candlemark::error::nearest("zzz", &["model", "suite"]), None);
/// ```
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|near| (strsim::damerau_levenshtein(name, near), *near))
        .filter(|(distance, near)| *distance <= 1 + near.len() / 4)
        .min()
        .map(|(_, near)| near)
}
