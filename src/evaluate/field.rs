//! One environment of a pool, ready to be looked at: block by block, each metric of the base beside
//! each other arm.

use std::collections::{BTreeMap, BTreeSet};

use crate::compare::looks::LOOKS;
use crate::error::{Error, Result};
use crate::evaluate::replay::{Place, SCENARIOS};
use crate::evaluate::rules::{Pairing, View};
use crate::record::pair::Round;
use crate::record::pool::{Pool, PoolEnvironment, PoolTurns, Role};
use crate::stats;
use crate::stats::Random;
use crate::workload::{METRICS, Metric};

/// Where each scenario of a virtual suite comes from: which of the pool's scenarios, and the block
/// that it begins with.
pub(super) type Suite = [(usize, usize); SCENARIOS];

/// One environment, ready to be looked at.
pub(super) struct Field<'a> {
    /// Which of the pools it is of.
    pub(super) pool: usize,
    recorded: &'a PoolEnvironment,
    pub(super) arms: Vec<(char, Role)>,
    /// Letters of the arms that were not recorded but computed from the copy's turns.
    pub(super) derived: Vec<char>,
    pub(super) cases: Vec<Case>,
    /// Seconds to start the processes of a pair, a mean over the blocks.
    pub(super) load_s: f64,
}

/// What each block says of one arm; `None` where the arm had no turn.
pub(super) type Series = Vec<Option<Pairing>>;

/// One scenario of the pool in one environment.
pub(super) struct Case {
    /// By metric and then by arm.
    pub(super) series: Vec<(&'static Metric, BTreeMap<char, Series>)>,
    /// Seconds of two arms' warm-ups and turns up to each block, from the first; twice around.
    pub(super) elapsed_s: Vec<f64>,
}

impl<'a> Field<'a> {
    pub(super) fn new(number: usize, pool: &Pool, recorded: &'a PoolEnvironment) -> Result<Self> {
        let counted = recorded.blocks.iter().filter(|block| block.rejected.is_none()).count();
        let needed = FEWEST;
        if counted < needed {
            let name = &recorded.name;
            return Err(Error::Undecided(format!(
                "environment `{name}` has {counted} blocks that count, a replay needs {needed}; record more"
            )));
        }
        let recorded_arms = pool.arms.iter().skip(1).map(|arm| (arm.letter, arm.role));
        let mut arms: Vec<(char, Role)> = recorded_arms.collect();
        let copy = arms.iter().find(|(_, role)| *role == Role::Copy).map(|(letter, _)| *letter);
        let derived: Vec<(char, Role)> = DERIVED
            .into_iter()
            .filter(|(_, role)| copy.is_some() && arms.iter().all(|(_, known)| known != role))
            .collect();
        arms.extend(&derived);
        let cases = (0..pool.scenarios.len())
            .map(|at| {
                let work = &pool.scenarios[at].work;
                let gated = METRICS.iter().filter(|metric| metric.gated(work));
                let series = gated.map(|metric| {
                    let of = |(arm, role): &(char, Role)| {
                        let wanted = concerns(*role, metric);
                        let from = if derived.contains(&(*arm, *role)) { copy? } else { *arm };
                        let mut series = wanted.then(|| series(recorded, at, metric, from))??;
                        if from != *arm {
                            let longer =
                                |block: &mut Pairing| block.worsen(role.theta(metric.kind()));
                            series.iter_mut().flatten().for_each(longer);
                        }
                        Some((*arm, series))
                    };
                    (metric, arms.iter().filter_map(of).collect::<BTreeMap<_, _>>())
                });
                let series: Vec<_> = series.filter(|(_, arms)| !arms.is_empty()).collect();
                Case { series, elapsed_s: elapsed(recorded, at) }
            })
            .collect();
        // A pair has a process per arm and one for the null control.
        let loads = recorded
            .blocks
            .iter()
            .filter_map(|block| Some(block.load_s * 3.0 / processes(block.scenarios.first()?)));
        let loads: Vec<f64> = loads.collect();
        let load_s = stats::mean(&loads).expect("there are blocks");
        let derived = derived.into_iter().map(|(letter, _)| letter).collect();
        Ok(Self { pool: number, recorded, arms, derived, cases, load_s })
    }

    pub(super) fn place(&self) -> Place {
        let PoolEnvironment { name, noise, about, blocks, .. } = self.recorded;
        let rejected = blocks.iter().filter(|block| block.rejected.is_some()).count();
        Place {
            pool: self.pool,
            name: name.clone(),
            column: *noise,
            about: about.clone(),
            blocks: blocks.len(),
            rejected,
            spread: self.copies(spread),
            autocorrelation: self.copies(autocorrelation),
            figures: BTreeMap::new(),
        }
    }

    /// What is said of the decode metrics' block values of the base against its copy, a mean over
    /// scenarios.
    fn copies(&self, say: impl Fn(&[f64]) -> Option<f64>) -> Option<f64> {
        let copy = self.arms.iter().find(|(_, role)| *role == Role::Copy)?.0;
        let series = self.cases.iter().flat_map(|case| &case.series);
        let decode = series.filter(|(metric, _)| metric.kind() == "decode");
        let said = decode.filter_map(|(_, arms)| {
            let counted = arms.get(&copy)?.iter().flatten().filter(|block| !block.rejected);
            say(&counted.map(|block| block.value).collect::<Vec<_>>())
        });
        stats::mean(&said.collect::<Vec<_>>())
    }

