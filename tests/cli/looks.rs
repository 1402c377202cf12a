//! Interim looks at a run that may be measured further: Bonferroni's correction divides the level
//! of the first look by the number of planned looks.

use crate::{candlemark, checked, input};

fn judged(record: &str, more: &[&str]) -> serde_json::Value {
    let args = checked(record);
    let args = args.iter().map(String::as_str).chain(["--format", "json"]);
    let args: Vec<&str> = args.chain(more.iter().copied()).collect();
    let output = candlemark(&args, &input(""));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lower_end(judgement: &serde_json::Value) -> f64 {
    judgement["findings"][0]["change"]["evidence"]["family"]["lo"].as_f64().unwrap()
}

#[test]
fn the_first_look_has_the_level_of_all_planned_looks() {
    // Decided scenarios are not measured further, so both looks see the same blocks.
    let plain = judged("critical", &[]);
    assert_eq!(plain["policy"]["looks"], 6);
    if cfg!(feature = "engine") {
        assert_eq!(judged("critical", &["--measure"]), plain);
    }
    let single = judged("critical", &["--single-look"]);
    assert_eq!(single["policy"]["looks"], 1);
    assert!(lower_end(&single) > lower_end(&plain), "one look costs less than six");
}

#[test]
fn a_single_look_excludes_further_measurement() {
    let args = checked("noisy");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--single-look"]).collect();
    let output = candlemark(&args, &input(""));
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("as this run allows only one look"), "{text}");
    assert!(!text.contains("--measure") && output.stderr.is_empty(), "{text}");
    let output = candlemark(&[&args[..], &["--measure"]].concat(), &input(""));
    assert_eq!(output.status.code(), Some(2));
}
