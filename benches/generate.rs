//! `cargo bench`: every prompt category at every batch size. Each case has a page for decoding, one
//! for the time to the first token and one for prefill, all from the same generations; the record,
//! the verdict and a page with every metric follow.

mod harness;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main(&["default"])
}
