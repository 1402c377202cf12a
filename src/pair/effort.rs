//! How many quads of a scenario a block has. Quads within a block cost little and average out what
//! disturbs single turns; blocks cost a start and a warm-up and average out what differs from
//! process to process.

use std::time::Duration;

use crate::compare::paired::{block_value, quad_effects};
use crate::record::pair::PairedCase;
use crate::stats;
use crate::workload::{METRICS, Metric};

/// Blocks after which the number of quads is settled.
pub const PILOT: usize = 3;

/// Turns of one scenario in a block of the pilot last about this long: what is short is repeated,
/// because one short turn is at the mercy of one interruption. On a quiet machine the pilot is most
/// of what is measured, so it is no longer than that.
const FIRST: Duration = Duration::from_millis(500);

/// Quads of a block, at most.
const MOST: usize = 8;

/// Three blocks cannot tell how much processes differ. They are taken to differ by 1 %, as those of
/// a quiet machine do.
const BETWEEN: f64 = 0.01;

/// How much of a scenario is measured in each block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// What one generation takes.
    generation: Duration,
    /// Quads per block.
    pub quads: usize,
}

impl Effort {
    /// For the pilot, from the time of one generation.
    pub fn new(generation: Duration) -> Self {
        let quad = 4.0 * generation.as_secs_f64();
        let quads = (FIRST.as_secs_f64() / quad).round() as usize;
        Self { generation, quads: quads.clamp(1, MOST) }
    }

    /// Settles on the number that gives the sharpest verdict for the time (Kalibera and Jones 2013,
    /// equation 9): √(c_block / c_quad · σ²_within / σ²_between), for the metric that is
    /// noisiest against its limit. `load_s` is this scenario's share of starting and loading.
    pub fn settle(&mut self, case: &PairedCase, load_s: f64) {
        let noise = METRICS
            .iter()
            .filter_map(|metric| Some(within(case, metric)? / metric.limit?))
            .fold(0.0, f64::max);
        let tightest =
            METRICS.iter().filter_map(|metric| metric.limit).fold(f64::INFINITY, f64::min);
        let generation = self.generation.as_secs_f64();
        let cost = (load_s + 2.0 * generation) / (4.0 * generation);
        let best = (cost.sqrt() * noise * tightest / BETWEEN).round() as usize;
        if noise > 0.0 {
            self.quads = best.clamp(1, MOST);
        }
    }
}

/// The standard deviation of a quad's effect within blocks; that of blocks where they have one quad
/// each.
fn within(case: &PairedCase, metric: &Metric) -> Option<f64> {
    let effects = case.blocks.iter().filter_map(|turns| quad_effects(turns, metric, 'B'));
    let variances: Vec<f64> =
        effects.filter_map(|effects| stats::sd(&effects)).map(|sd| sd * sd).collect();
    if let Some(variance) = stats::mean(&variances) {
        return Some(variance.sqrt());
    }
    let single = case.blocks.iter().filter(|turns| turns.quads.len() == 1);
    let values: Vec<f64> = single.filter_map(|turns| block_value(turns, metric, 'B')).collect();
    stats::sd(&values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::pair::{PairedTurns, Quad};

    /// A case whose quads' effects on decode are these, a list a block.
    fn case(blocks: &[&[f64]]) -> PairedCase {
        let quad = |effect: &f64| Quad {
            order: "ABBA".into(),
            values: [(
                "decode_tok_s".to_owned(),
                vec![100.0, 100.0 * (-effect).exp(), 100.0 * (-effect).exp(), 100.0],
            )]
            .into(),
        };
        let block = |(block, effects): (usize, &&[f64])| PairedTurns {
            block,
            quads: effects.iter().map(quad).collect(),
            ..PairedTurns::default()
        };
        PairedCase {
            blocks: blocks.iter().enumerate().map(block).collect(),
            ..PairedCase::default()
        }
    }

    #[test]
    fn short_scenarios_have_more_quads() {
        for (milliseconds, quads) in [(10, 8), (30, 4), (60, 2), (125, 1), (2000, 1)] {
            assert_eq!(
                Effort::new(Duration::from_millis(milliseconds)).quads,
                quads,
                "{milliseconds} ms"
            );
        }
    }

    #[test]
    fn a_noisy_scenario_gets_more_quads_and_a_quiet_one_fewer() {
        let settled = |blocks: &[&[f64]]| {
            let mut effort = Effort::new(Duration::from_millis(125));
            effort.settle(&case(blocks), 0.25);
            effort.quads
        };
        // c_block / c_quad = 1: the number is sd / 1 %.
        assert_eq!(settled(&[&[0.0, 0.03], &[0.01, 0.04], &[0.0, 0.03]]), 2);
        assert_eq!(settled(&[&[0.0, 0.3], &[0.1, 0.4], &[0.0, 0.3]]), MOST);
        assert_eq!(settled(&[&[0.0, 0.001], &[0.0, 0.001]]), 1);
        assert_eq!(settled(&[&[0.0], &[0.04], &[0.02]]), 2, "of single quads the blocks tell");
        assert_eq!(settled(&[]), 1, "nothing known changes nothing");
    }
}
