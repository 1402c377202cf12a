//! Verdicts of stored pairs.

use candlemark::compare::Policy;
use candlemark::compare::paired::judge;
use candlemark::record::pair::PairRecord;
use candlemark::report;

use crate::inputs::pairs;
use crate::{candlemark, check, input};

/// Judges a pair of the inputs and compares the output with a golden file.
fn check_pair(pair: &str, more: &[&str], file: &str, status: i32) {
    let record = format!("pairs/{pair}.json");
    let args: Vec<&str> =
        ["check", "--record", &record].into_iter().chain(more.iter().copied()).collect();
    check(&args, file, status);
}

#[test]
fn a_pair_is_judged_from_its_file_alone() {
    for (pair, status) in [
        ("pass", 0),
        ("improved", 0),
        ("regressed", 1),
        ("critical", 1),
        ("memory", 1),
        ("injected", 1),
        ("borderline", 3),
        ("noisy", 3),
        ("few", 3),
        ("nothing", 3),
        ("identical", 0),
        ("output-changed", 5),
        ("contaminated", 3),
        ("rejected", 0),
        ("rejected-decide", 3),
        ("new-and-missing", 4),
        ("no-value", 4),
        ("out-of-time", 3),
        ("interrupted", 3),
        ("failed", 5),
    ] {
        check_pair(pair, &[], &format!("pair-{pair}.txt"), status);
    }
    check_pair("regressed", &["--fail-on", "critical"], "pair-fail-on-critical.txt", 0);
}

#[test]
fn a_pair_has_every_format_of_a_verdict() {
    for (format, file) in [
        ("md", "pair-regressed.md"),
        ("html", "pair-regressed.html"),
        ("github", "pair-regressed.github.txt"),
        ("junit", "pair-regressed.junit.xml"),
        ("bmf", "pair-regressed.bmf.json"),
        ("smaller-is-better", "pair-regressed.smaller.json"),
        ("json", "pair-regressed.json"),
    ] {
        check_pair("regressed", &["--format", format], file, 1);
    }
    check_pair("noisy", &["--format", "md"], "pair-noisy.md", 3);
    check_pair("noisy", &["--format", "junit"], "pair-noisy.junit.xml", 3);
    check_pair("noisy", &["--format", "github"], "pair-noisy.github.txt", 3);
    check_pair("nothing", &["--format", "junit"], "pair-nothing.junit.xml", 3);
    check_pair("failed", &["--format", "github"], "pair-failed.github.txt", 5);
}

#[test]
fn a_pair_is_judged_alone() {
    let two = ["check", "--record", "records/same.json", "--record", "pairs/pass.json"];
    check(&two, "pair-mixed.txt", 2);
    let based = ["check", "--baseline", "records/base.json", "--record", "pairs/pass.json"];
    check(&based, "pair-baseline.txt", 2);
    check(&["report", "pairs/pass.json"], "pair-report.txt", 2);
}

#[test]
fn hostile_names_stay_text_in_every_format_of_a_pair() {
    for format in ["human", "md", "html", "github", "junit", "bmf", "smaller-is-better"] {
        let args = ["check", "--record", "pairs/hostile.json", "--format", format];
        let output = candlemark(&args, &input(""));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{format}: {text}");
        if ["md", "html", "junit"].contains(&format) {
            assert!(!text.contains("<script"), "{format}: {text}");
        }
        if format == "md" {
            assert!(!text.contains(" a|b") && !text.contains("@all"), "{text}");
        }
        if format == "github" {
            assert!(text.lines().all(|line| line.starts_with("::error title=")), "{text}");
            let properties = text.lines().map(|line| line[8..].split("::").next().unwrap());
            assert!(
                properties.clone().count() > 0 && properties.clone().all(|one| !one.contains(','))
            );
        }
    }
}

