//! Number formatting, escaping, exports, and the length limits of documents.

use super::text::escape_markdown;
use super::*;
use crate::compare::tests::{ScenarioBlocks, record};
use crate::compare::{Judgement, MeasurementTimes, Outcome, Policy, judge};
use crate::record::{Absence, AbsenceKind, Record};

const STEADY: &[&[f64]] = &[&[100.0, 101.0, 99.0], &[100.5, 99.5, 100.0], &[99.8, 100.2, 100.1]];
const HOSTILE: &str =
    "a|b\n# <script>alert(1)</script> \u{1b}[31m `x` [l](javascript:0) @all \u{202e}";

fn hostile() -> Record {
    let mut record = record(&[("code/b1", &[("decode_tok_s", STEADY)])]);
    record.model.spec = HOSTILE.into();
    record.machine.class = HOSTILE.into();
    record.settings.device = HOSTILE.into();
    record.scenarios[0].validity.warnings.push(HOSTILE.into());
    record
}

#[test]
fn numbers_have_four_significant_digits() {
    for (value, expected) in [
        (0.0, "0"),
        (0.012345, "0.01235"),
        (1.0, "1.000"),
        (12.345, "12.35"),
        (99.996, "100.0"),
        (123.45, "123.5"),
        (1234.5, "1,234"),
        (62_000_000.0, "62,000,000"),
        (-1234567.0, "-1,234,567"),
        (f64::NAN, "-"),
        (f64::INFINITY, "-"),
    ] {
        assert_eq!(number(value), expected);
    }
    for (share, expected) in
        [(-0.079, "-7.9 %"), (0.0, "+0.0 %"), (-0.0001, "+0.0 %"), (1.5, "+150 %")]
    {
        assert_eq!(percent(share), expected);
    }
}

#[test]
fn markdown_cells_stay_cells() {
    assert_eq!(escape_markdown("a|b"), "a\\|b");
    assert_eq!(escape_markdown("<script>"), "&lt;script&gt;");
    assert_eq!(escape_markdown("one\ntwo"), "one\u{fffd}two");
    assert_eq!(escape_markdown("a ` b ``c``"), "a &#96; b &#96;&#96;c&#96;&#96;");
    assert_eq!(escape_markdown("run `a|b` now"), "run <code>a\\|b</code> now");
    assert_eq!(escape_markdown("[x](y) `z` @all"), "\\[x\\](y) `z` &#64;all");
}

#[test]
fn sanitized_text_has_no_command_or_hidden_character() {
    for (text, expected) in [
        ("a\u{0}b\u{1b}[31m\n", "a\u{fffd}b\u{fffd}[31m\u{fffd}"),
        (
            "\u{202e}exe\u{2066}\u{200b}\u{feff}\u{e0041}",
            "\u{fffd}exe\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
        ),
        ("::error::x", "\u{fffd}:error::x"),
        ("  ::add-mask::x", "  \u{fffd}:add-mask::x"),
        ("crate::module", "crate::module"),
        ("a ##[add-mask]b", "a ##\u{fffd}add-mask]b"),
    ] {
        assert_eq!(sanitize(text), expected);
        assert_eq!(sanitize(expected), expected, "once is enough");
    }
}

#[test]
fn hostile_names_stay_text_in_every_document() {
    let base = hostile();
    let mut now = base.clone();
    now.machine.class = format!("{HOSTILE}2");
    let judgement = judge(&base, &now, &Policy::default());
    let same = judge(&base, &base, &Policy::default());
    for (name, text) in [
        ("markdown", markdown(&base, Lang::En, None)),
        ("row", row(&base, None).unwrap()),
        ("page", page(&base, Some((&judgement, HOSTILE))).unwrap()),
        ("text", verdict_text(&judgement, HOSTILE)),
        ("verdict", verdict_markdown(&judgement, HOSTILE)),
        ("warnings", verdict_markdown(&same, HOSTILE)),
        ("side", comparison_markdown(&[(HOSTILE.into(), base.clone()), ("b".into(), now)])),
    ] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{name}: {text}");
        assert!(!text.contains("\n# <") && !text.contains("\n# &"), "{name}: {text}");
        if name != "text" {
            assert!(!text.contains("<script"), "{name}: {text}");
        }
        if !["text", "page"].contains(&name) {
            assert!(!text.contains(" a|b"), "{name}: {text}");
        }
    }
    assert!(annotations(&judgement).lines().all(|line| line.starts_with("::")));
}

