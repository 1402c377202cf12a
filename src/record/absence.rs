//! Why a measurement is absent, and the limitations of a value. Enums decide; the text beside them
//! is for people, and rewording it changes no verdict.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Why a measurement is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Absence {
    /// The kind, on which verdicts depend.
    pub kind: AbsenceKind,
    /// The reason for people; no verdict depends on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// The kinds of absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbsenceKind {
    /// The engine does not support it, which is no failure.
    Unsupported,
    /// The build has no such scenario.
    Unknown,
    /// Skipped because the time budget was used up; resuming the run measures it.
    SkippedTime,
    /// Skipped for lack of memory.
    SkippedMemory,
    /// It was tried and failed.
    Failed,
    /// The run has not reached it; final only where the run was interrupted.
    NotMeasuredYet,
}

impl AbsenceKind {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            AbsenceKind::Unsupported => "unsupported",
            AbsenceKind::Unknown => "unknown",
            AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory => "skipped",
            AbsenceKind::Failed => "failed",
            AbsenceKind::NotMeasuredYet => "not measured yet",
        }
    }
}

impl Absence {
    /// An absence with its reason.
    pub fn new(kind: AbsenceKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    /// Of a scenario that a run has not reached.
    pub fn not_measured_yet() -> Self {
        Self::new(AbsenceKind::NotMeasuredYet, "")
    }
}

impl From<&Error> for Absence {
    fn from(error: &Error) -> Self {
        match error {
            Error::Unsupported(why) => Self::new(AbsenceKind::Unsupported, why),
            Error::SkippedTime(why) => Self::new(AbsenceKind::SkippedTime, why),
            Error::SkippedMemory(why) => Self::new(AbsenceKind::SkippedMemory, why),
            error => Self::new(AbsenceKind::Failed, error.chain()),
        }
    }
}

/// `failed: out of memory`
impl fmt::Display for Absence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.kind.word())?;
        if self.why.is_empty() { Ok(()) } else { write!(out, ": {}", self.why) }
    }
}

/// A limitation of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Caveat {
    /// Peak memory of a process in which other scenarios were measured, too; the peak may be
    /// theirs.
    SharedProcess,
    /// The largest of a few samples; the true peak may lie between them.
    LowerBound,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn an_error_becomes_an_absence_of_its_kind() {
        let busy = Error::Read {
            path: "m.gguf".into(),
            source: std::io::Error::other("the disk is gone"),
        };
        for (error, kind, text) in [
            (Error::Unsupported("YaRN".into()), AbsenceKind::Unsupported, "unsupported: YaRN"),
            (Error::SkippedTime("8m".into()), AbsenceKind::SkippedTime, "skipped: 8m"),
            (Error::SkippedMemory("9 GiB".into()), AbsenceKind::SkippedMemory, "skipped: 9 GiB"),
            (Error::Failed("killed".into()), AbsenceKind::Failed, "failed: killed"),
            (busy, AbsenceKind::Failed, "failed: cannot read `m.gguf`: the disk is gone"),
        ] {
            let absence = Absence::from(&error);
            assert_eq!((absence.kind, absence.to_string().as_str()), (kind, text));
        }
        assert_eq!(Absence::not_measured_yet().to_string(), "not measured yet");
    }

    #[test]
    fn an_absence_is_stored_by_its_kind() {
        let stored = |absence: &Absence| serde_json::to_string(absence).unwrap();
        let skipped = Absence::new(AbsenceKind::SkippedTime, "8m were used up");
        assert_eq!(stored(&skipped), r#"{"kind":"skipped_time","why":"8m were used up"}"#);
        let pending = Absence::not_measured_yet();
        assert_eq!(stored(&pending), r#"{"kind":"not_measured_yet"}"#);
        assert_eq!(serde_json::from_str::<Absence>(&stored(&pending)).unwrap(), pending);
    }

    /// Names of fields and variables with text for people.
    const FOR_PEOPLE: &[&str] = &["absent", "note", "notes", "reason", "what", "why"];

    /// Expressions that inspect a text.
    const DECISIONS: &[&str] = &[
        ".contains(",
        ".ends_with(",
        ".find(\"",
        ".matches(",
        ".rfind(\"",
        ".split_once(",
        ".starts_with(",
        ".strip_prefix(",
        ".strip_suffix(",
        ".trim_end_matches(",
        ".trim_start_matches(",
        " == \"",
        " != \"",
    ];

    /// The one file that parses such texts: schema 1 had nothing else.
    const UPGRADE: &str = "src/record/schema1.rs";

    /// Expressions of a source, tests aside, that inspect a text for people, as `name.method`.
    fn decisions(source: &str) -> Vec<String> {
        let source = source.split("#[cfg(test)]\nmod ").next().unwrap();
        let lines = source.lines().map(|line| line.split("//").next().unwrap().trim());
        // A chain of calls may span several lines.
        let joined = lines.fold(String::new(), |joined, line| {
            let gap = if line.starts_with('.') { "" } else { " " };
            joined + gap + line
        });
        let mut found = Vec::new();
        for how in DECISIONS {
            for (at, _) in joined.match_indices(how) {
                // `why.as_deref().unwrap_or_default()` is still `why`.
                let ends = |c: char| !(c.is_alphanumeric() || "_.()".contains(c));
                let names = joined[..at].rsplit(ends).next().unwrap_or_default();
                let name = names.split(['.', '(', ')']).rfind(|name| FOR_PEOPLE.contains(name));
                found.extend(name.map(|name| format!("{name}{how}")));
            }
        }
        found
    }

    #[test]
    fn an_inspection_of_a_text_for_people_is_found() {
        for (source, expected) in [
            ("case.absent.as_deref().is_some_and(|why| why.starts_with(\"skipped\"))", 1),
            ("self.absent.as_deref().unwrap_or_default().ends_with(NOT_YET)", 1),
            ("let note = notes.find(|note| note.contains(\"sample\"))?;", 1),
            ("let rest = why\n    .strip_prefix(word)\n    .unwrap_or(why);", 1),
            ("self.failed.retain(|what| what != \"output differs between passes\");", 1),
            ("if note.is_some_and(|note| note.contains(SHARED_PROCESS)) {", 1),
            ("case.absent.is_some() && !turns.notes.contains_key(metric.name)", 0),
            ("match absent.kind { AbsenceKind::Failed => why.clone(), _ => String::new() }", 0),
            ("// why.starts_with(\"failed\")", 0),
            ("if id.starts_with(\"stress/\") || known.contains(&what) {", 0),
            ("#[cfg(test)]\nmod tests { assert!(why.contains(\"too long\")); }", 0),
        ] {
            assert_eq!(decisions(source).len(), expected, "{source}: {:?}", decisions(source));
        }
    }

    #[test]
    fn no_text_for_people_decides_anything() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = vec![root.join("src"), root.join("benches")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                if path.is_dir() {
                    folders.extend((!name.ends_with("/tests")).then_some(path));
                    continue;
                }
                if !name.ends_with(".rs") || name.ends_with("/tests.rs") || name == UPGRADE {
                    continue;
                }
                files += 1;
                let found = decisions(&fs::read_to_string(&path).unwrap());
                assert!(found.is_empty(), "{name} inspects a text for people: {found:?}");
            }
        }
        assert!(files > 100, "{files} files were read");
    }
}
