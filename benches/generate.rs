//! `cargo bench`: every prompt category at every batch size. Each scenario has a Criterion
//! benchmark for decode, TTFT and prefill, all from the same generations. The record, the verdict
//! and a page of all metrics follow.

use std::process::ExitCode;

fn main() -> ExitCode {
    candlemark::bench::main(&["default"])
}
