//! A document as GitHub-flavoured Markdown. Text from a record is escaped: it opens no tag, link,
//! cell or line.

use std::fmt::Write as _;

use crate::report::card::{Card, CardFigure};
use crate::report::document::{Block, Cell, Details, Span, Table, Text, Tone};
use crate::report::full::Document;
use crate::report::text::{code_block, code_span, escape_markdown, escape_xml};
use crate::report::words::Lang;

/// The document. Charts are linked in the folder `charts`, or omitted without a folder. If the text
/// exceeds `longest` characters, the details of the last scenarios are omitted first, then the
/// second halves of the longest tables and lists, repeatedly; what is still too long is cut. The
/// text says how much is omitted.
pub(super) fn markdown(
    document: &Document,
    charts: Option<&str>,
    lang: Lang,
    longest: usize,
) -> String {
    let blocks: Vec<&Block> = document.sections.iter().flat_map(|one| &one.blocks).collect();
    let mut shown: Vec<usize> = blocks.iter().map(|block| rows(block)).collect();
    loop {
        let text = layout(document, charts, lang, &shown);
        let surplus = text.chars().count().saturating_sub(longest);
        if surplus == 0 {
            return text;
        }
        if !omit_some(&blocks, &mut shown, surplus) {
            return truncate(&text, lang, longest);
        }
    }
}

/// The number of rows or items that a block can show; other blocks count as one.
fn rows(block: &Block) -> usize {
    match block {
        Block::Table(table) => table.rows.len(),
        Block::List(items) => items.len(),
        _ => 1,
    }
}

/// Shows less of the blocks; `false` if nothing more can be omitted.
fn omit_some(blocks: &[&Block], shown: &mut [usize], mut surplus: usize) -> bool {
    let length = |at: usize, shown: usize| block(blocks[at], None, shown).chars().count();
    let is_details = |at: &usize| matches!(blocks[*at], Block::Details(_));
    let is_rows = |at: &usize| matches!(blocks[*at], Block::Table(_) | Block::List(_));
    let left: Vec<usize> = (0..blocks.len()).filter(|at| shown[*at] > 0).collect();
    let details: Vec<usize> = left.iter().copied().rev().filter(is_details).collect();
    for at in &details {
        if surplus > 0 {
            surplus = surplus.saturating_sub(length(*at, 1));
            shown[*at] = 0;
        }
    }
    if !details.is_empty() {
        return true;
    }
    let rows = left.into_iter().filter(is_rows).map(|at| (at, length(at, shown[at])));
    let rows: Vec<(usize, usize)> = rows.collect();
    let longest = rows.iter().map(|(_, length)| *length).max().unwrap_or(0);
    for (at, length) in &rows {
        if 2 * length >= longest {
            shown[*at] /= 2;
        }
    }
    !rows.is_empty()
}

/// The lines that fit, and a count of the others.
fn truncate(text: &str, lang: Lang, longest: usize) -> String {
    const NOTE: usize = 200; // More than the note needs in any language.
    let mut left = longest.saturating_sub(NOTE);
    let fits = |line: &&str| {
        let length = line.chars().count();
        let fits = length <= left;
        left = left.saturating_sub(length);
        fits
    };
    let shown: Vec<&str> = text.split_inclusive('\n').take_while(fits).collect();
    let out = text.lines().count() - shown.len();
    let shown = shown.concat();
    let open =
        shown.matches("<details>").count().saturating_sub(shown.matches("</details>").count());
    let note = omission_note(lang.words().frame.rows_left_out, lang, out);
    shown + &"\n</details>\n".repeat(open) + &note
}

/// The note about omitted rows, if there are any.
fn omission_note(template: &'static str, lang: Lang, out: usize) -> String {
    if out == 0 {
        return String::new();
    }
    let text = Text::from_template(template, &[("count", &lang.count(out))]);
    format!("\n**{}**\n", inline(&text))
}

