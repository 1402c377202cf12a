//! More threads than the system starts, where address space is short and stacks are large.

use assert_cmd::Command;
use candlemark::settings::Setup;

use crate::damaged::within_2_gb;
use crate::{clean, job, nano, refused, worker};

const SAYS: [&str; 2] = [
    "cannot start 8192 threads; give fewer with `--threads` or CANDLEMARK_THREADS",
    "Resource temporarily unavailable",
];

/// Stacks so large that small things still fit where another one does not.
fn short_of_space() -> Command {
    let mut command = within_2_gb();
    command.env("RUST_MIN_STACK", (64 << 20).to_string());
    command
}

#[test]
fn more_threads_than_the_system_starts_are_an_error_that_names_the_flag() {
    let mut command = short_of_space();
    clean(&mut command);
    refused(&command.args(["machine", "--threads", "8192"]).output().unwrap(), 2, &SAYS);
    for engine in ["native", "candle"] {
        let many = Setup { engine: engine.into(), threads: 8192, ..nano() };
        refused(&worker(short_of_space(), &job(&many, &["short/b1"])), 2, &SAYS);
        // As a run has it, rayon is told as many; it alone, where the setup says less.
        for setup in [&many, &Setup { threads: 2, ..many.clone() }] {
            let mut command = short_of_space();
            command.env("RAYON_NUM_THREADS", "8192").env("CANDLE_NUM_THREADS", "8192");
            refused(&worker(command, &job(setup, &["short/b1"])), 2, &SAYS);
        }
    }
}
