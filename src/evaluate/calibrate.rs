//! What a pool says of the machine it was recorded on: how much two layouts of one source differ,
//! how much sessions differ, and how small a change can be told from none. Every environment of the
//! pool is a session.

use std::collections::BTreeMap;

use crate::compare::looks::{BLOCK_FLOOR, LOOKS, Levels};
use crate::compare::paired::{arm_value, block_effect, round_effects};
use crate::compare::share;
use crate::machine::{SESSION_GAP, is_one_session};
use crate::record::calibration::{NoiseFloor, SdEstimate};
use crate::record::pair::PairTurns;
use crate::record::pool::{Pool, PoolEnvironment, Role};
use crate::stats;
use crate::workload::{METRICS, Metric};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Standard deviation of ln cost between two layouts of one source, by kind of metric.
    pub layout_sd: BTreeMap<String, SdEstimate>,
    /// Standard deviation of ln cost between sessions, beyond what their processes explain, by
    /// kind of metric.
    pub session_sd: BTreeMap<String, SdEstimate>,
    /// What each metric of each scenario can be told apart by.
    pub floors: Vec<NoiseFloor>,
}

/// Puts a pool's blocks together; `alpha` is the gate's, for the smallest change that would be told
/// from none.
pub fn calibrate(pool: &Pool, alpha: f64) -> Found {
    let cases: Vec<Seen> = (0..pool.scenarios.len())
        .flat_map(|at| {
            let work = &pool.scenarios[at].work;
            let gated = METRICS.iter().filter(|metric| metric.gated(work));
            gated.map(move |metric| Seen { pool, at, metric })
        })
        .collect();
    let levels = Levels::for_pair(alpha, SUITE);
    let layout_sd = layouts(by_kind(&cases, |seen| seen.layouts()));
    let known = |seen: &Seen| layout_sd.get(seen.metric.kind()).map_or(ASSUMED, |spread| spread.sd);
    Found {
        session_sd: by_kind(&cases, |seen| seen.sessions()),
        floors: cases.iter().filter_map(|seen| seen.floor(levels, known(seen))).collect(),
        layout_sd,
    }
}

/// Metrics of the default suite, which pay for being judged together.
const SUITE: usize = 60;

/// What two layouts are taken to differ by before it is measured, and what that assumption is
/// worth, in degrees of freedom: three layouts alone say zero half of the time that the truth is
/// small, and zero would be certainty.
const ASSUMED: f64 = 0.005;
const ASSUMED_FREEDOM: f64 = 3.0;

/// Measured spreads drawn towards the assumed one, each by its degrees of freedom (a scaled inverse
/// chi-squared prior).
fn layouts(measured: BTreeMap<String, SdEstimate>) -> BTreeMap<String, SdEstimate> {
    let drawn = |(kind, SdEstimate { sd, freedom }): (String, SdEstimate)| {
        let all = freedom + ASSUMED_FREEDOM;
        let variance = (freedom * sd * sd + ASSUMED_FREEDOM * ASSUMED * ASSUMED) / all;
        (kind, SdEstimate { sd: variance.sqrt(), freedom: all })
    };
    measured.into_iter().map(drawn).collect()
}

/// Pools over the metrics of a kind. The degrees of freedom stay those of one: a layout or a
/// session that is slow in one scenario is likely to be slow in the next, so that more of them are
/// not more evidence.
fn by_kind(
    cases: &[Seen],
    variance: impl Fn(&Seen) -> Option<(f64, f64)>,
) -> BTreeMap<String, SdEstimate> {
    let mut kinds: BTreeMap<&'static str, Vec<(f64, f64)>> = BTreeMap::new();
    for seen in cases {
        if let Some(found) = variance(seen) {
            kinds.entry(seen.metric.kind()).or_default().push(found);
        }
    }
    let pooled = kinds.into_iter().map(|(kind, found)| {
        let mean = found.iter().map(|(variance, _)| variance).sum::<f64>() / found.len() as f64;
        let freedom = found.iter().map(|(_, freedom)| *freedom).fold(f64::INFINITY, f64::min);
        (kind.to_owned(), SdEstimate { sd: mean.max(0.0).sqrt(), freedom })
    });
    pooled.collect()
}

/// One metric of one scenario of a pool.
struct Seen<'a> {
    pool: &'a Pool,
    at: usize,
    metric: &'static Metric,
}

