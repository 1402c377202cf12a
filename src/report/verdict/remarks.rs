//! Remarks beside the verdict table: differences, notes, statistical power, next steps.

use crate::compare::looks::{LOOKS, Levels};
use crate::compare::{Drift, Finding, Judgement, PairSummary, Severity, Verdict, Why, share};
use crate::record::pair::{Ended, KernelProfile};
use crate::report::text::{duration, percent, short_commit};
use crate::report::verdict::{is_limit_undetectable, limit_percent};
use crate::stats;
use crate::workload::{Better, METRICS};

/// The least difference to name, as a share of the base's traced generation.
const SMALLEST_SHARE: f64 = 0.01;

/// The lines after the reason why nothing was judged, the output of a compiler for example.
pub(in crate::report) fn error_output(judgement: &Judgement) -> &[String] {
    match judgement.reason {
        Some(_) => judgement.notes.get(1..).unwrap_or_default(),
        None => &[],
    }
}

/// Differences, notes and statistics; none where equal binaries were not measured.
pub(in crate::report) fn details(judgement: &Judgement) -> Vec<String> {
    if is_identical(judgement) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for one in &judgement.differences {
        let effect = if one.severity == Severity::Blocking { "differs" } else { "changed" };
        lines.push(format!("{effect}: {} was {} and is {}", one.field, one.old, one.new));
    }
    if judgement.reason.is_none() {
        lines.extend(judgement.notes.iter().cloned());
    }
    lines.extend(judgement.pair.as_ref().and_then(kernel_changes));
    lines.extend(judgement.pair.as_ref().and_then(cost_summary));
    lines.extend(judgement.findings.iter().filter_map(reference_conflict));
    lines.extend(judgement.drift.iter().filter(|drift| !drift.warns).map(since_release));
    lines.extend(geometric_means(judgement));
    lines.extend(candidate_note(judgement));
    lines.extend(significance_note(judgement));
    lines.extend(undetectable_note(judgement));
    lines
}

/// The commands that measured and judged, each once.
pub(in crate::report) fn commands(judgement: &Judgement, command: &str) -> Vec<String> {
    match &judgement.pair {
        Some(summary) if summary.command == command => {
            vec![format!("made by `{command}`, seed {}", summary.seed)]
        }
        Some(summary) => vec![
            format!("measured by `{}`, seed {}", summary.command, summary.seed),
            format!("made by `{command}`"),
        ],
        None => vec![format!("made by `{command}`")],
    }
}

/// Whether the binaries were equal byte for byte, so that nothing was measured.
pub(super) fn is_identical(judgement: &Judgement) -> bool {
    judgement.pair.as_ref().is_some_and(|summary| summary.ended == Ended::Identical)
}

/// The kernels that take longer, the largest difference first.
fn kernel_changes(summary: &PairSummary) -> Option<String> {
    let KernelProfile { base, candidate } = summary.kernels.as_ref()?;
    let total = base.values().sum::<f64>();
    let mut slower: Vec<(&str, f64, f64)> = candidate
        .iter()
        .map(|(name, now)| (name.as_str(), base.get(name).copied().unwrap_or(0.0), *now))
        .filter(|(_, was, now)| now - was > SMALLEST_SHARE * total)
        .collect();
    slower.sort_by(|a, b| (b.2 - b.1).total_cmp(&(a.2 - a.1)));
    let describe = |(name, was, now): &(&str, f64, f64)| {
        let name = match *name {
            "product" => "GEMM",
            "rest" => "between kernels",
            name => name,
        };
        format!("{name} {:.3} → {:.3} ms", 1e3 * was, 1e3 * now)
    };
    Some(match slower.as_slice() {
        [] => "where: no kind of kernel takes longer in a traced generation".into(),
        slower => format!(
            "where, in one traced generation of {:.3} ms: {}",
            1e3 * total,
            slower.iter().map(describe).collect::<Vec<_>>().join(", ")
        ),
    })
}

