//! Baselines: promoted from runs of several sessions, stored at
//! `baselines/<machine class>/<model>.json`, found for a run. Nothing here measures, and nothing
//! becomes a baseline by itself.

use std::time::Duration;

use crate::compare::{BLOCKS_NEEDED, SESSIONS_NEEDED};
use crate::error::{Error, Result, quoted};
use crate::machine;
use crate::record::{Block, Case, Record, RecordKind};
use crate::workload::metric;

mod combine;
mod store;

pub use combine::combine;
pub use store::{Stored, calibration_path, find, find_calibration, path};
pub(crate) use store::{calibration_of, release_path};

use combine::{combine_with_gap, name};

/// Makes a baseline from several runs of one commit: block values with their sessions, without raw
/// samples. Peak memory of processes that several scenarios shared is left out; that of a baseline
/// is of fresh processes.
///
/// # Errors
/// When the runs differ in machine, model, settings, work, output or commit, when one of them is
/// slowed down on purpose, invalid, failed, of an unoptimized build or of an unknown commit, or
/// when together they have too few sessions or blocks for a verdict. Sessions less than `gap` apart
/// count as one.
pub fn promote(records: &[Record], gap: Duration) -> Result<Record> {
    for record in records {
        check_promotable(record)?;
        check_times(record)?;
    }
    let mut baseline = combine_with_gap(records, gap)?;
    let sessions = baseline.sessions.len();
    if sessions < SESSIONS_NEEDED {
        let minutes = gap.as_secs() / 60;
        return Err(Error::Undecided(format!(
            "{sessions} of {SESSIONS_NEEDED} sessions (those less than {minutes} min apart count \
             as one); measure {} more at another time with `candlemark run`, then `candlemark \
             promote` all of them together",
            SESSIONS_NEEDED - sessions
        )));
    }
    for case in baseline.scenarios.iter().filter(|case| case.absent.is_none()) {
        let sessions = session_count(case);
        if case.blocks.len() < BLOCKS_NEEDED || sessions < SESSIONS_NEEDED {
            return Err(Error::Undecided(format!(
                "`{}` has {} blocks in {sessions} sessions, a verdict needs {BLOCKS_NEEDED} in \
                 {SESSIONS_NEEDED}; measure more with `candlemark run {}`",
                case.id,
                case.blocks.len(),
                quoted(&case.id)
            )));
        }
    }
    baseline.kind = RecordKind::Baseline;
    for block in baseline.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
        remove_shared_peak(block);
        let Block { session, values, notes, caveats, references, .. } = std::mem::take(block);
        *block = Block { session, values, notes, caveats, references, ..Block::default() };
    }
    baseline.not_selected.clear(); // Nothing is requested from a baseline.
    Ok(baseline)
}

/// The note on a peak that a baseline does not keep.
const NOT_KEPT: &str = "not kept: other scenarios were measured in the same process, and baselines \
                        have peaks of fresh ones";

fn remove_shared_peak(block: &mut Block) {
    if !block.has_shared_peak() {
        return;
    }
    for name in [metric::PEAK_RSS_BYTES, metric::PEAK_DELTA_BYTES] {
        if block.values.contains_key(name) {
            block.values.insert(name.into(), None);
            block.notes.insert(name.into(), NOT_KEPT.into());
            block.caveats.remove(name);
        }
    }
}

/// Checks that a run may become part of a baseline.
fn check_promotable(record: &Record) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::NotComparable(format!("{} cannot be promoted: {why}", name(record))))
    };
    if let Some(injected) = &record.injected {
        return refuse(format!("it was slowed down on purpose ({injected})"));
    }
    if record.build.is_unoptimized() {
        return refuse(format!(
            "it is of an unoptimized build (profile `{}`)",
            record.build.profile
        ));
    }
    if record.build.dirty == Some(true) {
        return refuse(
            "it was built from a tree with uncommitted changes, so that its commit does not say \
             what was measured; commit them and measure again"
                .into(),
        );
    }
    if record.build.commit.is_none() {
        return refuse(
            "its commit is unknown; build in a git checkout, so that the baseline can be built \
             again"
                .into(),
        );
    }
    for case in &record.scenarios {
        if !case.validity.ok() {
            return refuse(format!(
                "`{}` is INVALID: {}",
                case.id,
                case.validity.failed.join("; ")
            ));
        }
        if let Some(absent) = case.absent.as_ref().filter(|_| !case.is_unsupported()) {
            return refuse(format!("`{}` {absent}", case.id));
        }
    }
    Ok(())
}

/// Checks that the times of a run are plausible, because they separate the sessions.
fn check_times(record: &Record) -> Result<()> {
    for session in &record.sessions {
        for (what, time) in [("start", Some(&session.started)), ("end", session.ended.as_ref())] {
            time.map_or(Ok(()), |time| machine::check_time(time)).map_err(|why| {
                Error::NotComparable(format!("the {what} of session {}: {why}", session.id))
            })?;
        }
    }
    Ok(())
}

fn session_count(case: &Case) -> usize {
    let mut sessions: Vec<&str> = case.blocks.iter().map(|block| block.session.as_str()).collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions.len()
}

#[cfg(test)]
mod tests;
