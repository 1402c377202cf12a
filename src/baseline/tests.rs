//! Promotion, combination and lookup of baselines.

use std::collections::BTreeMap;
use std::path::Path;

use super::store::slug;
use super::*;
use crate::compare::tests::record;
use crate::machine::SESSION_GAP;
use crate::record::{Absence, AbsenceKind, Caveat};

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
        promote(&[session(1, 100.0), session(2, 101.0), session(3, 99.0)], SESSION_GAP).unwrap();
    assert_eq!((baseline.kind, baseline.sessions.len()), (RecordKind::Baseline, 3));
    let case = &baseline.scenarios[0];
    assert_eq!(
        case.values("decode_tok_s"),
        [100.0, 101.0, 99.0, 101.0, 102.0, 100.0, 99.0, 100.0, 98.0]
    );
    assert!(case.blocks.iter().all(|block| block.samples.is_empty() && block.steps_s.is_empty()));
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
fn unsuitable_runs_are_refused_with_the_reason() {
    for (change, part) in [
        (
            (|r| r[1].injected = Some("decode:0.1".into())) as fn(&mut [Record; 3]),
            "slowed down on purpose",
        ),
        (|r| r[1].build.profile = "dev".into(), "unoptimized build"),
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
        (|r| r[1].build.rustc = "rustc 1.80.0".into(), "all sessions must be of one build"),
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
fn sessions_within_an_hour_are_joined_in_any_order() {
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
    let combined = combine(&records).unwrap();
    let ids: Vec<&str> = combined.sessions.iter().map(|session| session.id.as_str()).collect();
    assert_eq!(ids, ["20260701T000000Z-0123456", "20260704T000000Z-0123456"]);
    assert_eq!(combined.sessions[0].ended.as_deref(), Some("2026-07-01T03:20:00Z"));
    assert_eq!(session_count(&combined.scenarios[0]), 2);
    assert_eq!(promote(&records, Duration::from_secs(60)).unwrap().sessions.len(), 4);
}

#[test]
fn runs_of_unknown_commits_are_combined_only_if_their_binaries_are_equal() {
    let unknown = |day, sha256: &str| {
        let mut one = session(day, 100.0);
        one.build.commit = None;
        one.build.binary_sha256 = Some(sha256.into());
        one
    };
    assert!(combine(&[unknown(1, "a"), unknown(2, "a")]).is_ok());
    let error = combine(&[unknown(1, "a"), unknown(2, "b")]).unwrap_err().to_string();
    assert!(error.contains("their commit is unknown, and the binaries differ"), "{error}");
}

#[test]
fn runs_with_the_same_slowdown_on_purpose_are_combined() {
    let slowed = |day, injected: Option<&str>| Record {
        injected: injected.map(Into::into),
        ..session(day, 100.0)
    };
    let combined =
        combine(&[slowed(1, Some("decode:25%")), slowed(2, Some("decode:25%"))]).unwrap();
    assert_eq!((combined.sessions.len(), combined.injected.as_deref()), (2, Some("decode:25%")));
    for other in [None, Some("ttft:25%")] {
        let error = combine(&[slowed(1, Some("decode:25%")), slowed(2, other)]).unwrap_err();
        assert!(error.to_string().contains("slowed down on purpose"), "{error}");
    }
}

#[test]
fn a_scenario_that_one_run_did_not_reach_is_taken_from_another() {
    let unreached = |day, kind| {
        let mut one = session(day, 100.0);
        one.scenarios[0].absent = Some(Absence::new(kind, "x"));
        one.scenarios[0].blocks.clear();
        one
    };
    let whole = session(1, 100.0);
    for kind in [AbsenceKind::SkippedTime, AbsenceKind::NotMeasuredYet] {
        for records in [[whole.clone(), unreached(2, kind)], [unreached(2, kind), whole.clone()]] {
            let combined = combine(&records).unwrap();
            assert_eq!(combined.scenarios, whole.scenarios, "{kind:?}");
            assert_eq!(combined.sessions.len(), 2);
        }
    }
    let error = combine(&[whole, unreached(2, AbsenceKind::SkippedMemory)]).unwrap_err();
    assert!(error.to_string().contains("support of `code/b1` differs"), "{error}");
}

#[test]
fn a_combined_record_lists_only_scenarios_that_no_run_selected() {
    let asked = |day, not_selected: &[&str]| {
        let mut one = session(day, 100.0);
        one.not_selected = not_selected.iter().map(|id| (*id).into()).collect();
        one
    };
    let (one, two) = (asked(1, &["grid/S1", "long/b1"]), asked(2, &["grid/S1", "short/b1"]));
    assert_eq!(combine(&[one.clone(), two.clone()]).unwrap().not_selected, ["grid/S1"]);
    let silent = asked(3, &[]);
    assert!(combine(&[one, silent.clone()]).unwrap().not_selected.is_empty());
    assert!(
        promote(&[two, silent, session(1, 100.0)], SESSION_GAP).unwrap().not_selected.is_empty()
    );
}

#[test]
fn names_from_outside_become_safe_file_names() {
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
fn the_error_lists_stored_baselines_and_how_the_nearest_differs() {
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
    let way_out = format!("allow it by `{} = \"other\"` under", run.machine.class);
    assert!(error.contains(&way_out), "{error}");
    let alias = [(run.machine.class.clone(), "other".to_owned())].into();
    assert_eq!(find(folder.path(), &run, &alias).unwrap().1.machine.class, "other");
    run.save(&path(folder.path(), &run.machine.class, &run)).unwrap();
    assert_eq!(find(folder.path(), &run, &BTreeMap::new()).unwrap().1, run);
}

#[test]
fn a_baseline_of_an_earlier_version_is_found_by_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let run = session(1, 100.0);
    let stored = |class: &str, cpu: &str| {
        let mut stored = run.clone();
        stored.machine.class = class.into();
        stored.machine.fields.insert("cpu".into(), cpu.into());
        // A class of an earlier version had the compiler in it.
        stored.machine.fields.insert("rustc".into(), "rustc 1.80.0".into());
        stored.save(&path(folder.path(), class, &stored)).unwrap();
    };
    stored("a-xeon", "Xeon");
    assert!(find(folder.path(), &run, &BTreeMap::new()).is_err());
    stored("epyc-before", "EPYC");
    let (path, found) = find(folder.path(), &run, &BTreeMap::new()).unwrap();
    assert!(path.starts_with(folder.path().join("epyc-before")), "{}", path.display());
    let differences = crate::compare::differences(&found, &run, &BTreeMap::new());
    assert!(differences.iter().all(|one| one.severity == crate::compare::Severity::Informative));
}