/// The document with the given number of rows of each block.
fn layout(document: &Document, charts: Option<&str>, lang: Lang, shown: &[usize]) -> String {
    let words = &lang.words().frame;
    let mut text = format!("# {}\n\n{}", inline(&document.title), card(&document.card));
    let mut shown = shown.iter().copied();
    for section in &document.sections {
        let blocks = section.blocks.iter().zip(shown.by_ref());
        let drawn = |block: &Block| charts.is_some() || !matches!(block, Block::Chart(_));
        let blocks: Vec<(&Block, usize)> = blocks.filter(|(block, _)| drawn(block)).collect();
        if blocks.is_empty() {
            continue;
        }
        let _ = match section.folded {
            true => {
                let heading = html(&section.heading);
                write!(text, "\n<details><summary><b>{heading}</b></summary>\n")
            }
            false => write!(text, "\n## {}\n", inline(&section.heading)),
        };
        let mut folded = 0;
        for (block, shown) in blocks {
            let out = rows(block) - shown;
            if matches!(block, Block::Details(_)) && out > 0 {
                folded += out;
                continue;
            }
            text.push('\n');
            text += &self::block(block, charts, shown);
            text += &omission_note(words.rows_left_out, lang, out);
        }
        text += &omission_note(words.values_left_out, lang, folded);
        text += if section.folded { "\n</details>\n" } else { "" };
    }
    text
}

/// The head of the document: verdict, figures, what was measured, warnings.
fn card(card: &Card) -> String {
    let mut text = format!("**{}** – {}", inline(&card.word), inline(&card.sentence));
    if let Some(decide) = &card.decide {
        let _ = write!(text, ". {}", inline(decide));
    }
    text.push('\n');
    if !card.figures.is_empty() {
        let cells = |of: fn(&CardFigure) -> &Text| {
            let cells = card.figures.iter().map(|figure| inline(of(figure)));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = "| ---: ".repeat(card.figures.len());
        let _ = write!(text, "\n{}{rule}|\n{}", cells(|one| &one.name), cells(|one| &one.value));
    }
    let facts = card.facts.iter();
    let facts = facts.map(|(name, value)| format!("{}: {}", inline(name), inline(value)));
    let facts = facts.chain(card.scenario.iter().map(inline)).collect::<Vec<_>>().join(" · ");
    if !facts.is_empty() {
        let _ = write!(text, "\n{facts}\n");
    }
    for warning in &card.warnings {
        let _ = write!(text, "\n> [!WARNING]\n> {}\n", line(warning));
    }
    text
}

/// A block with at most `shown` rows.
fn block(block: &Block, charts: Option<&str>, shown: usize) -> String {
    match block {
        Block::Paragraph(text) => line(text) + "\n",
        Block::List(items) => {
            items.iter().take(shown).map(|item| format!("- {}\n", line(item))).collect()
        }
        Block::Table(table) => self::table(table, shown),
        Block::Chart(chart) => match charts {
            Some(folder) => {
                let (about, name) = (inline(&chart.about), chart.name);
                format!("![{about}]({}/{name}.svg)\n\n{about}\n", address(folder))
            }
            None => String::new(),
        },
        Block::Code(lines) => code_block("sh", lines),
        Block::Details(Details { summary, state, table }) => {
            let (summary, state, table) =
                (html(summary), html(&state.text), self::table(table, usize::MAX));
            format!("<details><summary><b>{summary}</b> {state}</summary>\n\n{table}\n</details>\n")
        }
    }
}

/// A folder or file name within a link, percent-encoded.
fn address(name: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

fn table(table: &Table, shown: usize) -> String {
    let mut text = String::new();
    if let Some(caption) = &table.caption {
        let _ = write!(text, "**{}**\n\n", inline(caption));
    }
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    text += &row(table.header.iter().map(inline).collect());
    let rule = |at: usize| if table.right.contains(&at) { "---:" } else { "---" };
    text += &row((0..table.header.len()).map(|at| rule(at).to_owned()).collect());
    for cells in table.rows.iter().take(shown) {
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

/// Text within a line.
fn inline(text: &Text) -> String {
    text.0.iter().map(span).collect()
}

fn span(span: &Span) -> String {
    if span.code { code_span(&span.text) } else { escape_markdown(&span.text) }
}

/// Text within an HTML block, where GitHub takes no Markdown; others might. Nobody is notified.
fn html(text: &Text) -> String {
    let span = |span: &Span| {
        let mut text = escape_xml(&span.text);
        for c in ['@', '|', '[', ']', '`'] {
            text = text.replace(c, &format!("&#{};", c as u32));
        }
        if span.code { format!("<code>{text}</code>") } else { text }
    };
    text.0.iter().map(span).collect()
}

/// Text at the start of a line: it begins no heading, list or rule.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_starts_no_block() {
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
    fn code_spans_and_fences_end_correctly() {
        let text = Text::from_template("type `{what}` now", &[("what", "a`|<b>")]);
        assert_eq!(inline(&text), "type <code>a&#96;\\|&lt;b&gt;</code> now");
        let lines = vec!["echo ```".to_owned()];
        assert_eq!(block(&Block::Code(lines), None, 1), "````sh\necho ```\n````\n");
    }
}
