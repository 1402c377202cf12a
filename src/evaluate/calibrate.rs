//! Noise of the machine that recorded a pool: variance between code layouts of one source, variance
//! between sessions, and the smallest detectable change. Every environment of the pool is a
//! session.

use std::collections::BTreeMap;

use crate::compare::looks::{BLOCK_FLOOR, LOOKS, Levels};
use crate::compare::paired::{arm_value, block_effect, round_sd};
use crate::compare::{pool_by_kind, share};
use crate::machine::{SESSION_GAP, is_one_session};
use crate::record::calibration::{NoiseFloor, SdEstimate};
use crate::record::pair::PairTurns;
use crate::record::pool::{Pool, PoolEnvironment, Role};
use crate::stats;
use crate::stats::VariancePrior;
use crate::workload::{METRICS, Metric};

/// The noise of a machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NoiseEstimates {
    /// Standard deviation of ln cost between two layouts of one source, by kind of metric.
    pub(crate) layout_sd: BTreeMap<String, SdEstimate>,
    /// Standard deviation of ln cost between sessions, beyond the variance of their processes, by
    /// kind of metric.
    pub(crate) session_sd: BTreeMap<String, SdEstimate>,
    /// The smallest detectable change of each metric of each scenario.
    pub(crate) floors: Vec<NoiseFloor>,
}

/// Estimates the noise from a pool's blocks. `alpha` is the gate's significance level, on which the
/// smallest detectable change depends.
pub fn calibrate(pool: &Pool, alpha: f64) -> NoiseEstimates {
    let cases: Vec<MetricBlocks> = (0..pool.scenarios.len())
        .flat_map(|at| {
            let work = &pool.scenarios[at].work;
            let gated = METRICS.iter().filter(|metric| metric.gated(work));
            gated.map(move |metric| MetricBlocks { pool, at, metric })
        })
        .collect();
    let levels = Levels::for_pair(alpha, SUITE_METRICS);
    let layout_sd = by_kind(&cases, MetricBlocks::layout_variance, |variance| {
        PRIOR_LAYOUT.moderate(variance.0, variance.1)
    });
    let sd_of = |blocks: &MetricBlocks| {
        layout_sd.get(blocks.metric.kind()).map_or(PRIOR_LAYOUT_SD, |spread| spread.sd)
    };
    NoiseEstimates {
        session_sd: by_kind(&cases, MetricBlocks::session_variance, |variance| variance),
        floors: cases.iter().filter_map(|blocks| blocks.floor(levels, sd_of(blocks))).collect(),
        layout_sd,
    }
}

/// Metrics of the default suite, over which Bonferroni's correction divides the level.
const SUITE_METRICS: usize = 60;

/// The prior of the layout's variance. Three layouts alone estimate zero half of the time when the
/// true value is small, and zero would be certainty.
const PRIOR_LAYOUT: VariancePrior =
    VariancePrior { variance: PRIOR_LAYOUT_SD * PRIOR_LAYOUT_SD, freedom: 3.0 };
const PRIOR_LAYOUT_SD: f64 = 0.005;

/// The standard deviations of the kinds of metrics, from variances that are pooled over the metrics
/// of a kind, then `moderated`.
fn by_kind<'a>(
    cases: &[MetricBlocks<'a>],
    variance: impl Fn(&MetricBlocks<'a>) -> Option<(f64, f64)>,
    moderated: impl Fn((f64, f64)) -> (f64, f64),
) -> BTreeMap<String, SdEstimate> {
    let variances = cases.iter().filter_map(|blocks| Some((blocks.metric, variance(blocks)?)));
    let estimate = |(kind, pooled): (&str, (f64, f64))| {
        let (variance, freedom) = moderated(pooled);
        (kind.to_owned(), SdEstimate { sd: variance.sqrt(), freedom })
    };
    pool_by_kind(variances).into_iter().map(estimate).collect()
}

/// One metric of one scenario of a pool.
struct MetricBlocks<'a> {
    pool: &'a Pool,
    at: usize,
    metric: &'static Metric,
}

