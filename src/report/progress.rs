//! One line after each interim look of a pair: progress, decided scenarios, undecided scenarios.

use std::collections::BTreeSet;

use crate::compare::looks::LOOKS;
use crate::compare::{Judgement, Verdict};
use crate::error::counted;
use crate::report::text::{duration, sanitize};

/// The state of a pair, with the seconds left of its budget if it has one: `look 2 of 6, block 12:
/// 17 of 20 scenarios decided (1 regressed), 3 open: code/b4 long/b16 long/b8; about 2 min 0 s
/// left`.
pub fn pair_progress(judgement: &Judgement, left_s: Option<f64>) -> String {
    let Some(summary) = &judgement.pair else { return String::new() };
    let passed = LOOKS.iter().filter(|look| **look <= summary.blocks).count();
    let at = match LOOKS.get(passed) {
        _ if LOOKS.contains(&summary.blocks) => {
            format!("look {passed} of {}, block {}", LOOKS.len(), summary.blocks)
        }
        Some(next) => format!(
            "block {}, look {} of {} at block {next}",
            summary.blocks,
            passed + 1,
            LOOKS.len()
        ),
        None => format!("block {}, past the last look", summary.blocks),
    };
    let scenarios = count(judgement, |_| true);
    let regressed = count(judgement, |verdict| matches!(verdict, Verdict::Regressed { .. }));
    let broken = count(judgement, |verdict| {
        matches!(verdict, Verdict::Failed(_) | Verdict::Invalid(_) | Verdict::OutputChanged(_))
    });
    let results = [(regressed, "regressed"), (broken, "failed")].into_iter();
    let results: Vec<String> = results
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let results =
        if results.is_empty() { String::new() } else { format!(" ({})", results.join(", ")) };
    let decided = scenarios - summary.open.len();
    // Below a second nothing more is measured, and the verdict follows.
    let left = left_s.filter(|left| !summary.open.is_empty() && *left >= 1.0);
    let left = left.map_or(String::new(), |left| format!("; about {} left", duration(left)));
    format!(
        "{at}: {decided} of {} decided{results}{}{left}",
        counted(scenarios, "scenario"),
        open(&summary.open)
    )
}

/// The number of scenarios that have a finding with such a verdict.
fn count(judgement: &Judgement, is: impl Fn(&Verdict) -> bool) -> usize {
    let findings = judgement.findings.iter().filter(|finding| is(&finding.verdict));
    findings.map(|finding| finding.scenario.as_str()).collect::<BTreeSet<_>>().len()
}

fn open(open: &[String]) -> String {
    const NAMED: usize = 3;
    if open.is_empty() {
        return String::new();
    }
    let named: Vec<String> = open.iter().take(NAMED).map(|id| sanitize(id)).collect();
    let more = if open.len() > NAMED { " \u{2026}" } else { "" };
    format!(", {} open: {}{more}", open.len(), named.join(" "))
}
