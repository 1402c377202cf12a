//! A verdict as terminal text, Markdown, JSON and GitHub annotations. The first sentence is the one a reviewer needs.

use std::fmt::Write as _;

use crate::compare::Change;
use crate::compare::Drift;
use crate::compare::Finding;
use crate::compare::Judgement;
use crate::compare::Outcome;
use crate::compare::Verdict;
use crate::compare::Weight;
use crate::compare::Why;
use crate::compare::share;
use crate::report::text::Medium;
use crate::report::text::cell;
use crate::report::text::label;
use crate::report::text::percent;
use crate::report::text::plain;
use crate::report::text::shown;
use crate::report::text::signed;
use crate::report::text::table;
use crate::workload::Better;
use crate::workload::METRICS;
use crate::workload::Metric;

/// A comment on GitHub is cut at 65 536 characters.
const LONGEST: usize = 60_000;

pub(super) const HEADER: &[&str] = &[
    "scenario",
    "metric",
    "base",
    "now",
    "change [90 %]",
    "limit",
    "could see",
    "blocks",
    "verdict",
];

const NUMBERS: &[usize] = &[2, 3, 4, 5, 6, 7];

/// The verdict in one sentence.
pub fn sentence(judgement: &Judgement) -> String {
    let of = match judgement.judged {
        1 => "of 1 metric".into(),
        judged => format!("of {judged} metrics"),
    };
    let count = |is: fn(&Verdict) -> bool| {
        judgement.findings.iter().filter(|finding| is(&finding.verdict)).count()
    };
    let regressed = count(|verdict| matches!(verdict, Verdict::Regressed { .. }));
    let inconclusive = count(|verdict| matches!(verdict, Verdict::Inconclusive(_)));
    let improved = count(|verdict| *verdict == Verdict::Improved);

    let mut broken = judgement.findings.iter().filter(|finding| rank(&finding.verdict) < 3);
    if let Some(first) = broken.next() {
        let more = match broken.count() {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        let what = words(&first.verdict);
        return format!("{} {what}{more}; {regressed} {of} regressed.", first.scenario);
    }
    if regressed > 0 {
        let link = if regressed > 1 { "; the worst is " } else { ": " };
        let weight = match judgement.outcome {
            Outcome::Regression => "",
            _ => "; none is critical, so it is a warning only",
        };
        return format!("{regressed} {of} regressed{link}{}{weight}.", worst(judgement));
    }
    match judgement.outcome {
        Outcome::NotComparable => match incomparable(judgement) {
            Some(what) => format!("NOT COMPARABLE: {what}."),
            None => "NOT COMPARABLE: nothing in the run is in the baseline.".into(),
        },
        Outcome::Undecided => {
            format!("CANNOT DECIDE: {inconclusive} {of} inconclusive, none regressed.")
        }
        _ => format!("PASS: none {of} regressed, {improved} improved."),
    }
}

/// The regression that is furthest past its limit.
fn worst(judgement: &Judgement) -> String {
    let regressed = judgement.findings.iter().filter_map(|finding| match finding.verdict {
        Verdict::Regressed { .. } => Some((finding, finding.metric?, finding.change.as_ref()?)),
        _ => None,
    });
    let worst = regressed.max_by(|(a, ..), (b, ..)| excess(a).total_cmp(&excess(b)));
    worst.map_or(String::new(), |(finding, metric, change)| {
        let (moved, limit) = (moved(metric, change, " %"), limit(metric, change));
        format!("{} of {} {moved}, limit {limit}", metric.label, finding.scenario)
    })
}

/// The first thing that forbids a comparison.
fn incomparable(judgement: &Judgement) -> Option<String> {
    let mut fields = judgement.differences.iter().filter(|one| one.weight == Weight::Blocks);
    if let Some(first) = fields.next() {
        let more = match fields.count() {
            0 => String::new(),
            count => format!(", and {count} more fields differ"),
        };
        return Some(format!("{} was {} and is {}{more}", first.field, first.old, first.new));
    }
    judgement.findings.iter().find_map(|finding| match &finding.verdict {
        Verdict::NotComparable(why) => Some(format!("{}: {why}", finding.scenario)),
        Verdict::Missing => Some(format!("{} is missing", finding.scenario)),
        _ => None,
    })
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
        Verdict::Inconclusive(why) => format!(
            "INCONCLUSIVE ({})",
            match why {
                Why::Noisy => "noisy",
                Why::Borderline => "borderline",
                Why::TooFewBlocks => "too few blocks",
                Why::Uncalibrated => "uncalibrated",
                Why::Contaminated => "contaminated",
                Why::Rejected => "rejected blocks decide",
                Why::Drifted => "the machine drifted",
            }
        ),
        Verdict::New => "NEW".into(),
        Verdict::Missing => "MISSING".into(),
        Verdict::NotComparable(why) => format!("NOT COMPARABLE: {why}"),
        Verdict::Invalid(why) => format!("INVALID: {why}"),
        Verdict::OutputChanged(None) => "OUTPUT CHANGED".into(),
        Verdict::OutputChanged(Some(place)) => format!("OUTPUT CHANGED: {place}"),
        Verdict::Identical => "IDENTICAL".into(),
        Verdict::Failed(why) => format!("FAILED: {}", why.trim_start_matches("failed: ")),
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
        Verdict::Missing => 6,
        Verdict::Inconclusive(_) => 7,
        Verdict::Improved => 8,
        Verdict::SlowerWithin => UNCHANGED,
        Verdict::Pass => UNCHANGED + 1,
        Verdict::New => UNCHANGED + 2,
        Verdict::Identical => UNCHANGED + 3,
    }
}

