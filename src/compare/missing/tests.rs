//! The rule for missing data on every combination of states, in both modes, and the tables of
//! `docs/gate.md`, which have to agree with it.

use super::*;
use crate::compare::tests::record;
use crate::compare::{Finding, Judgement, Outcome, judge, paired};
use crate::record::pair::{
    Arm, Ended, PairBlock, PairCase, PairKind, PairRecord, PairTurns, Round, SCHEMA, Side,
};
use crate::record::{Record, Work};

const DOCS: &str = include_str!("../../../docs/gate.md");

/// The scenario with missing data; another one passes beside it.
const ID: &str = "x/b1";

const WHY: &str = "failed: a text that decides nothing";

/// What a side has of the scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Has {
    Valid,
    Gone,
    Absent(AbsenceKind),
    NotSelected,
    Invalid,
}

use AbsenceKind::*;
use Has::*;

const KINDS: [AbsenceKind; 6] =
    [Unsupported, Unknown, SkippedTime, SkippedMemory, Failed, NotMeasuredYet];

/// A line of the table of scenarios: its name, what the run or candidate has, and the cells.
type TableLine = (&'static str, &'static [Has], [&'static str; 5]);

const CUT: &str = "UNDECIDED (interrupted), 3";
const F5: &str = "FAILED, 5";
const I5: &str = "INVALID, 5";
const M4: &str = "MISSING, 4";
const N4: &str = "NOT COMPARABLE, 4";
const NEW: &str = "NEW, 0";
const NO: &str = "nothing, 0";
const NS: &str = "NOT SELECTED, 0";
const TIME: &str = "UNDECIDED (out of time), 3";

#[rustfmt::skip]
const SCENARIOS: &[TableLine] = &[
    ("valid", &[Valid], ["judged", NEW, N4, F5, I5]),
    ("unknown to the build", &[Gone, Absent(Unknown)], [M4, NO, N4, F5, I5]),
    ("unsupported", &[Absent(Unsupported)], [M4, NO, N4, F5, I5]),
    ("skipped for memory", &[Absent(SkippedMemory)], [M4, NO, N4, F5, I5]),
    (REMOVED, THESE, ["REMOVED, 0", NO, N4, F5, I5]),
    ("skipped for time", &[Absent(SkippedTime)], [TIME, NEW, N4, F5, I5]),
    ("not measured yet", &[Absent(NotMeasuredYet)], [CUT, NEW, N4, F5, I5]),
    ("not selected", &[NotSelected], [NS, NO, NS, "-", "-"]),
    ("failed", &[Absent(Failed)], [F5, F5, F5, F5, F5]),
    ("INVALID", &[Invalid], [I5, I5, I5, F5, I5]),
];

const THESE: &[Has] = &[Gone, Absent(Unknown), Absent(Unsupported), Absent(SkippedMemory)];
const REMOVED: &str = "one of these three, listed as removed";

/// What a side has of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Some,
    None,
    Zero,
}

#[rustfmt::skip]
const METRICS: &[(&str, Value, [&str; 3])] = &[
    ("has a value", Value::Some, ["judged", NEW, N4]),
    ("has none", Value::None, [M4, NO, N4]),
    ("has one that is no positive number", Value::Zero, [I5, I5, I5]),
];

/// The lines of the documentation's table with this column, without its head.
fn documented(column: &str) -> Vec<&'static str> {
    let lines = DOCS.lines().skip_while(|line| !(line.starts_with('|') && line.contains(column)));
    lines.skip(2).take_while(|line| line.starts_with('|')).collect()
}

fn line(name: &str, cells: &[&str]) -> String {
    format!("| {name} | {} |", cells.join(" | "))
}

#[test]
fn the_documentation_has_the_same_tables() {
    let scenarios: Vec<String> =
        SCENARIOS.iter().map(|(name, _, cells)| line(name, cells)).collect();
    assert_eq!(documented("base failed (`pair`)"), scenarios);
    let metrics: Vec<String> = METRICS.iter().map(|(name, _, cells)| line(name, cells)).collect();
    assert_eq!(documented("the base has a value"), metrics);
}

