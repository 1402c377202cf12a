//! One environment of a pool as paired blocks: each metric of the base against each other arm.

use std::collections::{BTreeMap, BTreeSet};

use crate::compare::looks::LOOKS;
use crate::error::{Error, Result};
use crate::evaluate::figures::SUITE_SCENARIOS;
use crate::evaluate::rule::{PairedBlock, RuleInput};
use crate::record::pair::Round;
use crate::record::pool;
use crate::record::pool::{Pool, PoolEnvironment, PoolTurns, Role};
use crate::stats;
use crate::stats::Random;
use crate::workload::{METRICS, Metric};

/// A virtual suite: for each of its scenarios the index of the pool's scenario, and the block at
/// which it starts.
pub(super) type VirtualSuite = [(usize, usize); SUITE_SCENARIOS];

/// One environment, ready for the rules.
pub(super) struct EnvironmentData<'a> {
    /// Index of its pool.
    pub(super) pool: usize,
    pub(super) recorded: &'a PoolEnvironment,
    pub(super) arms: Vec<(char, Role)>,
    /// Letters of the slowed arms that were not recorded but computed: the copy's turns, each made
    /// longer by exactly that share.
    pub(super) derived: Vec<char>,
    pub(super) cases: Vec<CaseData>,
    /// Seconds to start the processes of a pair, a mean over the blocks.
    pub(super) load_s: f64,
}

/// The blocks of one arm; `None` where the arm had no turn.
pub(super) type PairedSeries = Vec<Option<PairedBlock>>;

/// One scenario of the pool in one environment.
pub(super) struct CaseData {
    /// By metric, then by arm.
    pub(super) series: Vec<(&'static Metric, BTreeMap<char, PairedSeries>)>,
    /// Seconds of two arms' warm-ups and turns before each block; over the blocks twice, because
    /// a series wraps around.
    pub(super) elapsed_s: Vec<f64>,
}

impl<'a> EnvironmentData<'a> {
    pub(super) fn new(number: usize, pool: &Pool, recorded: &'a PoolEnvironment) -> Result<Self> {
        let accepted = recorded.blocks.iter().filter(|block| block.rejected.is_none()).count();
        if accepted < FEWEST_BLOCKS {
            let name = &recorded.name;
            return Err(Error::Undecided(format!(
                "environment `{name}` has {accepted} accepted blocks; a replay needs \
                 {FEWEST_BLOCKS}, so record more"
            )));
        }
        let recorded_arms = pool.arms.iter().skip(1).map(|arm| (arm.letter, arm.role));
        let mut arms: Vec<(char, Role)> = recorded_arms.collect();
        let copy = arms.iter().find(|(_, role)| *role == Role::Copy).map(|(letter, _)| *letter);
        let derived: Vec<(char, Role)> = pool::arms()
            .iter()
            .filter(|arm| matches!(arm.role, Role::Decode(_) | Role::Ttft(_)))
            .filter(|arm| copy.is_some() && arms.iter().all(|(_, known)| *known != arm.role))
            .map(|arm| (arm.letter, arm.role))
            .collect();
        arms.extend(&derived);
        let cases = (0..pool.scenarios.len())
            .map(|at| {
                let work = &pool.scenarios[at].work;
                let gated = METRICS.iter().filter(|metric| metric.gated(work));
                let series = gated.map(|metric| {
                    let arm_series = |(arm, role): &(char, Role)| {
                        if !concerns(*role, metric) {
                            return None;
                        }
                        let source = if derived.contains(&(*arm, *role)) { copy? } else { *arm };
                        let mut series = series(recorded, at, metric, source)?;
                        if source != *arm {
                            let theta = role.theta(metric.kind());
                            series.iter_mut().flatten().for_each(|block| block.worsen(theta));
                        }
                        Some((*arm, series))
                    };
                    (metric, arms.iter().filter_map(arm_series).collect::<BTreeMap<_, _>>())
                });
                let series: Vec<_> = series.filter(|(_, arms)| !arms.is_empty()).collect();
                CaseData { series, elapsed_s: elapsed(recorded, at) }
            })
            .collect();
        // A pair starts one process per arm and one for the null control.
        let loads = recorded
            .blocks
            .iter()
            .filter_map(|block| Some(block.load_s * 3.0 / processes(block.scenarios.first()?)));
        let loads: Vec<f64> = loads.collect();
        let load_s = stats::mean(&loads).expect("there are blocks");
        let derived = derived.into_iter().map(|(letter, _)| letter).collect();
        Ok(Self { pool: number, recorded, arms, derived, cases, load_s })
    }

    /// Applies `statistic` to the copy's accepted block effects of each decode metric; the mean
    /// over scenarios.
    pub(super) fn copy_statistic(&self, statistic: impl Fn(&[f64]) -> Option<f64>) -> Option<f64> {
        let copy = self.arms.iter().find(|(_, role)| *role == Role::Copy)?.0;
        let series = self.cases.iter().flat_map(|case| &case.series);
        let decode = series.filter(|(metric, _)| metric.kind() == "decode");
        let values = decode.filter_map(|(_, arms)| {
            let accepted = arms.get(&copy)?.iter().flatten().filter(|block| !block.rejected);
            statistic(&accepted.map(|block| block.effect).collect::<Vec<_>>())
        });
        stats::mean(&values.collect::<Vec<_>>())
    }

