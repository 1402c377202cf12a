//! Latencies: of every scenario that generates, of kinds of requests, and of one repeated request.

use serde::Serialize;

use super::values::{
    BOOTSTRAP_SEED, CaseState, Distribution, in_group, pooled, prompt_tokens, row, short_name,
};
use crate::record::{Case, Record};
use crate::stats;
use crate::stats::LineFit;
use crate::workload::{Task, metric};

/// Latencies of one scenario over every sequence, step and answer of all processes. Scenarios are
/// not pooled, because their prompt lengths differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) id: String,
    pub(crate) state: CaseState,
    pub(crate) batch: usize,
    /// Seconds to the first token of each sequence; of each sample where sequences are not stored.
    pub(crate) ttft_s: Option<Distribution>,
    /// Inter-token latency in seconds.
    pub(crate) step_s: Option<Distribution>,
    pub(crate) e2e_s: Option<Distribution>,
}

/// The latencies of every scenario that answers prompts and has samples.
pub(super) fn latencies(record: &Record) -> Vec<Latency> {
    let cases = record.scenarios.iter();
    let generate = cases.filter(|case| matches!(case.work.task, Task::Generate | Task::Depth));
    let found = generate.map(latency);
    found
        .filter(|one| one.ttft_s.is_some() || one.step_s.is_some() || one.e2e_s.is_some())
        .collect()
}

fn latency(case: &Case) -> Latency {
    let blocks = &case.blocks;
    let first: Vec<f64> =
        blocks.iter().flat_map(|block| &block.ttft_seq_s).flatten().copied().collect();
    let steps: Vec<f64> =
        blocks.iter().flat_map(|block| &block.steps_s).flatten().copied().collect();
    let first = if case.work.task == Task::Depth {
        Vec::new() // Filling the cache to the depth is not timed, so there is no TTFT.
    } else if first.is_empty() {
        pooled(case, metric::TTFT_S)
    } else {
        first
    };
    Latency {
        id: case.id.clone(),
        state: CaseState::of(case),
        batch: case.work.batch,
        ttft_s: Distribution::of(&first),
        step_s: Distribution::of(&steps),
        e2e_s: Distribution::of(&pooled(case, metric::E2E_S)),
    }
}

row! {
    /// One kind of request, `api/*`. A case that is not valid has no means.
    ApiRow(case) {
        name: String = short_name(case).into(),
        /// Prompt tokens, including those of the template.
        prompt_tokens: Option<usize> = prompt_tokens(case),
        /// Measured requests.
        requests: usize = pooled(case, metric::E2E_S).len(),
        /// Seconds from the start to the last token, the mean over requests, which are all alike.
        mean_e2e_s: Option<f64> = valid_mean(case, metric::E2E_S),
        /// Tokens generated, the mean over requests.
        mean_generated: Option<f64> = mean_generated(case),
        /// Decode rate, the mean over requests; without the prefill.
        mean_decode_tok_s: Option<f64> = valid_mean(case, metric::DECODE_TOK_S),
    }
    spreads { ttft_s, tokenize_s }
    readings {}
}

/// The kinds of requests of a record.
pub(super) fn api(record: &Record) -> Vec<ApiRow> {
    in_group(record, "api").map(ApiRow::of).collect()
}

fn valid_mean(case: &Case, metric: &str) -> Option<f64> {
    stats::mean(&pooled(case, metric)).filter(|_| CaseState::of(case).is_valid())
}

/// One token more than steps. Without stored steps the requested number, unless answers may stop
/// early.
fn mean_generated(case: &Case) -> Option<f64> {
    let answers = case.blocks.iter().flat_map(|block| &block.steps_s);
    let counts: Vec<f64> = answers.map(|steps| (steps.len() + 1) as f64).collect();
    let requested = || case.work.stop == "length" && !case.blocks.is_empty();
    let mean = stats::mean(&counts);
    let mean = mean.or_else(|| requested().then_some(case.work.new_tokens as f64));
    mean.filter(|_| CaseState::of(case).is_valid())
}

/// One repeated request, `consistency/*`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Consistency {
    pub(crate) id: String,
    pub(crate) state: CaseState,
    pub(crate) e2e_s: Option<Distribution>,
    pub(crate) ttft_s: Option<Distribution>,
    /// Ratio of the 95th percentile to the median of `e2e_s`; `None` below 20 requests, and for a
    /// case that is not valid.
    pub(crate) p95_over_p50: Option<f64>,
    /// Number of steps longer than five times the median step of their answer; `None` for a case
    /// that is not valid.
    pub(crate) stalls: Option<f64>,
    /// Slope of `e2e_s` over the request's number in its process, in seconds per request. The drift
    /// is significant if its confidence interval excludes zero.
    pub(crate) drift: Option<LineFit>,
    /// Seconds to the last token of each request, a list per process.
    pub(crate) series_s: Vec<Vec<f64>>,
}

/// The repeated requests of a record.
pub(super) fn consistency(record: &Record) -> Vec<Consistency> {
    in_group(record, "consistency").map(repeated).collect()
}

fn repeated(case: &Case) -> Consistency {
    let series = case.blocks.iter().filter_map(|block| block.samples.get(metric::E2E_S));
    let series_s: Vec<Vec<f64>> = series.cloned().collect();
    let points: Vec<(f64, f64)> = series_s
        .iter()
        .flat_map(|series| series.iter().enumerate().map(|(i, &seconds)| (i as f64, seconds)))
        .collect();
    let state = CaseState::of(case);
    let e2e_s = Distribution::of(&pooled(case, metric::E2E_S));
    let stalls = pooled(case, metric::STALLS);
    let valid = state.is_valid();
    Consistency {
        id: case.id.clone(),
        e2e_s,
        ttft_s: Distribution::of(&pooled(case, metric::TTFT_S)),
        p95_over_p50: e2e_s.filter(|_| valid).and_then(|e2e| e2e.p95_over_p50()),
        stalls: (valid && !stalls.is_empty()).then(|| stalls.iter().sum()),
        drift: if valid { stats::fit_line(&points, BOOTSTRAP_SEED) } else { None },
        state,
        series_s,
    }
}
