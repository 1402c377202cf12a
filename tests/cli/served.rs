//! Exports of a server's record, its configuration before and after a change, and injection attacks
//! through every export and `compare`.

use crate::{candlemark as tool, check, input};

const FORMATS: [(&str, &str); 4] = [
    ("benchmark-json", "benchmark.json"),
    ("prometheus", "prom"),
    ("row", "served.row"),
    ("csv", "served.csv"),
];

#[test]
fn a_record_is_exported() {
    for (format, file) in FORMATS {
        let args = ["report", "records/before.json", "--format", format];
        check(&args, &format!("report.{file}"), 0);
    }
    let of = |more: &[&str], file: &str, status: i32| {
        let args = ["report", "records/before.json", "--format", "benchmark-json", "--scenario"];
        check(&[&args, more].concat(), file, status);
    };
    of(&["code/b4"], "report-batch.benchmark.json", 0);
    of(&["long/b1"], "report-invalid.benchmark.json", 0);
    of(&["pipelines/rag"], "report-failed.benchmark.json", 0);
    of(&["code/b2"], "report-unknown.txt", 2);
    let args = ["report", "records/before.json", "--format", "csv", "--scenario", "code/b1"];
    check(&args, "report-no-scenario.txt", 2);
    let args = ["report", "records/failed.json", "--format", "prometheus"];
    check(&args, "report-failed.prom", 0);
}

#[test]
fn a_configuration_before_and_after_is_compared() {
    let pair = ["compare", "records/before.json", "records/after.json"];
    check(&pair, "compare-served.md", 0);
    check(&[&pair[..], &["--format", "json"]].concat(), "compare-served.json", 0);
    check(&[&pair[..], &["records/failed.json"]].concat(), "compare-three.md", 0);
}

/// The text of every document, with the command that made it.
fn documents() -> Vec<(String, String)> {
    let formats = ["md", "html", "json"].into_iter().chain(FORMATS.map(|(format, _)| format));
    let reports =
        formats.map(|format| vec!["report", "records/hostile-served.json", "--format", format]);
    let compared = ["md", "json"].map(|format| {
        vec!["compare", "records/before.json", "records/hostile-served.json", "--format", format]
    });
    let checked = ["human", "md", "json", "html", "github", "junit", "bmf", "smaller-is-better"]
        .map(|format| {
            let args = [
                "check",
                "--baseline",
                "records/before.json",
                "--record",
                "records/hostile-served.json",
            ];
            [&args[..], &["--format", format]].concat()
        });
    let all = reports.chain(compared).chain(checked);
    all.map(|args| {
        let output = tool(&args, &input(""));
        let talk = String::from_utf8(output.stderr).unwrap();
        (args.join(" "), String::from_utf8(output.stdout).unwrap() + &talk)
    })
    .collect()
}

#[test]
fn text_stays_text_in_every_document() {
    for (made_by, text) in documents() {
        // Fenced code is rendered literally.
        let fences = if made_by.ends_with("md") { "\n```" } else { "\u{0}" };
        let text: String = text.split(fences).step_by(2).collect();
        let stored = made_by.ends_with("served.json --format json");
        let html = made_by.ends_with("html");
        for c in text.chars().filter(|_| !stored) {
            let moves = c.is_control() && c != '\n'
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            assert!(!moves, "{made_by} has {c:?}");
        }
        for line in text.lines() {
            let line = line.trim_start();
            let ours = ["::error", "::warning"]
                .iter()
                .any(|level| line.starts_with(&format!("{level} title=candlemark::")));
            let ours = ours && made_by.ends_with("github");
            assert!(ours || !line.starts_with("::"), "{made_by}: a command: {line}");
            assert!(stored || !line.contains("##["), "{made_by}: a command: {line}");
            assert!(
                !line.starts_with("# y") && !line.starts_with("candlemark_fake"),
                "{made_by}: {line}"
            );
        }
        if ["md", "html", "junit", "row"].iter().any(|format| made_by.ends_with(format)) {
            assert!(!text.contains("<script>alert"), "{made_by}");
            assert!(!text.contains("</table> {{"), "{made_by}");
        }
        if made_by.ends_with("md") || made_by.ends_with("row") {
            assert!(!text.contains("a|b") && !text.contains("![i]"), "{made_by}");
            assert!(!text.contains("@all"), "{made_by}");
        }
        assert!(!html || !text.contains("49"), "{made_by}: a template within a template");
    }
}

#[test]
fn hostile_documents_still_parse() {
    let text =
        |format: &str| documents().into_iter().find(|(by, _)| by.ends_with(format)).unwrap().1;
    let _: serde_json::Value = serde_json::from_str(&text("benchmark-json")).unwrap();
    let prometheus = text("prometheus");
    let mut series: Vec<&str> = Vec::new();
    for line in prometheus.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("candlemark_") && name.ends_with("\"}"), "{line}");
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        assert!(!series.contains(&name), "{line} stands twice");
        series.push(name);
    }
    for line in text("csv").lines().skip(1) {
        let quoted = line.starts_with('"');
        assert!(quoted || !line.starts_with(['=', '+', '-', '@']), "a formula: {line}");
        assert!(!line.starts_with("\"=") && !line.starts_with("\"@"), "a formula: {line}");
    }
}

#[cfg(feature = "engine")]
#[test]
fn a_label_has_a_name() {
    // There is no such model, so nothing is measured.
    let (no_name, no_model) = ("the name before `=` is empty", "no shape `none`");
    for (label, says) in [
        ("a", "write NAME=VALUE"),
        ("=x", no_name),
        (" =x", no_name),
        ("a=", no_model),
        ("a=b=c", no_model),
    ] {
        let args = ["run", "--model", "synthetic:none", "--label", label];
        let output = tool(&args, &input(""));
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{label}: {talk}");
        assert!(talk.contains(says), "{label}: {talk}");
    }
}
