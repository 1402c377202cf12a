//! Shared by all formats of a verdict: order, wording and numbers of the findings.

use crate::compare::{Change, Finding, Judgement, PairSummary, Verdict, Why, share};
use crate::record::pair::Arm;
use crate::report::document::Tone;
use crate::report::text::{metric_label, metric_value, percent, short_commit, signed_percent};
use crate::settings::Server;
use crate::workload::{Better, Metric};

mod formats;
mod github;
mod remarks;
mod sentence;

pub(crate) use formats::verdict_cells;
pub use formats::{verdict_json, verdict_markdown, verdict_text};
pub use github::annotations;
pub(super) use remarks::{commands, details, error_output, first_step, next_steps};
pub(crate) use sentence::outcome_word;
pub use sentence::sentence;
pub(super) use sentence::statement;

/// Headings of [`table_row`].
pub(super) fn header(judgement: &Judgement) -> [&'static str; 9] {
    let now = if judgement.pair.is_some() { "candidate" } else { "now" };
    ["scenario", "metric", "base", now, "change [90 %]", "limit", "detectable", "blocks", "verdict"]
}

/// Both builds of a pair, as requested and as resolved. Of long paths and commands it has what
/// tells them apart.
pub(super) fn build_names(summary: &PairSummary) -> String {
    names(&summary.base, &summary.candidate)
}

fn names(base: &Arm, candidate: &Arm) -> String {
    let long = base.asked.len().max(candidate.asked.len()) > LONGEST_NAME;
    let words = base.asked.split(' ').zip(candidate.asked.split(' '));
    let common = words.take_while(|(one, other)| one == other).count();
    let [base, candidate] = [base, candidate].map(|arm| {
        let asked = if long { short_name(&arm.asked, common) } else { arm.asked.clone() };
        build_name(arm, asked)
    });
    format!("{base} \u{2192} {candidate}")
}

/// In bytes.
const LONGEST_NAME: usize = 60;

/// A command without the words that the other one begins with, too, but for the last of them; of a
/// path, the file's name.
fn short_name(asked: &str, common: usize) -> String {
    let rest = asked.split(' ').skip(common.saturating_sub(1)).collect::<Vec<_>>().join(" ");
    match asked.rsplit_once('/') {
        Some((_, file)) if !asked.contains(' ') => format!("\u{2026}/{file}"),
        _ if common < 2 => asked.into(),
        _ => format!("\u{2026} {rest}"),
    }
}

fn build_name(arm: &Arm, asked: String) -> String {
    // What was built is the client, where servers are compared.
    let build = Some(&arm.build).filter(|_| arm.settings.server.is_none());
    let about = [
        arm.settings.server.as_ref().map(Server::program),
        build.and_then(|build| build.commit.as_deref().map(short_commit)),
        build.and_then(|build| build.dirty?.then(|| "with uncommitted changes".into())),
        arm.injected.as_ref().map(|how| format!("slowed down on purpose: {how}")),
    ];
    let about = about.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if about.is_empty() { asked } else { format!("{asked} ({about})") }
}

/// The change relative to the limit.
fn excess(finding: &Finding) -> f64 {
    finding.change.as_ref().map_or(0.0, |change| change.theta / change.margin)
}

/// A verdict in the gate's words.
pub(super) fn verdict_label(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => "PASS".into(),
        Verdict::SlowerWithin => "PASS (worse, within limit)".into(),
        Verdict::Improved => "IMPROVED".into(),
        Verdict::Regressed { proven, critical } => match (critical, proven) {
            (true, true) => "REGRESSED (critical, proven)".into(),
            (true, false) => "REGRESSED (critical)".into(),
            (false, true) => "REGRESSED (proven)".into(),
            (false, false) => "REGRESSED".into(),
        },
        Verdict::Undecided(why) => format!("UNDECIDED ({})", why_label(*why)),
        Verdict::New => "NEW".into(),
        Verdict::Missing(why) => format!("MISSING: {why}"),
        Verdict::Removed(why) => format!("REMOVED: {why}"),
        Verdict::NotSelected => "NOT SELECTED".into(),
        Verdict::NotComparable(why) => format!("NOT COMPARABLE: {why}"),
        Verdict::Invalid(why) => format!("INVALID: {why}"),
        Verdict::OutputChanged(None) => "OUTPUT CHANGED".into(),
        Verdict::OutputChanged(Some(place)) => format!("OUTPUT CHANGED: {place}"),
        Verdict::Identical => "IDENTICAL".into(),
        Verdict::Failed(why) => format!("FAILED: {why}"),
    }
}

/// The reason for an undecided verdict, in a few words.
fn why_label(why: Why) -> &'static str {
    match why {
        Why::Noisy => "noisy",
        Why::Borderline => "borderline",
        Why::TooFewBlocks => "too few blocks",
        Why::Uncalibrated => "uncalibrated",
        Why::Contaminated => "contaminated",
        Why::Rejected => "depends on rejected blocks",
        Why::Drifted => "the machine drifted",
        Why::OutOfTime => "out of time",
        Why::Interrupted => "interrupted",
        Why::Implausible => "implausible: check the machine",
    }
}

