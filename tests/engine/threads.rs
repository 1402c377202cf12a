//! More threads than the system can start with a small address space and large stacks.

use assert_cmd::Command;
use candlemark::settings::Setup;

use crate::damaged::within_2_gb;
use crate::{clean, job, nano, refused, worker};

const SAYS: [&str; 2] = [
    "cannot start 8192 threads; give fewer with `--threads` or CANDLEMARK_THREADS",
    "Resource temporarily unavailable",
];

/// The binary with stacks so large that allocations still succeed when a stack does not.
fn with_large_stacks() -> Command {
    let mut command = within_2_gb();
    command.env("RUST_MIN_STACK", (64 << 20).to_string());
    command
}

#[test]
fn too_many_threads_are_an_error_that_names_the_flag() {
    let mut command = with_large_stacks();
    clean(&mut command);
    refused(&command.args(["machine", "--threads", "8192"]).output().unwrap(), 2, &SAYS);
    for engine in ["native", "candle"] {
        let many = Setup { engine: engine.into(), threads: 8192, ..nano() };
        refused(&worker(with_large_stacks(), &job(&many, &["short/b1"])), 2, &SAYS);
        // Rayon gets as many threads as the setup, or alone too many.
        for setup in [&many, &Setup { threads: 2, ..many.clone() }] {
            let mut command = with_large_stacks();
            command.env("RAYON_NUM_THREADS", "8192").env("CANDLE_NUM_THREADS", "8192");
            refused(&worker(command, &job(setup, &["short/b1"])), 2, &SAYS);
        }
    }
}
