//! A document as GitHub-flavoured Markdown. What came from a record is no markup: it opens no tag, link, cell or line.

use std::fmt::Write as _;

use crate::report::full::model::Block;
use crate::report::full::model::Cell;
use crate::report::full::model::Document;
use crate::report::full::model::Span;
use crate::report::full::model::Table;
use crate::report::full::model::Text;
use crate::report::full::model::Tone;
use crate::report::text::cell;

/// The document; charts are linked in `charts`, a folder beside the file, and left out where there is none.
pub(super) fn markdown(document: &Document, charts: Option<&str>) -> String {
    let mut text = format!("# {}\n", inline(&document.title));
    let drawn = |block: &Block| charts.is_some() || !matches!(block, Block::Chart { .. });
    for section in document.sections.iter().filter(|section| section.blocks.iter().any(drawn)) {
        let _ = write!(text, "\n## {}\n", inline(&section.heading));
        for block in section.blocks.iter().filter(|block| drawn(block)) {
            text.push('\n');
            text += &self::block(block, charts);
        }
    }
    text
}

fn block(block: &Block, charts: Option<&str>) -> String {
    match block {
        Block::Paragraph { text } => line(text) + "\n",
        Block::Note { text, tone: Tone::Bad } => format!("> [!WARNING]\n> {}\n", line(text)),
        Block::Note { text, .. } => format!("> [!NOTE]\n> {}\n", line(text)),
        Block::List { items } => items.iter().map(|item| format!("- {}\n", line(item))).collect(),
        Block::Table { table } => self::table(table),
        Block::Chart { chart } => match charts {
            Some(folder) => {
                let (about, name) = (inline(&chart.about), chart.name);
                format!("![{about}]({}/{name}.svg)\n\n{about}\n", address(folder))
            }
            None => String::new(),
        },
        Block::Code { lines } => {
            let longest = lines.iter().map(|line| longest_run(line)).max().unwrap_or(0);
            let fence = "`".repeat((longest + 1).max(3));
            format!("{fence}sh\n{}\n{fence}\n", lines.join("\n"))
        }
        Block::Details { summary, state, table, .. } => {
            let (summary, state) = (inline(summary), inline(state));
            format!(
                "<details><summary><b>{summary}</b> {state}</summary>\n\n{}\n</details>\n",
                self::table(table)
            )
        }
    }
}

/// A name within an address: bytes that could end it are written as numbers.
fn address(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let encode = |byte: u8| match byte {
        byte if bare(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

fn longest_run(line: &str) -> usize {
    line.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

fn table(table: &Table) -> String {
    let mut text = String::new();
    if let Some(caption) = &table.caption {
        let _ = write!(text, "**{}**\n\n", inline(caption));
    }
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    text += &row(table.header.iter().map(inline).collect());
    let rule = |at: usize| if table.right.contains(&at) { "---:" } else { "---" };
    text += &row((0..table.header.len()).map(|at| rule(at).to_owned()).collect());
    for cells in &table.rows {
        text += &row(cells.iter().map(self::cell_text).collect());
    }
    text
}

fn cell_text(cell: &Cell) -> String {
    let text = inline(&cell.text);
    match cell.tone {
        Tone::Struck if !text.is_empty() => format!("~~{text}~~"),
        Tone::Bad if !text.is_empty() => format!("**{text}**"),
        _ => text,
    }
}

/// Text in the middle of a line.
fn inline(text: &Text) -> String {
    text.0.iter().map(span).collect()
}

fn span(span: &Span) -> String {
    if !span.code {
        return harmless(&span.text);
    }
    if span.text.contains(['`', '|', '<', '\\']) {
        // A code span has no escapes.
        return format!("<code>{}</code>", harmless(&span.text));
    }
    format!("`{}`", span.text)
}

/// Text that begins a line: it begins no heading, list or rule.
fn line(text: &Text) -> String {
    let text = inline(text);
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = digits.len() < text.len() && digits.starts_with(['.', ')']);
    if numbered {
        let at = text.len() - digits.len();
        return format!("{}\\{digits}", &text[..at]);
    }
    if text.starts_with(['#', '-', '+', '=', '_', '~']) { format!("\\{text}") } else { text }
}

/// As [`cell`], and no address becomes a link by itself, no tildes strike out and no underscores set off words.
fn harmless(text: &str) -> String {
    let text = cell(text).replace("://", ":\\//").replace("www.", "www\\.");
    text.replace("~~", "\\~\\~").replace("__", "\\_\\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_begins_nothing() {
        for (text, expected) in [
            ("# a", "\\# a"),
            ("12. a", "12\\. a"),
            ("12 a", "12 a"),
            ("- a", "\\- a"),
            ("> a", "&gt; a"),
            ("see https://x.org and www.x.org", "see https:\\//x.org and www\\.x.org"),
            ("~~a~~ __b__ decode_tok_s", "\\~\\~a\\~\\~ \\_\\_b\\_\\_ decode_tok_s"),
        ] {
            assert_eq!(line(&text.into()), expected);
        }
    }

    #[test]
    fn code_ends_where_it_should() {
        let text = Text::fill("type `{what}` now", &[("what", "a`|<b>")]);
        assert_eq!(inline(&text), "type <code>a\\`\\|&lt;b&gt;</code> now");
        let lines = vec!["echo ```".to_owned()];
        assert_eq!(block(&Block::Code { lines }, None), "````sh\necho ```\n````\n");
    }
}
