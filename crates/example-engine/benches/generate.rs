//! `cargo bench`: scenarios on this crate's engine. `candlemark pair` builds it at two commits.

use std::process::ExitCode;

fn main() -> ExitCode {
    candlemark::engine::register("bag-of-words", example_engine::bag_of_words::load);
    candlemark::bench::main(&["short", "code"])
}
