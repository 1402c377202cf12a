//! A measurement that carries whole samples through Criterion, so that it counts what was measured
//! and there is no second clock.

use std::sync::Mutex;

use candlemark::measure::Sample;
use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// The samples that Criterion has counted since they were last taken, in its order.
static COUNTED: Mutex<Vec<Sample>> = Mutex::new(Vec::new());

/// Takes the samples that Criterion has counted.
pub fn take_counted() -> Vec<Sample> {
    std::mem::take(&mut COUNTED.lock().expect("nobody panics while holding it"))
}

/// Time in seconds, read off samples instead of a clock.
pub struct Sampled;

/// The time of some iterations, and what it was read off.
#[derive(Default)]
pub struct Counted {
    /// Their sum.
    pub seconds: f64,
    /// Samples that are to be kept once Criterion has counted them; none for replayed values.
    pub samples: Vec<Sample>,
}

impl Measurement for Sampled {
    type Intermediate = ();
    type Value = Counted;

    fn start(&self) {
        unreachable!("benches hand in what they measured");
    }

    fn end(&self, (): ()) -> Counted {
        unreachable!("benches hand in what they measured");
    }

    fn add(&self, a: &Counted, b: &Counted) -> Counted {
        let samples = a.samples.iter().chain(&b.samples).cloned().collect();
        Counted { seconds: a.seconds + b.seconds, samples }
    }

    fn zero(&self) -> Counted {
        Counted::default()
    }

    /// Called exactly once for a sample that counts, and never while warming up.
    fn to_f64(&self, value: &Counted) -> f64 {
        COUNTED
            .lock()
            .expect("nobody panics while holding it")
            .extend(value.samples.iter().cloned());
        value.seconds * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Sampled
    }
}

/// Nanoseconds as times, and elements as tokens.
impl ValueFormatter for Sampled {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (factor, unit) = match typical {
            ns if ns < 1e3 => (1.0, "ns"),
            ns if ns < 1e6 => (1e-3, "µs"),
            ns if ns < 1e9 => (1e-6, "ms"),
            _ => (1e-9, "s"),
        };
        values.iter_mut().for_each(|value| *value *= factor);
        unit
    }

    fn scale_throughputs(
        &self,
        _: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let Throughput::Elements(tokens) = throughput else {
            unreachable!("benches count tokens");
        };
        values.iter_mut().for_each(|ns| *ns = *tokens as f64 * 1e9 / *ns);
        "tok/s"
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "ns"
    }
}
