//! Changes normalized by the reference kernels: what is left of a change when the change of the
//! machine is subtracted. It can only withdraw a verdict, never give one: a machine does not slow a
//! model as it slows a kernel, and dividing by one has turned a spread of 4.1 % into 13.2 %
//! (nooga/paserati#21).

use crate::compare::series::{Series, SeriesPair};
use crate::compare::{Verdict, Why};
use crate::record::{Block, Case, KernelTimes, Record};
use crate::stats;
use crate::workload::Metric;

/// How the ln cost of each kind of metric is assumed to depend on the reference kernels: weights of
/// ln seconds of arithmetic, memory reads and thread wake-ups, which sum to 1. Memory depends on
/// none.
const WEIGHTS: &[(&str, [f64; 3])] = &[
    ("decode", [0.0, 1.0, 0.0]), // Bandwidth-bound: every token reads every weight.
    ("ttft", [1.0, 0.0, 0.0]),   // Compute-bound: prompts are GEMMs.
    ("prefill", [1.0, 0.0, 0.0]),
];

/// A change of a reference kernel above this gets a note: twice the tightest limit.
const NOTABLE: f64 = 0.10;

/// Both sides of a metric, normalized; `None` where some block of either lacks the reference
/// kernels.
pub(super) fn series(base: &Case, current: &Case, metric: &Metric) -> Option<SeriesPair> {
    let (_, weights) = WEIGHTS.iter().find(|(kind, _)| *kind == metric.kind())?;
    let complete = |case: &Case| case.blocks.iter().all(|block| mean_seconds(block).is_some());
    let series = |case: &Case| {
        Series::adjusted(case, metric, |block| {
            let kernels = mean_seconds(block).expect("every block has them");
            weights.iter().zip(kernels).map(|(weight, seconds)| weight * seconds.ln()).sum()
        })
    };
    (complete(base) && complete(current))
        .then(|| SeriesPair { base: series(base), current: series(current) })
}

/// Seconds of each kernel, the mean of before and after the block.
fn mean_seconds(block: &Block) -> Option<[f64; 3]> {
    let [before, after] = block.references.as_ref()?.each_ref().map(|times| {
        let KernelTimes { compute_s, stream_s, dispatch_s } = *times;
        [compute_s, stream_s, dispatch_s]
    });
    let mean = std::array::from_fn(|i| (before[i] + after[i]) / 2.0);
    let positive = |seconds: &f64| seconds.is_finite() && *seconds > 0.0;
    before.iter().chain(&after).all(positive).then_some(mean)
}

/// Whether the normalized verdict withdraws the raw one. A normalized verdict that is undecided
/// for noise does so only if its centre lies on the other side of the limit; otherwise noisy
/// kernels would withdraw every verdict.
pub(super) fn contradicts(raw: &Verdict, normalized: &Verdict, theta: f64, margin: f64) -> bool {
    let regressed = match raw {
        Verdict::Regressed { .. } => true,
        Verdict::Pass | Verdict::SlowerWithin | Verdict::Improved => false,
        _ => return false, // There is no verdict to withdraw.
    };
    match normalized {
        Verdict::Undecided(Why::Borderline) => true,
        Verdict::Undecided(_) => regressed != (theta >= margin),
        other => regressed != matches!(other, Verdict::Regressed { .. }),
    }
}

/// Notes on reference kernels whose time changed since the baseline.
pub(super) fn notes(baseline: &Record, current: &Record) -> Vec<String> {
    let median = |record: &Record, kernel: usize| {
        let blocks = record.scenarios.iter().flat_map(|case| &case.blocks);
        let seconds: Vec<f64> =
            blocks.filter_map(|block| Some(mean_seconds(block)?[kernel])).collect();
        stats::median(&seconds)
    };
    let names = ["arithmetic in the L1 cache", "reading memory", "waking threads"];
    let moved = names.iter().enumerate().filter_map(|(kernel, name)| {
        let share = median(current, kernel)? / median(baseline, kernel)? - 1.0;
        (share.abs() > NOTABLE).then(|| {
            let more = if share > 0.0 { "more" } else { "less" };
            format!(
                "reference kernel: {name} takes {:.0} % {more} time than for the baseline, without \
                 any model; the machine changed or was busy, and no number is corrected for it",
                100.0 * share.abs()
            )
        })
    });
    moved.collect()
}
