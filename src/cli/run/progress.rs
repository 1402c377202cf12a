//! Progress of a run on stderr: a bar on a terminal, and everywhere one line per process as it
//! ends.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::cli::interrupt::say;
use crate::record::Case;
use crate::report;
use crate::suite::{Events, RunProgress};

pub(super) struct Live {
    bar: ProgressBar,
    started: Instant,
    progress: Option<RunProgress>,
    /// The lines of the process that has just ended, printed when the time left is known.
    ended: Vec<String>,
    /// Results so far; the record is on disk from the first one on.
    pub(super) measured: usize,
    stop: &'static AtomicBool,
}

impl Live {
    pub(super) fn new(stop: &'static AtomicBool) -> Self {
        Self {
            bar: bar(),
            started: Instant::now(),
            progress: None,
            ended: Vec::new(),
            measured: 0,
            stop,
        }
    }

    /// Prints the lines of the last process and removes the bar.
    pub(super) fn finish(&mut self) {
        self.print_ended("");
        self.bar.finish_and_clear();
    }

    fn print_ended(&mut self, left: &str) {
        let Some(RunProgress { processes, all, .. }) = self.progress else { return };
        for line in self.ended.drain(..).filter(|_| all > 1) {
            self.bar.suspend(|| say(&format!("[{} of {all}] {line}{left}", processes + 1)));
        }
    }
}

/// Without a steady tick: nothing is drawn while a worker measures.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg}");
    ProgressBar::new(0).with_style(style.expect("the template is a literal"))
}

impl Events for Live {
    fn start(&mut self, ids: &[String], progress: RunProgress) {
        let left = match progress.share {
            share if share > 0.0 => {
                let left = self.started.elapsed().mul_f64((1.0 - share).max(0.0) / share);
                format!(", about {} left", HumanDuration(left))
            }
            _ => String::new(),
        };
        self.print_ended(&left);
        self.progress = Some(progress);
        self.bar.set_length(progress.all as u64);
        self.bar.set_position(progress.processes as u64);
        self.bar.set_message(format!("{}{left}", ids.join(" ")));
    }

    fn measured(&mut self, case: &Case) {
        self.measured += 1;
        self.ended.push(report::live_summary(case));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
