//! How well a change against a stored baseline is known: the spread between processes, between
//! sessions and between builds, put together. Knows no metric's limit and gives no verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::looks::{BLOCK_FLOOR, Levels};
use crate::compare::{BLOCKS_NEEDED, SESSIONS_NEEDED};
use crate::record::calibration::Spread;
use crate::record::{Block, Case};
use crate::stats;
use crate::workload::{Better, Metric};

/// Where a change of ln cost may lie; positive is worse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

/// How well a change is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evidence {
    /// Standard error of the change of ln cost.
    pub error: f64,
    /// Its degrees of freedom; infinite ones, which come from assumed spreads only, are `null` in
    /// JSON.
    pub freedom: f64,
    /// Holds the change with 90 %: each end is wrong with 5 %.
    pub single: Interval,
    /// The upper end that a pass has to hold at.
    pub pass: f64,
    /// The same at the level at which all metrics of the suite hold together.
    pub family: Interval,
    /// The part of that error which more blocks of the run would not take away: its session, the
    /// baseline, the build.
    pub lasting: f64,
    /// The smallest slowdown that this run would have told from none, with a probability of about
    /// 80 %.
    pub smallest: f64,
}

/// The ln costs of one metric of one scenario, a list per session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) sessions: Vec<Vec<f64>>,
}

impl Series {
    /// Leaves out blocks without a value, and values that are not positive: no change is computed
    /// from a zero.
    pub(super) fn of(case: &Case, metric: &Metric) -> Self {
        Self::less(case, metric, |_| 0.0)
    }

    /// The same, each less what `off` says of its block.
    pub(super) fn less(case: &Case, metric: &Metric, off: impl Fn(&Block) -> f64) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut sessions: Vec<Vec<f64>> = Vec::new();
        for block in &case.blocks {
            let value = block.value(metric.name);
            let Some(value) = value.filter(|value| value.is_finite() && *value > 0.0) else {
                continue;
            };
            let at = names.iter().position(|name| *name == block.session).unwrap_or_else(|| {
                names.push(&block.session);
                sessions.push(Vec::new());
                names.len() - 1
            });
            sessions[at].push(metric.better.cost(value).ln() - off(block));
        }
        Self { sessions }
    }

    pub(super) fn count(&self) -> usize {
        self.sessions.iter().map(Vec::len).sum()
    }

    pub(super) fn centre(&self) -> f64 {
        stats::trimmed(&self.sessions.concat())
            .expect("only metrics with blocks are compared")
            .value
    }

    /// The block values back in the metric's stored unit.
    pub(super) fn values(&self, better: Better) -> Vec<f64> {
        self.sessions.iter().flatten().map(|ln_cost| better.cost(ln_cost.exp())).collect()
    }

    /// Sum of squares of the blocks about their session's mean, with its degrees of freedom.
    fn within(&self) -> (f64, f64) {
        let squares = self.sessions.iter().map(|session| stats::squares(session)).sum();
        (squares, (self.count() - self.sessions.len()) as f64)
    }

    /// The variance of the centre by what its own blocks say; nothing where each is a session of
    /// its own.
    fn own(&self) -> f64 {
        let (squares, freedom) = self.within();
        let count = self.count();
        if freedom > 0.0 { squares / freedom * stats::trim_cost(count) / count as f64 } else { 0.0 }
    }

    /// How much the means of sessions vary beyond what the blocks in them explain.
    fn excess(&self) -> Option<f64> {
        let means: Vec<f64> =
            self.sessions.iter().filter_map(|session| stats::mean(session)).collect();
        let between = stats::sd(&means)?.powi(2);
        let (squares, freedom) = self.within();
        let process = if freedom > 0.0 { squares / freedom } else { 0.0 };
        let share = self.sessions.iter().map(|session| 1.0 / session.len() as f64).sum::<f64>()
            / means.len() as f64;
        Some(between - process * share)
    }
}

/// A variance with its degrees of freedom; infinite where it is assumed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Variance {
    value: f64,
    freedom: f64,
}

impl Variance {
    /// Of something that is taken to have this standard deviation.
    pub(super) fn assumed(sd: f64) -> Self {
        Self { value: sd * sd, freedom: f64::INFINITY }
    }

