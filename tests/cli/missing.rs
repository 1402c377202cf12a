//! Missing data in a run against a stored baseline and in a pair, on the real binary.

use std::fs;

use candlemark::record::Record;

use crate::{candlemark, check, check_record, input};

fn check_pair(pair: &str, more: &[&str], file: &str, status: i32) {
    let record = format!("pairs/{pair}.json");
    check(&[&["check", "--record", &record], more].concat(), file, status);
}

#[test]
fn a_deleted_scenario_does_not_pass() {
    check_record("partial", &[], "partial.txt", 4);
    check_pair("new-and-missing", &[], "pair-new-and-missing.txt", 4);
}

#[test]
fn a_scenario_removed_with_a_reason_passes() {
    let config = ["--config", "removed.toml"];
    check_record("partial", &config, "partial-removed.txt", 0);
    check_record(
        "partial",
        &[&config[..], &["--format", "junit"]].concat(),
        "partial.junit.xml",
        0,
    );
    check_pair("new-and-missing", &config, "pair-removed.txt", 0);
    // The entry in the configuration may stay while the scenario still exists.
    check_record("same", &config, "removed-but-measured.txt", 0);
    check_record("same", &["--config", "removed-without-reason.toml"], "no-reason.txt", 2);
}

#[test]
fn a_scenario_outside_the_selection_is_listed() {
    check_record("not-selected", &[], "not-selected.txt", 0);
}

#[test]
fn a_metric_without_its_value_does_not_pass() {
    check_record("no-value", &[], "no-value.txt", 4);
    check_pair("no-value", &[], "pair-no-value.txt", 4);
}

#[test]
fn scenarios_skipped_for_time_are_undecided() {
    check_record("out-of-time", &[], "out-of-time.txt", 3);
    check_record("interrupted", &[], "interrupted.txt", 3);
    check_record("interrupted-at-once", &[], "interrupted-at-once.txt", 3);
    check_pair("out-of-time", &[], "pair-out-of-time.txt", 3);
    check_pair("interrupted", &[], "pair-interrupted.txt", 3);
}

#[test]
fn a_run_of_schema_1_is_judged_and_its_gaps_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let of_schema_1 = |name: &str| {
        let text = fs::read_to_string(input(&format!("records/{name}.json"))).unwrap();
        let text = text.replace("\"schema\": 2", "\"schema\": 1");
        let path = folder.path().join("record.json");
        fs::write(&path, text.replace("  \"not_selected\": [\"grid/S1\"],\n", "")).unwrap();
        path.display().to_string()
    };
    let base = ["check", "--baseline", "records/base.json", "--record"];
    let judged = |name: &str| {
        let path = of_schema_1(name);
        assert_eq!(Record::load(path.as_ref()).unwrap().not_selected, [""; 0]);
        let output = candlemark(&[&base[..], &[&path]].concat(), &input(""));
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(judged("same").0, Some(0));
    let (status, text) = judged("partial");
    assert_eq!(status, Some(4), "{text}");
    assert!(text.contains("MISSING: it is gone from the run"), "{text}");
    assert!(text.contains("(records of schema 1 never do)"), "{text}");
}

#[test]
fn no_flag_lets_missing_data_pass() {
    let args = ["check", "--baseline", "records/base.json", "--record", "records/partial.json"];
    let output = candlemark(&[&args[..], &["--strict"]].concat(), &input(""));
    assert_eq!(output.status.code(), Some(2), "to fail closed is the rule, not a flag");
}