/// The place of verdicts in a table, most important first, and how they are highlighted.
fn importance(verdict: &Verdict) -> (usize, Tone) {
    match verdict {
        Verdict::OutputChanged(_) => (0, Tone::Bad),
        Verdict::Failed(_) => (1, Tone::Bad),
        Verdict::Invalid(_) => (2, Tone::Bad),
        Verdict::Regressed { critical: true, .. } => (3, Tone::Bad),
        Verdict::Regressed { .. } => (4, Tone::Bad),
        Verdict::NotComparable(_) => (5, Tone::Unsure),
        Verdict::Missing(_) => (6, Tone::Unsure),
        Verdict::Undecided(_) => (7, Tone::Unsure),
        Verdict::Improved => (8, Tone::Good),
        Verdict::Removed(_) | Verdict::NotSelected => (UNCHANGED, Tone::Unsure),
        Verdict::SlowerWithin | Verdict::Pass | Verdict::New | Verdict::Identical => {
            (UNCHANGED, Tone::Good)
        }
    }
}

const UNCHANGED: usize = 9;

fn rank(verdict: &Verdict) -> usize {
    importance(verdict).0
}

/// How a verdict is highlighted.
pub(super) fn tone(verdict: &Verdict) -> Tone {
    importance(verdict).1
}

/// Change and confidence interval in percent, with the metric's own sign.
pub(super) fn format_change(metric: &Metric, change: &Change, unit: &str) -> String {
    let at = |theta: f64| signed_percent(share(metric.better, theta));
    let interval = change.evidence.map_or(String::new(), |evidence| {
        let (one, other) = (at(evidence.ci_90.lo), at(evidence.ci_90.hi));
        match metric.better {
            Better::Higher => format!(" [{other}, {one}]"),
            Better::Lower => format!(" [{one}, {other}]"),
        }
    });
    format!("{}{unit}{interval}", at(change.theta))
}

/// The limit in percent, with the metric's own sign.
pub(super) fn format_limit(metric: &Metric, change: &Change) -> String {
    let sign = if metric.better == Better::Higher { -1.0 } else { 1.0 };
    percent(sign * change.limit)
}

/// The limit in percent without sign and unit: `5`, `7.5`.
fn limit_percent(change: &Change) -> f64 {
    (1e3 * change.limit).round() / 10.0
}

/// Whether a slowdown as large as the limit could have gone undetected.
fn is_limit_undetectable(change: &Change) -> bool {
    change.evidence.is_some_and(|evidence| evidence.smallest_detectable > change.margin)
}

/// The smallest detectable change; marked with the limit if it is larger.
fn format_detectable(metric: &Metric, change: &Change) -> String {
    let Some(evidence) = change.evidence else { return "-".into() };
    let smallest = share(metric.better, evidence.smallest_detectable);
    if is_limit_undetectable(change) {
        let limit = limit_percent(change);
        return format!("\u{2265} {:.1} %, limit {limit} %", 100.0 * smallest.abs());
    }
    percent(smallest)
}

/// The value after a change: base × (1 + change).
pub(super) fn estimated_value(metric: &Metric, change: &Change) -> f64 {
    change.base * (1.0 + share(metric.better, change.theta))
}

/// A row of the verdict table, in the order of [`header`].
pub(super) fn table_row(finding: &Finding) -> Vec<String> {
    let blocks = match (finding.base_blocks.len(), finding.current_blocks.len()) {
        (0, 0) => String::new(),
        (base, _) if !finding.changes.is_empty() => base.to_string(),
        (base, now) => format!("{base}/{now}"),
    };
    let metric = finding.metric.map_or(String::new(), metric_label);
    let mut row = vec![finding.scenario.clone(), metric];
    match finding.metric.zip(finding.change.as_ref()) {
        Some((metric, change)) => {
            let candidate = estimated_value(metric, change);
            row.extend([
                metric_value(metric, change.base),
                metric_value(metric, candidate),
                format_change(metric, change, " %"),
                format_limit(metric, change),
                format_detectable(metric, change),
            ]);
        }
        None => row.extend(std::iter::repeat_n(String::new(), 5)),
    }
    row.extend([blocks, verdict_label(&finding.verdict)]);
    row
}

/// Findings that need attention, most important first, and unchanged ones; otherwise in suite
/// order.
pub(super) fn by_importance(judgement: &Judgement) -> (Vec<&Finding>, Vec<&Finding>) {
    let findings = judgement.findings.iter();
    let (mut findings, unchanged): (Vec<&Finding>, Vec<&Finding>) =
        findings.partition(|finding| rank(&finding.verdict) < UNCHANGED);
    findings.sort_by(|a, b| {
        rank(&a.verdict).cmp(&rank(&b.verdict)).then_with(|| match a.verdict {
            Verdict::Regressed { .. } => excess(b).total_cmp(&excess(a)),
            _ => std::cmp::Ordering::Equal,
        })
    });
    (findings, unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_what_tells_them_apart() {
        let long = "llama-server -m /models/of/some/length/model.gguf --port {port}";
        let names = |base: &str, candidate: &str| {
            let [base, candidate] =
                [base, candidate].map(|asked| Arm { asked: asked.into(), ..Arm::default() });
            names(&base, &candidate)
        };
        assert_eq!(names("main", "HEAD"), "main \u{2192} HEAD");
        let (two, one) = (format!("{long} -t 2"), format!("{long} -t 1 -fa"));
        assert_eq!(names(&two, &one), "\u{2026} -t 2 \u{2192} \u{2026} -t 1 -fa");
        assert_eq!(names(&two, &two), "\u{2026} 2 \u{2192} \u{2026} 2");
        let path = format!("/builds/{}/candlemark-1f", "a".repeat(60));
        assert_eq!(names(&path, &path), "\u{2026}/candlemark-1f \u{2192} \u{2026}/candlemark-1f");
    }
}
