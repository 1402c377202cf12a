//! The report of one record in one language. It computes only medians and spreads; everything else
//! comes from [`crate::analysis`]. Layout is left to Markdown and HTML.

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

/// Options of a report.
#[derive(Debug, Clone, Copy)]
pub struct Edition<'a> {
    /// Language of texts and numbers.
    pub lang: Lang,
    /// Targets that the record is compared with.
    pub targets: &'a Targets,
}

/// With the built-in targets.
impl From<Lang> for Edition<'static> {
    fn from(lang: Lang) -> Self {
        static BUILTIN: LazyLock<Targets> = LazyLock::new(Targets::builtin);
        Self { lang, targets: &BUILTIN }
    }
}

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

/// The report of a record as GitHub-flavoured Markdown, within the length that GitHub shows; it
/// counts what it omits. Charts are linked as files in the folder `charts`; without a folder there
/// are none.
pub fn markdown<'a>(
    record: &Record,
    edition: impl Into<Edition<'a>>,
    charts: Option<&str>,
) -> String {
    let edition = edition.into();
    markdown::markdown(&document(record, edition), charts, edition.lang, LONGEST)
}

/// The charts of a record as files for [`markdown`]: names and contents, on a white background
/// whatever the reader's theme.
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