/// The number of blocks, their cost, and why measuring ended.
fn cost_summary(summary: &PairSummary) -> Option<String> {
    if summary.total_s <= 0.0 {
        return None;
    }
    let share = |seconds: f64| format!("{:.0} %", 100.0 * seconds / summary.total_s);
    let blocks = match summary.blocks {
        1 => "1 block".into(),
        count => format!("{count} blocks"),
    };
    let rejected = match summary.rejected.len() {
        0 => String::new(),
        count => format!(" and {count} rejected"),
    };
    let ended = match summary.ended {
        Ended::Decided => "; stopped because every scenario is decided",
        Ended::Looks => "; stopped at the last planned look",
        Ended::Rejected => "; stopped because too many blocks were rejected",
        _ => "",
    };
    let null = if summary.null.is_empty() { "; no null control was evaluated" } else { "" };
    Some(format!(
        "{blocks}{rejected} took {}: {} measuring, {} warming up, {} starting processes and \
         loading models{ended}{null}",
        duration(summary.total_s),
        share(summary.turns_s),
        share(summary.warm_up_s),
        share(summary.load_s),
    ))
}

/// How the columns of the table agree.
fn candidate_note(judgement: &Judgement) -> Option<String> {
    let now = if judgement.pair.is_some() { "candidate" } else { "now" };
    let any = judgement.findings.iter().any(|finding| finding.change.is_some());
    any.then(|| {
        format!("{now} = base \u{d7} (1 + change); the change is estimated from all blocks")
    })
}

/// The significance level of a regression, and the meaning of the columns.
fn significance_note(judgement: &Judgement) -> Option<String> {
    let (alpha, judged) = (judgement.policy.alpha, judgement.judged);
    let (looks, levels) = match judgement.pair {
        Some(_) => (LOOKS.len(), Levels::for_pair(alpha, judged)),
        None => (judgement.policy.looks, Levels::new(alpha, judged, judgement.policy.looks)),
    };
    let level = 100.0 * levels.familywise;
    let together = match judgement.judged {
        0 => return None,
        1 => "1 metric judged".into(),
        judged => format!("{judged} metrics judged together"),
    };
    let looks = if looks > 1 { format!(" at up to {looks} looks") } else { String::new() };
    Some(format!(
        "{together}{looks}: the intervals are at 90 % confidence, a regression needs {level:.2} %; \
         \"detectable\" is the smallest slowdown this run could detect (80 % power)",
    ))
}

/// Metrics for which a slowdown as large as the limit could have gone undetected.
fn undetectable_note(judgement: &Judgement) -> Option<String> {
    const NAMED: usize = 5;
    let findings = judgement.findings.iter();
    let undetectable: Vec<&Finding> =
        findings.filter(|one| one.change.as_ref().is_some_and(is_limit_undetectable)).collect();
    let named = undetectable.iter().take(NAMED).filter_map(|finding| {
        let limit = limit_percent(finding.change.as_ref()?);
        Some(format!("{limit} % in {} of {}", finding.metric?.label, finding.scenario))
    });
    let named: Vec<String> = named.collect();
    let more = match undetectable.len().saturating_sub(NAMED) {
        0 => String::new(),
        count => format!(", nor {count} more"),
    };
    (!named.is_empty()).then(|| format!("this run could not detect {}{more}", named.join(", ")))
}

/// The next step towards a verdict.
pub(in crate::report) fn first_step(judgement: &Judgement, command: &str) -> Option<String> {
    next_steps(judgement, command).into_iter().next()
}

/// Warnings and next steps.
pub(in crate::report) fn next_steps(judgement: &Judgement, command: &str) -> Vec<String> {
    let any = |is: &dyn Fn(&Verdict) -> bool| {
        judgement.findings.iter().any(|finding| is(&finding.verdict))
    };
    let because = |whys: &[Why]| {
        any(&|verdict| matches!(verdict, Verdict::Undecided(why) if whys.contains(why)))
    };
    let blocking = judgement.differences.iter().any(|one| one.severity == Severity::Blocking);
    let unmeasured = because(&[Why::OutOfTime, Why::Interrupted]);
    let short = because(&[Why::Noisy, Why::Borderline, Why::TooFewBlocks, Why::Drifted]);
    let uncalibrated = because(&[Why::Uncalibrated]);
    let pair = judgement.pair.as_ref();
    let remedy = match pair {
        Some(_) => "give `candlemark pair` the reason with `--output-change`",
        None => "promote a new baseline",
    };
    let steps = [
        (
            blocking,
            "to compare, promote a baseline for this machine, model and settings with \
             `candlemark promote`"
                .into(),
        ),
        (
            any(&|verdict| matches!(verdict, Verdict::OutputChanged(_))),
            format!(
                "greedy output changed: if intended, {remedy}; times of different answers are not \
                 compared"
            ),
        ),
        (
            any(&|verdict| matches!(verdict, Verdict::Missing(_))),
            "requested scenarios are missing: measure them, or list removed scenarios with a reason \
             under `[gate.removed]`"
                .into(),
        ),
        (short || unmeasured, pair.map_or(String::new(), more_blocks)),
        (
            pair.is_some() && because(&[Why::Contaminated, Why::Rejected]),
            "the machine was not idle: measure again when nothing else is running".into(),
        ),
        (
            pair.is_none() && uncalibrated,
            "to get verdicts, run `candlemark promote` on runs from three sessions with eight blocks"
                .into(),
        ),
        (pair.is_none() && short && !uncalibrated, measure_more(judgement, command)),
        (
            pair.is_none() && unmeasured,
            "`candlemark run --resume` with the same arguments measures the rest".into(),
        ),
        (
            any(&|verdict| matches!(verdict, Verdict::Regressed { proven: false, .. })),
            "a regression not marked as proven is worth a second run, on a second host if there is \
             one"
                .into(),
        ),
    ];
    // A warning must not be folded with the details.
    let drift = judgement.drift.iter().filter(|drift| drift.warns).map(since_release);
    let steps = steps.into_iter().filter(|(applies, step)| *applies && !step.is_empty());
    drift.chain(steps.map(|(_, step)| step)).collect()
}