    pub(super) fn draw(&self, runs: usize, seed: u64) -> Vec<Suite> {
        let mut random = Random::new(seed);
        let mut suite = || std::array::from_fn(|_| self.entry(&mut random));
        (0..runs).map(|_| suite()).collect()
    }

    /// One scenario of a virtual suite.
    pub(super) fn entry(&self, random: &mut Random) -> (usize, usize) {
        (random.below(self.cases.len()), random.below(self.blocks()))
    }

    pub(super) fn blocks(&self) -> usize {
        self.recorded.blocks.len()
    }
}

/// Slowdowns that need not be recorded: the copy's own turns, each made longer by exactly the
/// share.
const DERIVED: [(char, Role); 6] = [
    ('a', Role::Decode(0.03)),
    ('b', Role::Decode(0.05)),
    ('c', Role::Decode(0.075)),
    ('d', Role::Decode(0.10)),
    ('e', Role::Decode(0.20)),
    ('f', Role::Ttft(0.20)),
];

/// Whether an arm says anything of a metric that another does not.
fn concerns(role: Role, metric: &Metric) -> bool {
    matches!(role, Role::Copy | Role::Layout) || role.theta(metric.kind()) != 0.0
}

/// `None` where too few blocks have a value.
fn series(
    recorded: &PoolEnvironment,
    scenario: usize,
    metric: &'static Metric,
    arm: char,
) -> Option<Series> {
    let blocks = recorded.blocks.iter().enumerate();
    let series: Series = blocks
        .map(|(at, block)| {
            let turns = block.scenarios[scenario].paired(at);
            Pairing::of(&turns, metric, arm, block.rejected.is_some())
        })
        .collect();
    let counted = series.iter().flatten().filter(|block| !block.rejected).count();
    (counted >= FEWEST).then_some(series)
}

/// Blocks of an arm below which going round would show a rule the same few again.
const FEWEST: usize = 24;

/// The processes that a block's scenario ran in: memory is read once in each, where it can be read.
fn processes(turns: &PoolTurns) -> f64 {
    let letters: BTreeSet<char> =
        turns.rounds.iter().flat_map(|round| round.order.chars()).collect();
    let read = turns.once.values().next().map_or(0, BTreeMap::len);
    if read > 0 { read as f64 } else { letters.len() as f64 }
}

fn elapsed(recorded: &PoolEnvironment, scenario: usize) -> Vec<f64> {
    let mut elapsed = vec![0.0];
    for block in recorded.blocks.iter().chain(&recorded.blocks) {
        let turns = &block.scenarios[scenario];
        let own = turns.warm_up_s * 2.0 / processes(turns) + turns.turns_s * share_of_two(turns);
        elapsed.push(elapsed[elapsed.len() - 1] + own);
    }
    elapsed
}

/// The share of turns that a pair of builds would have had: those of the base and of one other arm,
/// where these two meet.
fn share_of_two(turns: &PoolTurns) -> f64 {
    let letters = || turns.rounds.iter().flat_map(|round| round.order.chars());
    let other = letters().find(|letter| *letter != 'A');
    let meets = |round: &&Round| other.is_some_and(|other| round.order.contains(other));
    let both = turns.rounds.iter().filter(meets).flat_map(|round| round.order.chars());
    let own = both.filter(|letter| *letter == 'A' || Some(*letter) == other).count();
    own as f64 / letters().count() as f64
}

/// The standard deviation of normal values, from the median distance to their median, so that
/// outliers do not count (Hampel 1974).
fn spread(values: &[f64]) -> Option<f64> {
    let centre = stats::median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    stats::median(&distances).map(|median| 1.4826 * median)
}

/// How much of a block's value the next one repeats: the correlation of neighbours, outliers drawn
/// in to three standard deviations. The rules take blocks to be independent, which is 0.
fn autocorrelation(values: &[f64]) -> Option<f64> {
    let (centre, spread) = (stats::median(values)?, spread(values)?);
    let drawn_in = |value: &f64| (value - centre).clamp(-3.0 * spread, 3.0 * spread);
    let values: Vec<f64> = values.iter().map(drawn_in).collect();
    let (mean, squares) = (stats::mean(&values)?, stats::sum_of_squares(&values));
    let products: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    (squares > 0.0).then(|| products / squares)
}

/// One metric from every block on, going round at the end.
pub(super) fn views<'a>(
    series: &'a [Option<Pairing>],
    metric: &'static Metric,
) -> impl Iterator<Item = View<'a>> {
    let from = move |start: usize| {
        let mut counted = 0;
        let around = series[start..].iter().chain(&series[..start]).flatten();
        let blocks = around
            .take_while(|block| {
                let go_on = counted < LOOKS[LOOKS.len() - 1];
                counted += usize::from(!block.rejected);
                go_on
            })
            .collect();
        View { blocks, metric }
    };
    (0..series.len()).map(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_neither_widens_the_spread_nor_makes_neighbours_alike() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[5.0]), Some(0.0));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 900.0]), Some(1.4826));
        assert_eq!(autocorrelation(&[1.0, 1.0]), None, "nothing moves");
        // Deviations 1 -1 1 -1: three products of -1 over four squares of 1.
        assert_eq!(autocorrelation(&[3.0, 1.0, 3.0, 1.0]), Some(-0.75));
        // Deviations -1 -1 1 1.
        assert_eq!(autocorrelation(&[1.0, 1.0, 3.0, 3.0]), Some(0.25));
    }
}
