//! The report of one record in one language. It computes only medians and spreads; everything else
//! comes from [`crate::analysis`]. Layout is left to Markdown and HTML.

mod absent;
mod charts;
mod conclusion;
mod general;
mod lengths;
mod markdown;
mod render_context;
mod speed;
mod suites;
mod summary;
mod targets;

pub(super) use general::{NameValue, build_rows, machine_rows, name_value_table};

use std::sync::LazyLock;

use serde::Serialize;

use crate::analysis::Targets;
use crate::record::Record;
use crate::report::card::Card;
use crate::report::document::{Block, Section, Text};
use crate::report::full::render_context::RenderContext;
use crate::report::text::MAX_MARKDOWN_CHARS;
use crate::report::words::Lang;

/// Options of a report.
#[derive(Debug, Clone, Copy)]
pub struct ReportOptions<'a> {
    /// Language of texts and numbers.
    pub lang: Lang,
    /// Targets that the record is compared with.
    pub targets: &'a Targets,
}

/// With the built-in targets.
impl From<Lang> for ReportOptions<'static> {
    fn from(lang: Lang) -> Self {
        static BUILTIN: LazyLock<Targets> = LazyLock::new(Targets::builtin);
        Self { lang, targets: &BUILTIN }
    }
}

/// A report, before its layout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Document {
    /// The `lang` attribute of HTML.
    pub(crate) lang: &'static str,
    pub(crate) title: Text,
    pub(crate) card: Card,
    /// Heading of the table of contents.
    pub(crate) contents: Text,
    pub(crate) sections: Vec<Section>,
}

impl Document {
    /// An English document of finished parts.
    pub(super) fn english(title: Text, card: Card, sections: Vec<Section>) -> Self {
        let contents = Lang::En.words().frame.contents.into();
        Self { lang: Lang::En.code(), title, card, contents, sections }
    }
}

pub(super) fn build_document(record: &Record, options: ReportOptions<'_>) -> Document {
    let lang = options.lang;
    let ctx = RenderContext::new(record, options);
    // What most readers look for; the rest is folded.
    let open = [
        charts::headline(&ctx),
        Some(summary::summary(&ctx)),
        Some(general::scenarios(&ctx)),
        charts::charts(&ctx),
    ];
    let folded = [
        targets::targets(&ctx),
        Some(conclusion::advice(&ctx)),
        Some(conclusion::conclusion(&ctx)),
        speed::latency(&ctx),
        speed::api(&ctx),
        speed::categories(&ctx),
        lengths::grid(&ctx),
        lengths::context(&ctx),
        suites::consistency(&ctx),
        suites::stress(&ctx),
        suites::pipelines(&ctx),
        suites::quality(&ctx),
        summary::energy(&ctx),
        Some(absent::absent(&ctx)),
        Some(general::all_metrics(&ctx)),
        Some(general::method(&ctx)),
        Some(general::general(&ctx)),
        Some(absent::reproduce(&ctx)),
    ];
    let folded = folded.into_iter().flatten().map(|section| Section { folded: true, ..section });
    let words = &ctx.words.frame;
    let model = if record.model.spec.is_empty() { "?" } else { &record.model.spec };
    Document {
        lang: lang.code(),
        title: Text::from_template(words.title, &[("model", model)]),
        contents: words.contents.into(),
        card: Card::of_record(record, lang),
        sections: open.into_iter().flatten().chain(folded).collect(),
    }
}

/// The report of a record as GitHub-flavoured Markdown, within the length that GitHub shows; it
/// counts what it omits. Charts are linked as files in the folder `charts`; without a folder there
/// are none.
pub fn markdown<'a>(
    record: &Record,
    options: impl Into<ReportOptions<'a>>,
    charts: Option<&str>,
) -> String {
    let options = options.into();
    markdown::markdown(&build_document(record, options), charts, options.lang, MAX_MARKDOWN_CHARS)
}

/// The charts of a record as files for [`markdown`]: names and contents, on a white background
/// whatever the reader's theme.
pub(crate) fn chart_files<'a>(
    record: &Record,
    options: impl Into<ReportOptions<'a>>,
) -> Vec<(String, String)> {
    let sections = build_document(record, options.into()).sections;
    let blocks = sections.into_iter().flat_map(|section| section.blocks);
    let charts = blocks.filter_map(|block| match block {
        Block::Chart(chart) => Some(chart),
        _ => None,
    });
    let white = "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";
    charts
        .map(|chart| (format!("{}.svg", chart.name), chart.svg.replacen("</title>", white, 1)))
        .collect()
}

#[cfg(test)]
mod tests;
