//! Comparison of literal numbers; whole documents are golden files of the command line's tests.

use super::*;
use crate::compare::tests::record;
use crate::record::{Absence, AbsenceKind, Case};
use crate::report::comparison::aspects::ChangeKind;
use crate::report::comparison::table::{Status, StatusKind};
use crate::workload::Task;

type Values<'a> = &'a [(&'a str, &'a [&'a [f64]])];

fn beside(old: &[(&str, Values)], new: &[(&str, Values)]) -> Vec<(String, Record)> {
    vec![("old".into(), record(old)), ("new".into(), record(new))]
}

fn is(kind: StatusKind) -> Status {
    Status { kind, why: None }
}

fn because(kind: StatusKind, why: &str) -> Status {
    Status { kind, why: Some(why.into()) }
}

fn of<'a>(comparison: &'a Comparison, measure: &str) -> &'a Aspect {
    comparison.aspects.iter().find(|line| line.measure == measure).unwrap()
}

#[test]
fn ratios_are_combined_and_compared_with_the_spread() {
    let noisy: Values = &[("decode_tok_s", &[&[100.0, 110.0, 90.0]])];
    let steady: Values = &[("decode_tok_s", &[&[100.0, 101.0, 99.0]])];
    let single: Values = &[("decode_tok_s", &[&[100.0]])];
    let less: Values = &[("decode_tok_s", &[&[80.0, 81.0, 79.0]])];
    let more: Values = &[("decode_tok_s", &[&[125.0, 126.0, 124.0]])];
    let slightly: Values = &[("decode_tok_s", &[&[101.0, 102.0, 100.0]])];
    let old =
        [("a/b1", steady), ("b/b1", steady), ("c/b1", noisy), ("d/b1", single), ("e/b1", steady)];
    let new = [("a/b1", less), ("b/b1", more), ("c/b1", slightly), ("d/b1", less)];
    let comparison = compare(&beside(&old, &new));
    let line = of(&comparison, "decode_tok_s");
    assert_eq!((line.better, line.worse, line.within_noise, line.cannot_tell), (1, 1, 1, 1));
    assert_eq!((line.scenarios, line.missing, line.left_out), (4, 1, 0));
    let mean = (0.8_f64 * 1.25 * 1.01 * 0.8).powf(0.25);
    assert!((line.geometric_mean.unwrap() - mean).abs() < 1e-12);
    let [least, most] = line.range.unwrap();
    assert!((least - 0.8).abs() < 1e-12 && (most - 1.25).abs() < 1e-12);
    let changes: Vec<(&str, Option<bool>)> =
        line.changes.iter().map(|one| (one.scenario.as_str(), one.beyond_spread)).collect();
    let expected =
        [("a/b1", Some(true)), ("b/b1", Some(true)), ("c/b1", Some(false)), ("d/b1", None)];
    assert_eq!(changes, expected);
}

#[test]
fn metrics_that_are_often_zero_have_differences() {
    let none: Values = &[("error_rate", &[&[0.0, 0.0]]), ("step_cv", &[&[0.0, 0.0]])];
    let some: Values = &[("error_rate", &[&[0.25, 0.25]]), ("step_cv", &[&[0.1, 0.1]])];
    let comparison = compare(&beside(&[("stress/b1", none)], &[("stress/b1", some)]));
    let line = of(&comparison, "error_rate");
    assert_eq!(
        (line.change, line.geometric_mean, line.range),
        (ChangeKind::Difference, None, Some([0.25; 2]))
    );
    assert_eq!(line.worse, 1);
    let ratio = of(&comparison, "step_cv");
    assert_eq!((ratio.scenarios, ratio.left_out), (0, 1), "there is no ratio to zero");
    let row = comparison.metrics.iter().find(|row| row.metric == "error_rate").unwrap();
    assert_eq!((row.values.clone(), row.ratios[1]), (vec![Some(0.0), Some(0.25)], None));
}

#[test]
fn a_missing_value_is_no_change_and_no_zero() {
    let one: Values = &[("decode_tok_s", &[&[100.0]])];
    let two: Values = &[("decode_tok_s", &[&[100.0]]), ("ttft_s", &[&[0.1]])];
    let records = beside(&[("a/b1", two), ("b/b1", one)], &[("a/b1", one), ("c/b1", one)]);
    let comparison = compare(&records);
    assert_eq!((of(&comparison, "ttft_s").scenarios, of(&comparison, "ttft_s").missing), (0, 1));
    assert_eq!(
        (of(&comparison, "decode_tok_s").scenarios, of(&comparison, "decode_tok_s").missing),
        (1, 2)
    );
    assert_eq!(
        comparison.scenarios[1].statuses,
        [is(StatusKind::Measured), is(StatusKind::Missing)]
    );
    assert_eq!(
        comparison.scenarios[2].statuses,
        [is(StatusKind::Missing), is(StatusKind::Measured)]
    );
    let text = comparison_markdown(&records);
    let row = text.lines().find(|line| line.contains("b/b1") && line.contains("decode")).unwrap();
    assert!(row.contains("| missing |") && row.trim_end().ends_with("- |"), "{row}");
}

#[test]
fn different_work_and_invalid_numbers_are_not_compared() {
    let rates: Values = &[("decode_tok_s", &[&[100.0, 101.0]])];
    let rows = [("work/b1", rates), ("false/b1", rates), ("output/b1", rates), ("none/b1", rates)];
    let mut records = beside(&rows, &rows);
    let cases = &mut records[1].1.scenarios;
    cases[0].work.new_tokens = 17;
    cases[1].validity.failed.push("impossible".into());
    cases[2].output_sha256 = Some("ef".repeat(32));
    cases[3].absent = Some(Absence::new(AbsenceKind::Failed, "out of memory"));
    cases[3].blocks.clear();
    let comparison = compare(&records);
    let line = of(&comparison, "decode_tok_s");
    assert_eq!((line.scenarios, line.missing, line.left_out), (1, 1, 2));
    let statuses: Vec<&Status> =
        comparison.scenarios.iter().map(|state| &state.statuses[1]).collect();
    let other = because(StatusKind::OtherWork, "new_tokens was 16 and is 17");
    let expected = [&other, &because(StatusKind::Invalid, "impossible"), &is(StatusKind::Measured)];
    assert_eq!(statuses[..3], expected);
    assert_eq!(*statuses[3], because(StatusKind::Failed, "out of memory"));
    let skipped = Absence::new(AbsenceKind::SkippedTime, "no time left");
    let case = Case { absent: Some(skipped), ..Case::default() };
    assert_eq!(table::status(None, Some(&case)), because(StatusKind::Skipped, "no time left"));
    assert_eq!(comparison.scenarios[2].other_output, [Some(false), Some(true)]);
    assert!(comparison.metrics.iter().take(2).all(|row| row.ratios[1].is_none()));
    assert!(comparison_markdown(&records).contains("~~100.5~~"));
}

#[test]
fn tails_need_enough_values() {
    let rates: Values = &[("e2e_s", &[&[1.0]])];
    let mut records = beside(&[("a/b1", rates)], &[("a/b1", rates)]);
    let samples = |slow: f64, count: usize| [vec![1.0; count - 2], vec![slow; 2]].concat();
    for (at, slow) in [(0, 2.0), (1, 4.0)] {
        let block = &mut records[at].1.scenarios[0].blocks[0];
        block.samples.insert("e2e_s".into(), samples(slow, 20));
        block.steps_s = vec![samples(slow, 10)];
    }
    let comparison = compare(&records);
    let line = of(&comparison, "e2e_p95_over_p50");
    assert!((line.geometric_mean.unwrap() - 2.0).abs() < 1e-12);
    assert!(
        comparison.aspects.iter().all(|line| line.measure != "step_p95_over_p50"),
        "of ten steps there is no p95"
    );
    assert_eq!(of(&comparison, "e2e_cv").scenarios, 1);
}

#[test]
fn unequal_answers_have_no_stability() {
    let rates: Values = &[("e2e_s", &[&[1.0]])];
    let rows = [("stress/b1", rates), ("pipelines/b1", rates), ("deep/b1", rates)];
    let mut records = beside(&rows, &rows);
    for (_, record) in &mut records {
        for (case, task) in
            record.scenarios.iter_mut().zip([Task::Stress, Task::Items, Task::Depth])
        {
            case.work.task = task;
            case.blocks[0].samples.insert("e2e_s".into(), (1..21).map(f64::from).collect());
            case.blocks[0].steps_s = vec![vec![0.1; 20]];
        }
    }
    let comparison = compare(&records);
    for measure in ["step_p95_over_p50", "e2e_p95_over_p50", "e2e_cv"] {
        let changes: Vec<&str> =
            of(&comparison, measure).changes.iter().map(|one| one.scenario.as_str()).collect();
        assert_eq!(changes, ["deep/b1"], "{measure}");
    }
    assert_eq!(of(&comparison, "e2e_s").scenarios, 3, "the latencies themselves are compared");
}

#[test]
fn a_pending_scenario_has_not_failed() {
    let rates: Values = &[("decode_tok_s", &[&[100.0]])];
    let mut records = beside(&[("a/b1", rates)], &[("a/b1", rates)]);
    let case = &mut records[1].1.scenarios[0];
    case.absent = Some(Absence::not_measured_yet());
    case.blocks.clear();
    assert_eq!(
        compare(&records).scenarios[0].statuses,
        [is(StatusKind::Measured), is(StatusKind::Pending)]
    );
    let text = comparison_markdown(&records);
    assert!(text.contains("| a/b1     | measured | not measured yet |"), "{text}");
    assert!(!text.contains("FAILED"), "{text}");
}

#[test]
fn user_labels_come_first_in_changed_settings() {
    let mut records = beside(&[], &[]);
    records.push(("third".into(), record(&[])));
    let yarn = r#"{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768}"#;
    for (at, labels) in [
        [("gpu-memory-utilization", "0.9999"), ("tensor-parallel-size", "2")].as_slice(),
        &[
            ("gpu-memory-utilization", "0.99"),
            ("tensor-parallel-size", "2"),
            ("rope-scaling", yarn),
        ],
        &[("tensor-parallel-size", "2")],
    ]
    .into_iter()
    .enumerate()
    {
        records[at].1.settings.labels =
            labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    }
    records[2].1.settings.threads = 4;
    let found = compare(&records).settings;
    let rows: Vec<(&str, &str, Vec<Option<&str>>)> = found
        .iter()
        .map(|one| {
            (one.group, one.name.as_str(), one.values.iter().map(Option::as_deref).collect())
        })
        .collect();
    let expected = [
        ("label", "gpu-memory-utilization", vec![Some("0.9999"), Some("0.99"), None]),
        ("label", "rope-scaling", vec![None, Some(yarn), None]),
        ("settings", "threads", vec![Some("2"), Some("2"), Some("4")]),
    ];
    assert_eq!(rows, expected);
    assert_eq!(
        found.iter().map(|one| one.forbids_verdict).collect::<Vec<_>>(),
        [false, false, true]
    );
}
