//! Pairs with missing data.

use super::*;
use crate::record::pair::{Arm, Divergence, PairBlock, PairKind, PairTurns, Round};

fn paired(cases: Vec<PairCase>, blocks: usize) -> PairRecord {
    let arm = Arm::default;
    let record = crate::compare::tests::record(&[]);
    PairRecord {
        schema: crate::record::pair::SCHEMA,
        kind: PairKind::Pair,
        session: record.sessions.into_iter().next().unwrap(),
        seed: 1,
        machine: record.machine,
        base: arm(),
        candidate: arm(),
        duet: false,
        output_change: None,
        layout: Default::default(),
        kernels: None,
        ended: Ended::Budget,
        blocks: vec![PairBlock::default(); blocks],
        scenarios: cases,
    }
}

fn turns(block: usize, values: Vec<f64>) -> PairTurns {
    let values = [("decode_tok_s".to_owned(), values)].into();
    let rounds = vec![Round { order: "ABBA".into(), values }];
    PairTurns { block, rounds, ..PairTurns::default() }
}

#[test]
fn a_scenario_without_a_turn_is_undecided_and_has_no_metrics() {
    let case = PairCase { id: "code/b1".into(), ..PairCase::default() };
    let judgement = judge(&paired(vec![case], 0), &Policy::default());
    assert_eq!(judgement.findings.len(), 1);
    assert!(judgement.findings[0].metric.is_none());
    assert_eq!(judgement.findings[0].verdict, Verdict::Undecided(Why::OutOfTime));
    assert_eq!(judgement.outcome, crate::compare::Outcome::Undecided);
    assert_eq!(judgement.pair.unwrap().open, ["code/b1"]);
}

#[test]
fn different_outputs_fail_even_if_no_turn_was_taken() {
    let divergence = Divergence { sequence: 0, token: 1, base: Some(1), candidate: Some(7) };
    let case =
        PairCase { id: "code/b1".into(), divergence: Some(divergence), ..PairCase::default() };
    let mut paired = paired(vec![case], 1);
    let judgement = judge(&paired, &Policy::default());
    let place = "token 2 of sequence 1 was 1 and is 7".to_owned();
    assert_eq!(judgement.findings[0].verdict, Verdict::OutputChanged(Some(place)));
    assert_eq!(judgement.outcome, Outcome::Failed);
    assert!(judgement.pair.unwrap().open.is_empty(), "nothing is left to measure");
    paired.output_change = Some("meant".into());
    assert_eq!(judge(&paired, &Policy::default()).outcome, Outcome::Undecided);
}

#[test]
fn a_block_that_lacks_an_arm_is_left_out_of_all_lists() {
    let work = crate::record::Work { batch: 1, new_tokens: 8, ..Default::default() };
    let side = Side { work: Some(work), ..Side::default() };
    let blocks = vec![
        turns(0, vec![100.0, 90.0, 90.0, 100.0]),
        turns(1, vec![50.0, 0.0, 0.0, 50.0]),
        turns(2, vec![200.0, 180.0, 180.0, 200.0]),
    ];
    let (base, candidate) = (side.clone(), side);
    let case = PairCase { id: "code/b1".into(), base, candidate, blocks, divergence: None };
    let judgement = judge(&paired(vec![case], 3), &Policy::default());
    let finding = &judgement.findings[0];
    let rounded: Vec<f64> = finding.base_blocks.iter().map(|value| value.round()).collect();
    assert_eq!((rounded, finding.changes.len()), (vec![100.0, 200.0], 2));
}

#[test]
fn a_metric_that_the_base_reported_in_some_blocks_has_a_value() {
    let work = crate::record::Work { batch: 1, new_tokens: 8, ..Default::default() };
    let side = Side { work: Some(work), ..Side::default() };
    let unread = [("decode_tok_s".to_owned(), "a turn did not report it".to_owned())];
    let blocks = vec![turns(0, vec![100.0; 4]), turns(1, vec![100.0; 2])];
    let base = Side { no_value: unread.clone().into(), ..side.clone() };
    let mut case =
        PairCase { id: "code/b1".into(), base, candidate: side, blocks, divergence: None };
    let verdict = |case: &PairCase| {
        let judgement = judge(&paired(vec![case.clone()], 2), &Policy::default());
        judgement.findings[0].verdict.clone()
    };
    assert_eq!(verdict(&case), Verdict::Undecided(Why::TooFewBlocks));
    case.candidate.no_value = unread.into();
    assert_eq!(verdict(&case), Verdict::Missing("a turn did not report it".into()));
    case.blocks.remove(0);
    let of_decode = judge(&paired(vec![case], 2), &Policy::default()).findings;
    assert!(of_decode.iter().all(|one| one.metric.unwrap().name != "decode_tok_s"), "none has it");
}
