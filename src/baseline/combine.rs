//! Combines runs of one commit into one record with several sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::compare::{Severity, record_differences};
use crate::error::{Error, Result};
use crate::machine;
use crate::machine::SESSION_GAP;
use crate::record::{AbsenceKind, Case, Record, Session};

/// Combines runs of one commit, each with its sessions.
///
/// # Errors
/// When there are none, when one is given twice, or when they differ in anything that affects the
/// numbers.
pub fn combine(records: &[Record]) -> Result<Record> {
    combine_with_gap(records, SESSION_GAP)
}

/// As [`combine`]; sessions less than `gap` apart become one.
pub(super) fn combine_with_gap(records: &[Record], gap: Duration) -> Result<Record> {
    let Some((first, others)) = records.split_first() else {
        return Err(Error::NotComparable("no records".into()));
    };
    let mut combined = first.clone();
    for record in others {
        check_compatible(first, record)?;
        let record = &with_ids_of_its_own(&combined, record)?;
        combined.sessions.extend(record.sessions.iter().cloned());
        combined.not_selected.retain(|id| record.not_selected.contains(id));
        if combined.build.binary_sha256 != record.build.binary_sha256 {
            combined.build.binary_sha256 = None;
        }
        for case in &record.scenarios {
            match combined.scenarios.iter_mut().find(|known| known.id == case.id) {
                Some(known) => merge_case(known, case, record)?,
                None => combined.scenarios.push(case.clone()),
            }
        }
    }
    join_sessions(&mut combined, gap);
    Ok(combined)
}

/// A record whose sessions have other ids than those of `known`. Shards that began in one second
/// share an id and no scenario; a record that is given twice shares both.
fn with_ids_of_its_own(known: &Record, record: &Record) -> Result<Record> {
    let mut renamed = record.clone();
    for session in &mut renamed.sessions {
        if !known.sessions.iter().any(|other| other.id == session.id) {
            continue;
        }
        let measured = |record: &Record, id: &str| {
            let case = record.scenarios.iter().find(|case| case.id == id);
            case.is_some_and(|case| case.blocks.iter().any(|block| block.session == session.id))
        };
        let ids = record.scenarios.iter().map(|case| &case.id);
        if ids.clone().all(|id| !measured(record, id))
            || ids.clone().any(|id| measured(record, id) && measured(known, id))
        {
            return Err(Error::NotComparable(format!("session {} is given twice", session.id)));
        }
        let number = known.sessions.len() + 1;
        let id = format!("{}-{number}", session.id);
        let blocks = renamed.scenarios.iter_mut().flat_map(|case| &mut case.blocks);
        blocks.filter(|block| block.session == session.id).for_each(|block| {
            block.session.clone_from(&id);
        });
        session.id = id;
    }
    Ok(renamed)
}

/// Joins sessions that began less than `gap` after the previous one ended. Their processes differ,
/// which their blocks show, but the state of the machine is the same.
fn join_sessions(record: &mut Record, gap: Duration) {
    let mut sessions = std::mem::take(&mut record.sessions);
    sessions.sort_by(|one, other| one.started.cmp(&other.started));
    for session in sessions {
        let ended = |session: &Session| session.ended.clone().unwrap_or(session.started.clone());
        match record.sessions.last_mut() {
            Some(last) if machine::is_one_session(&ended(last), &session.started, gap) => {
                for block in record.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
                    if block.session == session.id {
                        block.session.clone_from(&last.id);
                    }
                }
                last.ended = session.ended;
                last.conditions.extend(session.conditions);
            }
            _ => record.sessions.push(session),
        }
    }
}

/// Checks that two runs are of one commit, compiler, machine, model and settings.
fn check_compatible(first: &Record, record: &Record) -> Result<()> {
    let differ = |what: String| {
        Err(Error::NotComparable(format!("{} and {}: {what}", name(first), name(record))))
    };
    let found = record_differences(first, record, &BTreeMap::new());
    let blocking = found.iter().find(|difference| difference.severity == Severity::Blocking);
    if let Some(difference) = blocking {
        return differ(difference.to_string());
    }
    if first.injected != record.injected {
        return differ("they were slowed down on purpose differently".into());
    }
    let (before, now) = (&first.build, &record.build);
    if before.commit != now.commit {
        let commit = |commit: &Option<String>| commit.clone().unwrap_or_else(|| "unknown".into());
        return differ(format!(
            "commit is {} and {}; all sessions must be of one commit",
            commit(&before.commit),
            commit(&now.commit)
        ));
    }
    let flags =
        |record: &Record| record.settings.environment.get("RUSTFLAGS").cloned().unwrap_or_default();
    let builds = [
        ("compiler", before.rustc.clone(), now.rustc.clone()),
        ("target", before.target.clone(), now.target.clone()),
        ("target features", before.target_features.clone(), now.target_features.clone()),
        ("RUSTFLAGS", flags(first), flags(record)),
    ];
    if let Some((what, before, now)) = builds.iter().find(|(_, before, now)| before != now) {
        return differ(format!(
            "{what} is `{before}` and `{now}`; all sessions must be of one build"
        ));
    }
    if before.commit.is_none() && before.binary_sha256 != now.binary_sha256 {
        return differ("their commit is unknown, and the binaries differ".into());
    }
    let changed = before.dirty == Some(true) || now.dirty == Some(true);
    if changed && before.binary_sha256 != now.binary_sha256 {
        return differ(
            "built from trees with uncommitted changes, and the binaries differ; commit first"
                .into(),
        );
    }
    Ok(())
}

/// Adds the blocks of a case to the same case of earlier runs.
fn merge_case(known: &mut Case, case: &Case, record: &Record) -> Result<()> {
    let differ = |what: &str| {
        Err(Error::NotComparable(format!("{}: {what} of `{}` differs", name(record), case.id)))
    };
    // A scenario that one run did not reach may be in another.
    let unreached = |case: &Case| {
        matches!(case.absence(), Some(AbsenceKind::SkippedTime | AbsenceKind::NotMeasuredYet))
    };
    if unreached(case) {
        return Ok(());
    }
    if unreached(known) {
        known.clone_from(case);
        return Ok(());
    }
    if known.absent.is_some() != case.absent.is_some() {
        return differ("support");
    }
    if known.work != case.work {
        return differ("the work");
    }
    if known.output_sha256 != case.output_sha256 {
        if record.settings.server.is_none() {
            return differ("the greedy output");
        }
        known.output_sha256 = None; // A server's output may vary by itself.
    }
    known.blocks.extend(case.blocks.iter().cloned());
    known.validity.failed.extend(case.validity.failed.iter().cloned());
    for warning in &case.validity.warnings {
        if !known.validity.warnings.contains(warning) {
            known.validity.warnings.push(warning.clone());
        }
    }
    Ok(())
}

/// A record's name in messages.
pub(super) fn name(record: &Record) -> &str {
    record.sessions.first().map_or("a record without a session", |session| &session.id)
}
