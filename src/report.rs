//! Records and verdicts as documents: terminal text, Markdown, HTML, CSV, JSON. Everything that came from a file is escaped
//! for the document that it goes into. Prints nothing and decides nothing.

mod document;
mod evaluation;
mod html;
mod live;
mod side;
mod text;
mod verdict;

pub use document::csv;
pub use document::json;
pub use document::markdown;
pub use document::row;
pub use evaluation::evaluation_json;
pub use evaluation::evaluation_markdown;
pub use evaluation::evaluation_text;
pub use html::link;
pub use html::link_into;
pub use html::page;
pub use live::live_header;
pub use live::live_row;
pub use side::side_by_side;
pub use text::number;
pub use text::percent;
pub use text::plain;
pub use text::shown;
pub use verdict::annotations;
pub use verdict::sentence;
pub use verdict::verdict_json;
pub use verdict::verdict_markdown;
pub use verdict::verdict_text;

#[cfg(test)]
mod tests;
