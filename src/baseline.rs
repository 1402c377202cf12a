//! Baselines: made from runs of several sessions, kept at `baselines/<machine class>/<model>.json`,
//! found for a run. Nothing here measures, and nothing becomes a baseline by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::compare::{
    BLOCKS_NEEDED, Difference, SESSIONS_NEEDED, Severity, differences, record_differences,
};
use crate::error::{Error, Result, quoted};
use crate::machine;
use crate::machine::SESSION_GAP;
use crate::record::calibration::Calibration;
use crate::record::{AbsenceKind, Block, Case, Model, Record, RecordKind, Session, Settings};

/// Makes one baseline of several runs of one commit: block values with their sessions, without raw
/// samples. Peaks of memory of processes that several scenarios shared are left out: a baseline's
/// are of fresh ones.
///
/// # Errors
/// When the runs differ in machine, model, settings, work, output or commit, when one of them is
/// slowed down on purpose, invalid, failed, of an unoptimised build or of an unknown commit, or
/// when together they have too few sessions or blocks for a verdict. Sessions less than `gap` apart
/// count as one.
pub fn promote(records: &[Record], gap: Duration) -> Result<Record> {
    for record in records {
        fit(record)?;
        timely(record)?;
    }
    let mut baseline = pooled(records, gap)?;
    let sessions = baseline.sessions.len();
    if sessions < SESSIONS_NEEDED {
        let minutes = gap.as_secs() / 60;
        return Err(Error::Undecided(format!(
            "{sessions} of {SESSIONS_NEEDED} sessions (those less than {minutes} min apart count as one); measure {} more at \
             another time with `candlemark run`, then `candlemark promote` all of them together",
            SESSIONS_NEEDED - sessions
        )));
    }
    for case in baseline.scenarios.iter().filter(|case| case.absent.is_none()) {
        let of = sessions_of(case);
        if case.blocks.len() < BLOCKS_NEEDED || of < SESSIONS_NEEDED {
            return Err(Error::Undecided(format!(
                "`{}` has {} blocks in {of} sessions, a verdict needs {BLOCKS_NEEDED} in {SESSIONS_NEEDED}; measure more \
                 with `candlemark run {}`",
                case.id,
                case.blocks.len(),
                quoted(&case.id)
            )));
        }
    }
    baseline.kind = RecordKind::Baseline;
    for block in baseline.scenarios.iter_mut().flat_map(|case| &mut case.blocks) {
        forget_shared_peak(block);
        let Block { session, values, notes, caveats, references, .. } = std::mem::take(block);
        *block = Block { session, values, notes, caveats, references, ..Block::default() };
    }
    baseline.not_selected.clear(); // Nobody asks a baseline for anything.
    Ok(baseline)
}

/// What is said of a peak that a baseline does not keep.
const NOT_KEPT: &str = "not kept: other scenarios were measured in the same process, and baselines have peaks of fresh ones";

fn forget_shared_peak(block: &mut Block) {
    if !block.has_shared_peak() {
        return;
    }
    for name in ["peak_rss_bytes", "peak_delta_bytes"] {
        if block.values.contains_key(name) {
            block.values.insert(name.into(), None);
            block.notes.insert(name.into(), NOT_KEPT.into());
            block.caveats.remove(name);
        }
    }
}