    /// Of something that was measured.
    pub(super) fn measured(spread: &Spread) -> Self {
        Self { value: spread.sd * spread.sd, freedom: spread.freedom }
    }

    /// Two estimates of one thing, each with the weight of its degrees of freedom, which is the
    /// estimate of least variance for normal values.
    fn pooled(self, other: Self) -> Self {
        let freedom = self.freedom + other.freedom;
        let value = (self.value * self.freedom + other.value * other.freedom) / freedom;
        Self { value, freedom }
    }
}

/// What sessions are taken to differ by when the baseline cannot say: 3 %.
pub(super) const UNCALIBRATED: Variance = Variance { value: 0.03 * 0.03, freedom: f64::INFINITY };

/// Sessions differ by at least 0.5 %, even where three of them happened to agree.
const SESSION_FLOOR: f64 = 0.005;

/// How much sessions differ, by kind of metric.
pub(super) struct Sessions<'a> {
    of_baseline: BTreeMap<&'static str, Variance>,
    calibrated: &'a BTreeMap<String, Spread>,
}

impl<'a> Sessions<'a> {
    /// Pools over metrics of one kind, because three sessions alone say little. The degrees of
    /// freedom stay those of the sessions: a machine that is slow today is slow in every
    /// scenario, so that more of them are not more evidence.
    ///
    /// What a calibration found is pooled with it, by degrees of freedom: both estimate how much
    /// this machine differs from one time to another.
    pub(super) fn of<'b>(
        series: impl Iterator<Item = (&'static Metric, &'b Series)>,
        calibrated: &'a BTreeMap<String, Spread>,
    ) -> Self {
        let mut kinds: BTreeMap<&'static str, Vec<(f64, usize)>> = BTreeMap::new();
        for (metric, series) in series {
            let sessions = series.sessions.len();
            if let Some(excess) = series.excess().filter(|_| sessions >= SESSIONS_NEEDED) {
                kinds.entry(metric.kind()).or_default().push((excess, sessions));
            }
        }
        let pooled = kinds.into_iter().map(|(kind, excess)| {
            let mean = excess.iter().map(|(excess, _)| excess).sum::<f64>() / excess.len() as f64;
            let fewest =
                excess.iter().map(|(_, sessions)| *sessions).min().unwrap_or(SESSIONS_NEEDED);
            (kind, Variance { value: mean.max(0.0), freedom: (fewest - 1) as f64 })
        });
        Self { of_baseline: pooled.collect(), calibrated }
    }

    /// Whether that is known without three sessions in the baseline itself.
    pub(super) fn are_calibrated(&self, metric: &Metric) -> bool {
        let needed = (SESSIONS_NEEDED - 1) as f64;
        self.calibrated.get(metric.kind()).is_some_and(|spread| spread.freedom >= needed)
    }

    /// How much one session differs from the next.
    pub(super) fn noise(&self, metric: &Metric) -> Variance {
        let floor = Variance::assumed(SESSION_FLOOR);
        let own = self.of_baseline.get(metric.kind()).copied();
        let calibrated = self.calibrated.get(metric.kind()).map(Variance::measured);
        let noise = match (own, calibrated) {
            (Some(own), Some(calibrated)) => Some(own.pooled(calibrated)),
            (own, calibrated) => own.or(calibrated),
        };
        noise.filter(|noise| noise.value > floor.value).unwrap_or(floor)
    }
}

/// Puts together the spread between processes, sessions and builds. `None` where nothing says how
/// much one process differs from the next.
///
/// With fewer than eight current blocks their spread is taken from the baseline's sessions; a
/// current run that is noisier than these can widen it, never narrow it.
pub(super) fn evidence(
    base: &Series,
    current: &Series,
    session: Variance,
    layout: Variance,
    levels: Levels,
) -> Option<Evidence> {
    let process = process(base, current)?;
    let sessions = 1.0 / base.sessions.len() as f64 + 1.0 / current.sessions.len() as f64;
    let others = [(session.value * sessions, session.freedom), (layout.value, layout.freedom)];
    let sum = |terms: &[(f64, f64)]| terms.iter().map(|(variance, _)| variance).sum::<f64>();
    let lasting = (base.own() + sum(&others)).sqrt();
    let terms = [process, others.into()].concat();
    let error = sum(&terms).sqrt();
    let freedom = stats::welch_satterthwaite(&terms);

    let theta = current.centre() - base.centre();
    let around = |level: f64| {
        let half = stats::student_t(level, freedom) * error;
        Interval { lo: theta - half, hi: theta + half }
    };
    let (single, pass, family) = (around(0.95), around(levels.pass).hi, around(levels.family));
    let smallest = family.hi - theta + stats::student_t(0.8, freedom) * error;
    Some(Evidence { error, freedom, single, pass, family, lasting, smallest })
}

