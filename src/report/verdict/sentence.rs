//! The verdict in one sentence.

use crate::compare::{Finding, Judgement, Outcome, Severity, Verdict};
use crate::record::pair::Ended;
use crate::report::document::Tone;
use crate::report::verdict::{excess, format_change, format_limit, rank, verdict_label, why_label};

/// The verdict in one sentence, which begins with `outcome_word`.
pub fn sentence(judgement: &Judgement) -> String {
    format!("{}: {}", outcome_word(judgement.outcome).0, statement(judgement))
}

/// The leading word of a verdict, and how it is highlighted.
pub(crate) fn outcome_word(outcome: Outcome) -> (&'static str, Tone) {
    match outcome {
        Outcome::Pass => ("PASS", Tone::Good),
        Outcome::Regression => ("REGRESSION", Tone::Bad),
        Outcome::Undecided => ("UNDECIDED", Tone::Unsure),
        Outcome::NotComparable => ("NOT COMPARABLE", Tone::Unsure),
        Outcome::Failed => ("FAILED", Tone::Bad),
    }
}

/// The sentence after the leading word.
pub(in crate::report) fn statement(judgement: &Judgement) -> String {
    if let Some(reason) = &judgement.reason {
        return format!("{reason}.");
    }
    // A scenario that was never measured is undecided as a whole: its metrics are unknown.
    let whole = judgement.findings.iter().filter(|finding| {
        finding.metric.is_none() && matches!(finding.verdict, Verdict::Undecided(_))
    });
    let of = match (judgement.judged, whole.count()) {
        (1, 0) => "of 1 metric".into(),
        (judged, 0) => format!("of {judged} metrics"),
        (judged, whole) => format!("of {judged} metrics and {whole} unmeasured scenarios"),
    };
    let count = |is: fn(&Verdict) -> bool| {
        judgement.findings.iter().filter(|finding| is(&finding.verdict)).count()
    };
    let regressed = count(|verdict| matches!(verdict, Verdict::Regressed { .. }));
    let undecided = count(|verdict| matches!(verdict, Verdict::Undecided(_)));
    let improved = count(|verdict| *verdict == Verdict::Improved);

    if let Some(Ended::Failed(why)) = judgement.pair.as_ref().map(|summary| &summary.ended) {
        return format!("{why}; {regressed} {of} regressed.");
    }
    if judgement.pair.as_ref().is_some_and(|summary| summary.ended == Ended::Identical) {
        return "both binaries are equal byte for byte, nothing was measured.".into();
    }
    let mut broken = judgement.findings.iter().filter(|finding| rank(&finding.verdict) < 3);
    if let Some(first) = broken.next() {
        let more = match broken.count() {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        let what = verdict_label(&first.verdict);
        return format!("{} {what}{more}; {regressed} {of} regressed.", first.scenario);
    }
    if regressed > 0 {
        let link = if regressed > 1 { "; the worst is " } else { ": " };
        let weight = match judgement.outcome {
            Outcome::Regression => String::new(),
            Outcome::Undecided => format!("; none is critical, but {undecided} undecided"),
            Outcome::NotComparable => {
                "; none is critical, but not everything could be compared".into()
            }
            _ => "; none is critical, so it is a warning only".into(),
        };
        return format!("{regressed} {of} regressed{link}{}{weight}.", worst_regression(judgement));
    }
    match judgement.outcome {
        Outcome::NotComparable => match why_not_comparable(judgement) {
            Some(what) => format!("{what}."),
            None if judgement.pair.is_some() => "the builds have no scenario in common.".into(),
            None => "the run and the baseline have no scenario in common.".into(),
        },
        Outcome::Undecided if judgement.judged == 0 => "nothing was measured.".into(),
        Outcome::Undecided => {
            let reasons = undecided_reasons(judgement);
            format!("{undecided} {of} undecided ({reasons}), none regressed.")
        }
        _ => {
            let others = [
                (count(|verdict| *verdict == Verdict::New), "new"),
                (count(|verdict| matches!(verdict, Verdict::Removed(_))), "removed"),
                (count(|verdict| *verdict == Verdict::NotSelected), "not selected"),
            ];
            let others = others.into_iter().filter(|(count, _)| *count > 0);
            let others: String = others.map(|(count, what)| format!(", {count} {what}")).collect();
            format!("none {of} regressed, {improved} improved{others}.")
        }
    }
}

/// The reasons of undecided findings, each once.
fn undecided_reasons(judgement: &Judgement) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    for finding in &judgement.findings {
        if let Verdict::Undecided(why) = finding.verdict
            && !reasons.contains(&why_label(why))
        {
            reasons.push(why_label(why));
        }
    }
    reasons.join(", ")
}

/// The regression furthest beyond its limit.
fn worst_regression(judgement: &Judgement) -> String {
    let regressed = judgement.findings.iter().filter_map(|finding| match finding.verdict {
        Verdict::Regressed { .. } => Some((finding, finding.metric?, finding.change.as_ref()?)),
        _ => None,
    });
    let worst = regressed.max_by(|(a, ..), (b, ..)| excess(a).total_cmp(&excess(b)));
    worst.map_or(String::new(), |(finding, metric, change)| {
        let (moved, limit) = (format_change(metric, change, " %"), format_limit(metric, change));
        format!("{} of {} {moved}, limit {limit}", metric.label, finding.scenario)
    })
}

/// The first reason that forbids a comparison.
fn why_not_comparable(judgement: &Judgement) -> Option<String> {
    let mut fields = judgement.differences.iter().filter(|one| one.severity == Severity::Blocking);
    if let Some(first) = fields.next() {
        let more = match fields.count() {
            0 => String::new(),
            count => format!(", and {count} more fields differ"),
        };
        return Some(format!("{} was {} and is {}{more}", first.field, first.old, first.new));
    }
    let describe = |finding: &Finding| {
        let of = match finding.metric {
            Some(metric) => format!("{} of {}", metric.label, finding.scenario),
            None => finding.scenario.clone(),
        };
        match &finding.verdict {
            Verdict::NotComparable(why) => Some(format!("{}: {why}", finding.scenario)),
            Verdict::Missing(why) => Some(format!("{of} is missing: {why}")),
            _ => None,
        }
    };
    let mut causes = judgement.findings.iter().filter_map(describe);
    let first = causes.next()?;
    Some(match causes.count() {
        0 => first,
        count => format!("{first} (and {count} more)"),
    })
}