    pub(super) fn draw_suites(&self, runs: usize, seed: u64) -> Vec<VirtualSuite> {
        let mut random = Random::new(seed);
        let mut suite = || std::array::from_fn(|_| self.draw_scenario(&mut random));
        (0..runs).map(|_| suite()).collect()
    }

    /// One scenario of a virtual suite.
    pub(super) fn draw_scenario(&self, random: &mut Random) -> (usize, usize) {
        (random.below(self.cases.len()), random.below(self.blocks()))
    }

    pub(super) fn blocks(&self) -> usize {
        self.recorded.blocks.len()
    }
}

/// Fewest accepted blocks of an arm; with fewer, a rule would read the same few blocks again and
/// again.
const FEWEST_BLOCKS: usize = 24;

/// Whether an arm changes this metric, or is one that changes nothing.
fn concerns(role: Role, metric: &Metric) -> bool {
    matches!(role, Role::Copy | Role::Layout) || role.theta(metric.kind()) != 0.0
}

/// `None` where too few blocks have a value.
fn series(
    recorded: &PoolEnvironment,
    scenario: usize,
    metric: &'static Metric,
    arm: char,
) -> Option<PairedSeries> {
    let blocks = recorded.blocks.iter().enumerate();
    let series: PairedSeries = blocks
        .map(|(at, block)| {
            let turns = block.scenarios[scenario].paired(at);
            PairedBlock::new(&turns, metric, arm, block.rejected.is_some())
        })
        .collect();
    let accepted = series.iter().flatten().filter(|block| !block.rejected).count();
    (accepted >= FEWEST_BLOCKS).then_some(series)
}

/// Number of processes of a block's scenario: each reads its memory once, where it can be read.
fn processes(turns: &PoolTurns) -> f64 {
    let letters: BTreeSet<char> =
        turns.rounds.iter().flat_map(|round| round.order.chars()).collect();
    let readings = turns.once.values().next().map_or(0, BTreeMap::len);
    if readings > 0 { readings as f64 } else { letters.len() as f64 }
}

fn elapsed(recorded: &PoolEnvironment, scenario: usize) -> Vec<f64> {
    let mut elapsed = vec![0.0];
    for block in recorded.blocks.iter().chain(&recorded.blocks) {
        let turns = &block.scenarios[scenario];
        let own = turns.warm_up_s * 2.0 / processes(turns) + turns.turns_s * pair_share(turns);
        elapsed.push(elapsed[elapsed.len() - 1] + own);
    }
    elapsed
}

/// The share of turns that a pair of builds would have taken: those of the base and one other arm,
/// in the rounds that have both.
fn pair_share(turns: &PoolTurns) -> f64 {
    let letters = || turns.rounds.iter().flat_map(|round| round.order.chars());
    let other = letters().find(|letter| *letter != 'A');
    let has_both = |round: &&Round| other.is_some_and(|other| round.order.contains(other));
    let pair = turns.rounds.iter().filter(has_both).flat_map(|round| round.order.chars());
    let own = pair.filter(|letter| *letter == 'A' || Some(*letter) == other).count();
    own as f64 / letters().count() as f64
}

/// Robust standard deviation: 1.4826 times the median absolute deviation (Hampel 1974).
pub(super) fn robust_sd(values: &[f64]) -> Option<f64> {
    let centre = stats::median(values)?;
    let deviations: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    stats::median(&deviations).map(|median| 1.4826 * median)
}

/// Lag-1 autocorrelation, with outliers clamped to three standard deviations. The rules assume
/// independent blocks, for which it is 0.
pub(super) fn autocorrelation(values: &[f64]) -> Option<f64> {
    let (centre, sd) = (stats::median(values)?, robust_sd(values)?);
    let clamped = |value: &f64| (value - centre).clamp(-3.0 * sd, 3.0 * sd);
    let values: Vec<f64> = values.iter().map(clamped).collect();
    let (mean, squares) = (stats::mean(&values)?, stats::sum_of_squares(&values));
    let products: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    (squares > 0.0).then(|| products / squares)
}

/// One metric starting at every block, wrapping around at the end.
pub(super) fn inputs<'a>(
    series: &'a [Option<PairedBlock>],
    metric: &'static Metric,
) -> impl Iterator<Item = RuleInput<'a>> {
    let starting_at = move |start: usize| {
        let mut accepted = 0;
        let wrapped = series[start..].iter().chain(&series[..start]).flatten();
        let blocks = wrapped
            .take_while(|block| {
                let more = accepted < LOOKS[LOOKS.len() - 1];
                accepted += usize::from(!block.rejected);
                more
            })
            .collect();
        RuleInput { blocks, metric }
    };
    (0..series.len()).map(starting_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_changes_neither_the_spread_nor_the_autocorrelation() {
        assert_eq!(robust_sd(&[]), None);
        assert_eq!(robust_sd(&[5.0]), Some(0.0));
        assert_eq!(robust_sd(&[1.0, 2.0, 3.0, 4.0, 900.0]), Some(1.4826));
        assert_eq!(autocorrelation(&[1.0, 1.0]), None, "no variance");
        // Deviations 1 -1 1 -1: three products of -1 over four squares of 1.
        assert_eq!(autocorrelation(&[3.0, 1.0, 3.0, 1.0]), Some(-0.75));
        // Deviations -1 -1 1 1.
        assert_eq!(autocorrelation(&[1.0, 1.0, 3.0, 3.0]), Some(0.25));
    }
}
