//! Prompt and answer lengths: growth of TTFT with the prompt length, and step times of a long
//! answer.

use std::collections::BTreeSet;

use serde::Serialize;

use super::values::{
    BOOTSTRAP_SEED, CaseState, Reading, in_group, max, over_valid, prompt_tokens, reading, row,
    valid_median,
};
use crate::record::{Case, Record};
use crate::stats;
use crate::stats::LineFit;
use crate::workload::metric;

/// The scenarios `grid/*` together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Grid {
    /// In the order of the record.
    pub(crate) rows: Vec<GridRow>,
    /// Slope of TTFT over prompt length, in seconds per prompt token; one point per process and
    /// scenario.
    pub(crate) ttft_growth: Option<LineFit>,
    /// The same for the prefill time.
    pub(crate) prefill_growth: Option<LineFit>,
    /// Coefficient of variation of the scenarios' decode rates; `None` below two scenarios.
    pub(crate) decode_cv: Option<f64>,
    /// Step times of the longest answer.
    pub(crate) steps: Option<StepCurve>,
    /// Seconds to load the model: median over the valid scenarios of the grid.
    pub(crate) load_s: Reading,
    /// Seconds of quantizing and packing: median over all valid scenarios that traced it.
    pub(crate) pack_s: Reading,
    /// First request of a fresh process, of the scenario with the shortest prompt, in seconds.
    pub(crate) cold_ttft_s: Reading,
    /// Largest of the valid scenarios.
    pub(crate) peak_rss_bytes: Reading,
    /// Largest of the valid scenarios.
    pub(crate) peak_device_bytes: Reading,
}

row! {
    /// One scenario of the grid.
    GridRow(case) {
        prompt_tokens: Option<usize> = prompt_tokens(case),
        new_tokens: usize = case.work.new_tokens,
    }
    spreads { ttft_s, decode_tok_s, prefill_tok_s }
    readings {}
}

/// Times of the decode steps of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StepCurve {
    pub(crate) id: String,
    /// In the order of steps.
    pub(crate) points: Vec<StepPoint>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct StepPoint {
    /// Step 1 generates the second token.
    pub(crate) step: usize,
    /// Tokens per second of one sequence: the inverse of the median over answers.
    pub(crate) tok_s: f64,
}

impl Grid {
    /// The grid of a record; `None` where it has no such scenario.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let cases: Vec<&Case> = in_group(record, "grid").collect();
        let grid = || cases.iter().copied();
        let first = *cases.first()?;
        let measured =
            cases.iter().filter(|case| valid_median(case, metric::COLD_TTFT_S).is_some());
        let shortest = measured.min_by_key(|case| prompt_tokens(case)).copied().unwrap_or(first);
        let rates: Vec<f64> =
            cases.iter().filter_map(|case| valid_median(case, metric::DECODE_TOK_S)).collect();
        let mean = stats::mean(&rates).filter(|mean| *mean > 0.0);
        Some(Self {
            rows: cases.iter().map(|case| GridRow::of(case)).collect(),
            ttft_growth: growth(&cases, metric::TTFT_S),
            prefill_growth: growth(&cases, metric::PREFILL_S),
            decode_cv: stats::sd(&rates).zip(mean).map(|(sd, mean)| sd / mean),
            steps: StepCurve::longest(&cases),
            load_s: over_valid(grid(), metric::LOAD_S, stats::median),
            pack_s: over_valid(record.scenarios.iter(), metric::PACK_S, stats::median),
            cold_ttft_s: reading(shortest, metric::COLD_TTFT_S),
            peak_rss_bytes: over_valid(grid(), metric::PEAK_RSS_BYTES, max),
            peak_device_bytes: over_valid(grid(), metric::PEAK_DEVICE_BYTES, max),
        })
    }
}

/// Fits a metric over prompt tokens, with one point per process of each valid case.
fn growth(cases: &[&Case], metric: &str) -> Option<LineFit> {
    let valid = cases.iter().filter(|case| CaseState::of(case).is_valid());
    let points: Vec<(f64, f64)> = valid
        .filter_map(|case| Some((prompt_tokens(case)? as f64, case.values(metric))))
        .flat_map(|(x, values)| values.into_iter().map(move |y| (x, y)))
        .collect();
    stats::fit_line(&points, BOOTSTRAP_SEED)
}

impl StepCurve {
    /// Of the valid case with the longest answer whose steps are stored.
    fn longest(cases: &[&Case]) -> Option<Self> {
        let valid = cases.iter().filter(|case| CaseState::of(case).is_valid());
        let curves = valid.filter_map(|case| Self::of(case));
        curves.max_by_key(|curve| curve.points.len())
    }

    /// For each step the median over the case's answers; late steps have fewer answers if answers
    /// may end early. `None` where no steps are stored.
    pub(crate) fn of(case: &Case) -> Option<Self> {
        let answers: Vec<&Vec<f64>> = case.blocks.iter().flat_map(|block| &block.steps_s).collect();
        let longest = answers.iter().map(|steps| steps.len()).max().filter(|steps| *steps > 0)?;
        let point = |i: usize| {
            let times: Vec<f64> =
                answers.iter().filter_map(|steps| steps.get(i)).copied().collect();
            let seconds = stats::median(&times).filter(|seconds| *seconds > 0.0)?;
            Some(StepPoint { step: i + 1, tok_s: 1.0 / seconds })
        };
        let points = (0..longest).filter_map(point).collect();
        Some(Self { id: case.id.clone(), points })
    }
}

row! {
    /// Where the time of an answer goes, reading its prompt included, traced: `profile/answer`.
    KernelProfile(case) {
        /// Kernels by name with their share of the time, from the largest on.
        shares: Vec<(String, f64)> = shares(case),
    }
    spreads {}
    readings { kernel_share, kernel_overhead_s, kernels_per_step, region_overhead_s, pack_s }
}

/// The values `traced_<kernel>_share`.
fn shares(case: &Case) -> Vec<(String, f64)> {
    let names: BTreeSet<&String> =
        case.blocks.iter().flat_map(|block| block.values.keys()).collect();
    let kernel = |name: &&String| {
        let kernel = name.strip_prefix("traced_")?.strip_suffix("_share")?;
        Some((kernel.to_string(), stats::median(&case.values(name))?))
    };
    let mut shares: Vec<(String, f64)> = names.iter().filter_map(kernel).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}
