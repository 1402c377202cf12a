//! Rounds of further blocks without a machine, and sessions less than an hour apart.

use std::fs;

use crate::compare::{Outcome, Policy, ReferenceData, judge};
use crate::inputs::record;
use crate::record::{Absence, AbsenceKind};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn decide(run: &Record) -> Judgement {
    let baseline = record("base");
    let reference = ReferenceData { baseline: &baseline, release: None, calibration: None };
    judge(reference, run, &Policy { looks: PLANNED_LOOKS, ..Policy::default() })
}

fn measure_uninterrupted(
    first: &Record,
    budget: Duration,
    more: &mut dyn FnMut(&[Scenario], usize) -> anyhow::Result<Record>,
) -> anyhow::Result<Record> {
    measure(first, budget, &decide, more, &AtomicBool::new(false))
}

/// A record of these scenarios with this decode rate, begun a minute after the run.
fn further(scenarios: &[Scenario], blocks: usize, decode_tok_s: f64) -> Record {
    let mut record = record("same");
    record.sessions[0].id = "20260704T120600Z-0123456".into();
    record.sessions[0].started = "2026-07-04T12:06:00Z".into();
    record.scenarios.retain(|case| scenarios.iter().any(|scenario| scenario.id == case.id));
    for case in &mut record.scenarios {
        let mut block = case.blocks[0].clone();
        block.session.clone_from(&record.sessions[0].id);
        block.values.insert("decode_tok_s".into(), Some(decode_tok_s));
        case.blocks = vec![block; blocks];
    }
    record
}

#[test]
fn rounds_measure_only_open_scenarios_and_end_when_all_is_decided() {
    for (speed, outcome) in [(40.0, Outcome::Pass), (30.0, Outcome::Regression)] {
        let mut rounds = Vec::new();
        let more = &mut |scenarios: &[Scenario], blocks| {
            let ids: Vec<&str> = scenarios.iter().map(|scenario| scenario.id.as_str()).collect();
            rounds.push((ids.join(" "), blocks));
            Ok(further(scenarios, blocks, speed))
        };
        let run = measure_uninterrupted(&record("noisy"), HOUR, more).unwrap();
        assert_eq!(decide(&run).outcome, outcome);
        assert!(rounds.iter().all(|(ids, _)| ids == "code/b1"), "{rounds:?}");
        let blocks: Vec<usize> = rounds.iter().map(|(_, blocks)| *blocks).collect();
        assert!(!blocks.is_empty() && ROUNDS.starts_with(&blocks), "{blocks:?}");
        let counts = run.scenarios.iter().map(|case| case.blocks.len());
        assert_eq!(counts.collect::<Vec<_>>(), [3 + blocks.last().unwrap(), 3]);
    }
}

#[test]
fn decided_scenarios_or_too_little_time_measure_nothing() {
    let never = &mut |_: &[Scenario], _| -> anyhow::Result<Record> { panic!("nothing to measure") };
    let decided = record("same");
    assert_eq!(measure_uninterrupted(&decided, HOUR, never).unwrap(), decided);
    let noisy = record("noisy");
    let short = Duration::from_millis(400); // A process takes half a second.
    assert_eq!(measure_uninterrupted(&noisy, short, never).unwrap(), noisy);
}

#[test]
fn rounds_end_after_the_last_one() {
    let mut blocks = Vec::new();
    let more = &mut |scenarios: &[Scenario], target| {
        blocks.push(target);
        let mut record = further(scenarios, target, 40.0);
        for (i, block) in record.scenarios[0].blocks.iter_mut().enumerate() {
            let odd = if i % 2 == 0 { 20.0 } else { 80.0 };
            block.values.insert("decode_tok_s".into(), Some(odd));
        }
        Ok(record)
    };
    let run = measure_uninterrupted(&record("noisy"), HOUR, more).unwrap();
    assert_eq!(decide(&run).outcome, Outcome::Undecided);
    assert_eq!(blocks, ROUNDS);
}

#[test]
fn an_interruption_ends_the_round_and_keeps_its_blocks() {
    let stop = AtomicBool::new(false);
    let mut rounds = 0;
    let more = &mut |scenarios: &[Scenario], _| {
        rounds += 1;
        stop.store(true, Ordering::Relaxed);
        Ok(further(scenarios, 1, 40.0)) // One of two was measured by then.
    };
    let run = measure(&record("noisy"), HOUR, &decide, more, &stop).unwrap();
    let counts: Vec<usize> = run.scenarios.iter().map(|case| case.blocks.len()).collect();
    assert_eq!((rounds, counts), (1, vec![4, 3]));
}

#[test]
fn a_failed_scenario_is_an_error_with_its_id() {
    let more = &mut |scenarios: &[Scenario], _| {
        let mut record = further(scenarios, 1, 40.0);
        record.scenarios[0].blocks.clear();
        record.scenarios[0].absent = Some(Absence::new(AbsenceKind::Failed, "out of memory"));
        Ok(record)
    };
    let error = measure_uninterrupted(&record("noisy"), HOUR, more).unwrap_err().to_string();
    assert_eq!(error, "cannot measure `code/b1` (failed: out of memory)");
}

#[test]
fn sessions_within_an_hour_are_one() {
    let first = record("noisy");
    let scenarios = workload::select(&["code/b1".into()]).unwrap();
    let mut more = further(&scenarios, 2, 40.0);
    let sessions = |run: &Record| {
        let mut ids: Vec<String> =
            run.scenarios[0].blocks.iter().map(|block| block.session.clone()).collect();
        ids.dedup();
        ids.len()
    };
    assert_eq!(sessions(&merge(&first, &more).unwrap()), 1);
    more.sessions[0].started = "2026-07-04T13:04:59Z".into();
    assert_eq!(sessions(&merge(&first, &more).unwrap()), 1);
    more.sessions[0].started = "2026-07-04T13:05:00Z".into();
    assert_eq!(sessions(&merge(&first, &more).unwrap()), 2);
    more.build.commit = Some("f".repeat(40));
    let error = merge(&first, &more).unwrap_err().to_string();
    assert!(error.contains("commit is 0123456789abcdef"), "{error}");
}

#[test]
fn a_further_record_gets_an_unused_name() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record.json");
    for name in ["record.further.json", "record.further-2.json", "record.further-3.json"] {
        let (path, _) = unused_path(&record).unwrap();
        assert_eq!(path.file_name().unwrap(), name);
        fs::write(path, "").unwrap();
    }
}
