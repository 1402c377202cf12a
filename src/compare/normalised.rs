//! What is left of a change when what the reference kernels say of the machine is taken out. It is
//! computed to doubt a verdict, never to give one: a machine does not slow a model as it slows a
//! kernel, and dividing by one has turned a spread of 4.1 % into 13.2 % (nooga/paserati#21).

use crate::compare::estimate::Series;
use crate::compare::stored::Sides;
use crate::compare::{Verdict, Why};
use crate::record::{Block, Case, Record, References};
use crate::stats;
use crate::workload::Metric;

/// What the ln costs of a kind of metric are taken to move with: weights of ln seconds of
/// computing, streaming and dispatching, which add up to 1. Memory moves with none of them.
const WEIGHTS: &[(&str, [f64; 3])] = &[
    ("decode", [0.0, 1.0, 0.0]), // Every token reads every weight.
    ("ttft", [1.0, 0.0, 0.0]),   // Prompts are products of matrices.
    ("prefill", [1.0, 0.0, 0.0]),
];

/// More than this is worth a word: two tight limits.
const NOTABLE: f64 = 0.10;

/// Both sides of a metric, normalised; `None` where not every block of both has the reference
/// kernels.
pub(super) fn sides(base: &Case, current: &Case, metric: &Metric) -> Option<Sides> {
    let (_, weights) = WEIGHTS.iter().find(|(kind, _)| *kind == metric.kind())?;
    let complete = |case: &Case| case.blocks.iter().all(|block| kernels(block).is_some());
    let series = |case: &Case| {
        Series::less(case, metric, |block| {
            let kernels = kernels(block).expect("every block has them");
            weights.iter().zip(kernels).map(|(weight, seconds)| weight * seconds.ln()).sum()
        })
    };
    (complete(base) && complete(current))
        .then(|| Sides { base: series(base), current: series(current) })
}

/// Seconds of each kernel, the mean of before and after.
fn kernels(block: &Block) -> Option<[f64; 3]> {
    let [before, after] = block.references.as_ref()?.each_ref().map(in_order);
    let mean = std::array::from_fn(|i| (before[i] + after[i]) / 2.0);
    let positive = |seconds: &f64| seconds.is_finite() && *seconds > 0.0;
    before.iter().chain(&after).all(positive).then_some(mean)
}

fn in_order(references: &References) -> [f64; 3] {
    let References { compute_s, stream_s, dispatch_s } = *references;
    [compute_s, stream_s, dispatch_s]
}

/// Whether the normalised numbers take a verdict away. One that they are too noisy to give is no
/// contradiction by itself, or kernels that flutter would leave no verdict standing; it is one when
/// they lie on the other side of the limit.
pub(super) fn contradicts(raw: &Verdict, normalised: &Verdict, theta: f64, margin: f64) -> bool {
    let regressed = match raw {
        Verdict::Regressed { .. } => true,
        Verdict::Pass | Verdict::SlowerWithin | Verdict::Improved => false,
        _ => return false, // There is nothing to take away.
    };
    match normalised {
        Verdict::Inconclusive(Why::Borderline) => true,
        Verdict::Inconclusive(_) => regressed != (theta >= margin),
        other => regressed != matches!(other, Verdict::Regressed { .. }),
    }
}

/// Kernels that take another time than they did for the baseline.
pub(super) fn notes(baseline: &Record, current: &Record) -> Vec<String> {
    let typical = |record: &Record, kernel: usize| {
        let blocks = record.scenarios.iter().flat_map(|case| &case.blocks);
        let seconds: Vec<f64> = blocks.filter_map(|block| Some(kernels(block)?[kernel])).collect();
        stats::median(&seconds)
    };
    let names = ["computing in the first-level cache", "reading memory", "waking threads"];
    let moved = names.iter().enumerate().filter_map(|(kernel, name)| {
        let share = typical(current, kernel)? / typical(baseline, kernel)? - 1.0;
        (share.abs() > NOTABLE).then(|| {
            let more = if share > 0.0 { "more" } else { "less" };
            format!(
                "reference kernel: {name} takes {:.0} % {more} time than it did for the baseline, without any model; the \
                 machine changed or was busy, and no number is corrected for it",
                100.0 * share.abs()
            )
        })
    });
    moved.collect()
}
