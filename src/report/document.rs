//! A document independent of language and format: sections of finished texts, tables and charts.
//! The builder chooses words and formats numbers; a renderer only lays them out.

use std::ops::RangeBounds;

use comfy_table::{CellAlignment, presets};
use serde::Serialize;

use crate::report::text::{TextFormat, sanitize, split_code};

/// A run of plain text or code within a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Span {
    pub(crate) code: bool,
    pub(crate) text: String,
}

/// A line of text without control or bidirectional characters.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Text(pub(super) Vec<Span>);

impl Text {
    /// Plain text, possibly from outside.
    pub(crate) fn new(text: &str) -> Self {
        Self(vec![Span { code: false, text: sanitize(text) }])
    }

    pub(crate) fn code(text: &str) -> Self {
        Self(vec![Span { code: true, text: sanitize(text) }])
    }

    /// A template of ours with its placeholders filled: `{name}` is a placeholder, text between
    /// backticks is code. Braces and backticks in values have no meaning.
    pub(crate) fn from_template(template: &'static str, values: &[(&str, &str)]) -> Self {
        let mut spans = Vec::new();
        for (at, part) in template.split('`').enumerate() {
            let mut text = String::new();
            let mut rest = part;
            while let Some((before, after)) = rest.split_once('{') {
                let (name, after) = after.split_once('}').expect("words close their braces");
                let value = values.iter().find(|(known, _)| *known == name);
                text += before;
                text += &sanitize(value.expect("words name only what they are given").1);
                rest = after;
            }
            text += rest;
            if !text.is_empty() {
                spans.push(Span { code: at % 2 == 1, text });
            }
        }
        Self(spans)
    }

    /// Text, possibly from outside, with code between single backticks.
    pub(crate) fn with_code(text: &str) -> Self {
        let pieces = split_code(text).into_iter();
        Self(pieces.map(|(code, text)| Span { code, text: sanitize(text) }).collect())
    }

    /// The text without markup.
    pub(crate) fn plain_text(&self) -> String {
        self.0.iter().map(|span| span.text.as_str()).collect()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

/// How a cell or note is highlighted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    /// To be read with care.
    Unsure,
    Bad,
    /// An invalid number, struck out.
    Struck,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Cell {
    pub(crate) text: Text,
    pub(crate) tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<Text>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<Text>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// Rows under a header; the columns in `right` are numbers, aligned right.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Table {
    pub(crate) caption: Option<Text>,
    pub(crate) header: Vec<Text>,
    pub(crate) rows: Vec<Vec<Cell>>,
    pub(crate) right: Vec<usize>,
}

impl Table {
    /// A table without rows; the columns in `numbers` are numbers.
    pub(crate) fn new<T: Into<Text>>(
        header: impl IntoIterator<Item = T>,
        numbers: impl RangeBounds<usize>,
    ) -> Self {
        let header: Vec<Text> = header.into_iter().map(Into::into).collect();
        let right = (0..header.len()).filter(|at| numbers.contains(at)).collect();
        Self { caption: None, header, rows: Vec::new(), right }
    }

    /// A table with a row for each item, to which columns are added.
    pub(crate) fn of<T>(items: impl IntoIterator<Item = T>) -> Columns<T> {
        let items: Vec<T> = items.into_iter().collect();
        let table = Self { rows: vec![Vec::new(); items.len()], ..Self::default() };
        Columns { items, table }
    }

    pub(crate) fn with_caption(self, caption: impl Into<Text>) -> Self {
        Self { caption: Some(caption.into()), ..self }
    }

    pub(crate) fn push<T: Into<Cell>>(&mut self, row: impl IntoIterator<Item = T>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// The table as text with aligned columns.
    pub(crate) fn render(&self, format: TextFormat) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(match format {
            TextFormat::Terminal => presets::NOTHING,
            TextFormat::Markdown => presets::ASCII_MARKDOWN,
        });
        let escape = |text: &Text| format.escape(&text.plain_text());
        table.set_header(self.header.iter().map(escape));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| match cell.tone {
                Tone::Struck => format!("~~{}~~", escape(&cell.text)),
                _ => escape(&cell.text),
            }));
        }
        for &column in &self.right {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt() + "\n"
    }
}