fn more_blocks(summary: &PairSummary) -> String {
    match summary.ended {
        Ended::Rejected => "other guests of the host take too much CPU time: measure on a quieter \
                            machine"
            .into(),
        Ended::Looks => {
            "all planned looks are used up; more blocks would not decide: measure on a \
                         quieter machine"
                .into()
        }
        _ => "to decide, measure more blocks: the same `candlemark pair` with a larger `--budget`"
            .into(),
    }
}

/// The commands that measure more where a stored baseline was not enough.
fn measure_more(judgement: &Judgement, command: &str) -> String {
    if let Some(tool) = judgement.other_tool {
        return format!(
            "to decide, run {tool} again, and put its results together with `candlemark merge`"
        );
    }
    let check = if command.starts_with("candlemark check") { command } else { "candlemark check" };
    let pair = judgement.baseline_commit.as_ref().map_or(String::new(), |commit| {
        format!(", or both builds in turns: `candlemark pair --base {}`", short_commit(commit))
    });
    let more = match judgement.policy.looks {
        1 => "a new run with `candlemark run --blocks 8`, as this run allows only one look".into(),
        _ if check.contains(" --measure") => format!("`{check}` with a larger `--budget`"),
        _ => format!("`{check} --measure`"),
    };
    format!("to decide, measure more blocks: {more}{pair}")
}

/// The estimate normalized by the reference kernels, where it overturned a verdict.
fn reference_conflict(finding: &Finding) -> Option<String> {
    let change = finding.change.as_ref()?;
    let (metric, normalized) = (finding.metric?, change.normalized?);
    (finding.verdict == Verdict::Undecided(Why::Drifted)).then(|| {
        let at = |theta| percent(share(metric.better, theta));
        format!(
            "the machine drifted: {} of {} {} as measured, {} normalized by the reference kernels; \
             they disagree, so there is no verdict",
            metric.label,
            finding.scenario,
            at(change.theta),
            at(normalized)
        )
    })
}

/// The drift of a metric since the release.
pub(super) fn since_release(drift: &Drift) -> String {
    let sign = if drift.metric.better == Better::Higher { -1.0 } else { 1.0 };
    format!(
        "{} since the release: {} of {} {}, limit of a single change {}",
        if drift.warns { "WARNING, drift" } else { "drift" },
        drift.metric.label,
        drift.scenario,
        percent(share(drift.metric.better, drift.theta)),
        percent(sign * drift.limit)
    )
}

/// Geometric means by metric: informational, never a verdict.
fn geometric_means(judgement: &Judgement) -> Option<String> {
    let each = METRICS.iter().filter_map(|metric| {
        let of_metric = judgement
            .findings
            .iter()
            .filter(|finding| finding.metric.is_some_and(|known| known.name == metric.name));
        let thetas = of_metric.filter_map(|finding| Some(finding.change.as_ref()?.theta));
        let thetas: Vec<f64> = thetas.collect();
        let mean = stats::mean(&thetas).filter(|_| thetas.len() > 1)?;
        let change = percent(share(metric.better, mean));
        Some(format!("{} {change} ({} scenarios)", metric.label, thetas.len()))
    });
    let each = each.collect::<Vec<_>>().join(", ");
    (!each.is_empty()).then(|| format!("geometric mean (informational): {each}"))
}