#[test]
fn the_output_of_a_failed_build_stays_as_it_is() {
    let why = "HEAD does not build:\nerror: `b` and ``` in `x\n  | <b>  ^";
    let judgement = Judgement::without_findings(Outcome::NotComparable, why, &Policy::default());
    assert_eq!(
        verdict_markdown(&judgement, "candlemark check"),
        "**NOT COMPARABLE**: HEAD does not build.\n\n<details><summary>Output</summary>\n\n\
         ````text\nerror: `b` and ``` in `x\n  | <b>  ^\n````\n\n</details>\n\n\
         made by `candlemark check`\n"
    );
    assert_eq!(
        verdict_text(&judgement, "candlemark check"),
        "NOT COMPARABLE: HEAD does not build.\n\n    error: `b` and ``` in `x\n      | <b>  ^\n\
         - made by `candlemark check`\n"
    );
}

#[test]
fn a_long_verdict_keeps_every_finding_and_fits_a_comment() {
    let ids: Vec<String> = (0..1500).map(|i| format!("s{i}/b1")).collect();
    let case = |slow: &'static [&'static [f64]]| [("decode_tok_s", slow)];
    let (steady, slow) = (case(STEADY), case(&[&[50.0, 50.1, 49.9]]));
    let fast = case(&[&[100.0, 100.1, 99.9]]);
    let base: Vec<(&str, &[_])> = ids.iter().map(|id| (id.as_str(), steady.as_slice())).collect();
    let now: Vec<(&str, &[_])> = ids
        .iter()
        .enumerate()
        .map(|(i, id)| (id.as_str(), if i < 20 { slow.as_slice() } else { fast.as_slice() }))
        .collect();
    let judgement = judge(&record(&base), &record(&now), &Policy::default());
    let text = verdict_markdown(&judgement, "candlemark check");
    assert!(text.len() < 60_001, "{}", text.len());
    assert_eq!(text.matches("REGRESSED").count(), 20);
    assert!(
        text.contains("1480 unchanged") && text.contains("more unchanged rows are left out"),
        "{text}"
    );
    assert_eq!(annotations(&judgement).lines().count(), 10);
    assert!(annotations(&judgement).ends_with("and 11 more\n"));
}

