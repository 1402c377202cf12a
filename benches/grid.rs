//! `cargo bench --bench grid`: prompt lengths against answer lengths, S1 to S6, and prefill and
//! decode at context depths of up to 8192 tokens. Takes longer than the main bench, so it runs only
//! on request.

use std::process::ExitCode;

fn main() -> ExitCode {
    candlemark::bench::main(&["grid", "context"])
}
