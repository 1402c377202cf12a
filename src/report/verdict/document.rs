//! A verdict as a document: terminal text, Markdown, JSON.

use std::fmt::Write as _;

use crate::compare::Judgement;
use crate::report::text::Medium;
use crate::report::text::cell;
use crate::report::text::plain;
use crate::report::text::table;
use crate::report::verdict::HEADER;
use crate::report::verdict::cells;
use crate::report::verdict::remarks;
use crate::report::verdict::sentence;
use crate::report::verdict::sorted;

/// A comment on GitHub is cut at 65 536 characters.
const LONGEST: usize = 60_000;

const NUMBERS: &[usize] = &[2, 3, 4, 5, 6, 7];

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
