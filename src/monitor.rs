//! Repeated runs at an interval, their history, and a live page. A failed cycle is an entry, is
//! retried soon, and does not end the monitor. While a cycle measures, nothing else happens: pages
//! are rendered before and after it. The probe and the clock are passed in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};

mod entry;
mod figures;
mod history;
mod page;
#[cfg(feature = "engine")]
mod probe;
mod prometheus;
#[cfg(feature = "monitor")]
mod server;

pub use entry::{Entry, Measured, SCHEMA, ScenarioValues, VerdictSummary};
pub use history::History;
#[cfg(feature = "engine")]
pub use probe::SuiteProbe;
#[cfg(feature = "monitor")]
pub use server::Remote;
#[cfg(feature = "monitor")]
pub use server::Server;

/// Measures one cycle.
pub trait Probe {
    /// Measures once.
    ///
    /// # Errors
    /// When nothing could be measured.
    fn measure(&mut self) -> Result<Measured>;
}

/// The time, and the request to stop the monitor.
pub trait Clock {
    /// Time since the monitor began, by the monotonic clock.
    fn elapsed(&self) -> SignedDuration;
    /// The wall clock, which may jump.
    fn now(&self) -> Timestamp;
    /// Waits until this much time has elapsed, or until the monitor is stopped.
    fn wait(&self, until: SignedDuration);
    /// Whether the monitor should stop.
    fn stopped(&self) -> bool;
}

/// Receives pages and log lines.
pub trait Observer {
    /// New pages.
    fn publish(&mut self, pages: Pages);
    /// A line for the terminal; may contain arbitrary text.
    fn log(&mut self, line: &str);
}

/// All served pages, rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    /// The HTML page.
    pub html: String,
    /// The newest values in Prometheus' text format.
    pub metrics: String,
    /// The entries of the window as JSON lines.
    pub history: String,
}

/// The schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Time from the start of one regular cycle to the start of the next.
    pub interval: Duration,
    /// Delay before a failed cycle is retried, if no regular cycle comes first.
    pub retry: Duration,
    /// The monitor ends after this many cycles; `None` for no limit.
    pub cycles: Option<u64>,
    /// A description of what is measured: suites and model.
    pub about: String,
}

/// How a monitor ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Completed cycles.
    pub cycles: u64,
    /// Failed cycles among them.
    pub failures: u64,
    /// Whether the last cycle failed.
    pub last_failed: bool,
}

/// The state of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Measuring,
    /// Until this much time has elapsed.
    Waiting(SignedDuration),
    Ended,
}

/// Runs cycles until the limit is reached or the monitor is stopped. No error ends it: a failed
/// cycle is an entry, and a history that cannot be written stays in memory.
pub fn run(
    plan: &Plan,
    history: &mut History,
    probe: &mut dyn Probe,
    clock: &dyn Clock,
    observer: &mut dyn Observer,
) -> Ended {
    let mut ended = Ended::default();
    let began = (clock.elapsed(), clock.now());
    while !clock.stopped() {
        let publish = |phase, history: &History, ended, observer: &mut dyn Observer| {
            let input = page::PageInput {
                plan,
                history,
                ended,
                began,
                phase,
                elapsed: clock.elapsed(),
                now: clock.now(),
            };
            match input.pages() {
                Ok(pages) => observer.publish(pages),
                Err(error) => observer.log(&error.chain()),
            }
        };
        publish(Phase::Measuring, history, ended, observer);
        let start = clock.elapsed();
        let measured = measure(probe);
        let end = clock.elapsed();
        let entry = Entry::new(format_time(clock.now()), (end - start).as_secs_f64(), measured);
        ended.last_failed = entry.error.is_some();
        if ended.last_failed && clock.stopped() {
            // Ctrl-C reaches the workers, too: an interrupted cycle is no failure.
            ended.last_failed = false;
            break;
        }
        ended.cycles += 1;
        ended.failures += u64::from(ended.last_failed);
        observer.log(&page::line(&entry));
        history.add(entry, end);
        if let Some(write_error) = history.write_error() {
            let pending = history.pending();
            observer.log(&format!("history: {write_error}; {pending} entries pending in memory"));
        }
        let next = plan.next(began.0, clock.elapsed(), ended.last_failed);
        let last = plan.cycles.is_some_and(|cycles| ended.cycles >= cycles);
        publish(if last { Phase::Ended } else { Phase::Waiting(next) }, history, ended, observer);
        if last {
            break;
        }
        clock.wait(next);
    }
    history.flush();
    if history.pending() > 0 {
        observer.log(&format!("history: {} entries were never written", history.pending()));
    }
    ended
}

/// Measures one cycle; a panic becomes an error.
fn measure(probe: &mut dyn Probe) -> Result<Measured> {
    catch_unwind(AssertUnwindSafe(|| probe.measure())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::Failed(format!("a panic while measuring: {text}")))
    })
}

impl Plan {
    /// When to measure next. Regular cycles begin at multiples of the interval; missed ones are
    /// skipped.
    fn next(&self, began: SignedDuration, elapsed: SignedDuration, failed: bool) -> SignedDuration {
        let length = |time: Duration| time.as_nanos().max(1);
        let past = (elapsed - began).unsigned_abs().as_nanos();
        let left = length(self.interval) - past % length(self.interval);
        let left = if failed { left.min(length(self.retry)) } else { left };
        elapsed.saturating_add(SignedDuration::from_nanos_i128(left.min(i64::MAX as u128) as i128))
    }
}

/// A timestamp as in records.
fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
