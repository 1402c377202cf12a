//! The table of rules, and what a rule may look at.

use crate::compare::paired::block_effect;
use crate::compare::{Interval, Policy, margin};
use crate::error::{Error, Result};
use crate::evaluate::ours::Ours;
use crate::evaluate::{contenders, ours};
use crate::record::pair::{PairTurns, Round};
use crate::workload::Metric;

/// A way to tell a regression from none.
#[derive(Debug)]
pub struct Rule {
    /// What to type, and its key in the figures.
    pub name: &'static str,
    /// How it decides, in one line.
    pub about: &'static str,
    pub(super) decide: Decide,
}

/// How a rule decides.
#[derive(Debug)]
pub(super) enum Decide {
    /// Every metric by itself.
    Alone(fn(&View) -> Answer),
    /// The metrics of a kind together.
    Together(Ours),
}

use Decide::{Alone, Together};

/// Every rule. Those of other tools see a fresh process of each arm whose turns alternate, which is kinder to them than the
/// usual run of all of one arm and then all of the other.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "ours", about: "this gate: trimmed t over blocks with variances moderated over the suite, six looks, both real and large", decide: Together(ours::WHOLE) },
    Rule { name: "ours_alone", about: "ours with each metric's own variance alone", decide: Together(ours::ALONE) },
    Rule { name: "ours_from_8", about: "ours with the first look at 8 blocks in place of 5", decide: Together(ours::FROM_EIGHT) },
    Rule { name: "ours_before", about: "both of these: as the gate decided before", decide: Together(ours::BOTH) },
    Rule { name: "ours_untrimmed", about: "ours with the plain mean in place of the trimmed one", decide: Together(ours::UNTRIMMED) },
    Rule { name: "ours_one_process", about: "ours with quads in place of fresh processes as the unit", decide: Together(ours::ONE_PROCESS) },
    Rule { name: "ours_no_abba", about: "ours with the first turn of each arm only", decide: Together(ours::NO_ABBA) },
    Rule { name: "ours_no_layout", about: "ours without the term for code layout", decide: Together(ours::NO_LAYOUT) },
    Rule { name: "ours_no_family", about: "ours as if one metric were judged", decide: Together(ours::NO_FAMILY) },
    Rule { name: "ours_no_rejection", about: "ours with rejected blocks counted", decide: Together(ours::NO_REJECTION) },
    Rule { name: "naive_5", about: "medians of one process each, 5 % of rates, 10 % of TTFT, 15 % of memory", decide: Alone(contenders::naive) },
    Rule { name: "naive_10", about: "medians of one process each, 10 % of anything", decide: Alone(contenders::naive_10) },
    Rule { name: "naive_15", about: "medians of one process each, 15 % of anything", decide: Alone(contenders::naive_15) },
    Rule { name: "criterion", about: "bootstrap of the means of one process each, 95 %, noise threshold 1 %", decide: Alone(contenders::criterion) },
    Rule { name: "criterion_margin", about: "the same with the limit as noise threshold", decide: Alone(contenders::criterion_margin) },
    Rule { name: "critcmp_5", about: "ratio of the means of one process each above 1.05", decide: Alone(contenders::critcmp) },
    Rule { name: "github_105", about: "github-action-benchmark, alert threshold 105 %", decide: Alone(contenders::github_105) },
    Rule { name: "github_200", about: "github-action-benchmark, alert threshold 200 %, its default", decide: Alone(contenders::github_200) },
    Rule { name: "mann_whitney", about: "benchstat: U test of ten processes each, p < 0.05", decide: Alone(contenders::mann_whitney) },
    Rule { name: "mann_whitney_margin", about: "the same, and medians apart by more than the limit", decide: Alone(contenders::mann_whitney_margin) },
    Rule { name: "tango", about: "|z| of paired turns of one process each at least 2.6, and more than 1 %", decide: Alone(contenders::tango) },
    Rule { name: "perfgate", about: "ten pairs of processes, 2.0 population standard errors, more than 20 %", decide: Alone(contenders::perfgate) },
    Rule { name: "perfgate_5", about: "the same, more than the limit", decide: Alone(contenders::perfgate_margin) },
];

/// The rules of these names, in the order of the table; all without names.
///
/// # Errors
/// When a name is of no rule.
pub fn rules(names: &[String]) -> Result<Vec<&'static Rule>> {
    let known = || RULES.iter().map(|rule| rule.name);
    if let Some(name) = names.iter().find(|name| !known().any(|known| known == name.as_str())) {
        return Err(Error::unknown("rule", name, known()));
    }
    let asked = |rule: &&Rule| names.is_empty() || names.iter().any(|name| name == rule.name);
    Ok(RULES.iter().filter(asked).collect())
}

