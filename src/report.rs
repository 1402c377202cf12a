//! Records and verdicts as documents: terminal text, Markdown, HTML, CSV, JSON, JUnit, Prometheus.
//! Every text from a file is escaped for its output format. Prints nothing and decides nothing.

mod block_plot;
mod calibration;
mod card;
mod changes;
pub mod chart;
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
mod progress;
mod subject;
mod text;
mod verdict;
mod words;

pub use calibration::calibration_text;
pub(crate) use card::{
    Card, CardFigure, HEADLINE, HEADLINE_SCENARIO, named_facts, outcome_word, with_code,
    without_outcome,
};
pub use ci::{bmf, junit, smaller_is_better};
pub use comparison::{comparison_json, comparison_markdown};
pub use csv::csv;
pub(crate) use document::{Text, Tone};
pub use evaluation::{evaluation_json, evaluation_markdown, evaluation_text};
pub use export::{benchmark_json, llama_bench, prometheus, row};
pub(crate) use export::{escape_label, prometheus_family, prometheus_name};
pub use full::{ReportOptions, chart_files, markdown};
pub(crate) use html::render;
pub use html::{bench_page, page, page_in, pair_page, verdict_page};
pub use link::{link, link_into};
pub use live::{live_header, live_notes, live_row, live_summary};
pub use progress::pair_progress;
pub use subject::subject_line;
pub(crate) use text::{duration, metric_label, short_commit};
pub use text::{metric_value, number, percent, sanitize};
pub(crate) use verdict::verdict_cells;
pub use verdict::{annotations, sentence, verdict_json, verdict_markdown, verdict_text};
pub use words::Lang;

#[cfg(test)]
mod tests;
