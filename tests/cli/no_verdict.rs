//! Without a verdict, every format gives the reason.

use std::fs;

use crate::{candlemark, input, same};

const FORMATS: [(&str, &str); 8] = [
    ("human", "no-verdict.txt"),
    ("md", "no-verdict.md"),
    ("json", "no-verdict.json"),
    ("html", "no-verdict.html"),
    ("github", "no-verdict.github.txt"),
    ("junit", "no-verdict.junit.xml"),
    ("bmf", "no-verdict.bmf.json"),
    ("smaller-is-better", "no-verdict.smaller.json"),
];

const NO_BASELINE: [&str; 5] =
    ["check", "--baseline", "none.json", "--record", "records/same.json"];

#[test]
fn without_a_baseline_every_format_says_so() {
    for (format, file) in FORMATS {
        let output = candlemark(&[&NO_BASELINE[..], &["--format", format]].concat(), &input(""));
        assert_eq!(output.status.code(), Some(4), "{format}");
        same(&String::from_utf8(output.stdout).unwrap(), file);
        let talk = String::from_utf8(output.stderr).unwrap();
        let expected = "error: not comparable: no baseline `none.json`";
        // The text on stdout says it already.
        assert_eq!(talk.starts_with(expected), format != "human", "{format}: {talk}");
    }
}

#[test]
fn the_document_is_written_to_the_named_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("verdict.txt");
    let written = ["-o", file.to_str().unwrap()];
    let output = candlemark(&[&NO_BASELINE[..], &written].concat(), &input(""));
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), &b""[..]));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("NOT COMPARABLE: no baseline `none.json`"), "{text}");
    fs::remove_file(&file).unwrap();
    let wrong = ["check", "--record", "none.json"];
    let output = candlemark(&[&wrong[..], &written].concat(), &input(""));
    assert_eq!(output.status.code(), Some(2));
    assert!(!file.exists(), "a wrong command line has no verdict");
}

#[test]
fn every_reason_is_in_the_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("target/candlemark/runs/20260704T120000Z-0123456");
    let stored = folder.path().join("baselines/amd-epyc-2cpu-1f3a90c2");
    let read = |path: &str| input(path).display().to_string();
    let (record, old) = (read("records/same.json"), read("schema-99.json"));
    let check = |args: &[&str]| {
        let output = candlemark(&[&["check"], args].concat(), folder.path());
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text.lines().next().unwrap_or_default().to_owned())
    };
    let (status, line) = check(&[]);
    assert_eq!(status, 4);
    assert!(line.starts_with("NOT COMPARABLE: no record under `target/"), "{line}");
    let (status, line) = check(&["--record", &record, "--baseline", &old]);
    assert_eq!(status, 4);
    assert!(line.starts_with("NOT COMPARABLE: `") && line.contains("record schema 99"), "{line}");
    let (status, line) = check(&["--record", &record, "--record", &record]);
    let twice = "NOT COMPARABLE: session 20260704T120000Z-0123456 is given twice.";
    assert_eq!((status, line.as_str()), (4, twice));
    fs::create_dir_all(&stored).unwrap();
    fs::write(stored.join("synthetic-mini-f32.json"), "half").unwrap();
    let (status, line) = check(&["--record", &record]);
    assert_eq!(status, 4, "a baseline that is damaged is none");
    assert!(line.starts_with("NOT COMPARABLE: `baselines/amd-epyc-2cpu-1f3a90c2/"), "{line}");
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("record.json"), "half").unwrap();
    let (status, line) = check(&[]);
    assert_eq!(status, 5, "a record that nobody named is damaged");
    assert!(line.starts_with("FAILED: `target/") && line.contains("is not valid"), "{line}");
}
