//! `cargo bench --bench grid`: prompt lengths against answer lengths, S1 to S6, and reading and
//! decoding at depths of up to 8192 tokens. Takes longer than the main bench, so that it runs only
//! when it is asked for.

mod harness;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main(&["grid", "context"])
}
