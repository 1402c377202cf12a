//! Ctrl-C and SIGTERM during a measurement. The first signal stops the measurement in order, the
//! second ends the process.
//!
//! `run` keeps its record and exits with 130. `check --measure` and `pair` judge what was measured
//! and exit with the status of that verdict; `pair` exits with 130 while it builds. `calibrate` and
//! `gate-eval record` keep complete sessions or environments and exit with 130. `monitor` and
//! `serve` exit with 0. `peers` installs no handler: the first signal ends it.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::cli::colour;
use crate::cli::exit::Exit;
use crate::{Error, report};

/// A flag set by the first signal; `then` tells the user what happens to the measurements.
pub(crate) fn interruptible(then: &'static str) -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
        say(&format!("stopping: {then}; press Ctrl-C again to end at once"));
    })
    .context("cannot handle Ctrl-C")?;
    Ok(&STOP)
}

/// Replaces the outcome by [`Error::Interrupted`] after a signal, which may have caused any other
/// error.
pub(crate) fn unless_interrupted<T>(
    outcome: anyhow::Result<T>,
    stop: &AtomicBool,
) -> anyhow::Result<T> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted.into()) } else { outcome }
}

/// Prints a line on stderr, which may be closed.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", colour::message(&report::sanitize(line)));
}
