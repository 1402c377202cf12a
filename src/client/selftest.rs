//! The client measured against a mock server: is every fault told apart, and how large is the
//! client's own error?
//!
//! The error of a latency is what the client measured less what the mock measured for the same
//! request, by the same clock: it holds the loopback interface and the delays of both threads. It
//! is an upper bound of the client's part.

use serde::Serialize;

use super::{allow_connections, runtime};
use crate::error::{Result, counted};

mod cases;
mod scripts;
mod timing;

pub use cases::{CaseResult, Observation};
pub use timing::{Latencies, OpenLoop, Sequential, Streams};

/// The most that the median error of TTFT and ITL may be, in milliseconds.
pub const MAX_MEDIAN_ERROR_MS: f64 = 1.0;

/// The most that the 99th percentile of client lag may be, in milliseconds. More says that the
/// machine was busy, and nothing of the client.
pub const MAX_LAG_P99_MS: f64 = 5.0;

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Streams one after another.
    pub sequential: u64,
    /// Requests of the open loop.
    pub open_loop: u64,
    /// Requests per second of the open loop.
    pub rate: u64,
    /// Streams at once.
    pub streams: u64,
}

impl Plan {
    /// The plan for this many streams one after another; 100 test everything that is promised.
    pub fn new(requests: u64) -> Self {
        let open_loop = requests.saturating_mul(20).min(30_000);
        let streams = requests.saturating_mul(10).min(1000);
        Self { sequential: requests, open_loop, rate: 500, streams }
    }
}

/// What the self-test found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was tested.
    pub plan: Plan,
    /// Faults and oddities, and what the client took them for.
    pub cases: Vec<CaseResult>,
    /// Streams one after another.
    pub sequential: Sequential,
    /// Requests at a fixed rate.
    pub open_loop: OpenLoop,
    /// Many streams at once.
    pub streams: Streams,
    /// Whether the client can be trusted.
    pub verdict: Verdict,
    /// Why not.
    pub reasons: Vec<String>,
}

/// Whether the client can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was as promised.
    Passed,
    /// Something was not.
    Failed,
    /// The machine was too busy to tell.
    Invalid,
}

/// Runs the whole self-test: a few seconds.
///
/// # Errors
/// When the system gives no sockets, threads or files.
pub fn run(plan: Plan) -> Result<Report> {
    // Each stream is a file of the client and one of the mock.
    allow_connections(2 * plan.streams)?;
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let cases = cases::run().await?;
        let sequential = timing::sequential(plan.sequential).await?;
        let open_loop = timing::open_loop(plan.open_loop, plan.rate).await?;
        let streams = timing::streams(plan.streams).await?;
        let (verdict, reasons) = judge(&cases, &sequential, &open_loop, &streams);
        Ok(Report { plan, cases, sequential, open_loop, streams, verdict, reasons })
    });
    // A name lookup may still wait for an answer.
    runtime.shutdown_background();
    report
}

fn judge(
    cases: &[CaseResult],
    sequential: &Sequential,
    open_loop: &OpenLoop,
    streams: &Streams,
) -> (Verdict, Vec<String>) {
    let mut reasons = Vec::new();
    let wrong = cases.iter().filter(|case| !case.is_right()).count();
    if wrong > 0 {
        reasons.push(format!("{} told wrongly", counted(wrong, "case")));
    }
    let parts = [
        ("streams one after another", sequential.complete, sequential.requests),
        ("requests of the open loop", open_loop.complete, open_loop.requests),
        ("streams at once", streams.complete, streams.requests),
    ];
    for (name, complete, requests) in parts {
        if complete < requests {
            reasons.push(format!("{complete} of {requests} {name} ended well"));
        }
    }
    if streams.most_at_once < streams.requests {
        let (most, wanted) = (streams.most_at_once, streams.requests);
        reasons.push(format!("{most} of {wanted} streams were open at once"));
    }
    if !reasons.is_empty() {
        return (Verdict::Failed, reasons);
    }
    // The median of what a busy machine delays is no error of the client.
    let lag = open_loop.lag_ms.p99.or(open_loop.lag_ms.max);
    if let Some(lag) = lag.filter(|lag| *lag > MAX_LAG_P99_MS) {
        let why = format!(
            "client lag p99 is {lag:.1} ms, above {MAX_LAG_P99_MS} ms: the machine is busy, or \
             this build is not optimized"
        );
        return (Verdict::Invalid, vec![why]);
    }
    let errors = [("TTFT", sequential.ttft_error_ms), ("ITL", sequential.itl_error_ms)];
    for (name, error) in errors {
        let median = error.median.map_or(f64::INFINITY, f64::abs);
        if median > MAX_MEDIAN_ERROR_MS {
            reasons.push(format!(
                "the median error of {name} is {median:.2} ms, above {MAX_MEDIAN_ERROR_MS} ms"
            ));
        }
    }
    let verdict = if reasons.is_empty() { Verdict::Passed } else { Verdict::Failed };
    (verdict, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(error: f64, lag: f64, complete: u64) -> (Sequential, OpenLoop, Streams) {
        let latencies =
            |value| Latencies { median: Some(value), p99: Some(value), max: Some(value) };
        let sequential = Sequential {
            requests: 3,
            complete: 3,
            ttft_error_ms: latencies(error),
            itl_error_ms: latencies(0.1),
            set_up_ms: latencies(0.1),
        };
        let open_loop = OpenLoop { requests: 9, complete: 9, rate: 500, lag_ms: latencies(lag) };
        (sequential, open_loop, Streams { requests: 5, complete, most_at_once: 5 })
    }

    #[test]
    fn a_busy_machine_is_invalid_and_a_lost_stream_fails() {
        for (error, lag, complete, verdict, why) in [
            (0.9, 4.9, 5, Verdict::Passed, ""),
            (1.1, 4.9, 5, Verdict::Failed, "the median error of TTFT is 1.10 ms, above 1 ms"),
            (1.1, 5.1, 5, Verdict::Invalid, "client lag p99 is 5.1 ms, above 5 ms"),
            (0.9, 5.1, 4, Verdict::Failed, "4 of 5 streams at once ended well"),
        ] {
            let (sequential, open_loop, streams) = parts(error, lag, complete);
            let (found, reasons) = judge(&[], &sequential, &open_loop, &streams);
            assert_eq!(found, verdict, "{reasons:?}");
            assert!(reasons.join("; ").starts_with(why), "{reasons:?}");
        }
    }
}
