//! The cycles of the last hours, in memory and as lines of a file that a later monitor continues. A
//! write error loses nothing: pending entries are written when possible. Ages use the monotonic
//! clock, so that a wall clock adjustment neither drops entries nor keeps them forever; an entry's
//! wall clock time only matters when a file is read.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};
use crate::files;
use crate::monitor::entry::{Entry, SCHEMA};
use crate::record::schema1::upgrade_absence;

/// Maximum number of entries, whatever the window: a bound on memory. A day with one cycle every 20
/// seconds has fewer.
pub(crate) const MAX_ENTRIES: usize = 5_000;

/// A file is rewritten when it has more expired lines than this, and more expired than current
/// ones.
const MAX_STALE: usize = 64;

/// Maximum number of bytes read from a file's end: about ten times the size of [`MAX_ENTRIES`]
/// entries.
const MAX_READ_BYTES: u64 = 64 << 20;

/// The start of every line in every version.
const LINE_START: &str = "{\"schema\":";

/// The cycles within the window.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    window: SignedDuration,
    kept: Vec<StoredEntry>,
    /// Lines of the file that have expired.
    stale: usize,
    write_error: Option<String>,
}

#[derive(Debug)]
struct StoredEntry {
    /// On the monotonic clock; negative for entries of an earlier monitor.
    ended_at: SignedDuration,
    written: bool,
    line: Line,
}

#[derive(Debug)]
enum Line {
    Parsed(Box<Entry>),
    /// Of an unknown version: kept in the file, not shown.
    UnknownVersion(String),
}

impl Line {
    fn text(&self) -> String {
        match self {
            Line::Parsed(entry) => serde_json::to_string(entry).expect("plain data"),
            Line::UnknownVersion(text) => text.clone(),
        }
    }
}

impl History {
    /// Opens the history in a file and drops expired entries; also returns messages about the file.
    /// `elapsed` and `now` are the same moment on both clocks.
    ///
    /// # Errors
    /// When the file contains something else, because it would be overwritten. An unreadable file
    /// is no error.
    pub fn open(
        path: &Path,
        window: SignedDuration,
        elapsed: SignedDuration,
        now: Timestamp,
    ) -> Result<(Self, Vec<String>)> {
        let mut history =
            Self { path: path.into(), window, kept: Vec::new(), stale: 0, write_error: None };
        let mut messages = Vec::new();
        match tail(path) {
            Ok((text, whole)) => {
                messages = history.load_lines(&text, elapsed, now)?;
                // Unread lines have expired.
                history.stale += if whole { 0 } else { MAX_ENTRIES + MAX_STALE };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                messages.push(format!("history: cannot read `{}`: {error}", path.display()))
            }
        }
        history.drop_expired(elapsed);
        Ok((history, messages))
    }

