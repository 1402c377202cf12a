//! A verdict as terminal text, Markdown or JSON.

use std::fmt::Write as _;

use crate::compare::{Finding, Judgement};
use crate::report::document::{Table, Tone};
use crate::report::subject_line;
use crate::report::text::{MAX_MARKDOWN_CHARS, TextFormat, code_block, escape_markdown, sanitize};
use crate::report::verdict::remarks::{commands, details, error_output, is_identical, next_steps};
use crate::report::verdict::sentence::{outcome_word, statement};
use crate::report::verdict::{
    build_names, by_importance, header, sentence, table_row, tone, verdict_label,
};

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
    let table = table(judgement, findings.into_iter().chain(unchanged));
    if !table.rows.is_empty() {
        let _ = write!(text, "\n{}", table.render(TextFormat::Terminal));
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
    let (word, _) = outcome_word(judgement.outcome);
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
    let mut tail = String::new();
    // As it is, in a code block that it cannot end.
    let output = error_output(judgement);
    let output: Vec<String> =
        output[..count_fitting(output, 0)].iter().map(|line| sanitize(line)).collect();
    if !output.is_empty() {
        let code = code_block("text", &output);
        let _ = write!(tail, "\n<details><summary>Output</summary>\n\n{code}\n</details>\n");
    }
    let list = |lines: Vec<String>| -> String {
        lines.iter().map(|line| format!("- {}\n", escape_markdown(line))).collect()
    };
    let details = list(limit_remarks(details(judgement)));
    if !details.is_empty() {
        let _ = write!(tail, "\n<details><summary>Details</summary>\n\n{details}\n</details>\n");
    }
    let next = list(next_steps(judgement, command));
    let commands = escape_markdown(&commands(judgement, command).join("; "));
    let _ = write!(tail, "{}{next}\n{commands}\n", if next.is_empty() { "" } else { "\n" });
    tail
}

/// How many of the first lines fit into [`MAX_REMARK_CHARS`], of which some are used.
fn count_fitting(lines: &[String], mut used: usize) -> usize {
    let fits = |line: &&String| {
        used += escape_markdown(line).len();
        used <= MAX_REMARK_CHARS
    };
    lines.iter().take_while(fits).count()
}

/// If there are too many remarks, those in the middle are omitted: next steps and commands stand at
/// the end.
fn limit_remarks(mut lines: Vec<String>) -> Vec<String> {
    const LAST: usize = 10;
    let last = lines.split_off(lines.len().saturating_sub(LAST));
    let kept = count_fitting(&lines, last.iter().map(|line| escape_markdown(line).len()).sum());
    let out = lines.len() - kept;
    lines.truncate(kept);
    if out > 0 {
        lines.push(format!("{out} more remarks are left out here; the JSON has them"));
    }
    lines.into_iter().chain(last).collect()
}

/// Space for the text around a table.
const MARGIN: usize = 400;

fn table<'a>(judgement: &Judgement, findings: impl IntoIterator<Item = &'a Finding>) -> Table {
    let mut table = Table::new(header(judgement), 2..8);
    findings.into_iter().for_each(|finding| table.push(table_row(finding)));
    table
}

/// A table of the first findings that fit, and the number of omitted ones.
fn fitting_table(judgement: &Judgement, findings: &[&Finding], room: usize) -> (String, usize) {
    let mut table = table(judgement, findings.iter().copied());
    loop {
        let (shown, out) = (table.rows.len(), findings.len() - table.rows.len());
        if shown == 0 {
            return (String::new(), out);
        }
        let text = table.render(TextFormat::Markdown);
        if text.len() <= room {
            return (text, out);
        }
        table.rows.truncate((shown * room / text.len()).min(shown - 1));
    }
}

/// The verdict with all data behind it.
pub fn verdict_json(judgement: &Judgement) -> String {
    serde_json::to_string_pretty(judgement).expect("a judgement is plain data") + "\n"
}
