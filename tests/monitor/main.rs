//! The whole monitor with a stub instead of measurements: pages over a real socket, in a real
//! browser if there is one, and a thousand cycles in a process of their own.
#![cfg(feature = "monitor")]

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use candlemark::monitor::{
    Clock, History, Measured, Observer, Pages, Plan, Probe, ScenarioValues, VerdictSummary,
};
use candlemark::record::Conditions;
use candlemark::{Error, Result, monitor};
use jiff::{SignedDuration, Timestamp};

mod browser;
mod growth;
mod http;

const START: &str = "2026-11-23T10:00:00Z";

/// A clock that advances only in `wait`.
#[derive(Default)]
struct Fake(Cell<SignedDuration>);

impl Clock for Fake {
    fn elapsed(&self) -> SignedDuration {
        self.0.get()
    }

    fn now(&self) -> Timestamp {
        START.parse::<Timestamp>().unwrap() + self.0.get()
    }

    fn wait(&self, until: SignedDuration) {
        self.0.set(until);
    }

    fn stopped(&self) -> bool {
        false
    }
}

/// Rates that vary a little; every tenth cycle fails.
#[derive(Default)]
struct Stub {
    cycle: u32,
    /// Called in every cycle.
    hook: Option<Box<dyn FnMut(u32)>>,
}

impl Probe for Stub {
    fn measure(&mut self) -> Result<Measured> {
        self.cycle += 1;
        if let Some(hook) = &mut self.hook {
            hook(self.cycle);
        }
        if self.cycle.is_multiple_of(10) {
            return Err(Error::Failed(format!("<b>no</b> device & {}", "why ".repeat(10_000))));
        }
        let decode = f64::from(90 + self.cycle * 7 % 20);
        let figures = |id: &str, factor: f64| ScenarioValues {
            id: id.into(),
            values: [
                ("decode_tok_s".into(), Some(factor * decode)),
                ("e2e_s".into(), Some(8.0 / factor / decode)),
                ("peak_rss_bytes".into(), Some(100e6 + 1e5 * decode)),
                ("ttft_s".into(), Some(1.0 / factor / decode)),
            ]
            .into(),
            ..ScenarioValues::default()
        };
        Ok(Measured {
            model: "synthetic:stub".into(),
            machine: "stub-2cpu-01234567".into(),
            settings: "native on cpu, 2 threads".into(),
            scenarios: vec![figures("short/b1", 1.0), figures("code/b1", 0.8)],
            conditions: vec![Conditions {
                at: START.into(),
                load_1m: Some(0.5),
                available_bytes: Some(4 << 30),
                ..Conditions::default()
            }],
            verdict: VerdictSummary {
                outcome: None,
                text: "no baseline `baselines/stub.json`".into(),
            },
            ..Measured::default()
        })
    }
}

/// Keeps the newest pages and the largest total size.
#[derive(Default)]
struct Newest {
    pages: Pages,
    largest: usize,
}

impl Observer for Newest {
    fn publish(&mut self, pages: Pages) {
        let size = pages.html.len() + pages.metrics.len() + pages.history.len();
        self.largest = self.largest.max(size);
        self.pages = pages;
    }

    fn log(&mut self, _: &str) {}
}

/// Runs cycles half an hour apart.
fn cycles(count: u64, probe: &mut Stub, file: &Path) -> (History, Newest) {
    let clock = Fake::default();
    let day = SignedDuration::from_hours(24);
    let (mut history, _) = History::open(file, day, clock.elapsed(), clock.now()).unwrap();
    let plan = Plan {
        interval: Duration::from_secs(1800),
        retry: Duration::from_secs(60),
        cycles: Some(count),
        about: "quick on synthetic:stub".into(),
    };
    let mut newest = Newest::default();
    monitor::run(&plan, &mut history, probe, &clock, &mut newest);
    (history, newest)
}