const UNCHANGED: usize = 9;

/// Change and interval in percent of the metric's own unit, with its own sign.
fn moved(metric: &Metric, change: &Change, unit: &str) -> String {
    let at = |theta: f64| signed(share(metric.better, theta));
    let interval = change.evidence.map_or(String::new(), |evidence| {
        let (one, other) = (at(evidence.single.lo), at(evidence.single.hi));
        match metric.better {
            Better::Higher => format!(" [{other}, {one}]"),
            Better::Lower => format!(" [{one}, {other}]"),
        }
    });
    format!("{}{unit}{interval}", at(change.theta))
}

fn limit(metric: &Metric, change: &Change) -> String {
    let sign = if metric.better == Better::Higher { -1.0 } else { 1.0 };
    percent(sign * change.limit)
}

pub(super) fn cells(finding: &Finding) -> Vec<String> {
    let blocks = match (finding.base_blocks.len(), finding.current_blocks.len()) {
        (0, 0) => String::new(),
        (base, now) => format!("{base}/{now}"),
    };
    let metric = finding.metric.map_or(String::new(), label);
    let mut row = vec![finding.scenario.clone(), metric];
    match finding.metric.zip(finding.change.as_ref()) {
        Some((metric, change)) => row.extend([
            shown(metric, change.base),
            shown(metric, change.current),
            moved(metric, change, " %"),
            limit(metric, change),
            change
                .evidence
                .map_or("-".into(), |evidence| percent(share(metric.better, evidence.smallest))),
        ]),
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

/// What to read beside the table: differences, notes, how sure it is, what to do next.
pub(super) fn remarks(judgement: &Judgement) -> Vec<String> {
    let mut lines = Vec::new();
    for one in &judgement.differences {
        let effect = if one.weight == Weight::Blocks { "differs" } else { "changed" };
        lines.push(format!("{effect}: {} was {} and is {}", one.field, one.old, one.new));
    }
    lines.extend(judgement.notes.iter().cloned());
    lines.extend(judgement.findings.iter().filter_map(drifted));
    lines.extend(judgement.drift.iter().map(since_release));
    lines.extend(means(judgement));
    if judgement.judged > 0 {
        let tests = (judgement.judged * judgement.policy.looks) as f64;
        let level = 100.0 * (1.0 - judgement.policy.alpha / tests);
        lines.push(format!(
            "{} metrics were judged together: intervals hold 90 % each, a regression has to hold at {level:.2} %; \
             \"could see\" is the smallest change for the worse that this run would have told from none",
            judgement.judged
        ));
    }
    if judgement.differences.iter().any(|one| one.weight == Weight::Blocks) {
        lines.push(
            "to compare, make a baseline of this machine, model and settings with \
             `candlemark promote`"
                .into(),
        );
    }
    let any = |is: &dyn Fn(&Verdict) -> bool| {
        judgement.findings.iter().any(|finding| is(&finding.verdict))
    };
    if any(&|verdict| matches!(verdict, Verdict::OutputChanged(_))) {
        lines.push("greedy output changed: if that is meant, promote a new baseline; times of different answers are not compared".into());
    }
    if any(&|verdict| matches!(verdict, Verdict::Inconclusive(Why::Uncalibrated))) {
        lines.push(
            "to get verdicts, run `candlemark promote` on runs of three sessions with eight blocks"
                .into(),
        );
    } else if any(&|verdict| matches!(verdict, Verdict::Inconclusive(_))) {
        lines.push(
            "to decide, measure further blocks of what is undecided: `candlemark check --measure`; at another time, measure once \
             more and judge both: `candlemark check --record A --record B`"
                .into(),
        );
    }
    if any(&|verdict| matches!(verdict, Verdict::Regressed { proven: false, .. })) {
        lines.push("a regression that is not marked proven is worth a second run".into());
    }
    lines
}

/// What the reference kernels have to say where they took a verdict away.
fn drifted(finding: &Finding) -> Option<String> {
    let change = finding.change.as_ref()?;
    let (metric, normalised) = (finding.metric?, change.normalised?);
    (finding.verdict == Verdict::Inconclusive(Why::Drifted)).then(|| {
        let at = |theta| percent(share(metric.better, theta));
        format!(
            "the machine drifted: {} of {} {} as measured, {} when what the reference kernels say of the machine is taken \
             out; they disagree, so that neither is a verdict",
            metric.label,
            finding.scenario,
            at(change.theta),
            at(normalised)
        )
    })
}

/// How far a metric has come since the release.
fn since_release(drift: &Drift) -> String {
    let sign = if drift.metric.better == Better::Higher { -1.0 } else { 1.0 };
    format!(
        "{} since the release: {} of {} {}, the limit of one change is {}",
        if drift.warns { "WARNING, drift" } else { "drift" },
        drift.metric.label,
        drift.scenario,
        percent(share(drift.metric.better, drift.theta)),
        percent(sign * drift.limit)
    )
}

/// Geometric means of what was judged, by metric: information, never a verdict.
fn means(judgement: &Judgement) -> Option<String> {
    let each = METRICS.iter().filter_map(|metric| {
        let moved = judgement
            .findings
            .iter()
            .filter(|finding| finding.metric.is_some_and(|its| its.name == metric.name));
        let thetas: Vec<f64> = moved
            .filter_map(|finding| finding.change.as_ref().map(|change| change.theta))
            .collect();
        let mean = crate::stats::mean(&thetas).filter(|_| thetas.len() > 1)?;
        Some(format!(
            "{} {} ({} scenarios)",
            metric.label,
            percent(share(metric.better, mean)),
            thetas.len()
        ))
    });
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| format!("on average, for information only: {}", each.join(", ")))
}

/// The verdict for a terminal; `command` is what made it.
pub fn verdict_text(judgement: &Judgement, command: &str) -> String {
    let mut text = plain(&sentence(judgement)) + "\n";
    let (findings, unchanged) = sorted(judgement);
    let rows: Vec<Vec<String>> = findings.into_iter().chain(unchanged).map(cells).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", table(Medium::Terminal, HEADER, &rows, NUMBERS));
    }
    text.push('\n');
    for line in remarks(judgement) {
        let _ = writeln!(text, "- {}", plain(&line));
    }
    let _ = writeln!(text, "- made by `{}`", plain(command));
    text
}