#[test]
fn every_combination_of_scenarios_has_its_verdict_and_its_exit_status() {
    let every: Vec<Has> = KINDS.iter().map(|kind| Absent(*kind)).chain([Gone]).collect();
    let in_pair = [Unknown, Unsupported, SkippedMemory, SkippedTime, NotMeasuredYet].map(Absent);
    for (name, candidates, [valid, absent, invalid, failed_in_pair, invalid_in_pair]) in SCENARIOS {
        let policy = policy(*name == REMOVED);
        for candidate in *candidates {
            let stored = |base: Has, expected: &str| {
                let found = cell(&judge(&stored(base), &stored(*candidate), &policy));
                assert_eq!(found, expected, "check, {name}: {base:?}, {candidate:?}");
            };
            stored(Valid, valid);
            every.iter().for_each(|base| stored(*base, absent));
            stored(Invalid, invalid);
            if *candidate == NotSelected {
                continue; // Both builds of a pair have the same selection.
            }
            let paired = |base: Has, expected: &str| {
                let found = cell(&paired::judge(&pair(base, *candidate), &policy));
                assert_eq!(found, expected, "pair, {name}: {base:?}, {candidate:?}");
            };
            paired(Valid, valid);
            in_pair.iter().for_each(|base| paired(*base, absent));
            paired(Absent(Failed), failed_in_pair);
            paired(Invalid, invalid_in_pair);
        }
    }
}

#[test]
fn every_combination_of_metrics_has_its_verdict_and_its_exit_status() {
    for (name, candidate, [some, none, zero]) in METRICS {
        for (base, expected) in [(Value::Some, some), (Value::None, none), (Value::Zero, zero)] {
            let [before, now] = [base, *candidate].map(|value| with_value(stored(Valid), value));
            let found = cell_of(&judge(&before, &now, &Policy::default()), Some("decode_tok_s"));
            assert_eq!(found, *expected, "check, {name}: {base:?}");
            // In a pair, a zero makes the whole scenario INVALID.
            if base == Value::Zero || *candidate == Value::Zero {
                continue;
            }
            let pair = pair_of_values(base, *candidate);
            let found = cell_of(&paired::judge(&pair, &Policy::default()), Some("decode_tok_s"));
            assert_eq!(found, *expected, "pair, {name}: {base:?}");
        }
    }
}

#[test]
fn a_missing_metric_quotes_the_note_of_the_null() {
    let missing = Verdict::Missing("no counter".into());
    let now = with_value(stored(Valid), Value::None);
    let judgement = judge(&stored(Valid), &now, &Policy::default());
    assert!(judgement.findings.iter().any(|finding| finding.verdict == missing));
    let pair = pair_of_values(Value::Some, Value::None);
    let judgement = paired::judge(&pair, &Policy::default());
    assert!(judgement.findings.iter().any(|finding| finding.verdict == missing));
}

#[test]
fn an_interrupted_run_is_undecided_and_one_that_compared_nothing_is_not_comparable() {
    let base = stored(Valid);
    let mut now = base.clone();
    for case in &mut now.scenarios {
        case.blocks.clear();
        case.absent = Some(Absence::not_measured_yet());
    }
    assert_eq!(status(&judge(&base, &now, &Policy::default())), 3);
    now.not_selected = now.scenarios.drain(..).map(|case| case.id).collect();
    assert_eq!(status(&judge(&base, &now, &Policy::default())), 4);
}

fn policy(removed: bool) -> Policy {
    let entry = removed.then(|| (ID.to_owned(), "merged".to_owned()));
    Policy { removed: entry.into_iter().collect(), ..Policy::default() }
}

/// The exit status of a verdict.
fn status(judgement: &Judgement) -> u8 {
    match judgement.outcome {
        Outcome::Pass => 0,
        Outcome::Regression => 1,
        Outcome::Undecided => 3,
        Outcome::NotComparable => 4,
        Outcome::Failed => 5,
    }
}

/// The verdict on the scenario as a whole, and the exit status.
fn cell(judgement: &Judgement) -> String {
    cell_of(judgement, None)
}

/// The verdict on the scenario, or on one metric of it.
fn cell_of(judgement: &Judgement, metric: Option<&str>) -> String {
    let of_it = |finding: &&Finding| {
        let its = finding.metric.map(|metric| metric.name);
        finding.scenario == ID && (metric.is_none() || its.is_none() || its == metric)
    };
    let found: Vec<&Finding> = judgement.findings.iter().filter(of_it).collect();
    let word = match found.first().map(|finding| &finding.verdict) {
        _ if !found.is_empty() && found.iter().all(|finding| finding.change.is_some()) => {
            return "judged".into();
        }
        None => "nothing",
        Some(Verdict::New) => "NEW",
        Some(Verdict::Missing(_)) => "MISSING",
        Some(Verdict::Removed(_)) => "REMOVED",
        Some(Verdict::NotSelected) => "NOT SELECTED",
        Some(Verdict::Undecided(Why::OutOfTime)) => "UNDECIDED (out of time)",
        Some(Verdict::Undecided(Why::Interrupted)) => "UNDECIDED (interrupted)",
        Some(Verdict::NotComparable(_)) => "NOT COMPARABLE",
        Some(Verdict::Invalid(_)) => "INVALID",
        Some(Verdict::Failed(_)) => "FAILED",
        Some(other) => panic!("{other:?}"),
    };
    assert!(found.len() < 2, "{found:?}");
    format!("{word}, {}", status(judgement))
}

