//! A verdict as annotations of a GitHub job.

use std::fmt::Write as _;

use crate::compare::Finding;
use crate::compare::Judgement;
use crate::compare::Verdict;
use crate::report::text::plain;
use crate::report::verdict::cells;
use crate::report::verdict::rank;
use crate::report::verdict::sorted;

/// The verdict as annotations of a GitHub job: at most ten errors and ten warnings, the last counting the rest.
pub fn annotations(judgement: &Judgement) -> String {
    let (findings, _) = sorted(judgement);
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) = findings
        .into_iter()
        .filter(|finding| finding.verdict != Verdict::Improved)
        .partition(|finding| rank(&finding.verdict) < 5);
    let mut text = String::new();
    for (level, findings) in [("error", errors), ("warning", warnings)] {
        let shown = if findings.len() > 10 { 9 } else { findings.len() };
        for finding in &findings[..shown] {
            let row = cells(finding);
            let message = command_text(&format!("{} {} {} {}", row[0], row[1], row[4], row[8]));
            let _ = writeln!(text, "::{level} title=candlemark::{message}");
        }
        if findings.len() > shown {
            let _ =
                writeln!(text, "::{level} title=candlemark::and {} more", findings.len() - shown);
        }
    }
    text
}

/// Text within a workflow command, which must not end it nor begin another.
fn command_text(text: &str) -> String {
    plain(text).replace('%', "%25")
}
