//! A verdict for CI tools: JUnit XML, Bencher Metric Format, and github-action-benchmark.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{Change, Finding, Judgement, Outcome, Verdict};
use crate::report::text::{escape_xml, number, sanitize};
use crate::report::verdict::{sentence, table_row, verdict_label};
use crate::workload::{Better, Metric};

/// The verdict as JUnit XML: one test case per finding. A regression is a failure, a broken or
/// incomparable scenario an error, and an undecided one is skipped. If no finding explains why the
/// verdict is not a pass, a case of its own does, so that a run without comparisons is not green;
/// if nothing was judged at all, that case is an error.
///
/// `timestamp` is when the numbers were measured, or `now` if there are none: UTC without its
/// letter, as Ant's schema requires. `time` is the total of a scenario's measured generations; it
/// stands at the scenario's first case only, because readers add up all cases. Without a measured
/// time there is no `time`.
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
        let (class, name, message) = (escape_xml(class), escape_xml(name), escape_xml(message));
        let element = match state {
            None => format!("<system-out>{message}</system-out>"),
            Some(state) => format!("<{state} message=\"{message}\"/>"),
        };
        let case = format!(
            "    <testcase classname=\"{class}\" name=\"{name}\"{time}>{element}</testcase>\n"
        );
        cases.push((case, state));
    };
    let mut unexplained = true;
    // Not skipped, which many CI systems show in green.
    let overall = match judgement.reason {
        Some(_) => Some("error"),
        None => junit_state(judgement.outcome),
    };
    for finding in &judgement.findings {
        let row = table_row(finding);
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
        unexplained &= state != overall;
        case(&finding.scenario, name, state, &message);
    }
    if unexplained {
        case("candlemark", "verdict", overall, &sentence(judgement));
    }
    let count = |state: &str| cases.iter().filter(|(_, of_case)| *of_case == Some(state)).count();
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
    let timestamp = escape_xml(started.trim_end_matches('Z'));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  \
         <testsuite name=\"candlemark\" timestamp=\"{timestamp}\" {counts}>\n{cases}  \
         </testsuite>\n</testsuites>\n"
    )
}

/// JUnit's name for an outcome; `None` for a pass.
fn junit_state(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Undecided => Some("skipped"),
        Outcome::Regression => Some("failure"),
        Outcome::NotComparable | Outcome::Failed => Some("error"),
    }
}

/// The findings with numbers that are valid.
fn with_numbers(
    judgement: &Judgement,
) -> impl Iterator<Item = (&Finding, &'static Metric, &Change)> {
    let findings = judgement.findings.iter();
    findings.filter_map(|finding| Some((finding, finding.metric?, finding.change.as_ref()?)))
}

fn min_max(blocks: &[f64]) -> (f64, f64) {
    let least = blocks.iter().copied().fold(f64::INFINITY, f64::min);
    (least, blocks.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// The current values in Bencher's format
/// (<https://bencher.dev/docs/reference/bencher-metric-format/>), in the unit of the metric's name;
/// the bounds are the smallest and the largest block.
pub fn bmf(judgement: &Judgement) -> String {
    #[derive(Serialize)]
    struct Value {
        value: f64,
        lower_value: f64,
        upper_value: f64,
    }
    let mut benchmarks: BTreeMap<String, BTreeMap<&str, Value>> = BTreeMap::new();
    for (finding, metric, change) in with_numbers(judgement) {
        let (lower_value, upper_value) = min_max(&finding.current_blocks);
        let value = Value { value: change.current, lower_value, upper_value };
        benchmarks.entry(sanitize(&finding.scenario)).or_default().insert(metric.name, value);
    }
    serde_json::to_string_pretty(&benchmarks).expect("a map of numbers is JSON") + "\n"
}

/// The current values as github-action-benchmark's `customSmallerIsBetter`
/// (<https://github.com/benchmark-action/github-action-benchmark>). Rates are converted to times
/// per token, so that smaller is better in the whole list.
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
            min_max(&finding.current_blocks.iter().map(|value| cost(*value)).collect::<Vec<_>>());
        let row = table_row(finding);
        Entry {
            name: sanitize(&format!("{} {}", finding.scenario, metric.label)),
            unit,
            value: cost(change.current),
            range: format!("{}..{}", number(least), number(most)),
            extra: sanitize(&format!("{}: {}", verdict_label(&finding.verdict), row[4])),
        }
    };
    let entries: Vec<Entry> = with_numbers(judgement).map(entry).collect();
    serde_json::to_string_pretty(&entries).expect("a list of numbers is JSON") + "\n"
}
