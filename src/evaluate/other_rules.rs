//! The decision rules of other tools. All of them read the same measurements here.

use crate::compare::Interval;
use crate::evaluate::rule::{PairedBlock, RuleInput, RuleOutput, RuleVerdict};
use crate::stats;
use crate::stats::Random;

/// Processes per arm for rules that use several, as benchstat recommends.
const PROCESSES: usize = 10;

/// One process each. github-action-benchmark alerts when the ratio of medians is above a threshold.
pub(super) fn medians(input: &RuleInput, limit: f64) -> RuleOutput {
    let (base, other) = process(input.blocks[0]);
    two_way((other / base).ln(), limit, true, 1)
}

/// Criterion 0.8: a regression when the whole 95 % bootstrap interval of the change of the mean
/// lies above the noise threshold. Its additional test, p < 0.05, then holds as well.
pub(super) fn bootstrap(input: &RuleInput, noise: f64) -> RuleOutput {
    let first = input.blocks[0];
    let interval = mean_ratio_interval(&first.base, &first.other);
    let theta = (mean(&first.other) / mean(&first.base)).ln();
    let output = two_way(theta, noise, interval.lo > noise, 1);
    RuleOutput { interval: Some(interval), ..output }
}

/// The 95 % percentile bootstrap interval of ln(mean of `other` / mean of `base`), 1000 resamples.
/// The seed is a hash of the values, so that the same values give the same interval.
fn mean_ratio_interval(base: &[f64], other: &[f64]) -> Interval {
    const RESAMPLES: usize = 1000;
    let values = base.iter().chain(other);
    let mut random =
        Random::new(values.fold(0, |seed: u64, value| seed.rotate_left(9) ^ value.to_bits()));
    let mut mean_of = |values: &[f64]| {
        let picked = (0..values.len()).map(|_| values[random.below(values.len())]);
        picked.sum::<f64>() / values.len() as f64
    };
    let mut ratios: Vec<f64> =
        (0..RESAMPLES).map(|_| (mean_of(other) / mean_of(base)).ln()).collect();
    ratios.sort_by(f64::total_cmp);
    Interval { lo: ratios[RESAMPLES / 40], hi: ratios[RESAMPLES - 1 - RESAMPLES / 40] }
}

/// benchstat: the Mann–Whitney U test of ten processes each.
pub(super) fn u_test(input: &RuleInput, limit: f64) -> RuleOutput {
    let processes = input.blocks.iter().take(PROCESSES).map(|block| process(block));
    let (base, other): (Vec<f64>, Vec<f64>) = processes.unzip();
    let theta = (median(&other) / median(&base)).ln();
    two_way(theta, limit, stats::mann_whitney(&base, &other) < 0.05, base.len())
}

/// tango: the mean difference of paired turns is at least 2.6 standard errors and more than a share
/// of the base.
pub(super) fn tango(input: &RuleInput, limit: f64) -> RuleOutput {
    let first = input.blocks[0];
    let pairs = first.base.iter().zip(&first.other);
    let differences: Vec<f64> = pairs.map(|(base, other)| other - base).collect();
    let error = stats::sd(&differences).unwrap_or(0.0) / (differences.len() as f64).sqrt();
    let difference = mean(&differences);
    // Clamped, because it may be larger than the cost of the base.
    let theta = (difference / mean(&first.base)).max(-0.99).ln_1p();
    two_way(theta, limit, difference >= 2.6 * error, 1)
}

/// Regressed when θ is above the limit and significant, otherwise pass: these rules are never
/// undecided.
fn two_way(theta: f64, limit: f64, significant: bool, blocks: usize) -> RuleOutput {
    // Costs are stored with six digits; a smaller excess is rounding.
    let regressed = significant && theta > limit + 1e-9;
    let verdict = if regressed { RuleVerdict::Regressed } else { RuleVerdict::Pass };
    RuleOutput { verdict, theta: Some(theta), interval: None, blocks }
}

/// The median turn of each arm's process.
fn process(block: &PairedBlock) -> (f64, f64) {
    (median(&block.base), median(&block.other))
}

fn median(values: &[f64]) -> f64 {
    stats::median(values).expect("a paired block has turns of both arms")
}

fn mean(values: &[f64]) -> f64 {
    stats::mean(values).expect("a paired block has turns of both arms")
}

#[cfg(test)]
mod tests;
