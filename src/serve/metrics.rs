//! Counters of the server, and their text for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::report;
use crate::serve::job::Timings;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    /// The client hung up.
    Cancelled,
    /// The request was wrong, or too large.
    Invalid,
    /// There was no room for it, or the server was ending.
    Refused,
    Failed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Completed, "completed"),
        (Self::Cancelled, "cancelled"),
        (Self::Invalid, "invalid"),
        (Self::Refused, "refused"),
        (Self::Failed, "failed"),
    ];
}

/// A number of things at this instant.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the server has done since its start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    requests: [AtomicU64; Outcome::ALL.len()],
    /// Sequences in the batch.
    pub(super) running: Gauge,
    /// Sequences that wait for a place in it.
    pub(super) waiting: Gauge,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    passes: AtomicU64,
    /// Nanoseconds, in the order of [`STAGES`].
    stages: [AtomicU64; STAGES.len()],
}

/// The stages of a request with their help, tokenization first.
const STAGES: [(&str, &str); 6] = [
    ("tokenize", "Seconds of tokenization, chat templates included"),
    ("queue", "Seconds between submission and the first pass over the prompt"),
    ("prefill", "Seconds from the first to the end of the last pass over the prompt"),
    ("first_token", "Seconds from the end of prefill to the first token"),
    ("decode", "Seconds from the first to the last token"),
    ("detokenize", "Seconds of detokenization, most of them within decode"),
];

impl Metrics {
    /// Counts a request.
    pub(super) fn end(&self, outcome: Outcome) {
        let place = Outcome::ALL.iter().position(|(other, _)| *other == outcome);
        self.requests[place.expect("every outcome is there")].fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for a part of a request before its jobs run. If the client hangs up meanwhile, the
    /// request counts as cancelled.
    pub(super) async fn unless_cancelled<T>(&self, part: impl Future<Output = T>) -> T {
        struct Pending<'a>(Option<&'a Metrics>);
        impl Drop for Pending<'_> {
            fn drop(&mut self) {
                if let Some(metrics) = self.0 {
                    metrics.end(Outcome::Cancelled);
                }
            }
        }
        let mut pending = Pending(Some(self));
        let done = part.await;
        pending.0 = None;
        done
    }

    /// Counts the prompt of a sequence when its prefill has ended.
    pub(super) fn add_prompt(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// Counts a generated token.
    pub(super) fn add_token(&self) {
        self.generated_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a forward pass.
    pub(super) fn add_pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_tokenization(&self, time: Duration) {
        self.stages[0].fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Adds the times of a sequence that has ended.
    pub(super) fn add_timings(&self, timings: &Timings) {
        let &Timings { queue, prefill, first_token, decode, detokenize } = timings;
        let times = [Some(queue), Some(prefill), first_token, decode, detokenize];
        for (sum, time) in self.stages[1..].iter().zip(times) {
            let time = time.unwrap_or_default();
            sum.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// The text, format version 0.0.4.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let by_outcome = Outcome::ALL.iter().zip(&self.requests);
        report::prometheus_family(
            &mut text,
            "server_requests_total",
            "Requests to the API by outcome",
            by_outcome.map(|((_, name), count)| (format!("{{outcome=\"{name}\"}}"), load(count))),
        );
        for (name, help, value) in [
            ("running_sequences", "Sequences in the batch", &self.running.0),
            ("waiting_sequences", "Sequences that wait for a place", &self.waiting.0),
            ("prompt_tokens_total", "Prompt tokens prefilled", &self.prompt_tokens),
            ("generated_tokens_total", "Tokens generated", &self.generated_tokens),
            ("forward_passes_total", "Forward passes of the model", &self.passes),
        ] {
            let name = format!("server_{name}");
            report::prometheus_family(&mut text, &name, help, [(String::new(), load(value))]);
        }
        for ((stage, help), nanoseconds) in STAGES.iter().zip(&self.stages) {
            let name = format!("server_{stage}_seconds_total");
            let seconds = load(nanoseconds) / 1e9;
            report::prometheus_family(&mut text, &name, help, [(String::new(), seconds)]);
        }
        text
    }
}
