//! How many rounds of a scenario a block has. Rounds are cheap and average out disturbances of
//! single turns; blocks cost a process start and a warm-up and average out differences between
//! processes.

use std::time::Duration;

use crate::compare::paired::{block_effect, round_sd};
use crate::record::pair::PairCase;
use crate::stats;
use crate::workload::{METRICS, Metric};

/// Number of pilot blocks, after which the number of rounds is fixed.
pub(super) const PILOT: usize = 3;

/// Time for the turns of one scenario in a pilot block. Short scenarios get several rounds, because
/// one interruption distorts a short turn. On a quiet machine the pilot is most of what is
/// measured, so it is no longer than this.
const PILOT_TIME: Duration = Duration::from_millis(500);

/// Most rounds per block.
const MAX_ROUNDS: usize = 8;

/// Assumed standard deviation between blocks, that of a quiet machine: three pilot blocks are too
/// few to estimate it.
const BETWEEN_SD: f64 = 0.01;

/// How many rounds of a scenario are measured in each block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RoundBudget {
    /// Time of one generation.
    generation: Duration,
    /// Rounds per block.
    pub(super) rounds: usize,
}

impl RoundBudget {
    /// For the pilot, from the time of one generation.
    pub(super) fn new(generation: Duration) -> Self {
        let round = 4.0 * generation.as_secs_f64();
        let rounds = (PILOT_TIME.as_secs_f64() / round).round() as usize;
        Self { generation, rounds: rounds.clamp(1, MAX_ROUNDS) }
    }

    /// Chooses the number of rounds that minimizes the variance per time (Kalibera and Jones 2013,
    /// equation 9): √(c_block / c_round · σ²_within / σ²_between), for the metric that is noisiest
    /// relative to its limit. `load_s` is this scenario's share of starting and loading.
    pub(super) fn optimize(&mut self, case: &PairCase, load_s: f64) {
        let noise = METRICS
            .iter()
            .filter_map(|metric| Some(within_sd(case, metric)? / metric.limit?))
            .fold(0.0, f64::max);
        let tightest =
            METRICS.iter().filter_map(|metric| metric.limit).fold(f64::INFINITY, f64::min);
        let generation = self.generation.as_secs_f64();
        let cost = (load_s + 2.0 * generation) / (4.0 * generation);
        let best = (cost.sqrt() * noise * tightest / BETWEEN_SD).round() as usize;
        if noise > 0.0 {
            self.rounds = best.clamp(1, MAX_ROUNDS);
        }
    }
}

/// Standard deviation of round effects within blocks; that of block effects where each block has
/// one round.
fn within_sd(case: &PairCase, metric: &Metric) -> Option<f64> {
    round_sd(case.blocks.iter(), metric, 'B').or_else(|| {
        let single = case.blocks.iter().filter(|turns| turns.rounds.len() == 1);
        let effects = single.filter_map(|turns| block_effect(turns, metric, 'B'));
        stats::sd(&effects.collect::<Vec<_>>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::pair::{PairTurns, Round};

    /// A case with these round effects on decode, one list per block.
    fn case(blocks: &[&[f64]]) -> PairCase {
        let round = |effect: &f64| Round {
            order: "ABBA".into(),
            values: [(
                "decode_tok_s".to_owned(),
                vec![100.0, 100.0 * (-effect).exp(), 100.0 * (-effect).exp(), 100.0],
            )]
            .into(),
        };
        let block = |(block, effects): (usize, &&[f64])| PairTurns {
            block,
            rounds: effects.iter().map(round).collect(),
            ..PairTurns::default()
        };
        PairCase { blocks: blocks.iter().enumerate().map(block).collect(), ..PairCase::default() }
    }

    #[test]
    fn short_scenarios_have_more_quads() {
        for (milliseconds, rounds) in [(10, 8), (30, 4), (60, 2), (125, 1), (2000, 1)] {
            assert_eq!(
                RoundBudget::new(Duration::from_millis(milliseconds)).rounds,
                rounds,
                "{milliseconds} ms"
            );
        }
    }

    #[test]
    fn a_noisy_scenario_gets_more_quads_and_a_quiet_one_fewer() {
        let optimized = |blocks: &[&[f64]]| {
            let mut budget = RoundBudget::new(Duration::from_millis(125));
            budget.optimize(&case(blocks), 0.25);
            budget.rounds
        };
        // c_block / c_round = 1: the number is sd / 1 %.
        assert_eq!(optimized(&[&[0.0, 0.03], &[0.01, 0.04], &[0.0, 0.03]]), 2);
        assert_eq!(optimized(&[&[0.0, 0.3], &[0.1, 0.4], &[0.0, 0.3]]), MAX_ROUNDS);
        assert_eq!(optimized(&[&[0.0, 0.001], &[0.0, 0.001]]), 1);
        assert_eq!(
            optimized(&[&[0.0], &[0.04], &[0.02]]),
            2,
            "with single rounds, the sd of block effects"
        );
        assert_eq!(optimized(&[]), 1, "no data changes nothing");
    }
}