/// A table that is built column by column.
pub(crate) struct Columns<T> {
    items: Vec<T>,
    table: Table,
}

impl<T> Columns<T> {
    /// Adds a column.
    pub(crate) fn text<C: Into<Cell>>(
        mut self,
        heading: impl Into<Text>,
        cell: impl Fn(&T) -> C,
    ) -> Self {
        self.table.header.push(heading.into());
        for (row, item) in self.table.rows.iter_mut().zip(&self.items) {
            row.push(cell(item).into());
        }
        self
    }

    /// Adds a column of numbers.
    pub(crate) fn number<C: Into<Cell>>(
        mut self,
        heading: impl Into<Text>,
        cell: impl Fn(&T) -> C,
    ) -> Self {
        self.table.right.push(self.table.header.len());
        self.text(heading, cell)
    }

    pub(crate) fn with_caption(self, caption: impl Into<Text>) -> Table {
        self.table.with_caption(caption)
    }

    pub(crate) fn render(self, format: TextFormat) -> String {
        self.table.render(format)
    }
}

impl<T> From<Columns<T>> for Table {
    fn from(columns: Columns<T>) -> Self {
        columns.table
    }
}

/// A rendered chart with a description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RenderedChart {
    /// File name without extension.
    pub(crate) name: &'static str,
    /// Finished SVG with all text escaped.
    pub(crate) svg: String,
    /// Description of the chart.
    pub(crate) about: Text,
}

/// An element of a section.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", content = "of", rename_all = "snake_case")]
pub(crate) enum Block {
    Paragraph(Text),
    List(Vec<Text>),
    Table(Table),
    Chart(RenderedChart),
    /// Commands to type.
    Code(Vec<String>),
    Details(Details),
}

/// A folded table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Details {
    pub(crate) summary: Text,
    pub(crate) state: Cell,
    pub(crate) table: Table,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Section {
    /// Anchor of links; ASCII letters and dashes.
    pub(crate) id: &'static str,
    pub(crate) heading: Text,
    pub(crate) blocks: Vec<Block>,
    /// Whether it is closed until the reader opens it.
    pub(crate) folded: bool,
}

impl Section {
    pub(crate) fn new(id: &'static str, heading: &'static str) -> Self {
        Self { id, heading: heading.into(), blocks: Vec::new(), folded: false }
    }

    /// A section that begins with a paragraph from a template.
    pub(crate) fn with_intro(id: &'static str, heading: &'static str, intro: &'static str) -> Self {
        let mut section = Self::new(id, heading);
        section.paragraph(intro, &[]);
        section
    }

    /// Adds a table, or nothing if it has no rows.
    pub(crate) fn table(&mut self, table: impl Into<Table>) {
        let table = table.into();
        self.blocks.extend((!table.rows.is_empty()).then_some(Block::Table(table)));
    }

    /// Adds a list, or nothing if it has no items.
    pub(crate) fn list(&mut self, items: Vec<Text>) {
        self.blocks.extend((!items.is_empty()).then_some(Block::List(items)));
    }

    /// Adds commands, or nothing if there are none.
    pub(crate) fn code(&mut self, lines: Vec<String>) {
        self.blocks.extend((!lines.is_empty()).then_some(Block::Code(lines)));
    }

    /// Adds a paragraph from a template.
    pub(crate) fn paragraph(&mut self, template: &'static str, values: &[(&str, &str)]) {
        self.blocks.push(Block::Paragraph(Text::from_template(template, values)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_literally() {
        let text =
            Text::from_template("{n} of `run {what}`", &[("n", "`{what}`"), ("what", "a`b\nc")]);
        assert_eq!(
            text.0,
            [
                Span { code: false, text: "`{what}` of ".into() },
                Span { code: true, text: "run a`b\u{fffd}c".into() }
            ]
        );
    }
}
