//! One environment of a pool, ready to be looked at: block by block, each metric of the base beside each other arm.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::compare::paired::LOOKS;
use crate::error::Error;
use crate::error::Result;
use crate::evaluate::replay::Place;
use crate::evaluate::replay::SCENARIOS;
use crate::evaluate::rules::Answer;
use crate::evaluate::rules::Pairing;
use crate::evaluate::rules::Rule;
use crate::evaluate::rules::View;
use crate::record::pool::Pool;
use crate::record::pool::Recorded;
use crate::record::pool::Role;
use crate::stats;
use crate::stats::Random;
use crate::workload::METRICS;
use crate::workload::Metric;

/// Where each scenario of a virtual suite comes from: which of the pool's scenarios, and the block that it begins with.
pub(super) type Suite = [(usize, usize); SCENARIOS];

/// One environment, ready to be looked at.
pub(super) struct Field<'a> {
    recorded: &'a Recorded,
    pub(super) arms: Vec<(char, Role)>,
    pub(super) cases: Vec<Case>,
    /// Seconds to start two processes, a mean over the blocks.
    pub(super) load_s: f64,
}

/// One scenario of the pool in one environment.
pub(super) struct Case {
    /// By metric and then by arm, a value per block.
    pub(super) series: Vec<(&'static Metric, BTreeMap<char, Vec<Pairing>>)>,
    /// Seconds of two arms' warm-ups and turns up to each block, from the first; twice around.
    pub(super) elapsed_s: Vec<f64>,
}

impl<'a> Field<'a> {
    pub(super) fn new(pool: &Pool, recorded: &'a Recorded) -> Result<Self> {
        let counted = recorded.blocks.iter().filter(|block| block.rejected.is_none()).count();
        let needed = LOOKS[LOOKS.len() - 1];
        if counted < needed {
            let name = &recorded.name;
            return Err(Error::Failed(format!(
                "environment `{name}` has {counted} blocks that count, a replay needs {needed}; record more"
            )));
        }
        let arms: Vec<(char, Role)> =
            pool.arms.iter().skip(1).map(|arm| (arm.letter, arm.role)).collect();
        let two = 2.0 / pool.arms.len() as f64;
        let cases = (0..pool.scenarios.len())
            .map(|at| {
                let work = &pool.scenarios[at].work;
                let gated =
                    METRICS.iter().filter(|metric| metric.gated(work.batch, work.new_tokens));
                let series = gated.map(|metric| {
                    let of = |(arm, role): &(char, Role)| {
                        let wanted = concerns(*role, metric);
                        Some((*arm, wanted.then(|| series(recorded, at, metric, *arm))??))
                    };
                    (metric, arms.iter().filter_map(of).collect::<BTreeMap<_, _>>())
                });
                let series: Vec<_> = series.filter(|(_, arms)| !arms.is_empty()).collect();
                Case { series, elapsed_s: elapsed(recorded, at, two) }
            })
            .collect();
        let loads: Vec<f64> = recorded.blocks.iter().map(|block| block.load_s * two).collect();
        let load_s = stats::mean(&loads).expect("there are blocks");
        Ok(Self { recorded, arms, cases, load_s })
    }

    pub(super) fn place(&self) -> Place {
        let Recorded { name, column, about, blocks } = self.recorded;
        let rejected = blocks.iter().filter(|block| block.rejected.is_some()).count();
        let metrics: usize = self.cases.iter().map(|case| case.series.len()).sum();
        Place {
            name: name.clone(),
            column: *column,
            about: about.clone(),
            blocks: blocks.len(),
            rejected,
            disjoint: metrics * ((blocks.len() - rejected) / LOOKS[0]),
            spread: self.copies(spread),
            autocorrelation: self.copies(autocorrelation),
            figures: BTreeMap::new(),
        }
    }

    /// What is said of the decode metrics' block values of the base against its copy, a mean over scenarios.
    fn copies(&self, say: impl Fn(&[f64]) -> Option<f64>) -> Option<f64> {
        let copy = self.arms.iter().find(|(_, role)| *role == Role::Copy)?.0;
        let series = self.cases.iter().flat_map(|case| &case.series);
        let decode = series.filter(|(metric, _)| metric.kind() == "decode");
        let said = decode.filter_map(|(_, arms)| {
            let counted = arms.get(&copy)?.iter().filter(|block| !block.rejected);
            say(&counted.map(|block| block.value).collect::<Vec<_>>())
        });
        stats::mean(&said.collect::<Vec<_>>())
    }

    pub(super) fn draw(&self, runs: usize, seed: u64) -> Vec<Suite> {
        let mut random = Random::new(seed);
        let (cases, blocks) = (self.cases.len(), self.recorded.blocks.len());
        let mut suite = || std::array::from_fn(|_| (random.below(cases), random.below(blocks)));
        (0..runs).map(|_| suite()).collect()
    }
}

/// Whether an arm says anything of a metric that another does not.
fn concerns(role: Role, metric: &Metric) -> bool {
    matches!(role, Role::Copy | Role::Layout) || role.theta(metric.kind()) != 0.0
}

/// `None` where some block has no value.
fn series(
    recorded: &Recorded,
    scenario: usize,
    metric: &'static Metric,
    arm: char,
) -> Option<Vec<Pairing>> {
    let blocks = recorded.blocks.iter().enumerate();
    blocks
        .map(|(at, block)| {
            let turns = block.scenarios[scenario].paired(at);
            Pairing::of(&turns, metric, arm, block.rejected.is_some())
        })
        .collect()
}

fn elapsed(recorded: &Recorded, scenario: usize, two: f64) -> Vec<f64> {
    let mut elapsed = vec![0.0];
    for block in recorded.blocks.iter().chain(&recorded.blocks) {
        let turns = &block.scenarios[scenario];
        let letters: BTreeSet<char> =
            turns.quads.iter().flat_map(|quad| quad.order.chars()).collect();
        let own = turns.warm_up_s * two + turns.turns_s * 2.0 / letters.len() as f64;
        elapsed.push(elapsed[elapsed.len() - 1] + own);
    }
    elapsed
}

/// The standard deviation of normal values, from the median distance to their median, so that outliers do not count
/// (Hampel 1974).
fn spread(values: &[f64]) -> Option<f64> {
    let centre = stats::median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    stats::median(&distances).map(|median| 1.4826 * median)
}

/// How much of a block's value the next one repeats: the correlation of neighbours, outliers drawn in to three standard
/// deviations. The rules take blocks to be independent, which is 0.
fn autocorrelation(values: &[f64]) -> Option<f64> {
    let (centre, spread) = (stats::median(values)?, spread(values)?);
    let drawn_in = |value: &f64| (value - centre).clamp(-3.0 * spread, 3.0 * spread);
    let values: Vec<f64> = values.iter().map(drawn_in).collect();
    let (mean, squares) = (stats::mean(&values)?, stats::squares(&values));
    let products: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    (squares > 0.0).then(|| products / squares)
}

/// What a rule says from every block on, going round at the end.
pub(super) fn answers(
    series: &[Pairing],
    metric: &'static Metric,
    rule: &Rule,
    judged: usize,
) -> Vec<Answer> {
    let from = |start: usize| {
        let mut counted = 0;
        let around = series[start..].iter().chain(&series[..start]);
        let blocks = around
            .take_while(|block| {
                let go_on = counted < LOOKS[LOOKS.len() - 1];
                counted += usize::from(!block.rejected);
                go_on
            })
            .collect();
        (rule.decide)(&View { blocks, metric, judged })
    };
    (0..series.len()).map(from).collect()
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
