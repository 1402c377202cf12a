//! What a rule reads and what it returns.

use crate::compare::paired::{block_effect, round_effects};
use crate::compare::{Interval, margin};
use crate::record::pair::{PairTurns, Round};
use crate::workload::Metric;

/// One metric of one scenario in one block: the base and one other arm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PairedBlock {
    /// Block effect: ln(cost of the arm / cost of the base), [`block_effect`].
    pub(super) effect: f64,
    /// The effect of each arm's first turn per round alone, in which a drift does not cancel.
    pub(super) first_turns: f64,
    /// The effect of each round.
    pub(super) rounds: Vec<f64>,
    /// Cost of each turn of the base, in the order measured.
    pub(super) base: Vec<f64>,
    /// Cost of each turn of the other arm, in the order measured.
    pub(super) other: Vec<f64>,
    /// Whether the block was rejected by a criterion fixed in advance.
    pub(super) rejected: bool,
}

impl PairedBlock {
    /// `None` where an arm has no value of the metric.
    pub(super) fn new(
        turns: &PairTurns,
        metric: &Metric,
        arm: char,
        rejected: bool,
    ) -> Option<Self> {
        let effect = block_effect(turns, metric, arm)?;
        let cost = |value: &f64| metric.better.cost(*value);
        if let Some(values) = turns.once.get(metric.name) {
            let (base, other) = (vec![cost(values.get(&'A')?)], vec![cost(values.get(&arm)?)]);
            let (first_turns, rounds) = (effect, vec![effect]);
            return Some(Self { effect, first_turns, rounds, base, other, rejected });
        }
        let first_half = |round: &Round| {
            let count = round.order.chars().count().div_ceil(2);
            let values = round.values.iter();
            Round {
                order: round.order.chars().take(count).collect(),
                values: values.map(|(name, of)| (name.clone(), of[..count].to_vec())).collect(),
            }
        };
        let rounds = || turns.rounds.iter().filter(|round| round.order.contains(arm));
        let halves =
            PairTurns { rounds: rounds().map(first_half).collect(), ..PairTurns::default() };
        let costs = |letter: char| -> Vec<f64> {
            let values =
                rounds().filter_map(|round| Some((&round.order, round.values.get(metric.name)?)));
            let turns = values.flat_map(|(order, values)| order.chars().zip(values));
            turns.filter(|(one, _)| *one == letter).map(|(_, value)| cost(value)).collect()
        };
        Some(Self {
            effect,
            first_turns: block_effect(&halves, metric, arm)?,
            rounds: round_effects(turns, metric, arm)?,
            base: costs('A'),
            other: costs(arm),
            rejected,
        })
    }

    /// Makes every turn of the other arm worse by this much of ln cost.
    pub(super) fn worsen(&mut self, theta: f64) {
        self.effect += theta;
        self.first_turns += theta;
        self.rounds.iter_mut().for_each(|round| *round += theta);
        self.other.iter_mut().for_each(|cost| *cost *= theta.exp());
    }
}

/// What a rule may read: one metric of one scenario in consecutive blocks, of which 32 count.
#[derive(Debug, Clone)]
pub(super) struct RuleInput<'a> {
    /// In the order measured, including rejected ones.
    pub(super) blocks: Vec<&'a PairedBlock>,
    pub(super) metric: &'static Metric,
}

impl RuleInput<'_> {
    /// The metric's limit and twice the limit, as θ.
    pub(super) fn limits(&self) -> (f64, f64) {
        let limit = self.metric.limit.expect("only metrics with a limit are judged");
        (self.limit(limit), self.limit(2.0 * limit))
    }

    /// A share of the metric's own value, as θ.
    pub(super) fn limit(&self, share: f64) -> f64 {
        margin(self.metric.better, share)
    }

    /// How many blocks had to be measured until `counted` of them were not rejected.
    pub(super) fn blocks_measured(&self, counted: usize) -> usize {
        let accepted = self.blocks.iter().enumerate().filter(|(_, block)| !block.rejected);
        match counted.checked_sub(1) {
            None => 0,
            Some(last) => accepted.map(|(at, _)| at + 1).nth(last).unwrap_or(self.blocks.len()),
        }
    }
}

/// A rule's verdict and estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RuleOutput {
    pub(super) verdict: RuleVerdict,
    /// The rule's estimate of ln(cost of the arm / cost of the base).
    pub(super) theta: Option<f64>,
    /// The rule's 95 % confidence interval of θ.
    pub(super) interval: Option<Interval>,
    /// How many blocks had to be measured.
    pub(super) blocks: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleVerdict {
    Regressed,
    Pass,
    Undecided,
}
