//! A verdict for CI tools: JUnit XML, Bencher Metric Format, and github-action-benchmark.

use std::collections::BTreeMap;

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
    // Not skipped, which many CI systems show in green.
    let overall = match judgement.reason {
        Some(_) => Some("error"),
        None => junit_state(judgement.outcome),
    };
    let cases = judgement.findings.iter().map(|finding| {
        let row = table_row(finding);
        let name = finding.metric.map_or("scenario", |metric| metric.label);
        let message = match &finding.change {
            Some(_) => format!("{}: {}, limit {}", row[8], row[4], row[5]),
            None => row[8].clone(),
        };
        let state = junit_state(finding.verdict.outcome(&judgement.policy));
        let state = match finding.verdict {
            Verdict::Regressed { .. } | Verdict::Removed(_) | Verdict::NotSelected => {
                state.or(Some("skipped"))
            }
            _ => state,
        };
        (finding.scenario.as_str(), name, state, message)
    });
    let mut cases: Vec<_> = cases.collect();
    if cases.iter().all(|(.., state, _)| *state != overall) {
        cases.push(("candlemark", "verdict", overall, sentence(judgement)));
    }
    let time = |seconds: Option<f64>| {
        seconds.map_or(String::new(), |seconds| format!(" time=\"{seconds:.3}\""))
    };
    let mut seconds = judgement.measured.seconds.clone();
    let (mut text, mut total) = (String::new(), None);
    for (class, name, state, message) in &cases {
        let seconds = seconds.remove(*class);
        total = seconds.map(|seconds| total.unwrap_or_default() + seconds).or(total);
        let [class, name, message] = [class, name, message.as_str()].map(escape_xml);
        let element = match state {
            None => format!("<system-out>{message}</system-out>"),
            Some(state) => format!("<{state} message=\"{message}\"/>"),
        };
        let case = format!("classname=\"{class}\" name=\"{name}\"{}", time(seconds));
        text += &format!("    <testcase {case}>{element}</testcase>\n");
    }
    let count = |state: &str| cases.iter().filter(|case| case.2 == Some(state)).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"{}",
        cases.len(),
        count("failure"),
        count("error"),
        count("skipped"),
        time(total)
    );
    let is_time = |time: &&str| time.parse::<jiff::Timestamp>().is_ok();
    let started = judgement.measured.started.as_deref().filter(is_time).unwrap_or(now);
    let timestamp = escape_xml(started.trim_end_matches('Z'));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  \
         <testsuite name=\"candlemark\" timestamp=\"{timestamp}\" {counts}>\n{text}  \
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
    let mut benchmarks: BTreeMap<String, BTreeMap<&str, _>> = BTreeMap::new();
    for (finding, metric, change) in with_numbers(judgement) {
        let (least, most) = min_max(&finding.current_blocks);
        let value = object! { value: change.current, lower_value: least, upper_value: most };
        benchmarks.entry(sanitize(&finding.scenario)).or_default().insert(metric.name, value);
    }
    serde_json::to_string_pretty(&benchmarks).expect("a map of numbers is JSON") + "\n"
}

/// The current values as github-action-benchmark's `customSmallerIsBetter`
/// (<https://github.com/benchmark-action/github-action-benchmark>). Rates are converted to times
/// per token, so that smaller is better in the whole list.
pub fn smaller_is_better(judgement: &Judgement) -> String {
    let entries = with_numbers(judgement).map(|(finding, metric, change)| {
        let (unit, scale) = match metric.better {
            Better::Higher => ("ms/token", 1e3),
            Better::Lower => (metric.unit, metric.scale),
        };
        let cost = |value: &f64| metric.better.cost(*value) * scale;
        let (least, most) = min_max(&finding.current_blocks.iter().map(cost).collect::<Vec<_>>());
        let moved = &table_row(finding)[4];
        object! {
            name: sanitize(&format!("{} {}", finding.scenario, metric.label)),
            unit: unit,
            value: cost(&change.current),
            range: format!("{}..{}", number(least), number(most)),
            extra: sanitize(&format!("{}: {moved}", verdict_label(&finding.verdict))),
        }
    });
    let entries: Vec<_> = entries.collect();
    serde_json::to_string_pretty(&entries).expect("a list of numbers is JSON") + "\n"
}