/// Whether a run may become part of a baseline at all.
fn fit(record: &Record) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::NotComparable(format!("{} cannot be promoted: {why}", name(record))))
    };
    if let Some(injected) = &record.injected {
        return refuse(format!("it was slowed down on purpose ({injected})"));
    }
    if record.build.is_unoptimised() {
        return refuse(format!(
            "it is of an unoptimised build (profile `{}`)",
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
        return refuse("its commit is unknown; build in a git checkout, so that the baseline can be built again".into());
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

/// Puts runs of one commit together, each with its sessions.
///
/// # Errors
/// When there are none, when one is given twice, or when they differ in anything that the numbers
/// depend on.
pub fn pool(records: &[Record]) -> Result<Record> {
    pooled(records, SESSION_GAP)
}

fn pooled(records: &[Record], gap: Duration) -> Result<Record> {
    let Some((first, others)) = records.split_first() else {
        return Err(Error::NotComparable("no records".into()));
    };
    let mut pooled = first.clone();
    for record in others {
        same(first, record)?;
        for session in &record.sessions {
            if pooled.sessions.iter().any(|known| known.id == session.id) {
                return Err(Error::NotComparable(format!("session {} is given twice", session.id)));
            }
        }
        pooled.sessions.extend(record.sessions.iter().cloned());
        pooled.not_selected.retain(|id| record.not_selected.contains(id));
        if pooled.build.binary_sha256 != record.build.binary_sha256 {
            pooled.build.binary_sha256 = None;
        }
        for case in &record.scenarios {
            match pooled.scenarios.iter_mut().find(|known| known.id == case.id) {
                Some(known) => add(known, case, record)?,
                None => pooled.scenarios.push(case.clone()),
            }
        }
    }
    join_sessions(&mut pooled, gap);
    Ok(pooled)
}

/// Whether the times of a run can be true: sessions are told apart by them.
fn timely(record: &Record) -> Result<()> {
    for session in &record.sessions {
        for (what, time) in [("start", Some(&session.started)), ("end", session.ended.as_ref())] {
            time.map_or(Ok(()), |time| machine::check_time(time)).map_err(|why| {
                Error::NotComparable(format!("the {what} of session {}: {why}", session.id))
            })?;
        }
    }
    Ok(())
}

/// Makes one session of those that began less than `gap` after the one before had ended: that they
/// are different processes is seen in their blocks, and that the machine has another day is not.
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

fn same(first: &Record, record: &Record) -> Result<()> {
    let differ = |what: String| {
        Err(Error::NotComparable(format!("{} and {}: {what}", name(first), name(record))))
    };
    let found = record_differences(first, record, &BTreeMap::new());
    if let Some(difference) =
        found.iter().find(|difference| difference.severity == Severity::Blocking)
    {
        return differ(said(difference));
    }
    if first.injected != record.injected {
        return differ("they were not slowed down on purpose alike".into());
    }
    let (before, now) = (&first.build, &record.build);
    if before.commit != now.commit {
        let commit = |commit: &Option<String>| commit.clone().unwrap_or_else(|| "unknown".into());
        return differ(format!(
            "commit is {} and {}; sessions are of one",
            commit(&before.commit),
            commit(&now.commit)
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

fn add(known: &mut Case, case: &Case, record: &Record) -> Result<()> {
    let differ = |what: &str| {
        Err(Error::NotComparable(format!("{}: {what} of `{}` differs", name(record), case.id)))
    };
    // What one run did not come to may be in another.
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
        return differ("the greedy output");
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

fn sessions_of(case: &Case) -> usize {
    let mut sessions: Vec<&str> = case.blocks.iter().map(|block| block.session.as_str()).collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions.len()
}

fn name(record: &Record) -> &str {
    record.sessions.first().map_or("a record without a session", |session| &session.id)
}

fn said(difference: &Difference) -> String {
    format!("{} was `{}` and is `{}`", difference.field, difference.old, difference.new)
}

/// Where the baseline of such a record lies: `<folder>/<machine class>/<model>.json`.
pub fn path(folder: &Path, class: &str, record: &Record) -> PathBuf {
    file(folder, class, &record.model, &record.settings)
}

fn file(folder: &Path, class: &str, model: &Model, settings: &Settings) -> PathBuf {
    folder.join(slug(class)).join(format!("{}.json", model_slug(model, settings)))
}

/// Where the anchor that stays lies, given where the rolling one does: `<model>.release.json`
/// beside `<model>.json`.
pub fn release_path(rolling: &Path) -> PathBuf {
    rolling.with_extension("release.json")
}

/// Where the calibration of a machine and a model lies: `<folder>/<machine
/// class>/<model>.calibration.json`.
pub fn calibration_path(folder: &Path, class: &str, model: &Model, settings: &Settings) -> PathBuf {
    file(folder, class, model, settings).with_extension("calibration.json")
}

/// The calibration of a record's machine and model, if there is one.
///
/// # Errors
/// When there is one and it cannot be read: to go on without would change verdicts unseen.
pub fn find_calibration(folder: &Path, record: &Record) -> Result<Option<Calibration>> {
    calibration_of(folder, &record.machine.class, &record.model, &record.settings)
}

/// The calibration of a machine class and a model, if there is one.
///
/// # Errors
/// As [`find_calibration`].
pub fn calibration_of(
    folder: &Path,
    class: &str,
    model: &Model,
    settings: &Settings,
) -> Result<Option<Calibration>> {
    let path = calibration_path(folder, class, model, settings);
    path.exists().then(|| Calibration::load(&path)).transpose()
}

/// The release that drift is told against, given where the baseline lies.
///
/// # Errors
/// When there is one and it cannot be read.
pub fn find_release(rolling: &Path) -> Result<Option<Record>> {
    let path = release_path(rolling);
    path.exists().then(|| Record::load(&path)).transpose()
}

/// The model, what its weights are held as, and the engine unless it is ours: what one baseline
/// file is about.
fn model_slug(model: &Model, settings: &Settings) -> String {
    let spec = model.spec.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut slug = slug(spec.trim_end_matches(".gguf"));
    let engine = self::slug(settings.engine.split(' ').next().unwrap_or_default());
    let quant = self::slug(&model.quant);
    for part in [quant, if engine == "native" { String::new() } else { engine }] {
        if !part.is_empty() && !slug.contains(&part) {
            slug = format!("{slug}-{part}");
        }
    }
    slug
}

/// A file name of any text: lower case, `-` for whatever might mean something to a shell or a file
/// system.
fn slug(text: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() || "._".contains(c) { c.to_ascii_lowercase() } else { '-' }
    };
    let slug: String = text.chars().take(80).map(keep).collect();
    let slug = slug.trim_matches(['-', '.']);
    if slug.is_empty() { "unnamed".into() } else { slug.into() }
}

/// The baseline for a run: that of its machine class, or of the class that `allow_class` names in
/// its place.
///
/// # Errors
/// When there is none: the message lists what there is, and in what the machine of the nearest one
/// differs.
pub fn find(
    folder: &Path,
    record: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Result<(PathBuf, Record)> {
    let class = &record.machine.class;
    for class in std::iter::once(class).chain(allow_class.get(class)) {
        let path = path(folder, class, record);
        if path.exists() {
            let baseline = Record::load(&path)?;
            return Ok((path, baseline));
        }
    }
    let stored = stored(folder);
    let wanted = path(folder, class, record);
    let mut message = format!("no baseline `{}`", wanted.display());
    if stored.is_empty() {
        message += &format!("; there is none in `{}`", folder.display());
    } else {
        let names: Vec<String> =
            stored.iter().map(|path| format!("`{}`", path.display())).collect();
        message += &format!("; there are {}", names.join(", "));
    }
    let distances = stored.iter().filter_map(|path| {
        let mut found = differences(&Record::load(path).ok()?, record, &BTreeMap::new());
        found.retain(|difference| difference.severity == Severity::Blocking);
        Some((found.len(), path, found))
    });
    if let Some((_, path, found)) = distances.min_by_key(|(distance, ..)| *distance) {
        let fields: Vec<String> = found.iter().map(said).collect();
        message += &format!("; nearest is `{}`: {}", path.display(), fields.join(", "));
    }
    message += "; make one with `candlemark promote` from runs of three sessions";
    Err(Error::NotComparable(message))
}

fn stored(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let files = entries(folder).flat_map(|class| entries(&class).collect::<Vec<_>>());
    let beside =
        |name: &str| [".release.json", ".calibration.json"].iter().any(|end| name.ends_with(end));
    let is_baseline = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".json") && !beside(&name)
    };
    let mut files: Vec<PathBuf> = files.filter(is_baseline).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::record;
    use crate::record::{Absence, Caveat};

    fn session(day: usize, speed: f64) -> Record {
        let mut one =
            record(&[("code/b1", &[("decode_tok_s", &[&[speed, speed + 1.0, speed - 1.0]])])]);
        let id = format!("2026070{day}T000000Z-0123456");
        one.sessions[0].id.clone_from(&id);
        one.sessions[0].started = format!("2026-07-0{day}T00:00:00Z");
        one.sessions[0].ended = Some(format!("2026-07-0{day}T00:10:00Z"));
        for block in &mut one.scenarios[0].blocks {
            block.session.clone_from(&id);
            block.samples.insert("decode_tok_s".into(), vec![speed; 5]);
            block.steps_s.push(vec![0.01; 15]);
        }
        one
    }

    fn refusal(change: fn(&mut [Record; 3])) -> String {
        let mut records = [session(1, 100.0), session(2, 101.0), session(3, 99.0)];
        change(&mut records);
        promote(&records, SESSION_GAP).unwrap_err().to_string()
    }

    #[test]
    fn three_sessions_become_a_baseline_without_raw_samples() {
        let baseline =
            promote(&[session(1, 100.0), session(2, 101.0), session(3, 99.0)], SESSION_GAP)
                .unwrap();
        assert_eq!((baseline.kind, baseline.sessions.len()), (RecordKind::Baseline, 3));
        let case = &baseline.scenarios[0];
        assert_eq!(
            case.values("decode_tok_s"),
            [100.0, 101.0, 99.0, 101.0, 102.0, 100.0, 99.0, 100.0, 98.0]
        );
        assert!(
            case.blocks.iter().all(|block| block.samples.is_empty() && block.steps_s.is_empty())
        );
        assert_eq!(case.blocks[8].session, "20260703T000000Z-0123456");
    }

    #[test]
    fn peaks_of_shared_processes_are_not_kept() {
        let mut records = [session(1, 100.0), session(2, 101.0), session(3, 99.0)];
        for (record, sharing) in
            records.iter_mut().zip(["fresh process", "shared_process", "fresh process"])
        {
            for block in &mut record.scenarios[0].blocks {
                for (name, bytes) in [("peak_rss_bytes", 2e9), ("peak_delta_bytes", 1e8)] {
                    block.values.insert(name.into(), Some(bytes));
                }
                block.notes.insert("peak_rss_bytes".into(), format!("high water, {sharing}"));
                if sharing == "shared_process" {
                    block.caveats.insert("peak_rss_bytes".into(), Caveat::SharedProcess);
                }
            }
        }
        let baseline = promote(&records, SESSION_GAP).unwrap();
        let case = &baseline.scenarios[0];
        assert_eq!(case.values("peak_rss_bytes"), [2e9; 6]);
        assert_eq!(case.values("peak_delta_bytes"), [1e8; 6]);
        assert_eq!(case.values("decode_tok_s").len(), 9, "rates are kept");
        assert_eq!(case.blocks[3].values["peak_rss_bytes"], None);
        assert_eq!(case.blocks[3].notes["peak_rss_bytes"], NOT_KEPT);
        assert!(case.blocks.iter().all(|block| block.caveats.is_empty()));
        assert_eq!(case.blocks[0].notes["peak_rss_bytes"], "high water, fresh process");
    }

    #[test]
    fn what_would_spoil_a_baseline_is_refused_by_name() {
        for (change, part) in [
            (
                (|r| r[1].injected = Some("decode:0.1".into())) as fn(&mut [Record; 3]),
                "slowed down on purpose",
            ),
            (|r| r[1].build.profile = "dev".into(), "unoptimised build"),
            (
                |r| r[1].scenarios[0].validity.failed.push("too fast".into()),
                "`code/b1` is INVALID: too fast",
            ),
            (
                |r| r[1].scenarios[0].absent = Some(Absence::new(AbsenceKind::Failed, "crash")),
                "`code/b1` failed: crash",
            ),
            (
                |r| r[1].machine.class = "x".into(),
                "machine class was `amd-epyc-2cpu-1f3a90c2` and is `x`",
            ),
            (|r| r[1].model.quant = "q8_0".into(), "model: quant was `f32` and is `q8_0`"),
            (|r| r[1].settings.generation.seed = 7, "settings: seed was `42` and is `7`"),
            (|r| r[1].build.commit = None, "its commit is unknown; build in a git checkout"),
            (
                // Twenty minutes after the first one had ended.
                |r| r[1].sessions[0].started = "2026-07-01T00:30:00Z".into(),
                "2 of 3 sessions",
            ),
            (
                |r| r[2].sessions[0].started = "yyy".into(),
                "the start of session 20260703T000000Z-0123456: `yyy` is not a time",
            ),
            (
                |r| r[1].sessions[0].ended = Some("2999-01-01T00:00:00Z".into()),
                "`2999-01-01T00:00:00Z` lies in the future",
            ),
            (|r| r[1].build.dirty = Some(true), "a tree with uncommitted changes"),
            (|r| r[1].scenarios[0].work.batch = 2, "the work of `code/b1` differs"),
            (|r| r[1].scenarios[0].output_sha256 = None, "the greedy output of `code/b1` differs"),
            (|r| r[1] = r[0].clone(), "session 20260701T000000Z-0123456 is given twice"),
            (
                |r| drop(r[1].scenarios[0].blocks.pop().and(r[2].scenarios[0].blocks.pop())),
                "has 7 blocks in 3 sessions",
            ),
        ] {
            let error = refusal(change);
            assert!(error.contains(part), "{error}");
        }
        let error = promote(&[session(1, 100.0)], SESSION_GAP).unwrap_err().to_string();
        assert!(
            error.contains(
                "1 of 3 sessions (those less than 60 min apart count as one); measure 2 more"
            ),
            "{error}"
        );
    }

    #[test]
    fn sessions_within_an_hour_are_one_in_whatever_order_they_are_given() {
        let at = |day, from: &str, to: &str| {
            let mut one = session(day, 100.0);
            one.sessions[0].started = format!("2026-07-01T{from}:00Z");
            one.sessions[0].ended = Some(format!("2026-07-01T{to}:00Z"));
            one
        };
        let records = [
            at(3, "03:10", "03:20"),
            at(1, "00:00", "00:10"),
            at(2, "01:09", "02:20"),
            at(4, "05:00", "05:10"),
        ];
        let pooled = pool(&records).unwrap();
        let ids: Vec<&str> = pooled.sessions.iter().map(|session| session.id.as_str()).collect();
        assert_eq!(ids, ["20260701T000000Z-0123456", "20260704T000000Z-0123456"]);
        assert_eq!(pooled.sessions[0].ended.as_deref(), Some("2026-07-01T03:20:00Z"));
        assert_eq!(sessions_of(&pooled.scenarios[0]), 2);
        assert_eq!(promote(&records, Duration::from_secs(60)).unwrap().sessions.len(), 4);
    }

    #[test]
    fn builds_of_unknown_commits_are_one_only_where_their_binaries_are() {
        let unknown = |day, sha256: &str| {
            let mut one = session(day, 100.0);
            one.build.commit = None;
            one.build.binary_sha256 = Some(sha256.into());
            one
        };
        assert!(pool(&[unknown(1, "a"), unknown(2, "a")]).is_ok());
        let error = pool(&[unknown(1, "a"), unknown(2, "b")]).unwrap_err().to_string();
        assert!(error.contains("their commit is unknown, and the binaries differ"), "{error}");
    }

    #[test]
    fn runs_that_were_slowed_down_alike_are_pooled_and_no_others() {
        let slowed = |day, injected: Option<&str>| Record {
            injected: injected.map(Into::into),
            ..session(day, 100.0)
        };
        let pooled = pool(&[slowed(1, Some("decode:25%")), slowed(2, Some("decode:25%"))]).unwrap();
        assert_eq!((pooled.sessions.len(), pooled.injected.as_deref()), (2, Some("decode:25%")));
        for other in [None, Some("ttft:25%")] {
            let error = pool(&[slowed(1, Some("decode:25%")), slowed(2, other)]).unwrap_err();
            assert!(error.to_string().contains("slowed down on purpose"), "{error}");
        }
    }

    #[test]
    fn what_one_run_did_not_come_to_is_taken_from_another() {
        let unreached = |day, kind| {
            let mut one = session(day, 100.0);
            one.scenarios[0].absent = Some(Absence::new(kind, "x"));
            one.scenarios[0].blocks.clear();
            one
        };
        let whole = session(1, 100.0);
        for kind in [AbsenceKind::SkippedTime, AbsenceKind::NotMeasuredYet] {
            for records in
                [[whole.clone(), unreached(2, kind)], [unreached(2, kind), whole.clone()]]
            {
                let pooled = pool(&records).unwrap();
                assert_eq!(pooled.scenarios, whole.scenarios, "{kind:?}");
                assert_eq!(pooled.sessions.len(), 2);
            }
        }
        let error = pool(&[whole, unreached(2, AbsenceKind::SkippedMemory)]).unwrap_err();
        assert!(error.to_string().contains("support of `code/b1` differs"), "{error}");
    }

    #[test]
    fn what_no_run_was_asked_for_is_what_they_were_not_asked_for_together() {
        let asked = |day, not_selected: &[&str]| {
            let mut one = session(day, 100.0);
            one.not_selected = not_selected.iter().map(|id| (*id).into()).collect();
            one
        };
        let (one, two) = (asked(1, &["grid/S1", "long/b1"]), asked(2, &["grid/S1", "short/b1"]));
        assert_eq!(pool(&[one.clone(), two.clone()]).unwrap().not_selected, ["grid/S1"]);
        let silent = asked(3, &[]);
        assert!(pool(&[one, silent.clone()]).unwrap().not_selected.is_empty());
        assert!(
            promote(&[two, silent, session(1, 100.0)], SESSION_GAP)
                .unwrap()
                .not_selected
                .is_empty()
        );
    }

    #[test]
    fn a_name_from_outside_stays_a_name() {
        for (text, expected) in [
            ("synthetic:mini", "synthetic-mini"),
            ("../../etc/passwd", "etc-passwd"),
            ("..", "unnamed"),
            ("a|b <c>\n\u{1b}[31m", "a-b--c----31m"),
        ] {
            assert_eq!(slug(text), expected);
        }
        let mut one = record(&[]);
        assert_eq!(path(Path::new("b"), "../x", &one), Path::new("b/x/synthetic-mini-f32.json"));
        one.model.spec = "/models/Qwen3-0.6B-Q8_0.gguf".into();
        one.model.quant = "q8_0".into();
        one.settings.engine = "candle".into();
        assert_eq!(path(Path::new("b"), "x", &one), Path::new("b/x/qwen3-0.6b-q8_0-candle.json"));
    }

    #[test]
    fn no_baseline_lists_what_there_is_and_how_the_nearest_differs() {
        let folder = tempfile::tempdir().unwrap();
        let run = session(1, 100.0);
        let error = find(folder.path(), &run, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("there is none in"), "{error}");
        let mut other = run.clone();
        other.machine.class = "other".into();
        other.machine.fields.insert("cpu".into(), "Xeon".into());
        other.save(&path(folder.path(), "other", &other)).unwrap();
        let error = find(folder.path(), &run, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("machine: cpu was `Xeon` and is `EPYC`"), "{error}");
        let alias = [(run.machine.class.clone(), "other".to_owned())].into();
        assert_eq!(find(folder.path(), &run, &alias).unwrap().1.machine.class, "other");
        run.save(&path(folder.path(), &run.machine.class, &run)).unwrap();
        assert_eq!(find(folder.path(), &run, &BTreeMap::new()).unwrap().1, run);
    }
}
