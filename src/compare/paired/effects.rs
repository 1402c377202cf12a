//! Effects of rounds and blocks: changes of ln cost from base to candidate. Counterbalanced turns
//! (ABBA, BAAB) cancel a linear drift of the machine within a round.

use crate::record::pair::{PairCase, PairTurns, Round};
use crate::stats;
use crate::workload::{METRICS, Metric, Work};

/// The metrics by which a case is judged.
pub(super) fn gated_metrics(case: &PairCase) -> impl Iterator<Item = &'static Metric> {
    let work = case.base.work.as_ref().or(case.candidate.work.as_ref());
    let unknown = || Work { batch: 1, new_tokens: 1, ..Work::default() };
    let work = work.cloned().unwrap_or_else(unknown);
    METRICS.iter().filter(move |metric| metric.gated(&work))
}

/// The effect of each round of a block on a metric; `None` if a round in which the arm took part
/// lacks a value.
pub(crate) fn round_effects(turns: &PairTurns, metric: &Metric, arm: char) -> Option<Vec<f64>> {
    let cost = |value| metric.better.cost(value);
    let effect = |round: &Round| {
        Some(round.mean_ln(metric.name, arm, cost)? - round.mean_ln(metric.name, 'A', cost)?)
    };
    turns.rounds.iter().filter(|round| round.order.contains(arm)).map(effect).collect()
}

/// The effect of a block on a metric: the median of its rounds from three on, their mean below.
pub(crate) fn block_effect(turns: &PairTurns, metric: &Metric, arm: char) -> Option<f64> {
    let cost = |value| metric.better.cost(value);
    if let Some(values) = turns.once.get(metric.name) {
        let ln = |arm: char| {
            values
                .get(&arm)
                .filter(|value| **value > 0.0 && value.is_finite())
                .map(|value| cost(*value).ln())
        };
        return Some(ln(arm)? - ln('A')?);
    }
    let effects = round_effects(turns, metric, arm)?;
    if effects.len() >= 3 { stats::median(&effects) } else { stats::mean(&effects) }
}

/// The standard deviation of round effects within blocks, pooled over the blocks; `None` where each
/// has one round.
pub(crate) fn round_sd<'a>(
    blocks: impl Iterator<Item = &'a PairTurns>,
    metric: &Metric,
    arm: char,
) -> Option<f64> {
    let effects = blocks.filter_map(|turns| round_effects(turns, metric, arm));
    let variances = effects.filter_map(|effects| stats::sd(&effects)).map(|sd| sd * sd);
    stats::mean(&variances.collect::<Vec<_>>()).map(f64::sqrt)
}

/// The value of one arm in one block, in the metric's stored unit.
pub(crate) fn arm_value(turns: &PairTurns, metric: &Metric, arm: char) -> Option<f64> {
    if let Some(values) = turns.once.get(metric.name) {
        return values.get(&arm).copied().filter(|value| *value > 0.0);
    }
    let rounds =
        turns.rounds.iter().filter_map(|round| round.mean_ln(metric.name, arm, |value| value));
    stats::median(&rounds.collect::<Vec<_>>()).map(f64::exp)
}
