//! Records and verdicts as documents: terminal text, Markdown, HTML, CSV, JSON, JUnit, Prometheus.
//! Every text from a file is escaped for its output format. Prints nothing and decides nothing.

/// A JSON object whose fields keep their order. The type of a field has its name.
macro_rules! object {
    ($($name:ident: $value:expr),* $(,)?) => {{
        #[derive(serde::Serialize)]
        struct Object<$($name),*> { $($name: $name),* }
        Object { $($name: $value),* }
    }};
}

mod calibration;
mod card;
mod changes;
pub mod chart;
#[expect(non_camel_case_types, reason = "fields of `object!`")]
mod ci;
mod comparison;
mod csv;
mod document;
mod evaluation;
mod export;
mod full;
mod html;
mod link;
mod live;
mod pair;
mod progress;
mod subject;
mod text;
mod verdict;
mod words;

pub use calibration::calibration_text;
pub(crate) use card::{Card, CardFigure, HEADLINE, HEADLINE_SCENARIO, named_facts};
pub use ci::{bmf, junit, smaller_is_better};
pub use comparison::{comparison_json, comparison_markdown};
pub use csv::csv;
pub(crate) use document::{Table, Text, Tone};
pub(crate) use evaluation::{evaluation_json, evaluation_text};
pub use export::{benchmark_json, prometheus, row};
pub(crate) use export::{escape_label, prometheus_family, prometheus_name};
pub(crate) use full::chart_files;
pub use full::{ReportOptions, markdown};
#[cfg(feature = "bench")]
pub(crate) use html::bench_page;
pub use html::{page, pair_page};
pub(crate) use html::{page_in, render, verdict_page};
pub use link::link;
pub(crate) use link::link_into;
#[cfg(feature = "bench")]
pub(crate) use live::live_changes;
pub(crate) use live::{live_header, live_notes, live_row, live_summary};
pub use progress::pair_progress;
pub(crate) use subject::subject_line;
pub(crate) use text::{TextFormat, duration, metric_label, metric_value, sanitize, short_commit};
pub use text::{number, percent};
pub use verdict::{annotations, sentence, verdict_json, verdict_markdown, verdict_text};
pub(crate) use verdict::{outcome_word, verdict_cells};
pub use words::Lang;

#[cfg(test)]
mod tests;
