//! The report of one record: what it holds and what follows from it, in the words and numbers of a
//! language. Computes nothing but medians and spreads: what follows from a record is for
//! `crate::analysis` to say. Knows nothing of Markdown beyond handing it over, nor of HTML.

mod absent;
mod charts;
mod closing;
mod general;
mod goals;
mod lengths;
mod markdown;
pub(super) mod model;
mod paper;
mod speed;
mod summary;
mod trials;

use std::sync::LazyLock;

use crate::analysis::Targets;
use crate::record::Record;
use crate::report::full::model::{Block, Document, Text};
use crate::report::full::paper::Paper;
use crate::report::text::LONGEST;
use crate::report::words::Lang;

/// How a report is made.
#[derive(Debug, Clone, Copy)]
pub struct Edition<'a> {
    /// Its words and numbers.
    pub lang: Lang,
    /// What the record is held against.
    pub targets: &'a Targets,
}

/// With the targets that come with this build.
impl From<Lang> for Edition<'static> {
    fn from(lang: Lang) -> Self {
        static BUILTIN: LazyLock<Targets> = LazyLock::new(Targets::builtin);
        Self { lang, targets: &BUILTIN }
    }
}

/// The whole report of a record.
pub(super) fn document(record: &Record, edition: Edition<'_>) -> Document {
    let lang = edition.lang;
    let paper = Paper::new(record, edition);
    let sections = [
        Some(general::general(&paper)),
        Some(summary::summary(&paper)),
        Some(general::method(&paper)),
        Some(general::scenarios(&paper)),
        speed::latency(&paper),
        speed::api(&paper),
        speed::categories(&paper),
        lengths::grid(&paper),
        lengths::context(&paper),
        trials::consistency(&paper),
        trials::stress(&paper),
        trials::pipelines(&paper),
        trials::quality(&paper),
        summary::energy(&paper),
        goals::targets(&paper),
        charts::charts(&paper),
        Some(closing::advice(&paper)),
        Some(closing::conclusion(&paper)),
        Some(absent::absent(&paper)),
        Some(absent::reproduce(&paper)),
        Some(general::every(&paper)),
    ];
    let words = &paper.words.frame;
    let model = if record.model.spec.is_empty() { "?" } else { &record.model.spec };
    Document {
        lang: lang.code(),
        title: Text::fill(words.title, &[("model", model)]),
        contents: words.contents.into(),
        sections: sections.into_iter().flatten().collect(),
    }
}

/// The report of a record as GitHub-flavoured Markdown, no longer than GitHub shows: what is left
/// out then is counted where it would stand. It links its charts as files in the folder `charts`,
/// whose name is written as it stands; without a folder it has none.
pub fn markdown<'a>(
    record: &Record,
    edition: impl Into<Edition<'a>>,
    charts: Option<&str>,
) -> String {
    let edition = edition.into();
    markdown::markdown(&document(record, edition), charts, edition.lang, LONGEST)
}

/// The charts of a record as files for [`markdown`]: their names and what is in them, on white
/// paper whatever the reader's theme.
pub fn chart_files<'a>(record: &Record, edition: impl Into<Edition<'a>>) -> Vec<(String, String)> {
    let sections = document(record, edition.into()).sections;
    let blocks = sections.into_iter().flat_map(|section| section.blocks);
    let charts = blocks.filter_map(|block| match block {
        Block::Chart { chart } => Some(chart),
        _ => None,
    });
    let paper = "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";
    charts
        .map(|chart| (format!("{}.svg", chart.name), chart.svg.replacen("</title>", paper, 1)))
        .collect()
}

#[cfg(test)]
mod tests;