impl MetricBlocks<'_> {
    fn turns(&self, session: &PoolEnvironment) -> Vec<PairTurns> {
        let counted =
            session.blocks.iter().enumerate().filter(|(_, block)| block.rejected.is_none());
        counted.map(|(number, block)| block.scenarios[self.at].paired(number)).collect()
    }

    /// The block effects of an arm, in all sessions.
    fn effects(&self, arm: char) -> Vec<f64> {
        let sessions = self.pool.environments.iter().flat_map(|session| self.turns(session));
        sessions.filter_map(|turns| block_effect(&turns, self.metric, arm)).collect()
    }

    fn letters(&self, role: Role) -> impl Iterator<Item = char> {
        self.pool.arms.iter().filter(move |arm| arm.role == role).map(|arm| arm.letter)
    }

    /// The variance of the difference of two layouts, beyond the error of each, and its degrees of
    /// freedom. The base is one of the layouts; its own error is in the effect of every other one
    /// and cancels between them.
    fn layout_variance(&self) -> Option<(f64, f64)> {
        let mut thetas = vec![0.0];
        let mut errors = Vec::new();
        for letter in self.letters(Role::Layout) {
            let centre = stats::trimmed_mean(&self.effects(letter))?;
            thetas.push(centre.value);
            errors.push(centre.error?.0.powi(2));
        }
        let layouts = errors.len();
        let between = stats::sd(&thetas)?.powi(2);
        Some((2.0 * between - stats::mean(&errors)?, layouts as f64))
    }

    /// The variance of the base's level between sessions, beyond the variance of its blocks, and
    /// its degrees of freedom.
    fn session_variance(&self) -> Option<(f64, f64)> {
        let mut levels = Vec::new();
        let mut errors = Vec::new();
        for session in merge_near(&self.pool.environments) {
            let turns = session.into_iter().flat_map(|one| self.turns(one));
            let values: Vec<f64> =
                turns.filter_map(|turns| Some(arm_value(&turns, self.metric, 'A')?.ln())).collect();
            levels.push(stats::mean(&values)?);
            errors.push(stats::sd(&values)?.powi(2) / values.len() as f64);
        }
        let between = stats::sd(&levels)?.powi(2);
        (levels.len() >= 3)
            .then(|| (between - stats::mean(&errors).unwrap_or(0.0), (levels.len() - 1) as f64))
    }

    fn floor(&self, levels: Levels, layout_sd: f64) -> Option<NoiseFloor> {
        let copy = self.letters(Role::Copy).next()?;
        let block_sd = stats::sd(&self.effects(copy))?;
        let turns: Vec<PairTurns> =
            self.pool.environments.iter().flat_map(|session| self.turns(session)).collect();
        let smallest = |blocks: usize| {
            let count = blocks as f64;
            let error = block_sd * (stats::trimmed_mean_variance_ratio(blocks) / count).sqrt();
            let error = error.max(BLOCK_FLOOR / count.sqrt()).hypot(layout_sd);
            let cut = 2 * (blocks / 10).max(1);
            let freedom = (blocks - cut - 1) as f64;
            let factor = stats::student_t_quantile(levels.familywise, freedom)
                + stats::student_t_quantile(0.8, freedom);
            (blocks, share(self.metric.better, factor * error).abs())
        };
        Some(NoiseFloor {
            scenario: self.pool.scenarios[self.at].id.clone(),
            metric: self.metric.name.into(),
            within_sd: round_sd(turns.iter(), self.metric, copy),
            block_sd,
            smallest_at: [LOOKS[1], LOOKS[3], LOOKS[5]].map(smallest).into(),
        })
    }
}

