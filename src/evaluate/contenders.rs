//! The rules of other tools, as they decide; how they measure is the same for all here.

use crate::compare::Interval;
use crate::evaluate::rules::{Answer, Pairing, Said, View};
use crate::stats;
use crate::stats::Random;

/// Processes that a rule over several of them takes, as benchstat recommends.
const PROCESSES: usize = 10;

pub(super) fn naive(view: &View) -> Answer {
    medians(view, view.limits().0)
}

pub(super) fn naive_10(view: &View) -> Answer {
    medians(view, view.limit(0.10))
}

pub(super) fn naive_15(view: &View) -> Answer {
    medians(view, view.limit(0.15))
}

/// Prints the median of a benchmark, and raises an alert where the ratio is above a threshold.
pub(super) fn github_105(view: &View) -> Answer {
    medians(view, 1.05f64.ln())
}

pub(super) fn github_200(view: &View) -> Answer {
    medians(view, 2f64.ln())
}

fn medians(view: &View, limit: f64) -> Answer {
    let (base, other) = process(view.blocks[0]);
    two_way((other / base).ln(), limit, true, 1)
}

pub(super) fn critcmp(view: &View) -> Answer {
    let first = view.blocks[0];
    two_way((mean(&first.other) / mean(&first.base)).ln(), 1.05f64.ln(), true, 1)
}

/// Criterion 0.8: the change of the mean, its 95 % interval by bootstrap, and a regression where
/// all of it lies above the noise threshold. The p-value that it asks for besides is below 0.05
/// wherever that is so.
pub(super) fn criterion(view: &View) -> Answer {
    bootstrapped(view, 1.01f64.ln())
}

pub(super) fn criterion_margin(view: &View) -> Answer {
    bootstrapped(view, view.limits().0)
}

fn bootstrapped(view: &View, noise: f64) -> Answer {
    let first = view.blocks[0];
    let interval = mean_ratio_interval(&first.base, &first.other);
    let theta = (mean(&first.other) / mean(&first.base)).ln();
    let answer = two_way(theta, noise, interval.lo > noise, 1);
    Answer { interval: Some(interval), ..answer }
}

/// The 95 % percentile interval of ln(mean of `other` / mean of `base`) from 1000 resamples of
/// both. The seed is taken from the values, so that the same values have the same interval.
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

pub(super) fn mann_whitney(view: &View) -> Answer {
    ranked(view, 0.0)
}

pub(super) fn mann_whitney_margin(view: &View) -> Answer {
    ranked(view, view.limits().0)
}

fn ranked(view: &View, limit: f64) -> Answer {
    let (base, other) = processes(view);
    let theta = (median(&other) / median(&base)).ln();
    two_way(theta, limit, stats::mann_whitney(&base, &other) < 0.05, base.len())
}

/// tango: turns in pairs; the mean difference is 2.6 standard errors from zero, and more than 1 %
/// of the base.
pub(super) fn tango(view: &View) -> Answer {
    let first = view.blocks[0];
    let differences = differences(&first.base, &first.other);
    let error = stats::sd(&differences).unwrap_or(0.0) / (differences.len() as f64).sqrt();
    let (difference, base) = (mean(&differences), mean(&first.base));
    two_way(share(difference, base), 1.01f64.ln(), difference >= 2.6 * error, 1)
}

pub(super) fn perfgate(view: &View) -> Answer {
    paired(view, 1.20f64.ln())
}

pub(super) fn perfgate_margin(view: &View) -> Answer {
    paired(view, view.limits().0)
}

/// perfgate's paired mode: 2.0 standard errors with the population's deviation, and more than a
/// threshold of the base's median.
fn paired(view: &View, limit: f64) -> Answer {
    let (base, other) = processes(view);
    let differences = differences(&base, &other);
    let count = differences.len() as f64;
    let error = (stats::sum_of_squares(&differences) / count).sqrt() / count.sqrt();
    let difference = mean(&differences);
    let theta = share(difference, median(&base));
    two_way(theta, limit, difference > 2.0 * error, base.len())
}

/// A regression where θ is beyond the limit and held to be real; every other answer is a pass.
fn two_way(theta: f64, limit: f64, real: bool, blocks: usize) -> Answer {
    // Costs that were written with six digits cannot be compared to more.
    let said = if real && theta > limit + 1e-9 { Said::Regressed } else { Said::Pass };
    Answer { said, theta: Some(theta), interval: None, blocks }
}

/// A difference of costs as θ. A mean difference may exceed the median cost; what is gained then is
/// beyond measure.
fn share(difference: f64, base: f64) -> f64 {
    (difference / base).max(-0.99).ln_1p()
}

/// The median turn of both arms of one process each.
fn process(block: &Pairing) -> (f64, f64) {
    (median(&block.base), median(&block.other))
}

fn processes(view: &View) -> (Vec<f64>, Vec<f64>) {
    view.blocks.iter().take(PROCESSES).map(|block| process(block)).unzip()
}

fn differences(base: &[f64], other: &[f64]) -> Vec<f64> {
    base.iter().zip(other).map(|(base, other)| other - base).collect()
}

fn median(values: &[f64]) -> f64 {
    stats::median(values).expect("a pairing has turns of both arms")
}

fn mean(values: &[f64]) -> f64 {
    stats::mean(values).expect("a pairing has turns of both arms")
}

#[cfg(test)]
mod tests;