#[test]
fn a_link_is_put_into_criterions_index_once() {
    let index = "<html><body class=\"x\"><h1>Criterion</h1></body></html>";
    let once = link(index, "../../candlemark/report.html?a=\"b\"", "memory").unwrap();
    assert!(once.contains("<h1>Criterion</h1>\n<p><b>candlemark"), "{once}");
    assert!(once.contains(">memory</a>"), "{once}");
    let first = link("<body>\n</body>", "x", "y").unwrap();
    assert!(first.starts_with("<body>\n<p>"), "{first}");
    let case =
        "<li><a href=\"../a_b/b1/report/index.html\">a/b1</a></li><a href=\"https://x.org\">x</a>";
    let links = super::link::criterion_links(case);
    assert_eq!(links.iter().map(|one| one.0.as_str()).collect::<Vec<_>>(), ["all cases", "a/b1"]);
    assert_eq!(link(&once, "../../candlemark/report.html?a=\"b\"", "memory").unwrap(), once);
    let twice = link(&once, "gate.html", "verdict").unwrap();
    assert_eq!(twice.matches("<a ").count(), 2, "two pages have a link each");
    assert_eq!(link(&twice, "gate.html", "verdict").unwrap(), twice);
    assert_eq!(link("no body", "x", "y"), None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.html");
    std::fs::write(&path, index).unwrap();
    for _ in 0..2 {
        link_into(&path, "report.html", "report").unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        link(index, "report.html", "report").unwrap()
    );
}

#[test]
fn csv_has_a_line_per_block_and_quotes_what_needs_it() {
    let mut record = record(&[("code/b1", &[("ttft_s", &[&[0.05, 0.06]])])]);
    record.scenarios[0].blocks[0].notes.insert("ttft_s".into(), "a \"note\", quoted".into());
    assert_eq!(
        csv(&record),
        "scenario,metric,block,session,value,valid,note\n\
         code/b1,ttft_s,0,20260701T000000Z-0123456,0.05,true,\"a \"\"note\"\", quoted\"\n\
         code/b1,ttft_s,1,20260701T000000Z-0123456,0.06,true,\n"
    );
    for (note, field) in
        [("=1+1", "'=1+1"), ("-3", "-3"), ("@a,b", "\"'@a,b\""), ("a\nb", "a\u{fffd}b")]
    {
        record.scenarios[0].blocks[1].notes.insert("ttft_s".into(), note.into());
        assert!(csv(&record).ends_with(&format!(",0.06,true,{field}\n")), "{note}");
    }
    record.scenarios[0].blocks.clear();
    record.scenarios[0].absent = Some(Absence::new(AbsenceKind::SkippedTime, "8m, used up"));
    assert!(csv(&record).ends_with("\ncode/b1,,,,,,\"skipped: 8m, used up\"\n"));
}

#[test]
fn a_page_strikes_out_invalid_numbers() {
    let mut record = record(&[("code/b1", &[("decode_tok_s", STEADY)])]);
    assert!(page(&record, None).unwrap().contains("<td class=\"good whole\">valid</td>"));
    record.scenarios[0].validity.failed.push("faster than memory".into());
    let page = page(&record, None).unwrap();
    assert!(page.contains("<td class=\"n struck whole\">100.0</td>"), "{page}");
    assert!(page.contains("<td class=\"bad\">INVALID: faster than memory</td>"));
    assert!(markdown(&record, Lang::En, None).contains("~~100.0~~"));
}

#[test]
fn junit_contains_the_measured_time() {
    let now = "2026-11-29T07:00:00Z";
    let rows: &[ScenarioBlocks] = &[("code/b1", &[("decode_tok_s", STEADY), ("ttft_s", STEADY)])];
    let base = record(rows);
    let mut current = record(rows);
    for block in &mut current.scenarios[0].blocks {
        block.samples.insert("e2e_s".into(), vec![0.25, 0.5]);
    }
    let seconds = 0.75 * current.scenarios[0].blocks.len() as f64;
    let mut judgement = judge(&base, &current, &Policy::default());
    let text = junit(&judgement, now);
    let started = current.sessions.last().unwrap().started.trim_end_matches('Z');
    assert!(text.contains(&format!("timestamp=\"{started}\"")), "{text}");
    let whole = text.lines().find(|line| line.starts_with("<testsuites ")).unwrap();
    assert!(whole.ends_with(&format!(" time=\"{seconds:.3}\">")), "{text}");
    let cases: Vec<&str> = text.lines().filter(|line| line.contains("<testcase")).collect();
    assert!(cases[0].contains(&format!("time=\"{seconds:.3}\"")), "{text}");
    assert!(cases[1..].iter().all(|case| !case.contains(" time=")), "{text}");
    judgement.measured =
        MeasurementTimes { started: Some("\"><x".into()), ..MeasurementTimes::default() };
    let text = junit(&judgement, now);
    assert!(text.contains("timestamp=\"2026-11-29T07:00:00\""), "{text}");
}