/// One metric of one scenario in one block: the base beside another arm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pairing {
    /// What the block says, [`block_effect`].
    pub(super) value: f64,
    /// The same of the first turns of both arms in each round, so that a drift does not cancel.
    pub(super) first: f64,
    /// The same of each round.
    pub(super) rounds: Vec<f64>,
    /// Cost of each turn of the base, in the order measured.
    pub(super) base: Vec<f64>,
    /// Cost of each turn of the other arm, in the order measured.
    pub(super) other: Vec<f64>,
    /// Whether the block does not count, by a rule that was fixed before.
    pub(super) rejected: bool,
}

impl Pairing {
    /// `None` where an arm has no value of the metric.
    pub(super) fn of(
        turns: &PairTurns,
        metric: &Metric,
        arm: char,
        rejected: bool,
    ) -> Option<Self> {
        let value = block_effect(turns, metric, arm)?;
        let cost = |value: &f64| metric.better.cost(*value);
        if let Some(values) = turns.once.get(metric.name) {
            let (base, other) = (vec![cost(values.get(&'A')?)], vec![cost(values.get(&arm)?)]);
            return Some(Self { value, first: value, rounds: vec![value], base, other, rejected });
        }
        let alone =
            |round: &Round| PairTurns { rounds: vec![round.clone()], ..PairTurns::default() };
        let half = |round: &Round| {
            let count = round.order.chars().count().div_ceil(2);
            let values = round.values.iter();
            Round {
                order: round.order.chars().take(count).collect(),
                values: values.map(|(name, of)| (name.clone(), of[..count].to_vec())).collect(),
            }
        };
        let both = || turns.rounds.iter().filter(|round| round.order.contains(arm));
        let halves = PairTurns { rounds: both().map(half).collect(), ..PairTurns::default() };
        let of_arm = |letter: char| -> Vec<f64> {
            let values =
                both().filter_map(|round| Some((&round.order, round.values.get(metric.name)?)));
            let turns = values.flat_map(|(order, values)| order.chars().zip(values));
            turns.filter(|(one, _)| *one == letter).map(|(_, value)| cost(value)).collect()
        };
        Some(Self {
            value,
            first: block_effect(&halves, metric, arm)?,
            rounds: both()
                .map(|round| block_effect(&alone(round), metric, arm))
                .collect::<Option<_>>()?,
            base: of_arm('A'),
            other: of_arm(arm),
            rejected,
        })
    }
}

impl Pairing {
    /// The same with every turn of the other arm worse by this much of ln cost.
    pub(super) fn worsen(&mut self, theta: f64) {
        self.value += theta;
        self.first += theta;
        self.rounds.iter_mut().for_each(|round| *round += theta);
        self.other.iter_mut().for_each(|cost| *cost *= theta.exp());
    }
}

/// What a rule may look at: one metric of one scenario in consecutive blocks, 32 of which count.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    /// In the order measured, rejected ones among them.
    pub(super) blocks: Vec<&'a Pairing>,
    pub(super) metric: &'static Metric,
}

impl View<'_> {
    /// The metric's limit and twice of it, as θ.
    pub(super) fn limits(&self) -> (f64, f64) {
        let limit = self.metric.limit.expect("only metrics with a limit are judged");
        (self.limit(limit), self.limit(2.0 * limit))
    }

    /// A share of the metric's own value, as θ.
    pub(super) fn limit(&self, share: f64) -> f64 {
        margin(self.metric.better, share)
    }

    /// How many blocks had to be measured to have so many that count.
    pub(super) fn span(&self, counted: usize) -> usize {
        let counts = self.blocks.iter().enumerate().filter(|(_, block)| !block.rejected);
        match counted.checked_sub(1) {
            None => 0,
            Some(last) => counts.map(|(at, _)| at + 1).nth(last).unwrap_or(self.blocks.len()),
        }
    }
}

/// What a rule says of a view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answer {
    pub(super) said: Said,
    /// ln(cost of the arm / cost of the base) as the rule estimates it.
    pub(super) theta: Option<f64>,
    /// Holds θ with 95 %, says the rule.
    pub(super) interval: Option<Interval>,
    /// How many blocks had to be measured.
    pub(super) blocks: usize,
}

/// The three answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Regressed,
    Pass,
    Undecided,
}

/// The probability, [`Policy::alpha`], that our rules share out.
pub(super) fn alpha() -> f64 {
    Policy::default().alpha
}
