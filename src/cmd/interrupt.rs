//! Ctrl-C, and termination, while something is measured. The first ends the measuring in order, the
//! second the program.
//!
//! `run` keeps its record and ends with 130, `check --measure` and `pair` judge what was measured
//! and end with the status of that verdict, `calibrate` and `gate-eval record` keep whole sessions
//! or environments and end with 130, and so does `pair` while it builds. `monitor`, which runs
//! until then, ends with 0. `peers` keeps nothing and listens to nothing: the first Ctrl-C ends it.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use candlemark::{Error, report};

use crate::cmd::Exit;

/// Set by Ctrl-C, after which no more is measured; `then` says what becomes of what was.
pub(crate) fn interruptible(then: &'static str) -> anyhow::Result<&'static AtomicBool> {
    interruptible_with(then, || {})
}

/// The same, and calls something the first time.
pub(crate) fn interruptible_with(
    then: &'static str,
    first: impl Fn() + Send + 'static,
) -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
        say(&format!("stopping; {then}; again to end at once"));
        first();
    })
    .context("listening for Ctrl-C")?;
    Ok(&STOP)
}

/// The error of something that Ctrl-C ended: whatever broke then broke of it.
pub(crate) fn unless_interrupted<T>(
    outcome: anyhow::Result<T>,
    stop: &AtomicBool,
) -> anyhow::Result<T> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted.into()) } else { outcome }
}

/// A line on stderr; one that is closed is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", report::sanitize(line));
}
