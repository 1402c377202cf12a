//! `candlemark selftest`: every fault is told apart. Its times are those of a busy machine here.

use serde_json::Value;

use crate::candlemark;

#[test]
fn the_self_test_tells_every_fault_apart() {
    let folder = tempfile::tempdir().unwrap();
    let output = candlemark(&["selftest", "--requests", "5", "--json"], folder.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cases = report["cases"].as_array().unwrap();
    for case in cases {
        assert_eq!(case["told"], case["expected"], "{case}");
    }
    let told: std::collections::BTreeSet<&str> =
        cases.iter().map(|case| case["told"]["name"].as_str().unwrap()).collect();
    assert!(cases.len() > 45 && told.len() > 30, "{} cases, {told:?}", cases.len());
    for part in ["sequential", "open_loop", "streams"] {
        assert_eq!(report[part]["complete"], report[part]["requests"], "{}", report[part]);
    }
    let median = report["sequential"]["ttft_error_ms"]["median"].as_f64().unwrap();
    assert!(median.abs() < 100.0, "{median} ms");
    let status = match report["verdict"].as_str().unwrap() {
        "passed" => 0,
        "invalid" => 3,
        "failed" => 5,
        other => panic!("{other}"),
    };
    assert_eq!(output.status.code(), Some(status), "{}", report["reasons"]);
}
