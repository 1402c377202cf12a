//! A document without a language and without a form: sections of finished texts, tables and charts.
//! Whoever builds one has chosen the words and formatted the numbers; whoever renders one only lays
//! them out.

use serde::Serialize;

use crate::report::text::plain;

/// A piece of a line: words, or something to type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Span {
    pub(crate) code: bool,
    pub(crate) text: String,
}

/// A line of text. Holds no character that ends a line, moves a cursor or turns the writing
/// direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Text(pub(super) Vec<Span>);

impl Text {
    /// What is known from outside: no part of it is read as anything but letters.
    pub(crate) fn new(text: &str) -> Self {
        Self(vec![Span { code: false, text: plain(text) }])
    }

    /// Something to type.
    pub(crate) fn code(text: &str) -> Self {
        Self(vec![Span { code: true, text: plain(text) }])
    }

    /// Words of our own with values in their places: `{name}` is a value, and what stands between
    /// backticks is to be typed. Values are taken as they are: neither braces nor backticks in
    /// them mean anything.
    pub(crate) fn fill(template: &'static str, values: &[(&str, &str)]) -> Self {
        let mut spans = Vec::new();
        for (at, part) in template.split('`').enumerate() {
            let mut text = String::new();
            let mut rest = part;
            while let Some((before, after)) = rest.split_once('{') {
                let (name, after) = after.split_once('}').expect("words close their braces");
                let value = values.iter().find(|(known, _)| *known == name);
                text += before;
                text += &plain(value.expect("words name only what they are given").1);
                rest = after;
            }
            text += rest;
            if !text.is_empty() {
                spans.push(Span { code: at % 2 == 1, text });
            }
        }
        Self(spans)
    }

    /// The letters alone.
    pub(crate) fn letters(&self) -> String {
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

/// How something is to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tone {
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// To be taken with care.
    Unsure,
    /// Not as it should be.
    Bad,
    /// A number that cannot be true.
    Struck,
}

/// One place of a table.
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

/// Rows under a header, the columns in `right` being numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Table {
    pub(crate) caption: Option<Text>,
    pub(crate) header: Vec<Text>,
    pub(crate) rows: Vec<Vec<Cell>>,
    pub(crate) right: Vec<usize>,
}

impl Table {
    /// A table whose columns from `first_number` on are numbers.
    pub(crate) fn new<T: Into<Text>>(
        header: impl IntoIterator<Item = T>,
        first_number: usize,
    ) -> Self {
        let header: Vec<Text> = header.into_iter().map(Into::into).collect();
        let right = (first_number..header.len()).collect();
        Self { caption: None, header, rows: Vec::new(), right }
    }

    /// Adds a row.
    pub(crate) fn push<T: Into<Cell>>(&mut self, row: impl IntoIterator<Item = T>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }
}

/// A picture and the same in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Chart {
    /// Name of its file, without ending.
    pub(crate) name: &'static str,
    /// Finished SVG, in which everything that came from a record is escaped.
    pub(crate) svg: String,
    /// What is to be seen on it.
    pub(crate) about: Text,
}

/// What a section is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Block {
    Paragraph {
        text: Text,
    },
    Note {
        text: Text,
        tone: Tone,
    },
    List {
        items: Vec<Text>,
    },
    Table {
        table: Table,
    },
    Chart {
        chart: Chart,
    },
    /// Lines to type.
    Code {
        lines: Vec<String>,
    },
    /// A table that is shown when asked for.
    Details {
        summary: Text,
        state: Text,
        tone: Tone,
        table: Table,
    },
}

impl From<Table> for Block {
    fn from(table: Table) -> Self {
        Block::Table { table }
    }
}

/// A heading and what stands under it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Section {
    /// What links within the document lead to; ASCII letters and dashes.
    pub(crate) id: &'static str,
    pub(crate) heading: Text,
    pub(crate) blocks: Vec<Block>,
}

impl Section {
    pub(crate) fn new(id: &'static str, heading: &'static str) -> Self {
        Self { id, heading: heading.into(), blocks: Vec::new() }
    }

    pub(crate) fn push(&mut self, block: impl Into<Block>) {
        self.blocks.push(block.into());
    }

    /// A paragraph of our own words.
    pub(crate) fn say(&mut self, template: &'static str, values: &[(&str, &str)]) {
        self.push(Block::Paragraph { text: Text::fill(template, values) });
    }
}

/// A whole document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Document {
    /// As HTML names the language.
    pub(crate) lang: &'static str,
    pub(crate) title: Text,
    /// Heading of the table of contents.
    pub(crate) contents: Text,
    pub(crate) sections: Vec<Section>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_letters_wherever_they_stand() {
        let text = Text::fill("{n} of `run {what}`", &[("n", "`{what}`"), ("what", "a`b\nc")]);
        assert_eq!(
            text.0,
            [
                Span { code: false, text: "`{what}` of ".into() },
                Span { code: true, text: "run a`b\u{fffd}c".into() }
            ]
        );
    }
}
