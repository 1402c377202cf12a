//! What every form of a verdict shares: the order in which a reviewer wants the findings, and their
//! words and numbers. The forms themselves are in the files below.

use crate::compare::PairSummary;
use crate::compare::{Change, Finding, Judgement, Verdict, Why, share};
use crate::record::pair::Arm;
use crate::report::text::{label, percent, shown, signed};
use crate::workload::{Better, Metric};

mod document;
mod github;
mod remarks;
mod sentence;

pub use document::{verdict_json, verdict_markdown, verdict_text};
pub use github::annotations;
pub(super) use remarks::remarks;
pub use sentence::sentence;

/// Headings of [`cells`].
pub(super) fn header(judgement: &Judgement) -> [&'static str; 9] {
    let now = if judgement.pair.is_some() { "candidate" } else { "now" };
    let (change, could) = ("change [90 %]", "could see");
    ["scenario", "metric", "base", now, change, "limit", could, "blocks", "verdict"]
}

/// Both builds of a pair: what was asked for, and what it turned out to be.
pub(super) fn arms(summary: &PairSummary) -> String {
    format!("{} \u{2192} {}", arm(&summary.base), arm(&summary.candidate))
}

fn arm(arm: &Arm) -> String {
    let mut about = Vec::new();
    if let Some(commit) = &arm.build.commit {
        about.push(commit.chars().take(12).collect());
    }
    if arm.build.dirty == Some(true) {
        about.push("with uncommitted changes".to_owned());
    }
    if let Some(injected) = &arm.injected {
        about.push(format!("slowed down on purpose: {injected}"));
    }
    if about.is_empty() {
        arm.asked.clone()
    } else {
        format!("{} ({})", arm.asked, about.join(", "))
    }
}

/// How far past its limit a change is, in limits.
fn excess(finding: &Finding) -> f64 {
    finding.change.as_ref().map_or(0.0, |change| change.theta / change.margin)
}

/// A verdict in the words of the gate.
pub(super) fn words(verdict: &Verdict) -> String {
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
        Verdict::Inconclusive(why) => format!("INCONCLUSIVE ({})", reason(*why)),
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

/// Why nothing can be said, in a word or two.
fn reason(why: Why) -> &'static str {
    match why {
        Why::Noisy => "noisy",
        Why::Borderline => "borderline",
        Why::TooFewBlocks => "too few blocks",
        Why::Uncalibrated => "uncalibrated",
        Why::Contaminated => "contaminated",
        Why::Rejected => "rejected blocks decide",
        Why::Drifted => "the machine drifted",
        Why::OutOfTime => "out of time",
        Why::Interrupted => "interrupted",
        Why::Implausible => "implausible: check the machine",
    }
}

/// The order in which a reviewer wants them.
fn rank(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::OutputChanged(_) => 0,
        Verdict::Failed(_) => 1,
        Verdict::Invalid(_) => 2,
        Verdict::Regressed { critical: true, .. } => 3,
        Verdict::Regressed { .. } => 4,
        Verdict::NotComparable(_) => 5,
        Verdict::Missing(_) => 6,
        Verdict::Inconclusive(_) => 7,
        Verdict::Improved => 8,
        Verdict::SlowerWithin => UNCHANGED,
        Verdict::Pass => UNCHANGED + 1,
        Verdict::New => UNCHANGED + 2,
        Verdict::Removed(_) => UNCHANGED + 3,
        Verdict::NotSelected => UNCHANGED + 4,
        Verdict::Identical => UNCHANGED + 5,
    }
}

const UNCHANGED: usize = 9;

/// Change and interval in percent of the metric's own unit, with its own sign.
pub(super) fn moved(metric: &Metric, change: &Change, unit: &str) -> String {
    let at = |theta: f64| signed(share(metric.better, theta));
    let interval = change.evidence.map_or(String::new(), |evidence| {
        let (one, other) = (at(evidence.ci_90.lo), at(evidence.ci_90.hi));
        match metric.better {
            Better::Higher => format!(" [{other}, {one}]"),
            Better::Lower => format!(" [{one}, {other}]"),
        }
    });
    format!("{}{unit}{interval}", at(change.theta))
}

/// The limit in percent of the metric's own unit, with its own sign.
pub(super) fn limit(metric: &Metric, change: &Change) -> String {
    let sign = if metric.better == Better::Higher { -1.0 } else { 1.0 };
    percent(sign * change.limit)
}

/// Whether a slowdown as large as the limit would have stayed unseen.
fn blind(change: &Change) -> bool {
    change.evidence.is_some_and(|evidence| evidence.smallest_detectable > change.margin)
}

/// A row of a verdict, in the order of [`header`].
pub(super) fn cells(finding: &Finding) -> Vec<String> {
    let blocks = match (finding.base_blocks.len(), finding.current_blocks.len()) {
        (0, 0) => String::new(),
        (base, _) if !finding.changes.is_empty() => base.to_string(),
        (base, now) => format!("{base}/{now}"),
    };
    let metric = finding.metric.map_or(String::new(), label);
    let mut row = vec![finding.scenario.clone(), metric];
    match finding.metric.zip(finding.change.as_ref()) {
        Some((metric, change)) => {
            let limit = limit(metric, change);
            let could = change.evidence.map_or("-".into(), |evidence| {
                let could = percent(share(metric.better, evidence.smallest_detectable));
                if blind(change) { format!("{could}, not {limit}") } else { could }
            });
            let (base, current) = (shown(metric, change.base), shown(metric, change.current));
            row.extend([base, current, moved(metric, change, " %"), limit, could]);
        }
        None => row.extend(std::iter::repeat_n(String::new(), 5)),
    }
    row.extend([blocks, words(&finding.verdict)]);
    row
}

/// Findings worst first, and where the unchanged ones begin.
pub(super) fn sorted(judgement: &Judgement) -> (Vec<&Finding>, Vec<&Finding>) {
    let mut findings: Vec<&Finding> = judgement.findings.iter().collect();
    findings.sort_by(|a, b| {
        rank(&a.verdict).cmp(&rank(&b.verdict)).then_with(|| match a.verdict {
            Verdict::Regressed { .. } => excess(b).total_cmp(&excess(a)),
            _ => std::cmp::Ordering::Equal,
        })
    });
    findings.into_iter().partition(|finding| rank(&finding.verdict) < UNCHANGED)
}