/// The verdict for a pull request; `command` is what made it. Unchanged rows are folded, and left out where the text would
/// outgrow a comment; findings never are.
pub fn verdict_markdown(judgement: &Judgement, command: &str) -> String {
    let mut text = format!("**{}**\n", cell(&sentence(judgement)));
    let (findings, unchanged) = sorted(judgement);
    let rows: Vec<Vec<String>> = findings.into_iter().map(cells).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", table(Medium::Markdown, HEADER, &rows, NUMBERS));
    }
    let mut tail = String::from("\n");
    for line in remarks(judgement) {
        let _ = writeln!(tail, "- {}", cell(&line));
    }
    let _ = writeln!(tail, "- made by {}", cell(command));
    let mut rows: Vec<Vec<String>> = unchanged.iter().map(|finding| cells(finding)).collect();
    while !rows.is_empty() {
        let left_out = match unchanged.len() - rows.len() {
            0 => String::new(),
            count => {
                format!("\n{count} more unchanged rows are left out here; the JSON has them.\n")
            }
        };
        let folded = format!(
            "\n<details><summary>{} unchanged</summary>\n\n{}{left_out}\n</details>\n",
            unchanged.len(),
            table(Medium::Markdown, HEADER, &rows, NUMBERS)
        );
        if text.len() + folded.len() + tail.len() <= LONGEST {
            text += &folded;
            break;
        }
        rows.truncate(rows.len() / 2);
    }
    text + &tail
}

/// The verdict with everything that went into it.
pub fn verdict_json(judgement: &Judgement) -> String {
    serde_json::to_string_pretty(judgement).expect("a judgement is plain data") + "\n"
}

/// The verdict as annotations of a GitHub job: at most ten errors and ten warnings, the last counting the rest.
pub fn annotations(judgement: &Judgement) -> String {
    let (findings, _) = sorted(judgement);
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) = findings
        .into_iter()
        .filter(|finding| finding.verdict != Verdict::Improved)
        .partition(|finding| rank(&finding.verdict) < 5);
    let said = |finding: &Finding| {
        let row = cells(finding);
        format!("{} {} {} {}", row[0], row[1], row[4], row[8])
    };
    let errors: Vec<String> = errors.into_iter().map(said).collect();
    let drift = judgement.drift.iter().filter(|drift| drift.warns).map(since_release);
    let warnings: Vec<String> = warnings.into_iter().map(said).chain(drift).collect();
    let mut text = String::new();
    for (level, messages) in [("error", errors), ("warning", warnings)] {
        let shown = if messages.len() > 10 { 9 } else { messages.len() };
        for message in &messages[..shown] {
            let _ = writeln!(text, "::{level} title=candlemark::{}", command_text(message));
        }
        if messages.len() > shown {
            let _ =
                writeln!(text, "::{level} title=candlemark::and {} more", messages.len() - shown);
        }
    }
    text
}

/// Text within a workflow command, which must not end it nor begin another.
fn command_text(text: &str) -> String {
    plain(text).replace('%', "%25")
}
