//! A Criterion measurement that carries whole samples, so that Criterion needs no clock of its own.

use std::sync::Mutex;

use crate::measure::Sample;
use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// The samples counted by Criterion since the last [`take_counted`], in order.
static COUNTED: Mutex<Vec<Sample>> = Mutex::new(Vec::new());

pub(super) fn take_counted() -> Vec<Sample> {
    std::mem::take(&mut COUNTED.lock().expect("nobody panics while holding it"))
}

/// Time taken from samples instead of a clock.
pub(super) struct SampleTime;

/// The time of some iterations, with their samples.
#[derive(Default)]
pub(super) struct SampledTime {
    /// Sum over the iterations.
    pub(super) seconds: f64,
    /// Samples to store once Criterion has counted them; none for replayed values.
    pub(super) samples: Vec<Sample>,
}

impl Measurement for SampleTime {
    type Intermediate = ();
    type Value = SampledTime;

    fn start(&self) {
        unreachable!("benches pass their samples");
    }

    fn end(&self, (): ()) -> SampledTime {
        unreachable!("benches pass their samples");
    }

    fn add(&self, a: &SampledTime, b: &SampledTime) -> SampledTime {
        let samples = a.samples.iter().chain(&b.samples).cloned().collect();
        SampledTime { seconds: a.seconds + b.seconds, samples }
    }

    fn zero(&self) -> SampledTime {
        SampledTime::default()
    }

    /// Called exactly once for a sample that counts, and never while warming up.
    fn to_f64(&self, value: &SampledTime) -> f64 {
        COUNTED
            .lock()
            .expect("nobody panics while holding it")
            .extend(value.samples.iter().cloned());
        value.seconds * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &SampleTime
    }
}

/// Nanoseconds as times, and elements as tokens.
impl ValueFormatter for SampleTime {
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
