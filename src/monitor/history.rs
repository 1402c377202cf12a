//! The cycles of the last hours: in memory, and as lines of a file that a later monitor goes on
//! with. A file that cannot be written loses nothing: what is not on disk yet is written when it
//! can be. Ages are counted by the monotonic clock, so that a wall clock that is set anew neither
//! drops entries nor keeps them for ever; the wall clock's time of an entry decides only when
//! a file is read. Does not know what a figure means.

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

/// No more entries are kept, however long the window: a day of one every 20 seconds has fewer. It
/// bounds memory.
pub const MOST: usize = 5_000;

/// A file is rewritten when it holds more lines than this that are too old, and more of them than
/// others.
const STALE: usize = 64;

/// No more of a file's end is read, in bytes: some ten times what [`MOST`] entries take.
const TAIL: u64 = 64 << 20;

/// How every line begins, of whatever version.
const BEGINS: &str = "{\"schema\":";

/// The cycles within the window.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    window: SignedDuration,
    kept: Vec<Kept>,
    /// Lines of the file that are not kept.
    stale: usize,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Kept {
    /// On the monotonic clock; before zero for what an earlier monitor measured.
    born: SignedDuration,
    written: bool,
    line: Line,
}

#[derive(Debug)]
enum Line {
    Known(Box<Entry>),
    /// Of a version that this build does not know: kept in the file, shown nowhere.
    Foreign(String),
}

impl Line {
    fn text(&self) -> String {
        match self {
            Line::Known(entry) => serde_json::to_string(entry).expect("plain data"),
            Line::Foreign(text) => text.clone(),
        }
    }
}

impl History {
    /// The history in a file, as far as it is younger than the window; with what is to be said of
    /// the file. `elapsed` and `now` are the same moment on both clocks.
    ///
    /// # Errors
    /// When the file holds something else: it would be overwritten. One that cannot be read is no
    /// error.
    pub fn open(
        path: &Path,
        window: SignedDuration,
        elapsed: SignedDuration,
        now: Timestamp,
    ) -> Result<(Self, Vec<String>)> {
        let mut history =
            Self { path: path.into(), window, kept: Vec::new(), stale: 0, trouble: None };
        let mut said = Vec::new();
        match tail(path) {
            Ok((text, whole)) => {
                said = history.take(&text, elapsed, now)?;
                // What was not read is too old.
                history.stale += if whole { 0 } else { MOST + STALE };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => said.push(format!("history: cannot read `{}`: {error}", path.display())),
        }
        history.forget(elapsed);
        Ok((history, said))
    }

    /// Takes the lines of a file.
    fn take(&mut self, text: &str, elapsed: SignedDuration, now: Timestamp) -> Result<Vec<String>> {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        // The first line may be torn.
        let torn = |line: &&str| lines.len() == 1 && BEGINS.starts_with(*line);
        let ours = |line: &&str| line.starts_with(BEGINS) || torn(line);
        if !lines.is_empty() && !lines.iter().any(ours) {
            let why = "it holds something else; name another file with `--history`";
            return Err(Error::Invalid { path: self.path.clone(), why: why.into() });
        }
        let (mut unreadable, mut foreign, mut seen) = (0, 0, HashSet::new());
        // The time of the nearest later line: what comes from the future is no younger than that.
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
            foreign += usize::from(matches!(line, Line::Foreign(_)));
            if at <= now {
                later = at;
            }
            let age = now.duration_since(if at <= now { at } else { later });
            let born = elapsed.saturating_sub(age);
            self.kept.push(Kept { born, written: true, line });
        }
        self.kept.reverse();
        let path = self.path.display();
        let lines =
            |count: usize| if count == 1 { "1 line".into() } else { format!("{count} lines") };
        let mut said = Vec::new();
        if unreadable > 0 {
            said.push(format!(
                "history: left out {} of `{path}`, torn or damaged",
                lines(unreadable)
            ));
        }
        if foreign > 0 {
            said.push(format!(
                "history: left out {} of `{path}`, of a version that this build does not know",
                lines(foreign)
            ));
        }
        Ok(said)
    }

