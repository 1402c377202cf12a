//! A verdict as a document: terminal text, Markdown, JSON.

use std::fmt::Write as _;

use crate::compare::{Finding, Judgement};
use crate::report::text::{LONGEST, Medium, cell, plain, table};
use crate::report::verdict::{arms, cells, header, remarks, sentence, sorted};

const NUMBERS: &[usize] = &[2, 3, 4, 5, 6, 7];

/// Of which no more than this may be remarks: a warning for each of hundreds of scenarios must not
/// push out a finding.
const LONGEST_REMARKS: usize = 15_000;

/// The verdict for a terminal; `command` is what made it.
pub fn verdict_text(judgement: &Judgement, command: &str) -> String {
    let mut text = plain(&sentence(judgement)) + "\n";
    if let Some(summary) = &judgement.pair {
        let _ = writeln!(text, "{}", plain(&arms(summary)));
    }
    let (findings, unchanged) = sorted(judgement);
    let rows: Vec<Vec<String>> = findings.into_iter().chain(unchanged).map(cells).collect();
    if !rows.is_empty() {
        let table = table(Medium::Terminal, &header(judgement), &rows, NUMBERS);
        let _ = write!(text, "\n{table}");
    }
    text.push('\n');
    for line in remarks(judgement, command) {
        let _ = writeln!(text, "- {}", plain(&line));
    }
    text
}

/// The verdict for a pull request; `command` is what made it. Unchanged rows are folded. Where the
/// text would outgrow a comment they are left out first, then the mildest findings, and the text
/// says how many.
pub fn verdict_markdown(judgement: &Judgement, command: &str) -> String {
    let mut text = format!("**{}**\n", cell(&sentence(judgement)));
    if let Some(summary) = &judgement.pair {
        let _ = write!(text, "\n{}\n", cell(&arms(summary)));
    }
    let mut tail = String::from("\n");
    for line in shortened(remarks(judgement, command)) {
        let _ = writeln!(tail, "- {line}");
    }
    let (findings, unchanged) = sorted(judgement);
    let left = |text: &str| LONGEST.saturating_sub(text.len() + tail.len() + MARGIN);
    if !findings.is_empty() {
        let (table, out) = fitted(judgement, &findings, left(&text));
        let _ = write!(text, "\n{table}");
        if out > 0 {
            let _ = write!(
                text,
                "\n**{out} more findings, the mildest, are left out here; the JSON has them.**\n"
            );
        }
    }
    if !unchanged.is_empty() {
        let (table, out) = fitted(judgement, &unchanged, left(&text));
        let count = unchanged.len();
        let _ = write!(text, "\n<details><summary>{count} unchanged</summary>\n\n{table}");
        if out > 0 {
            let _ =
                write!(text, "\n{out} more unchanged rows are left out here; the JSON has them.\n");
        }
        text += "\n</details>\n";
    }
    text + &tail
}

/// Remarks as Markdown, without those in the middle that would be too many: what to do next and the
/// commands stand last.
fn shortened(lines: Vec<String>) -> Vec<String> {
    const LAST: usize = 10;
    let mut lines: Vec<String> = lines.iter().map(|line| cell(line)).collect();
    let last = lines.split_off(lines.len().saturating_sub(LAST));
    let mut length: usize = last.iter().map(String::len).sum();
    let fits = |line: &&String| {
        length += line.len();
        length <= LONGEST_REMARKS
    };
    let kept = lines.iter().take_while(fits).count();
    let out = lines.len() - kept;
    lines.truncate(kept);
    if out > 0 {
        lines.push(format!("{out} more remarks are left out here; the JSON has them"));
    }
    lines.into_iter().chain(last).collect()
}

/// What is written around a table and is not counted with it.
const MARGIN: usize = 400;

/// A table of as many findings as fit, from the first, and how many do not.
fn fitted(judgement: &Judgement, findings: &[&Finding], room: usize) -> (String, usize) {
    let mut rows: Vec<Vec<String>> = findings.iter().map(|finding| cells(finding)).collect();
    loop {
        let out = findings.len() - rows.len();
        if rows.is_empty() {
            return (String::new(), out);
        }
        let table = table(Medium::Markdown, &header(judgement), &rows, NUMBERS);
        if table.len() <= room {
            return (table, out);
        }
        rows.truncate((rows.len() * room / table.len()).min(rows.len() - 1));
    }
}

/// The verdict with everything that went into it.
pub fn verdict_json(judgement: &Judgement) -> String {
    serde_json::to_string_pretty(judgement).expect("a judgement is plain data") + "\n"
}
