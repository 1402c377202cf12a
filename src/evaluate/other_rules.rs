//! The decision rules of other tools. All of them read the same measurements here.

use crate::compare::Interval;
use crate::evaluate::rule::{PairedBlock, RuleInput, RuleOutput, RuleVerdict};
use crate::stats;
use crate::stats::Random;

/// Processes per arm for rules that use several, as benchstat recommends.
const PROCESSES: usize = 10;

pub(super) fn naive(input: &RuleInput) -> RuleOutput {
    medians(input, input.limits().0)
}

pub(super) fn naive_10(input: &RuleInput) -> RuleOutput {
    medians(input, input.limit(0.10))
}

pub(super) fn naive_15(input: &RuleInput) -> RuleOutput {
    medians(input, input.limit(0.15))
}

/// github-action-benchmark compares medians and alerts when their ratio is above a threshold.
pub(super) fn github_105(input: &RuleInput) -> RuleOutput {
    medians(input, 1.05f64.ln())
}

pub(super) fn github_200(input: &RuleInput) -> RuleOutput {
    medians(input, 2f64.ln())
}

fn medians(input: &RuleInput, limit: f64) -> RuleOutput {
    let (base, other) = process(input.blocks[0]);
    two_way((other / base).ln(), limit, true, 1)
}

pub(super) fn critcmp(input: &RuleInput) -> RuleOutput {
    let first = input.blocks[0];
    two_way((mean(&first.other) / mean(&first.base)).ln(), 1.05f64.ln(), true, 1)
}

/// Criterion 0.8: a regression when the whole 95 % bootstrap interval of the change of the mean
/// lies above the noise threshold. Its additional test, p < 0.05, then holds as well.
pub(super) fn criterion(input: &RuleInput) -> RuleOutput {
    bootstrap(input, 1.01f64.ln())
}

pub(super) fn criterion_margin(input: &RuleInput) -> RuleOutput {
    bootstrap(input, input.limits().0)
}

fn bootstrap(input: &RuleInput, noise: f64) -> RuleOutput {
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

pub(super) fn mann_whitney(input: &RuleInput) -> RuleOutput {
    u_test(input, 0.0)
}

pub(super) fn mann_whitney_margin(input: &RuleInput) -> RuleOutput {
    u_test(input, input.limits().0)
}

fn u_test(input: &RuleInput, limit: f64) -> RuleOutput {
    let (base, other) = processes(input);
    let theta = (median(&other) / median(&base)).ln();
    two_way(theta, limit, stats::mann_whitney(&base, &other) < 0.05, base.len())
}

/// tango: the mean difference of paired turns is at least 2.6 standard errors and more than 1 % of
/// the base.
pub(super) fn tango(input: &RuleInput) -> RuleOutput {
    let first = input.blocks[0];
    let differences = differences(&first.base, &first.other);
    let error = stats::sd(&differences).unwrap_or(0.0) / (differences.len() as f64).sqrt();
    let (difference, base) = (mean(&differences), mean(&first.base));
    two_way(relative_theta(difference, base), 1.01f64.ln(), difference >= 2.6 * error, 1)
}

pub(super) fn perfgate(input: &RuleInput) -> RuleOutput {
    paired(input, 1.20f64.ln())
}

pub(super) fn perfgate_margin(input: &RuleInput) -> RuleOutput {
    paired(input, input.limits().0)
}

/// perfgate's paired mode: the mean difference is more than 2.0 standard errors, computed with the
/// population's standard deviation, and more than a share of the base's median.
fn paired(input: &RuleInput, limit: f64) -> RuleOutput {
    let (base, other) = processes(input);
    let differences = differences(&base, &other);
    let count = differences.len() as f64;
    let error = (stats::sum_of_squares(&differences) / count).sqrt() / count.sqrt();
    let difference = mean(&differences);
    let theta = relative_theta(difference, median(&base));
    two_way(theta, limit, difference > 2.0 * error, base.len())
}

/// Regressed when θ is above the limit and significant, otherwise pass: these rules are never
/// undecided.
fn two_way(theta: f64, limit: f64, significant: bool, blocks: usize) -> RuleOutput {
    // Costs are stored with six digits; a smaller excess is rounding.
    let regressed = significant && theta > limit + 1e-9;
    let verdict = if regressed { RuleVerdict::Regressed } else { RuleVerdict::Pass };
    RuleOutput { verdict, theta: Some(theta), interval: None, blocks }
}

/// A difference of costs as θ. A mean difference may exceed the median cost, so it is clamped to
/// -99 %.
fn relative_theta(difference: f64, base: f64) -> f64 {
    (difference / base).max(-0.99).ln_1p()
}

/// The median turn of each arm's process.
fn process(block: &PairedBlock) -> (f64, f64) {
    (median(&block.base), median(&block.other))
}

fn processes(input: &RuleInput) -> (Vec<f64>, Vec<f64>) {
    input.blocks.iter().take(PROCESSES).map(|block| process(block)).unzip()
}

fn differences(base: &[f64], other: &[f64]) -> Vec<f64> {
    base.iter().zip(other).map(|(base, other)| other - base).collect()
}

fn median(values: &[f64]) -> f64 {
    stats::median(values).expect("a paired block has turns of both arms")
}

fn mean(values: &[f64]) -> f64 {
    stats::mean(values).expect("a paired block has turns of both arms")
}

#[cfg(test)]
mod tests;