    /// Loads the lines of a file.
    fn load_lines(
        &mut self,
        text: &str,
        elapsed: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<String>> {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        // The first line may be torn.
        let torn = |line: &&str| lines.len() == 1 && LINE_START.starts_with(*line);
        let ours = |line: &&str| line.starts_with(LINE_START) || torn(line);
        if !lines.is_empty() && !lines.iter().any(ours) {
            let why = "it is not a history file; choose another with `--history`";
            return Err(Error::invalid(&self.path, why));
        }
        let (mut unreadable, mut unknown, mut seen) = (0, 0, HashSet::new());
        // The time of the next valid line: an entry from the future is at least as old as that.
        let mut later = now;
        for line in lines.into_iter().rev() {
            // A batch that was cut off may have been written again.
            if !seen.insert(line) {
                self.stale += 1;
                continue;
            }
            let Some((at, line)) = parse(line) else {
                unreadable += 1;
                self.stale += 1;
                continue;
            };
            unknown += usize::from(matches!(line, Line::UnknownVersion(_)));
            if at <= now {
                later = at;
            }
            let age = now.duration_since(if at <= now { at } else { later });
            let ended_at = elapsed.saturating_sub(age);
            self.kept.push(StoredEntry { ended_at, written: true, line });
        }
        self.kept.reverse();
        let path = self.path.display();
        let lines =
            |count: usize| if count == 1 { "1 line".into() } else { format!("{count} lines") };
        let mut messages = Vec::new();
        if unreadable > 0 {
            messages.push(format!(
                "history: skipped {} of `{path}`, torn or damaged",
                lines(unreadable)
            ));
        }
        if unknown > 0 {
            messages.push(format!(
                "history: skipped {} of `{path}`, of a version unknown to this build",
                lines(unknown)
            ));
        }
        Ok(messages)
    }

    /// Adds a cycle that ended at `elapsed`, and writes pending entries.
    pub fn add(&mut self, entry: Entry, elapsed: SignedDuration) {
        self.push(entry, elapsed);
        self.flush();
    }

    pub(super) fn push(&mut self, entry: Entry, elapsed: SignedDuration) {
        let line = Line::Parsed(Box::new(entry));
        self.kept.push(StoredEntry { ended_at: elapsed, written: false, line });
        self.drop_expired(elapsed);
    }

    /// Writes pending entries; an error is kept in [`write_error`](Self::write_error).
    pub(crate) fn flush(&mut self) {
        let rewrite_due = self.stale > MAX_STALE && self.stale > self.kept.len();
        let written = if rewrite_due { self.rewrite() } else { self.append() };
        match written {
            Ok(()) => {
                self.kept.iter_mut().for_each(|kept| kept.written = true);
                self.stale = if rewrite_due { 0 } else { self.stale };
                self.write_error = None;
            }
            Err(error) => self.write_error = Some(error.chain()),
        }
    }

    /// Drops expired entries, and the oldest of too many.
    fn drop_expired(&mut self, elapsed: SignedDuration) {
        let window = self.window;
        let surplus = self.kept.len().saturating_sub(MAX_ENTRIES);
        let (mut at, mut stale) = (0, 0);
        self.kept.retain(|kept| {
            let keep = at >= surplus && elapsed.saturating_sub(kept.ended_at) <= window;
            stale += usize::from(!keep && kept.written);
            at += 1;
            keep
        });
        self.stale += stale;
    }

    fn append(&self) -> Result<()> {
        let pending = self.kept.iter().filter(|kept| !kept.written);
        let text: String = pending.map(|kept| kept.line.text() + "\n").collect();
        if text.is_empty() {
            return Ok(());
        }
        append(&self.path, &text).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Replaces the file's contents.
    fn rewrite(&self) -> Result<()> {
        let text: String = self.kept.iter().map(|kept| kept.line.text() + "\n").collect();
        files::write(&self.path, text.as_bytes())
    }

    /// The error of the last write, if any.
    pub(crate) fn write_error(&self) -> Option<&str> {
        self.write_error.as_deref()
    }

    /// Number of entries that are not yet on disk.
    pub fn pending(&self) -> usize {
        self.kept.iter().filter(|kept| !kept.written).count()
    }

    /// How much of the past is kept.
    pub fn window(&self) -> SignedDuration {
        self.window
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entries in order, each with its end on the monotonic clock.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (SignedDuration, &Entry)> {
        self.kept.iter().filter_map(|kept| match &kept.line {
            Line::Parsed(entry) => Some((kept.ended_at, entry.as_ref())),
            Line::UnknownVersion(_) => None,
        })
    }

    /// The entries as JSON lines.
    pub fn lines(&self) -> String {
        let lines =
            self.entries().map(|(_, entry)| serde_json::to_string(entry).expect("plain data"));
        lines.map(|line| line + "\n").collect()
    }
}

/// The time and contents of a line; `None` if it is torn or damaged.
fn parse(line: &str) -> Option<(Timestamp, Line)> {
    let mut value: serde_json::Value = serde_json::from_str(line).ok()?;
    let at = value.get("at")?.as_str()?.parse().ok()?;
    match value.get("schema")?.as_u64()? {
        1 => lift(&mut value),
        schema if schema == u64::from(SCHEMA) => {}
        _ => return Some((at, Line::UnknownVersion(line.into()))),
    }
    Some((at, Line::Parsed(Box::new(serde_json::from_value(value).ok()?))))
}

/// Converts a line of version 1, whose scenarios have a text for `absent`, to version 2.
fn lift(entry: &mut serde_json::Value) {
    let scenarios = entry.pointer_mut("/measured/scenarios");
    let scenarios = scenarios.and_then(serde_json::Value::as_array_mut);
    scenarios.into_iter().flatten().for_each(upgrade_absence);
    entry["schema"] = SCHEMA.into();
}

/// The end of a file, from the start of a line, and whether that is the whole file.
fn tail(path: &Path) -> io::Result<(String, bool)> {
    // A device or a pipe may never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(MAX_READ_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => (rest.into(), false),
        _ => (text, skipped == 0),
    })
}

/// Appends whole lines to a file, or nothing.
fn append(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return file.write_all(text.as_bytes());
    }
    let mut last = [b'\n'];
    if metadata.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    // A torn line must not swallow the next one.
    let torn = if last == *b"\n" { "" } else { "\n" };
    let written =
        file.write_all(format!("{torn}{text}").as_bytes()).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(metadata.len());
    }
    written
}
