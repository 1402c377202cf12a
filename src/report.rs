//! Records and verdicts as documents: terminal text, Markdown, HTML, CSV, JSON, JUnit, Prometheus.
//! Every text from a file is escaped for its output format. Prints nothing and decides nothing.

mod calibration;
pub mod chart;
mod document;
mod evaluation;
mod export;
mod full;
mod html;
mod link;
mod live;
mod machine;
mod plot;
mod progress;
mod side;
mod text;
mod verdict;
mod words;

pub use calibration::calibration_text;
pub use document::{csv, json};
pub use evaluation::{evaluation_json, evaluation_markdown, evaluation_text};
pub(crate) use export::exposed;
pub use export::{benchmark_json, llama_bench, prometheus, row};
pub use full::{Edition, chart_files, markdown};
pub(crate) use html::render;
pub use html::{page, page_in, pair_page, verdict_page};
pub use link::{link, link_into};
pub use live::{live_header, live_row};
pub use machine::{bmf, junit, smaller_is_better};
pub use progress::pair_progress;
pub use side::{side_by_side, side_by_side_json};
pub(crate) use text::duration;
pub use text::{number, percent, plain, shown};
pub use verdict::{annotations, sentence, verdict_json, verdict_markdown, verdict_text};
pub use words::Lang;

#[cfg(test)]
mod tests;
