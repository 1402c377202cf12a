//! Records and verdicts as documents: terminal text, Markdown, HTML, CSV, JSON, JUnit. Everything that came from a file is escaped
//! for the document that it goes into. Prints nothing and decides nothing.

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
pub use document::csv;
pub use document::json;
pub use evaluation::evaluation_json;
pub use evaluation::evaluation_markdown;
pub use evaluation::evaluation_text;
pub use export::benchmark_json;
pub(crate) use export::exposed;
pub use export::llama_bench;
pub use export::prometheus;
pub use export::row;
pub use full::Edition;
pub use full::chart_files;
pub use full::markdown;
pub use html::page;
pub use html::page_in;
pub use html::pair_page;
pub(crate) use html::render;
pub use html::verdict_page;
pub use link::link;
pub use link::link_into;
pub use live::live_header;
pub use live::live_row;
pub use machine::bmf;
pub use machine::junit;
pub use machine::smaller_is_better;
pub use progress::pair_progress;
pub use side::side_by_side;
pub use side::side_by_side_json;
pub(crate) use text::duration;
pub use text::number;
pub use text::percent;
pub use text::plain;
pub use text::shown;
pub use verdict::annotations;
pub use verdict::sentence;
pub use verdict::verdict_json;
pub use verdict::verdict_markdown;
pub use verdict::verdict_text;
pub use words::Lang;

#[cfg(test)]
mod tests;
