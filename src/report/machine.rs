//! A verdict for other programs: JUnit XML, Bencher Metric Format, and the list that
//! github-action-benchmark reads.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{Change, Finding, Judgement, Outcome, Verdict};
use crate::report::text::plain;
use crate::report::verdict::{cells, sentence, words};
use crate::workload::{Better, Metric};

/// The verdict as JUnit XML: a test case a finding. A regression is a failure, what broke or cannot
/// be compared an error, and what is not decided is skipped. Where no finding says why the verdict
/// is no pass, a case of its own does: nothing compared is no green file. Where nothing came to be
/// judged, that case is an error.
///
/// `timestamp` is when the numbers were measured, or `now` where none were: UTC without its letter,
/// as the schema of Ant has it. `time` is the seconds of a scenario's measured generations; it
/// stands at the scenario's first case, because readers add cases up and the others were read off
/// the same generations. What has no such time, a run of prompts alone for example, has no `time`.
pub fn junit(judgement: &Judgement, now: &str) -> String {
    let mut seconds = judgement.measured.seconds.clone();
    let time = |seconds: Option<f64>| {
        seconds.map_or(String::new(), |seconds| format!(" time=\"{seconds:.3}\""))
    };
    let mut total: Option<f64> = None;
    let mut cases: Vec<(String, Option<&str>)> = Vec::new();
    let mut case = |class: &str, name: &str, state: Option<&'static str>, message: &str| {
        let seconds = seconds.remove(class);
        total = seconds.map(|seconds| total.unwrap_or_default() + seconds).or(total);
        let time = time(seconds);
        let (class, name, message) = (xml(class), xml(name), xml(message));
        let said = match state {
            None => format!("<system-out>{message}</system-out>"),
            Some(state) => format!("<{state} message=\"{message}\"/>"),
        };
        let case = format!(
            "    <testcase classname=\"{class}\" name=\"{name}\"{time}>{said}</testcase>\n"
        );
        cases.push((case, state));
    };
    let mut silent = true;
    // What no case was judged of is no skipped one, which many a CI shows in green.
    let whole = match judgement.reason {
        Some(_) => Some("error"),
        None => junit_state(judgement.outcome),
    };
    for finding in &judgement.findings {
        let row = cells(finding);
        let name = finding.metric.map_or("scenario", |metric| metric.label);
        let message = match &finding.change {
            Some(_) => format!("{}: {}, limit {}", row[8], row[4], row[5]),
            None => row[8].clone(),
        };
        let state = match finding.verdict {
            Verdict::Regressed { .. } | Verdict::Removed(_) | Verdict::NotSelected => {
                Some(junit_state(finding.verdict.outcome(&judgement.policy)).unwrap_or("skipped"))
            }
            _ => junit_state(finding.verdict.outcome(&judgement.policy)),
        };
        silent &= state != whole;
        case(&finding.scenario, name, state, &message);
    }
    if silent {
        case("candlemark", "verdict", whole, &sentence(judgement));
    }
    let count = |state: &str| cases.iter().filter(|(_, its)| *its == Some(state)).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
        cases.len(),
        count("failure"),
        count("error"),
        count("skipped")
    );
    let counts = format!("{counts}{}", time(total));
    let cases: String = cases.iter().map(|(case, _)| case.as_str()).collect();
    let is_time = |time: &&str| time.parse::<jiff::Timestamp>().is_ok();
    let started = judgement.measured.started.as_deref().filter(is_time).unwrap_or(now);
    let timestamp = xml(started.trim_end_matches('Z'));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  \
         <testsuite name=\"candlemark\" timestamp=\"{timestamp}\" {counts}>\n{cases}  \
         </testsuite>\n</testsuites>\n"
    )
}

/// What JUnit calls an outcome; a pass has no name.
fn junit_state(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Undecided => Some("skipped"),
        Outcome::Regression => Some("failure"),
        Outcome::NotComparable | Outcome::Failed => Some("error"),
    }
}

fn xml(text: &str) -> String {
    let mut escaped = String::new();
    for c in plain(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'), // XML has no such characters.
            _ => escaped.push(c),
        }
    }
    escaped
}

/// What was compared, leaving out what has no numbers or cannot be believed.
fn measured(judgement: &Judgement) -> impl Iterator<Item = (&Finding, &'static Metric, &Change)> {
    let findings = judgement.findings.iter();
    findings.filter_map(|finding| Some((finding, finding.metric?, finding.change.as_ref()?)))
}

/// The smallest and the largest of block values.
fn range(blocks: &[f64]) -> (f64, f64) {
    let least = blocks.iter().copied().fold(f64::INFINITY, f64::min);
    (least, blocks.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// The present values in Bencher's own format (<https://bencher.dev/docs/reference/bencher-metric-format/>), in the unit of the
/// metric's name; the bounds are the smallest and the largest block.
pub fn bmf(judgement: &Judgement) -> String {
    #[derive(Serialize)]
    struct Value {
        value: f64,
        lower_value: f64,
        upper_value: f64,
    }
    let mut benchmarks: BTreeMap<String, BTreeMap<&str, Value>> = BTreeMap::new();
    for (finding, metric, change) in measured(judgement) {
        let (lower_value, upper_value) = range(&finding.current_blocks);
        let value = Value { value: change.current, lower_value, upper_value };
        benchmarks.entry(plain(&finding.scenario)).or_default().insert(metric.name, value);
    }
    serde_json::to_string_pretty(&benchmarks).expect("a map of numbers is JSON") + "\n"
}

/// The present values as github-action-benchmark's `customSmallerIsBetter`
/// (<https://github.com/benchmark-action/github-action-benchmark>). Rates are turned into the time of a token, so that one
/// list holds everything.
pub fn smaller_is_better(judgement: &Judgement) -> String {
    #[derive(Serialize)]
    struct Entry {
        name: String,
        unit: &'static str,
        value: f64,
        range: String,
        extra: String,
    }
    let entry = |(finding, metric, change): (&Finding, &'static Metric, &Change)| {
        let (unit, scale) = match metric.better {
            Better::Higher => ("ms/token", 1e3),
            Better::Lower => (metric.unit, metric.scale),
        };
        let cost = |value: f64| metric.better.cost(value) * scale;
        let (least, most) =
            range(&finding.current_blocks.iter().map(|value| cost(*value)).collect::<Vec<_>>());
        let row = cells(finding);
        Entry {
            name: plain(&format!("{} {}", finding.scenario, metric.label)),
            unit,
            value: cost(change.current),
            range: format!("{}..{}", crate::report::number(least), crate::report::number(most)),
            extra: plain(&format!("{}: {}", words(&finding.verdict), row[4])),
        }
    };
    let entries: Vec<Entry> = measured(judgement).map(entry).collect();
    serde_json::to_string_pretty(&entries).expect("a list of numbers is JSON") + "\n"
}
