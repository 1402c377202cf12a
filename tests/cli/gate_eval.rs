//! `candlemark gate-eval replay` on a simulated pool, and on those that the binary contains.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{candlemark, check, expected, input, same};

/// Replays rules on the pool. The last line of a text is JSON.
fn replay(more: &[&str]) -> (String, Value) {
    let args = ["gate-eval", "replay", "pool.json", "--runs", "50"];
    let output = candlemark(&[&args, more].concat(), &input(""));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (text, last) = text.trim_end().rsplit_once('\n').unwrap();
    (format!("{text}\n"), serde_json::from_str(last).unwrap_or_default())
}

#[test]
fn rules_are_replayed_on_a_pool() {
    let two = ["--rules", "ours,naive_5"];
    let json = [&["gate-eval", "replay", "pool.json", "--runs", "50"], &two[..]].concat();
    check(&[&json[..], &["--format", "json"]].concat(), "gate-eval.json", 0);
    let figures: Value = serde_json::from_str(&expected("gate-eval.json")).unwrap();
    let (text, all) = replay(&[]);
    same(&text, "gate-eval.txt");
    for rule in ["ours", "naive_5"] {
        assert_eq!(all[rule], figures["columns"][rule], "the last line has the same figures");
    }
    let (text, last) = replay(&[&two[..], &["--format", "md"]].concat());
    same(&text, "gate-eval.md");
    assert_eq!(last, figures["columns"]);
    assert!(last["naive_5"]["quiet"]["suite_false_alarm"].is_number(), "{last}");
    assert!(last["naive_5"]["typical"]["coverage"].is_null(), "a ratio has no interval");
}

#[test]
fn an_invalid_pool_is_refused() {
    for (pool, more, file) in [
        ("no-pool.json", None, "no-pool.txt"),
        ("garbage.json", None, "garbage-pool.txt"),
        ("records/base.json", None, "record-pool.txt"),
        ("pool.json", Some("our"), "unknown-rule.txt"),
    ] {
        let rules: Vec<&str> = more.iter().flat_map(|rule| ["--rules", rule]).collect();
        check(&[&["gate-eval", "replay", pool], rules.as_slice()].concat(), file, 2);
    }
}

#[test]
fn an_installed_binary_has_the_pools_of_the_repository() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["gate-eval", "replay", "--runs", "1", "--rules", "naive_5", "--format", "json"];
    let output = candlemark(&args, folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gate");
    let stored = fs::read_dir(stored).unwrap().map(|entry| entry.unwrap().path());
    let stored = stored.filter(|path| path.extension().is_some_and(|end| end == "json"));
    assert_eq!(figures["pools"].as_array().unwrap().len(), stored.count());
}