    /// Adds a cycle that ended at `elapsed`, and writes what is not on disk yet.
    pub fn add(&mut self, entry: Entry, elapsed: SignedDuration) {
        self.keep(entry, elapsed);
        self.flush();
    }

    /// Keeps a cycle in memory.
    pub(super) fn keep(&mut self, entry: Entry, elapsed: SignedDuration) {
        let line = Line::Known(Box::new(entry));
        self.kept.push(Kept { born: elapsed, written: false, line });
        self.forget(elapsed);
    }

    /// Writes what is not on disk yet. What goes wrong is [`trouble`](Self::trouble).
    pub fn flush(&mut self) {
        let crowded = self.stale > STALE && self.stale > self.kept.len();
        let written = if crowded { self.rewrite() } else { self.append() };
        match written {
            Ok(()) => {
                self.kept.iter_mut().for_each(|kept| kept.written = true);
                self.stale = if crowded { 0 } else { self.stale };
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error.chain()),
        }
    }

    /// Drops what is older than the window, and the oldest of too many.
    fn forget(&mut self, elapsed: SignedDuration) {
        let window = self.window;
        let surplus = self.kept.len().saturating_sub(MOST);
        let (mut at, mut stale) = (0, 0);
        self.kept.retain(|kept| {
            let keep = at >= surplus && elapsed.saturating_sub(kept.born) <= window;
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

    /// Replaces the file by what is kept.
    fn rewrite(&self) -> Result<()> {
        let text: String = self.kept.iter().map(|kept| kept.line.text() + "\n").collect();
        files::write(&self.path, text.as_bytes())
    }

    /// Why the last attempt to write failed.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// How many entries are not on disk yet.
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

    /// The entries in the order measured, each with when it ended on the monotonic clock.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (SignedDuration, &Entry)> {
        self.kept.iter().filter_map(|kept| match &kept.line {
            Line::Known(entry) => Some((kept.born, entry.as_ref())),
            Line::Foreign(_) => None,
        })
    }

    /// The entries as lines of JSON.
    pub fn lines(&self) -> String {
        let lines =
            self.entries().map(|(_, entry)| serde_json::to_string(entry).expect("plain data"));
        lines.map(|line| line + "\n").collect()
    }
}

/// When a line was written, and what it says; `None` if it is torn or damaged.
fn parse(line: &str) -> Option<(Timestamp, Line)> {
    let mut value: serde_json::Value = serde_json::from_str(line).ok()?;
    let at = value.get("at")?.as_str()?.parse().ok()?;
    match value.get("schema")?.as_u64()? {
        1 => lift(&mut value),
        schema if schema == u64::from(SCHEMA) => {}
        _ => return Some((at, Line::Foreign(line.into()))),
    }
    Some((at, Line::Known(Box::new(serde_json::from_value(value).ok()?))))
}

/// Makes a line of version 1, whose scenarios say why they are absent in a text only, one of
/// version 2.
fn lift(entry: &mut serde_json::Value) {
    let scenarios = entry.pointer_mut("/measured/scenarios");
    let scenarios = scenarios.and_then(serde_json::Value::as_array_mut);
    scenarios.into_iter().flatten().for_each(upgrade_absence);
    entry["schema"] = SCHEMA.into();
}

/// The end of a file, from the beginning of a line, and whether that is all of it.
fn tail(path: &Path) -> io::Result<(String, bool)> {
    // A device or a pipe may never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => (rest.into(), false),
        _ => (text, skipped == 0),
    })
}

/// Adds whole lines to a file, or nothing.
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
    // A torn line must not swallow the one after it.
    let torn = if last == *b"\n" { "" } else { "\n" };
    let written =
        file.write_all(format!("{torn}{text}").as_bytes()).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(metadata.len());
    }
    written
}