/// A record of two scenarios, with this state of the second.
fn stored(has: Has) -> Record {
    const STEADY: &[&[f64]] =
        &[&[100.0, 101.0, 99.0], &[100.5, 99.5, 100.0], &[99.8, 100.2, 100.1]];
    let rates: &[(&str, &[&[f64]])] = &[("decode_tok_s", STEADY)];
    let mut record = record(&[("y/b1", rates), (ID, rates)]);
    let case = &mut record.scenarios[1];
    match has {
        Valid => {}
        Invalid => case.validity.failed.push("too fast".into()),
        Absent(kind) => {
            case.blocks.clear();
            case.absent = Some(Absence::new(kind, WHY));
        }
        Gone => drop(record.scenarios.pop()),
        NotSelected => {
            record.scenarios.pop();
            record.not_selected.push(ID.into());
        }
    }
    record
}

/// The record with another decode rate in the scenario.
fn with_value(mut record: Record, value: Value) -> Record {
    for block in &mut record.scenarios[1].blocks {
        match value {
            Value::Some => {}
            Value::Zero => drop(block.values.insert("decode_tok_s".into(), Some(0.0))),
            Value::None => {
                block.values.insert("decode_tok_s".into(), None);
                block.notes.insert("decode_tok_s".into(), "no counter".into());
            }
        }
    }
    record
}

/// A scenario that both builds measured in eight blocks, and that passes.
fn measured(id: &str) -> PairCase {
    let work = Work { batch: 1, prompt_tokens: vec![16], new_tokens: 8, ..Work::default() };
    let values = [("decode_tok_s", 100.0), ("ttft_s", 0.1)];
    let values = values.map(|(metric, value)| (metric.to_owned(), vec![value; 4]));
    let rounds = vec![Round { order: "ABBA".into(), values: values.into() }];
    let once = [("peak_rss_bytes".to_owned(), [('A', 1e8), ('B', 1e8)].into())].into();
    let turns = PairTurns { rounds, once, ..PairTurns::default() };
    let side = Side { work: Some(work), ..Side::default() };
    PairCase {
        id: id.into(),
        base: side.clone(),
        candidate: side,
        divergence: None,
        blocks: (0..8).map(|block| PairTurns { block, ..turns.clone() }).collect(),
    }
}

fn pair_record(case: PairCase, ended: Ended) -> PairRecord {
    let of = record(&[]);
    PairRecord {
        schema: SCHEMA,
        kind: PairKind::Pair,
        session: of.sessions.into_iter().next().unwrap(),
        seed: 1,
        machine: of.machine,
        base: Arm::default(),
        candidate: Arm::default(),
        duet: false,
        output_change: None,
        layout: Default::default(),
        kernels: None,
        ended,
        blocks: vec![PairBlock::default(); 8],
        scenarios: vec![measured("y/b1"), case],
    }
}

/// A pair with these states of the two sides. A scenario that was skipped for time or interrupted
/// had no turn at all.
fn pair(base: Has, candidate: Has) -> PairRecord {
    let mut case = measured(ID);
    let ended = match candidate {
        Absent(SkippedTime) => Ended::Budget,
        Absent(NotMeasuredYet) => Ended::Interrupted,
        _ => Ended::Decided,
    };
    if ended != Ended::Decided {
        case = PairCase { id: ID.into(), ..PairCase::default() };
    }
    let put = |side: &mut Side, has: Has| match has {
        Valid => {}
        Invalid => side.failed.push("too fast".into()),
        Absent(kind) => side.absent = Some(Absence::new(kind, WHY)),
        Gone => side.absent = Some(Absence::new(Unknown, WHY)),
        NotSelected => unreachable!("both builds have the same selection"),
    };
    put(&mut case.base, base);
    put(&mut case.candidate, if ended == Ended::Decided { candidate } else { Valid });
    pair_record(case, ended)
}

/// A pair whose sides report these decode rates.
fn pair_of_values(base: Value, candidate: Value) -> PairRecord {
    let mut case = measured(ID);
    let reported = [base, candidate].iter().filter(|value| **value == Value::Some).count();
    for turns in &mut case.blocks {
        turns.rounds[0].values.insert("decode_tok_s".into(), vec![100.0; 2 * reported]);
    }
    for (side, value) in [(&mut case.base, base), (&mut case.candidate, candidate)] {
        if value == Value::None {
            side.no_value.insert("decode_tok_s".into(), "no counter".into());
        }
    }
    pair_record(case, Ended::Decided)
}
