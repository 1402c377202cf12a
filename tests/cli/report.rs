//! `candlemark report` in every language, to stdout and to files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{blessing, candlemark, check, check_record, checked, input, same, stdout};

const RECORD: &str = "records/everything.json";

#[test]
fn the_full_record_is_a_report() {
    check(&["report", RECORD], "report-everything.md", 0);
}

#[test]
fn a_report_speaks_every_language() {
    for lang in ["fr", "ko"] {
        let file = format!("report.{lang}.md");
        check(&["report", "records/same.json", "--lang", lang], &file, 0);
    }
}

/// The sections of a page that have these ids.
fn sections(page: &str, ids: &[&str]) -> String {
    let section = |id: &&str| {
        let start = page.find(&format!("<section id=\"{id}\">")).unwrap();
        let end = start + page[start..].find("</section>").unwrap();
        format!("{}</section>\n", &page[start..end])
    };
    ids.iter().map(section).collect()
}

#[test]
fn a_page_has_the_charts_and_tables_of_the_full_record() {
    let page = stdout(&["report", RECORD, "--format", "html", "--lang", "fr"]);
    assert_eq!(page.matches("<svg ").count(), 11);
    let (_, chart) = page.split_once("<figure>").unwrap();
    let (chart, _) = chart.split_once("</figure>").unwrap();
    let tables = sections(&page, &["stress", "absent"]);
    same(&format!("{chart}{tables}"), "report-everything.fr.html");
}

