//! A verdict as annotations of a GitHub job.

use std::fmt::Write as _;

use crate::compare::{Finding, Judgement, Outcome, Verdict};
use crate::report::text::sanitize;
use crate::report::verdict::remarks::since_release;
use crate::report::verdict::{build_names, by_importance, sentence, table_row};

/// The verdict as annotations of a GitHub job: at most ten errors and ten warnings, the last of
/// which counts the rest. A verdict other than a pass always has at least one annotation.
pub fn annotations(judgement: &Judgement) -> String {
    let title = property(&match &judgement.pair {
        Some(summary) => format!("candlemark {}", build_names(summary)),
        None => "candlemark".into(),
    });
    let (findings, _) = by_importance(judgement);
    let fails = |finding: &&Finding| {
        matches!(finding.verdict.outcome(&judgement.policy), Outcome::Regression | Outcome::Failed)
    };
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) = findings
        .into_iter()
        .filter(|finding| finding.verdict != Verdict::Improved)
        .partition(fails);
    let mut text = String::new();
    if errors.is_empty() && judgement.outcome >= Outcome::NotComparable {
        let _ = writeln!(text, "::error title={title}::{}", message(&sentence(judgement)));
    } else if warnings.is_empty() && judgement.outcome == Outcome::Undecided {
        let _ = writeln!(text, "::warning title={title}::{}", message(&sentence(judgement)));
    }
    let describe = |finding: &Finding| {
        let row = table_row(finding);
        let fields = [&row[0], &row[1], &row[4], &row[8]].map(String::as_str);
        fields.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let errors: Vec<String> = errors.into_iter().map(describe).collect();
    let drift = judgement.drift.iter().filter(|drift| drift.warns).map(since_release);
    let warnings: Vec<String> = warnings.into_iter().map(describe).chain(drift).collect();
    for (level, lines) in [("error", errors), ("warning", warnings)] {
        let shown = if lines.len() > 10 { 9 } else { lines.len() };
        for line in &lines[..shown] {
            let _ = writeln!(text, "::{level} title={title}::{}", message(line));
        }
        if lines.len() > shown {
            let _ = writeln!(text, "::{level} title={title}::and {} more", lines.len() - shown);
        }
    }
    text
}

/// The message of a workflow command: it cannot end the command or begin another.
fn message(text: &str) -> String {
    sanitize(text).replace('%', "%25")
}

/// A property of a workflow command: it cannot end or begin one.
fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}
