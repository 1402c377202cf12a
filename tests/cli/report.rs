//! `candlemark report` in every language, on paper and on disk.

use std::fs;

use crate::candlemark;
use crate::check;
use crate::golden;

const RECORD: &str = "records/everything.json";

#[test]
fn a_record_of_everything_is_a_report_in_every_language() {
    for lang in ["en", "fr", "ko"] {
        let file = format!("report-everything.{lang}.md");
        check(&["report", RECORD, "--lang", lang], &file, 0);
    }
    let page = ["report", RECORD, "--format", "html", "--lang", "fr"];
    check(&page, "report-everything.fr.html", 0);
}

#[test]
fn charts_are_files_beside_a_file_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let (record, file) = (golden(RECORD), folder.path().join("my report.md"));
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
    assert_eq!(charts.len(), 8);
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
fn an_unknown_language_names_the_known_ones() {
    let output = candlemark(&["report", RECORD, "--lang", "de"], &golden(""));
    assert_eq!(output.status.code(), Some(2));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("en, fr, ko"), "{talk}");
}
