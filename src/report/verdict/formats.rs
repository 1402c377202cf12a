//! A verdict as terminal text, Markdown or JSON.

use std::fmt::Write as _;

use crate::compare::{Finding, Judgement};
use crate::report::document::Tone;
use crate::report::subject_line;
use crate::report::text::{MAX_MARKDOWN_CHARS, TextFormat, escape_markdown, sanitize, table};
use crate::report::verdict::remarks::{commands, details, error_output, is_identical, next_steps};
use crate::report::verdict::sentence::{outcome_word, statement};
use crate::report::verdict::{
    build_names, by_importance, header, sentence, table_row, tone, verdict_label,
};

const NUMBERS: &[usize] = &[2, 3, 4, 5, 6, 7];

/// The part of [`MAX_MARKDOWN_CHARS`] that remarks may take: a warning for each of hundreds of
/// scenarios must not push out a finding.
const MAX_REMARK_CHARS: usize = 15_000;

/// The verdict for a terminal; `command` is the command that produced it.
pub fn verdict_text(judgement: &Judgement, command: &str) -> String {
    let mut text = sanitize(&sentence(judgement)) + "\n";
    if let Some(summary) = &judgement.pair {
        let _ = writeln!(text, "{}", sanitize(&build_names(summary)));
    }
    if let Some(subject) = subject(judgement) {
        let _ = writeln!(text, "{}", sanitize(&subject));
    }
    let (findings, unchanged) = tabulated(judgement);
    let rows: Vec<Vec<String>> = findings.into_iter().chain(unchanged).map(table_row).collect();
    if !rows.is_empty() {
        let table = table(TextFormat::Terminal, &header(judgement), &rows, NUMBERS);
        let _ = write!(text, "\n{table}");
    }
    text.push('\n');
    for line in error_output(judgement) {
        let _ = writeln!(text, "    {}", sanitize(line));
    }
    let lines = details(judgement).into_iter().chain(next_steps(judgement, command));
    for line in lines.chain(commands(judgement, command)) {
        let _ = writeln!(text, "- {}", sanitize(&line));
    }
    text
}

/// The verdict for a pull request: the sentence, what was measured, the rows that need attention,
/// next steps, and the command. Unchanged rows and details are folded. If the text is too long for
/// a comment, unchanged rows are omitted first, then the least important findings; the text says
/// how many.
pub fn verdict_markdown(judgement: &Judgement, command: &str) -> String {
    let word = outcome_word(judgement.outcome);
    let mut text = format!("**{word}**: {}\n", escape_markdown(&statement(judgement)));
    let builds = judgement.pair.as_ref().map(build_names);
    let about: Vec<String> =
        builds.into_iter().chain(subject(judgement)).map(|line| escape_markdown(&line)).collect();
    if !about.is_empty() {
        let _ = write!(text, "\n{}\n", about.join("<br>\n"));
    }
    let tail = markdown_tail(judgement, command);
    let (findings, unchanged) = tabulated(judgement);
    let left = |text: &str| MAX_MARKDOWN_CHARS.saturating_sub(text.len() + tail.len() + MARGIN);
    if !findings.is_empty() {
        let (table, out) = fitting_table(judgement, &findings, left(&text));
        let _ = write!(text, "\n{table}");
        if out > 0 {
            let _ = write!(
                text,
                "\n**{out} more findings, the least important, are left out here; the JSON has \
                 them.**\n"
            );
        }
    }
    if !unchanged.is_empty() {
        let (table, out) = fitting_table(judgement, &unchanged, left(&text));
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

/// What was measured, and where; not where nothing was.
fn subject(judgement: &Judgement) -> Option<String> {
    let subject = judgement.subject.as_ref().filter(|subject| !subject.model.spec.is_empty());
    subject.map(|subject| subject_line(subject))
}

/// The rows of the table: none for equal binaries, which the sentence describes.
fn tabulated(judgement: &Judgement) -> (Vec<&Finding>, Vec<&Finding>) {
    if is_identical(judgement) { (Vec::new(), Vec::new()) } else { by_importance(judgement) }
}

/// The last column of the table of [`verdict_text`], with the tone of each cell.
pub(crate) fn verdict_cells(judgement: &Judgement) -> Vec<(String, Tone)> {
    let (findings, unchanged) = tabulated(judgement);
    let verdicts = findings.into_iter().chain(unchanged).map(|finding| &finding.verdict);
    verdicts.map(|verdict| (sanitize(&verdict_label(verdict)), tone(verdict))).collect()
}

/// Folded details, next steps and commands.
fn markdown_tail(judgement: &Judgement, command: &str) -> String {
    let mut tail = fenced(error_output(judgement));
    let details = limit_remarks(details(judgement));
    if !details.is_empty() {
        let lines: String = details.iter().map(|line| format!("- {line}\n")).collect();
        let _ = write!(tail, "\n<details><summary>Details</summary>\n\n{lines}\n</details>\n");
    }
    let next = next_steps(judgement, command);
    if !next.is_empty() {
        tail.push('\n');
    }
    for step in next {
        let _ = writeln!(tail, "- {}", escape_markdown(&step));
    }
    let commands = commands(judgement, command).join("; ");
    let _ = write!(tail, "\n{}\n", escape_markdown(&commands));
    tail
}

/// Lines of output as they are, in a code block that they cannot end.
fn fenced(lines: &[String]) -> String {
    let mut length = 0;
    let fits = |line: &&String| {
        length += line.len();
        length <= MAX_REMARK_CHARS
    };
    let lines: Vec<String> = lines.iter().take_while(fits).map(|line| sanitize(line)).collect();
    if lines.is_empty() {
        return String::new();
    }
    let text = lines.join("\n");
    let ticks = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(ticks + 1));
    format!("\n<details><summary>Output</summary>\n\n{fence}text\n{text}\n{fence}\n\n</details>\n")
}

/// Remarks as Markdown. If there are too many, those in the middle are omitted: next steps and
/// commands stand at the end.
fn limit_remarks(lines: Vec<String>) -> Vec<String> {
    const LAST: usize = 10;
    let mut lines: Vec<String> = lines.iter().map(|line| escape_markdown(line)).collect();
    let last = lines.split_off(lines.len().saturating_sub(LAST));
    let mut length: usize = last.iter().map(String::len).sum();
    let fits = |line: &&String| {
        length += line.len();
        length <= MAX_REMARK_CHARS
    };
    let kept = lines.iter().take_while(fits).count();
    let out = lines.len() - kept;
    lines.truncate(kept);
    if out > 0 {
        lines.push(format!("{out} more remarks are left out here; the JSON has them"));
    }
    lines.into_iter().chain(last).collect()
}

/// Space for the text around a table.
const MARGIN: usize = 400;

/// A table of the first findings that fit, and the number of omitted ones.
fn fitting_table(judgement: &Judgement, findings: &[&Finding], room: usize) -> (String, usize) {
    let mut rows: Vec<Vec<String>> = findings.iter().map(|finding| table_row(finding)).collect();
    loop {
        let out = findings.len() - rows.len();
        if rows.is_empty() {
            return (String::new(), out);
        }
        let table = table(TextFormat::Markdown, &header(judgement), &rows, NUMBERS);
        if table.len() <= room {
            return (table, out);
        }
        rows.truncate((rows.len() * room / table.len()).min(rows.len() - 1));
    }
}

/// The verdict with all data behind it.
pub fn verdict_json(judgement: &Judgement) -> String {
    serde_json::to_string_pretty(judgement).expect("a judgement is plain data") + "\n"
}