#[test]
fn a_page_has_no_external_resources() {
    for (name, pair) in pairs::all() {
        let judgement = judge(&pair, &Policy::default());
        let page = report::pair_page(&pair, &judgement, "candlemark check").unwrap();
        for outside in ["http://", "https://", "<link", "<script", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{name} has {outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{name}");
    }
}

/// A suite whose first `slow` scenarios lose a tenth of their speed.
fn suite(scenarios: usize, slow: usize) -> PairRecord {
    let effect = |at: usize| if at < slow { 0.1 } else { 0.0 };
    let case = |at: usize| {
        pairs::case(&format!("s{at}/b4"), 4, 8, pairs::Effect { decode: effect(at), ..pairs::SAME })
    };
    pairs::pair(8, (0..scenarios).map(case).collect())
}

#[test]
fn markdown_fits_a_comment_and_counts_the_omitted_rows() {
    for (slow, shown, says) in [
        (20, 20..=20, "1180 unchanged"),
        (400, 100..=399, "more findings, the least important, are left out here"),
    ] {
        let judgement = judge(&suite(400, slow), &Policy::default());
        let text = report::verdict_markdown(&judgement, "candlemark check");
        assert!(text.len() <= 60_000, "{}", text.len());
        assert!(shown.contains(&text.matches("REGRESSED").count()), "{text}");
        assert!(text.contains(says) && text.contains("1200 metrics"), "{text}");
        let annotations = report::annotations(&judgement);
        assert_eq!(annotations.lines().count(), 10);
        assert!(annotations.starts_with("::error title=candlemark main (0123456789ab)"));
        assert!(annotations.ends_with(&format!("::and {} more\n", slow - 9)), "{annotations}");
    }
}

#[test]
fn a_warning_hides_nothing_that_is_undecided() {
    let policy = Policy { fail_on: candlemark::compare::FailOn::Critical, ..Policy::default() };
    let slow = pairs::case("code/b4", 4, 8, pairs::Effect { decode: 0.08, ..pairs::SAME });
    let mut pair = pairs::pair(8, vec![slow, pairs::case("long/b4", 4, 8, pairs::SAME)]);
    let sentence = report::sentence(&judge(&pair, &policy));
    assert!(sentence.ends_with("; none is critical, so it is a warning only."), "{sentence}");
    pair.scenarios[1].blocks.truncate(4);
    let sentence = report::sentence(&judge(&pair, &policy));
    assert!(sentence.ends_with("; none is critical, but 3 undecided."), "{sentence}");
}

#[test]
fn many_notes_hide_no_finding_and_no_command() {
    let mut judgement = judge(&suite(400, 20), &Policy::default());
    judgement.notes =
        (0..1000).map(|i| format!("scenario {i} looks odd but can be true")).collect();
    let text = report::verdict_markdown(&judgement, "candlemark check");
    assert!(text.len() <= 60_000, "{}", text.len());
    assert_eq!(text.matches("REGRESSED").count(), 20);
    assert!(text.contains("more remarks are left out here"), "{text}");
    assert!(text.ends_with("; made by `candlemark check`\n"), "{text}");
}

#[test]
fn progress_shows_decided_and_open_scenarios() {
    let said =
        |pair: &PairRecord, left| report::pair_progress(&judge(pair, &Policy::default()), left);
    let mut pair = suite(5, 1);
    assert_eq!(
        said(&pair, Some(130.0)),
        "look 2 of 6, block 8: 5 of 5 scenarios decided (1 regressed)"
    );
    for case in &mut pair.scenarios[1..] {
        case.blocks.truncate(4);
    }
    assert_eq!(
        said(&pair, None),
        "look 2 of 6, block 8: 1 of 5 scenarios decided (1 regressed), 4 open: s1/b4 s2/b4 s3/b4 \u{2026}"
    );
    pair.blocks.truncate(5);
    pair.scenarios[0].blocks.truncate(5);
    assert_eq!(
        said(&pair, Some(4000.0)),
        "look 1 of 6, block 5: 0 of 5 scenarios decided, 5 open: s0/b4 s1/b4 s2/b4 \u{2026}; \
         about 1 h 6 min left"
    );
}
