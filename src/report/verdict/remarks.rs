//! What to read beside the table: differences, notes, how sure it is, what to do next.

use crate::compare::PairSummary;
use crate::compare::looks::{LOOKS, Levels};
use crate::compare::{Drift, Finding, Judgement, Severity, Verdict, Why, share};
use crate::record::pair::Ended;
use crate::report::text::{duration, percent};
use crate::report::verdict::blind;
use crate::workload::{Better, METRICS};

/// Everything beside the table; `command` is what made the verdict.
pub(in crate::report) fn remarks(judgement: &Judgement, command: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for one in &judgement.differences {
        let effect = if one.severity == Severity::Blocking { "differs" } else { "changed" };
        lines.push(format!("{effect}: {} was {} and is {}", one.field, one.old, one.new));
    }
    // The first sentence gives the reason already.
    let said = usize::from(judgement.reason.is_some());
    lines.extend(judgement.notes.iter().skip(said).cloned());
    lines.extend(judgement.pair.as_ref().and_then(spent));
    lines.extend(judgement.findings.iter().filter_map(drifted));
    lines.extend(judgement.drift.iter().map(since_release));
    lines.extend(means(judgement));
    lines.extend(level(judgement));
    lines.extend(unseen(judgement));
    lines.extend(next(judgement, command));
    if let Some(summary) = &judgement.pair {
        lines.push(format!("measured by `{}`, seed {}", summary.command, summary.seed));
    }
    lines.push(format!("made by `{command}`"));
    lines
}

/// How many blocks there are, what they cost, and why there are no more.
fn spent(summary: &PairSummary) -> Option<String> {
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
        Ended::Decided => "; ended because every scenario is decided",
        Ended::Looks => "; ended because the last planned look was reached",
        Ended::Rejected => "; ended because too many blocks were rejected",
        _ => "",
    };
    let null = if summary.null.is_empty() { "; no null control was judged" } else { "" };
    Some(format!(
        "{blocks}{rejected} took {}: {} of it measuring, {} warming up, {} starting processes and loading{ended}{null}",
        duration(summary.total_s),
        share(summary.turns_s),
        share(summary.warm_up_s),
        share(summary.load_s),
    ))
}

/// At which level a regression has to hold, and what the columns mean.
fn level(judgement: &Judgement) -> Option<String> {
    let (alpha, judged) = (judgement.policy.alpha, judgement.judged);
    let (looks, levels) = match judgement.pair {
        Some(_) => (LOOKS.len(), Levels::for_pair(alpha, judged)),
        None => (judgement.policy.looks, Levels::new(alpha, judged, judgement.policy.looks)),
    };
    let level = 100.0 * levels.familywise;
    let together = match judgement.judged {
        0 => return None,
        1 => "1 metric was judged".into(),
        judged => format!("{judged} metrics were judged together"),
    };
    let looks = if looks > 1 { format!(" at up to {looks} looks") } else { String::new() };
    Some(format!(
        "{together}{looks}: intervals hold 90 % each, a regression has to hold at {level:.2} %; \
         \"could see\" is the smallest change for the worse that this run would have told from none",
    ))
}

/// Where a change as large as the limit would have stayed unseen.
fn unseen(judgement: &Judgement) -> Option<String> {
    const NAMED: usize = 5;
    let unseen = judgement.findings.iter().filter(|one| one.change.as_ref().is_some_and(blind));
    let unseen: Vec<&Finding> = unseen.collect();
    let named = unseen.iter().take(NAMED).filter_map(|finding| {
        let limit = 100.0 * finding.change.as_ref()?.limit;
        Some(format!("{limit:.0} % in {} of {}", finding.metric?.label, finding.scenario))
    });
    let named: Vec<String> = named.collect();
    let more = match unseen.len().saturating_sub(NAMED) {
        0 => String::new(),
        count => format!(", nor the limit of {count} more"),
    };
    (!named.is_empty()).then(|| format!("this run could not see {}{more}", named.join(", ")))
}

/// What to do about it.
fn next(judgement: &Judgement, command: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let any = |is: &dyn Fn(&Verdict) -> bool| {
        judgement.findings.iter().any(|finding| is(&finding.verdict))
    };
    let because = |whys: &[Why]| {
        any(&|verdict| matches!(verdict, Verdict::Inconclusive(why) if whys.contains(why)))
    };
    if judgement.differences.iter().any(|one| one.severity == Severity::Blocking) {
        let what = "to compare, make a baseline of this machine, model and settings with";
        lines.push(format!("{what} `candlemark promote`"));
    }
    if any(&|verdict| matches!(verdict, Verdict::OutputChanged(_))) {
        let remedy = match judgement.pair {
            Some(_) => "tell `candlemark pair` why with `--output-change`",
            None => "promote a new baseline",
        };
        lines.push(format!(
            "greedy output changed: if that is meant, {remedy}; times of different answers are not compared"
        ));
    }
    if any(&|verdict| matches!(verdict, Verdict::Missing(_))) {
        lines.push(
            "what is missing was asked for: measure it, or list a scenario that is meant to be gone \
             under `[gate.removed]`, with the reason"
                .into(),
        );
    }
    let unmeasured = because(&[Why::OutOfTime, Why::Interrupted]);
    let short = because(&[Why::Noisy, Why::Borderline, Why::TooFewBlocks, Why::Drifted]);
    match &judgement.pair {
        Some(summary) => {
            if short || unmeasured {
                lines.push(more_blocks(summary));
            }
            if because(&[Why::Contaminated, Why::Rejected]) {
                lines.push(format!(
                    "the machine was not quiet: measure again when nothing else runs on it, with `{}`",
                    summary.command
                ));
            }
        }
        None if because(&[Why::Uncalibrated]) => lines.push(
            "to get verdicts, run `candlemark promote` on runs of three sessions with eight blocks"
                .into(),
        ),
        None if short => lines.push(measure_more(judgement, command)),
        None => {}
    }
    if unmeasured && judgement.pair.is_none() {
        lines.push(
            "`candlemark run --resume` with the same words measures what the run did not come to"
                .into(),
        );
    }
    if any(&|verdict| matches!(verdict, Verdict::Regressed { proven: false, .. })) {
        let what = "a regression that is not marked proven is worth a second run";
        lines.push(format!("{what}, on a second host if there is one"));
    }
    lines
}

fn more_blocks(summary: &PairSummary) -> String {
    match summary.ended {
        Ended::Rejected => "other guests of the host take too much of its time: measure on a quieter machine".into(),
        Ended::Looks => "all planned looks are spent, and more of the same would not decide: measure on a quieter \
                         machine"
            .into(),
        _ => format!("to decide, measure more blocks: `{}` with a larger `--budget`", summary.command),
    }
}

/// The commands that decide what a stored baseline could not.
fn measure_more(judgement: &Judgement, command: &str) -> String {
    let check = if command.starts_with("candlemark check") { command } else { "candlemark check" };
    let pair = judgement.baseline_commit.as_ref().map_or(String::new(), |commit| {
        let commit: String = commit.chars().take(12).collect();
        format!(", or both builds in turns: `candlemark pair --base {commit}`")
    });
    let more = match judgement.policy.looks {
        1 => "a new run with `candlemark run --blocks 8`, because this was its only look".into(),
        _ if check.contains(" --measure") => format!("`{check}` with a larger `--budget`"),
        _ => format!("`{check} --measure`"),
    };
    format!("to decide, measure more blocks: {more}{pair}")
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
pub(super) fn since_release(drift: &Drift) -> String {
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
