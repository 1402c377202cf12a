//! `cargo bench --bench llama`: scenarios on a Llama of candle-transformers, from a folder.

use std::process::ExitCode;

use candlemark::engine::CustomEngine;
use example_engine::llama;

fn main() -> ExitCode {
    let engine = CustomEngine { name: "candle-llama", open: llama::open, load: llama::load };
    candlemark::engine::register_engine(engine);
    candlemark::bench::main(&["short"])
}