/// The lines of a report that the report of an ordinary record lacks.
fn differing(record: &str) -> String {
    let ordinary = stdout(&["report", "records/same.json"]);
    let ordinary: BTreeSet<&str> = ordinary.lines().collect();
    let text = stdout(&["report", record]);
    text.lines().filter(|line| !ordinary.contains(line)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_record_is_a_document() {
    for format in ["md", "html", "csv", "row"] {
        check(&["report", "records/same.json", "--format", format], &format!("report.{format}"), 0);
    }
    same(&differing("records/hostile.json"), "report-hostile.md");
    same(&differing("records/invalid.json"), "report-invalid.md");
    let json = stdout(&["report", "records/same.json", "--format", "json"]);
    assert_eq!(json, fs::read_to_string(input("records/same.json")).unwrap());
}

#[test]
fn a_verdict_is_a_document() {
    let args = checked("slower");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--format", "html"]).collect();
    let page = stdout(&args);
    let (head, _) = page.split_once("<section id=").unwrap();
    let verdict = sections(&page, &["changes", "verdict"]);
    same(&format!("{head}{verdict}"), "slower.html");
    check_record("slower", &["--format", "junit"], "slower.junit.xml", 1);
    check_record("slower", &["--format", "bmf"], "slower.bmf.json", 1);
    check_record("slower", &["--format", "smaller-is-better"], "slower.smaller.json", 1);
    check_record("other-model", &["--format", "github"], "other-model.github.txt", 4);
    check_record("other-model", &["--format", "junit"], "other-model.junit.xml", 4);
}

#[test]
fn charts_are_written_only_next_to_a_report_file() {
    let folder = tempfile::tempdir().unwrap();
    let (record, file) = (input(RECORD), folder.path().join("my report.md"));
    let (record, path) = (record.to_str().unwrap(), file.to_str().unwrap());
    let output = candlemark(&["report", record, "-o", path], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&file).unwrap();
    let links: Vec<&str> = text.split("](my%20report_charts/").skip(1).collect();
    let mut names: Vec<&str> = links.iter().map(|link| link.split(')').next().unwrap()).collect();
    names.sort_unstable();
    let charts = fs::read_dir(folder.path().join("my report_charts")).unwrap();
    let mut charts: Vec<String> =
        charts.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    charts.sort_unstable();
    assert_eq!(names, charts);
    assert_eq!(charts.len(), 11);
    for chart in charts {
        let text = fs::read_to_string(folder.path().join("my report_charts").join(chart)).unwrap();
        assert!(text.starts_with("<svg xmlns=") && text.ends_with("</svg>\n"), "{text}");
        assert!(text.contains("fill=\"#fff\""), "a reader's theme may be dark");
    }
    let output = candlemark(&["report", record, "-o", "-"], folder.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("_charts/") && !text.contains("## Charts"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "stdout leaves nothing behind");
}

#[test]
fn example_reports_are_complete_and_up_to_date() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines/examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let example = entry.unwrap().path();
        let record = example.join("record.json");
        let folder = tempfile::tempdir().unwrap();
        let to =
            if blessing() { example.join("report.md") } else { folder.path().join("report.md") };
        let args = ["report", record.to_str().unwrap(), "-o", to.to_str().unwrap()];
        let output = candlemark(&args, folder.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = fs::read_to_string(&to).unwrap();
        let expected = fs::read_to_string(example.join("report.md")).unwrap();
        assert!(text == expected, "{} differs; BLESS=1 accepts the new text", example.display());
        for chart in fs::read_dir(to.with_file_name("report_charts")).unwrap() {
            let chart = chart.unwrap().path();
            let stored = example.join("report_charts").join(chart.file_name().unwrap());
            let same = fs::read(&chart).unwrap() == fs::read(&stored).unwrap();
            assert!(same, "{} differs; BLESS=1 accepts the new one", stored.display());
        }
        let record = fs::read_to_string(&record).unwrap();
        assert!(!record.contains("\"skipped"), "{} leaves something out", example.display());
        assert!(text.contains("<b>Targets</b>"), "{}", example.display());
        seen += 1;
    }
    assert_eq!(seen, 4, "two shapes in two quantizations");
}

#[test]
fn an_unknown_language_names_the_known_ones() {
    let output = candlemark(&["report", RECORD, "--lang", "de"], &input(""));
    assert_eq!(output.status.code(), Some(2));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("en, fr, ko"), "{talk}");
}

#[test]
fn targets_of_the_user_are_added_to_the_builtin_ones() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.toml");
    let line = |id: &str, scenario: &str, max: f64| {
        format!(
            "[[target]]\nid = \"{id}\"\nmodel = \"*\"\ntopic = \"first_token\"\nscenario = \"{scenario}\"\n\
             metric = [\"ttft_s\"]\nunit = \"ms\"\nmax = {max:.1}\n"
        )
    };
    let rows = [
        line("ours/soon", "short/b1", 1e6),
        line("ours/at-once", "short/b1", 0.5),
        line("ours/nowhere", "no/such", 1.0),
    ];
    fs::write(&own, rows.concat()).unwrap();
    let report = |targets: &str| {
        let record = input(RECORD);
        let args = ["report", record.to_str().unwrap(), "--targets", targets];
        let output = candlemark(&args, folder.path());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let plain = text(&output.stdout).replace('\u{a0}', " ");
        (output.status.code(), plain, text(&output.stderr))
    };
    let (status, text, talk) = report("own.toml");
    assert_eq!(status, Some(0), "{talk}");
    let row = |bound: &str| {
        let found = text.lines().find(|line| line.contains(&format!("| {bound} |")));
        found.unwrap_or_else(|| panic!("{bound}: {text}")).to_owned()
    };
    assert!(row("at most 1,000,000 ms").contains("| met |"), "{}", row("at most 1,000,000 ms"));
    assert!(row("at most 0.5 ms").contains("| not met |"), "{}", row("at most 0.5 ms"));
    assert!(row("at most 1 ms").contains("not measurable here"), "{}", row("at most 1 ms"));
    fs::write(&own, "[[target]]\nid = \"ours/soon\"\nmodle = \"*\"\n").unwrap();
    let (status, text, talk) = report("own.toml");
    assert_eq!((status, text.as_str()), (Some(2), ""));
    assert!(talk.contains("own.toml` is not valid") && talk.contains("modle"), "{talk}");
    assert_eq!(report("missing.toml").0, Some(2));
}
