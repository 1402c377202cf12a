//! A verdict as annotations of a GitHub job.

use std::fmt::Write as _;

use crate::compare::{Finding, Judgement, Outcome, Verdict};
use crate::report::text::plain;
use crate::report::verdict::remarks::since_release;
use crate::report::verdict::{arms, cells, sentence, sorted};

/// The verdict as annotations of a GitHub job: at most ten errors and ten warnings, the last
/// counting the rest. An outcome that is no pass is never silent.
pub fn annotations(judgement: &Judgement) -> String {
    let title = property(&match &judgement.pair {
        Some(summary) => format!("candlemark {}", arms(summary)),
        None => "candlemark".into(),
    });
    let (findings, _) = sorted(judgement);
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
    let said = |finding: &Finding| {
        let row = cells(finding);
        let said = [&row[0], &row[1], &row[4], &row[8]].map(String::as_str);
        said.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let errors: Vec<String> = errors.into_iter().map(said).collect();
    let drift = judgement.drift.iter().filter(|drift| drift.warns).map(since_release);
    let warnings: Vec<String> = warnings.into_iter().map(said).chain(drift).collect();
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

/// Text within a workflow command, which must not end it nor begin another.
fn message(text: &str) -> String {
    plain(text).replace('%', "%25")
}

/// A property of a workflow command, which must not begin another.
fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}