/// The variances of both centres that come from one process differing from the next.
fn process(base: &Series, current: &Series) -> Option<Vec<(f64, f64)>> {
    let (before, now) = (base.count(), current.count());
    let per_block = |count: usize| stats::trim_cost(count) / count as f64;
    let floor = BLOCK_FLOOR * BLOCK_FLOOR * (1.0 / before as f64 + 1.0 / now as f64);
    let (squares, freedom) = base.within();
    let (more_squares, more_freedom) = current.within();
    if before >= BLOCKS_NEEDED && base.sessions.len() == before {
        // One block a session: the spread between sessions holds that between processes.
        return Some(vec![(floor, f64::INFINITY)]);
    }
    if freedom + more_freedom == 0.0 {
        return None;
    }
    let pooled = Variance {
        value: (squares + more_squares) / (freedom + more_freedom),
        freedom: freedom + more_freedom,
    };
    let own = Variance { value: squares / freedom, freedom };
    let spread = if freedom > 0.0 && own.value >= pooled.value { own } else { pooled };
    let terms = match stats::trimmed(&current.sessions.concat())?.error {
        Some((error, its_freedom)) if now >= BLOCKS_NEEDED => {
            vec![(spread.value * per_block(before), spread.freedom), (error * error, its_freedom)]
        }
        _ => vec![(spread.value * (per_block(before) + per_block(now)), spread.freedom)],
    };
    let total: f64 = terms.iter().map(|(variance, _)| variance).sum();
    Some(if total >= floor { terms } else { vec![(floor, f64::INFINITY)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_estimates_are_pooled_by_their_degrees_of_freedom() {
        let own = Variance { value: 0.0001, freedom: 2.0 };
        let pooled = own.pooled(Variance::measured(&Spread { sd: 0.02, freedom: 8.0 }));
        assert!((pooled.value - 0.00034).abs() < 1e-12, "{pooled:?}");
        assert_eq!(pooled.freedom, 10.0);
    }

    #[test]
    fn a_calibration_is_pooled_with_the_baseline_s_own_sessions_or_stands_alone() {
        let metric = crate::workload::metric("decode_tok_s").unwrap();
        let of = |sessions: &[&[f64]]| Series {
            sessions: sessions.iter().map(|session| session.to_vec()).collect(),
        };
        // Means 0.00, 0.02 and 0.04, variance 0.0004, blocks without any spread of their own.
        let three = of(&[&[0.0, 0.0], &[0.02, 0.02], &[0.04, 0.04]]);
        let one = of(&[&[0.0, 0.0]]);
        let calibrated =
            |sd, freedom| BTreeMap::from([("decode".to_owned(), Spread { sd, freedom })]);
        let none = BTreeMap::new();
        for (series, spreads, value, freedom) in [
            (&three, &none, 0.0004, 2.0),
            (&three, &calibrated(0.01, 6.0), 0.000175, 8.0),
            (&one, &calibrated(0.01, 6.0), 0.0001, 6.0),
            (&one, &calibrated(0.001, 6.0), 0.000025, f64::INFINITY), // Not below the floor.
            (&one, &none, 0.000025, f64::INFINITY),
        ] {
            let sessions = Sessions::of([(metric, series)].into_iter(), spreads);
            let noise = sessions.noise(metric);
            assert!((noise.value - value).abs() < 1e-12, "{noise:?} is not {value}");
            assert_eq!(noise.freedom, freedom);
        }
        for (freedom, known) in [(1.0, false), (2.0, true)] {
            let spreads = calibrated(0.01, freedom);
            assert_eq!(Sessions::of([].into_iter(), &spreads).are_calibrated(metric), known);
        }
    }
}