/// Groups sessions: those that began within an hour of the one before count as one.
fn merge_near(environments: &[PoolEnvironment]) -> Vec<Vec<&PoolEnvironment>> {
    let mut sessions: Vec<Vec<&PoolEnvironment>> = Vec::new();
    for one in environments {
        let near = |last: &&mut Vec<&PoolEnvironment>| {
            let before = last.last().and_then(|before| before.started.as_deref());
            let both = before.zip(one.started.as_deref());
            both.is_none_or(|(before, started)| is_one_session(before, started, SESSION_GAP))
        };
        match sessions.last_mut().filter(near) {
            Some(last) => last.push(one),
            None => sessions.push(vec![one]),
        }
    }
    sessions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Work;
    use crate::record::pair::Round;
    use crate::record::pool::{
        NoiseLevel, PoolArm, PoolBlock, PoolCase, PoolKind, PoolTurns, SCHEMA,
    };

    /// A pool of decode rates: sessions of blocks, each the ln rate of A, N, L and P.
    fn pool(sessions: &[&[[f64; 4]]]) -> Pool {
        let work = Work { batch: 1, new_tokens: 8, ..Work::default() };
        let arm = |letter, role| PoolArm { letter, about: String::new(), role, injected: None };
        let arms = vec![
            arm('A', Role::Base),
            arm('N', Role::Copy),
            arm('L', Role::Layout),
            arm('P', Role::Layout),
        ];
        let block = |ln: &[f64; 4]| {
            let values = ln.iter().chain(ln.iter().rev()).map(|ln| ln.exp()).collect();
            let round = Round {
                order: "ANLPPLNA".into(),
                values: [("decode_tok_s".into(), values)].into(),
            };
            let turns = PoolTurns { rounds: vec![round], ..PoolTurns::default() };
            PoolBlock { scenarios: vec![turns], ..PoolBlock::default() }
        };
        let environments = sessions.iter().enumerate().map(|(at, blocks)| PoolEnvironment {
            name: format!("session {at}"),
            noise: NoiseLevel::Quiet,
            about: String::new(),
            started: Some(format!("2026-07-04T{at:02}:30:00Z")),
            ended: None,
            blocks: blocks.iter().map(block).collect(),
        });
        Pool {
            schema: SCHEMA,
            kind: PoolKind::Pool,
            started: String::new(),
            seed: 1,
            machine: Default::default(),
            build: Default::default(),
            model: Default::default(),
            settings: Default::default(),
            duet: false,
            arms,
            scenarios: vec![PoolCase { id: "code/b1".into(), work }],
            environments: environments.collect(),
        }
    }

    #[test]
    fn the_variance_of_layouts_excludes_their_error() {
        // L is 2 % slower and P 2 % faster in every block: of three layouts at 0, 2 and -2 % the
        // variance is 4, and that of the difference of two 8.
        let session = [[0.0, 0.0, -0.02, 0.02]; 8];
        let noise = calibrate(&pool(&[&session]), 0.05);
        let SdEstimate { sd, freedom } = noise.layout_sd["decode"];
        // Two degrees of freedom of that, three of the prior of 0.5 %.
        let expected = ((2.0 * 8e-4 + 3.0 * 0.25e-4) / 5.0f64).sqrt();
        assert!((sd - expected).abs() < 1e-9 && freedom == 5.0, "{sd} {freedom}");
        assert!(noise.session_sd.is_empty(), "one session has no variance between sessions");
    }

    #[test]
    fn noise_of_blocks_is_not_counted_as_layout_or_session() {
        let noisy = |sign: f64| {
            [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
                .map(|noise| [0.01 * noise * sign, 0.0, 0.0, 0.0])
        };
        let noise = calibrate(&pool(&[&noisy(1.0), &noisy(-1.0), &noisy(1.0)]), 0.05);
        let SdEstimate { sd, .. } = noise.layout_sd["decode"];
        assert!((sd - 0.005 * 0.6f64.sqrt()).abs() < 1e-9, "{sd}: no more than the prior");
        assert_eq!(noise.session_sd["decode"], SdEstimate { sd: 0.0, freedom: 2.0 });
        let floor = &noise.floors[0];
        assert_eq!((floor.scenario.as_str(), floor.metric.as_str()), ("code/b1", "decode_tok_s"));
        // 24 blocks of ±1 %: the squares are 24, over 23.
        assert!((floor.block_sd - 0.01 * (24f64 / 23.0).sqrt()).abs() < 1e-9, "{}", floor.block_sd);
        assert_eq!(floor.within_sd, None, "one round a block");
        let smallest: Vec<f64> = floor.smallest_at.values().copied().collect();
        assert!(smallest[0] > smallest[1] && smallest[1] > smallest[2], "{smallest:?}");
    }

    #[test]
    fn the_variance_of_sessions_excludes_that_of_their_blocks() {
        let at = |level: f64| [[level, 0.0, 0.0, 0.0]; 8];
        let noise = calibrate(&pool(&[&at(0.0), &at(0.03), &at(-0.03)]), 0.05);
        let SdEstimate { sd, freedom } = noise.session_sd["decode"];
        assert!(freedom == 2.0);
        assert!((sd - 0.03).abs() < 1e-9 && freedom == 2.0, "{sd} {freedom}");
        let mut soon = pool(&[&at(0.0), &at(0.03), &at(-0.03)]);
        soon.environments[2].started = Some("2026-07-04T02:00:00Z".into());
        assert!(calibrate(&soon, 0.05).session_sd.is_empty(), "half an hour apart is one session");
    }
}
