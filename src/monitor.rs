//! Repeated quick runs on an interval, their history and a live page. A cycle that fails is an
//! entry like any other, is tried again soon, and ends nothing. While a cycle measures, nothing
//! else happens: pages are made before and after it. Knows no model and no clock of its own: what
//! measures, and the time, are handed in.

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

pub use entry::{Entry, Figures, Measured, SCHEMA, Said};
pub use history::{History, MOST};
#[cfg(feature = "engine")]
pub use probe::SuiteProbe;
#[cfg(feature = "monitor")]
pub use server::Remote;
#[cfg(feature = "monitor")]
pub use server::Server;

/// What measures.
pub trait Probe {
    /// Measures once.
    ///
    /// # Errors
    /// When nothing could be measured, and why.
    fn measure(&mut self) -> Result<Measured>;
}

/// The time, and the wish of whoever started the monitor that it ends.
pub trait Clock {
    /// Since the monitor began, by a clock that nobody sets.
    fn elapsed(&self) -> SignedDuration;
    /// By the wall clock, which may jump.
    fn now(&self) -> Timestamp;
    /// Waits until so much has elapsed, or until the monitor is to end.
    fn wait(&self, until: SignedDuration);
    /// Whether the monitor is to end.
    fn stopped(&self) -> bool;
}

/// Who hears of it.
pub trait Audience {
    /// The pages have changed.
    fn publish(&mut self, pages: Pages);
    /// A line for whoever watches the terminal; it may quote anything.
    fn say(&mut self, line: &str);
}

/// Everything that is served, finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    /// The page for people.
    pub html: String,
    /// The newest figures in Prometheus' text format.
    pub metrics: String,
    /// The window as lines of JSON.
    pub history: String,
}

/// When to measure, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// From the beginning of one regular cycle to that of the next.
    pub interval: Duration,
    /// How soon a cycle that failed is tried again, if no regular one comes before.
    pub retry: Duration,
    /// The monitor ends after so many cycles; `None` never.
    pub cycles: Option<u64>,
    /// What is measured, in words: suites and model.
    pub about: String,
}

/// How a monitor ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Cycles that were measured.
    pub cycles: u64,
    /// Of these, failed ones.
    pub failures: u64,
    /// Whether the last one failed.
    pub last_failed: bool,
}

/// What the monitor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Measuring,
    /// Until so much has elapsed.
    Waiting(SignedDuration),
    Ended,
}

/// Measures until it has measured often enough or is to end. No error ends it: a failed cycle is an
/// entry, and a history that cannot be written is kept in memory.
pub fn run(
    plan: &Plan,
    history: &mut History,
    probe: &mut dyn Probe,
    clock: &dyn Clock,
    audience: &mut dyn Audience,
) -> Ended {
    let mut ended = Ended::default();
    let began = (clock.elapsed(), clock.now());
    while !clock.stopped() {
        let shown = |phase, history: &History, ended, audience: &mut dyn Audience| {
            let view = page::View {
                plan,
                history,
                ended,
                began,
                phase,
                elapsed: clock.elapsed(),
                now: clock.now(),
            };
            match view.pages() {
                Ok(pages) => audience.publish(pages),
                Err(error) => audience.say(&error.chain()),
            }
        };
        shown(Phase::Measuring, history, ended, audience);
        let start = clock.elapsed();
        let measured = measure(probe);
        let end = clock.elapsed();
        let entry = Entry::new(wall(clock.now()), (end - start).as_secs_f64(), measured);
        ended.last_failed = entry.error.is_some();
        if ended.last_failed && clock.stopped() {
            // Ctrl-C reaches the workers, too: what they left unfinished is no failure.
            ended.last_failed = false;
            break;
        }
        ended.cycles += 1;
        ended.failures += u64::from(ended.last_failed);
        audience.say(&page::line(&entry));
        history.add(entry, end);
        if let Some(trouble) = history.trouble() {
            let pending = history.pending();
            audience.say(&format!("history: {trouble}; {pending} entries wait in memory"));
        }
        let next = plan.next(began.0, clock.elapsed(), ended.last_failed);
        let last = plan.cycles.is_some_and(|cycles| ended.cycles >= cycles);
        shown(if last { Phase::Ended } else { Phase::Waiting(next) }, history, ended, audience);
        if last {
            break;
        }
        clock.wait(next);
    }
    history.flush();
    if history.pending() > 0 {
        audience.say(&format!("history: {} entries were never written", history.pending()));
    }
    ended
}

/// Measures, and survives whatever comes of it.
fn measure(probe: &mut dyn Probe) -> Result<Measured> {
    catch_unwind(AssertUnwindSafe(|| probe.measure())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::Failed(format!("a panic while measuring: {text}")))
    })
}

impl Plan {
    /// When to measure next. Regular cycles begin at whole intervals since the beginning; those
    /// that were missed are left out.
    fn next(&self, began: SignedDuration, elapsed: SignedDuration, failed: bool) -> SignedDuration {
        let length = |time: Duration| time.as_nanos().max(1);
        let past = (elapsed - began).unsigned_abs().as_nanos();
        let left = length(self.interval) - past % length(self.interval);
        let left = if failed { left.min(length(self.retry)) } else { left };
        elapsed.saturating_add(SignedDuration::from_nanos_i128(left.min(i64::MAX as u128) as i128))
    }
}

/// A time as records write it.
fn wall(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
