//! What to read beside the table: differences, notes, how sure it is, what to do next.

use crate::compare::Judgement;
use crate::compare::Verdict;
use crate::compare::Weight;
use crate::compare::Why;
use crate::compare::share;
use crate::report::text::percent;
use crate::workload::METRICS;

/// What to read beside the table: differences, notes, how sure it is, what to do next.
pub(in crate::report) fn remarks(judgement: &Judgement) -> Vec<String> {
    let mut lines = Vec::new();
    for one in &judgement.differences {
        let effect = if one.weight == Weight::Blocks { "differs" } else { "changed" };
        lines.push(format!("{effect}: {} was {} and is {}", one.field, one.old, one.new));
    }
    lines.extend(judgement.notes.iter().cloned());
    lines.extend(means(judgement));
    if judgement.judged > 0 {
        let level = 100.0 * (1.0 - judgement.policy.alpha / judgement.judged as f64);
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
            "to decide, measure once more and judge the runs together: `candlemark check --record A --record B`".into(),
        );
    }
    if any(&|verdict| matches!(verdict, Verdict::Regressed { proven: false, .. })) {
        lines.push("a regression that is not marked proven is worth a second run".into());
    }
    lines
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