impl Seen<'_> {
    fn turns(&self, session: &PoolEnvironment) -> Vec<PairTurns> {
        let counted =
            session.blocks.iter().enumerate().filter(|(_, block)| block.rejected.is_none());
        counted.map(|(number, block)| block.scenarios[self.at].paired(number)).collect()
    }

    /// What the blocks of all sessions say of an arm.
    fn changes(&self, arm: char) -> Vec<f64> {
        let sessions = self.pool.environments.iter().flat_map(|session| self.turns(session));
        sessions.filter_map(|turns| block_effect(&turns, self.metric, arm)).collect()
    }

    fn letters(&self, role: Role) -> impl Iterator<Item = char> {
        self.pool.arms.iter().filter(move |arm| arm.role == role).map(|arm| arm.letter)
    }

    /// The variance of the difference of two layouts, beyond what the error of each explains. The
    /// base is one of them, and its own error is in the value of every other one, where it
    /// cancels between them.
    fn layouts(&self) -> Option<(f64, f64)> {
        let mut thetas = vec![0.0];
        let mut errors = Vec::new();
        for letter in self.letters(Role::Layout) {
            let centre = stats::trimmed_mean(&self.changes(letter))?;
            thetas.push(centre.value);
            errors.push(centre.error?.0.powi(2));
        }
        let layouts = errors.len();
        let between = stats::sd(&thetas)?.powi(2);
        Some((2.0 * between - stats::mean(&errors)?, layouts as f64))
    }

    /// The variance of the base's own level between sessions, beyond what its blocks explain.
    fn sessions(&self) -> Option<(f64, f64)> {
        let mut levels = Vec::new();
        let mut errors = Vec::new();
        for session in together(&self.pool.environments) {
            let turns = session.into_iter().flat_map(|part| self.turns(part));
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
        let blocks = self.changes(copy);
        let block_sd = stats::sd(&blocks)?;
        let all = self.pool.environments.iter().flat_map(|session| self.turns(session));
        let effects = all.filter_map(|turns| round_effects(&turns, self.metric, copy));
        let within: Vec<f64> =
            effects.filter_map(|effects| stats::sd(&effects)).map(|sd| sd * sd).collect();
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
            within_sd: stats::mean(&within).map(f64::sqrt),
            block_sd,
            smallest_at: [LOOKS[1], LOOKS[3], LOOKS[5]].map(smallest).into(),
        })
    }
}

/// Sessions that began within an hour of the one before say nothing of another time: they count as
/// one.
fn together(environments: &[PoolEnvironment]) -> Vec<Vec<&PoolEnvironment>> {
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
    fn layouts_differ_by_more_than_their_error_explains() {
        // L is 2 % slower and P 2 % faster in every block: of three layouts at 0, 2 and -2 % the
        // variance is 4, and that of the difference of two 8.
        let session = [[0.0, 0.0, -0.02, 0.02]; 8];
        let found = calibrate(&pool(&[&session]), 0.05);
        let SdEstimate { sd, freedom } = found.layout_sd["decode"];
        // Two degrees of freedom of that, three of the assumed 0.5 %.
        let expected = ((2.0 * 8e-4 + 3.0 * 0.25e-4) / 5.0f64).sqrt();
        assert!((sd - expected).abs() < 1e-9 && freedom == 5.0, "{sd} {freedom}");
        assert!(found.session_sd.is_empty(), "one session says nothing of sessions");
    }

    #[test]
    fn noise_alone_is_no_layout_and_no_session() {
        let noisy = |sign: f64| {
            [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
                .map(|noise| [0.01 * noise * sign, 0.0, 0.0, 0.0])
        };
        let found = calibrate(&pool(&[&noisy(1.0), &noisy(-1.0), &noisy(1.0)]), 0.05);
        let SdEstimate { sd, .. } = found.layout_sd["decode"];
        assert!((sd - 0.005 * 0.6f64.sqrt()).abs() < 1e-9, "{sd}: no more than was assumed");
        assert_eq!(found.session_sd["decode"], SdEstimate { sd: 0.0, freedom: 2.0 });
        let floor = &found.floors[0];
        assert_eq!((floor.scenario.as_str(), floor.metric.as_str()), ("code/b1", "decode_tok_s"));
        // 24 blocks of ±1 %: the squares are 24, over 23.
        assert!((floor.block_sd - 0.01 * (24f64 / 23.0).sqrt()).abs() < 1e-9, "{}", floor.block_sd);
        assert_eq!(floor.within_sd, None, "one round a block");
        let smallest: Vec<f64> = floor.smallest_at.values().copied().collect();
        assert!(smallest[0] > smallest[1] && smallest[1] > smallest[2], "{smallest:?}");
    }

    #[test]
    fn sessions_differ_by_what_their_blocks_do_not_explain() {
        let at = |level: f64| [[level, 0.0, 0.0, 0.0]; 8];
        let found = calibrate(&pool(&[&at(0.0), &at(0.03), &at(-0.03)]), 0.05);
        let SdEstimate { sd, freedom } = found.session_sd["decode"];
        assert!(freedom == 2.0);
        assert!((sd - 0.03).abs() < 1e-9 && freedom == 2.0, "{sd} {freedom}");
        let mut soon = pool(&[&at(0.0), &at(0.03), &at(-0.03)]);
        soon.environments[2].started = Some("2026-07-04T02:00:00Z".into());
        assert!(calibrate(&soon, 0.05).session_sd.is_empty(), "half an hour apart is one session");
    }
}
