//! How well a change against a stored baseline is known: the spread between processes, between sessions and between
//! builds, put together. Knows no metric's limit and gives no verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::BLOCKS_NEEDED;
use crate::compare::SESSIONS_NEEDED;
use crate::record::Case;
use crate::stats;
use crate::workload::Better;
use crate::workload::Metric;

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
    /// Its degrees of freedom; infinite ones, which come from assumed spreads only, are `null` in JSON.
    pub freedom: f64,
    /// Holds the change with 90 %: each end is wrong with 5 %.
    pub single: Interval,
    /// The upper end that a pass has to hold at.
    pub pass: f64,
    /// The same at the level at which all metrics of the suite hold together.
    pub family: Interval,
    /// The smallest slowdown that this run would have told from none, with a probability of about 80 %.
    pub smallest: f64,
}

/// The ln costs of one metric of one scenario, a list per session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) sessions: Vec<Vec<f64>>,
}

impl Series {
    /// Leaves out blocks without a value, and values that are not positive: no change is computed from a zero.
    pub(super) fn of(case: &Case, metric: &Metric) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut sessions: Vec<Vec<f64>> = Vec::new();
        for block in &case.blocks {
            let value = block.values.get(metric.name).copied().flatten();
            let Some(value) = value.filter(|value| value.is_finite() && *value > 0.0) else {
                continue;
            };
            let at = names.iter().position(|name| *name == block.session).unwrap_or_else(|| {
                names.push(&block.session);
                sessions.push(Vec::new());
                names.len() - 1
            });
            sessions[at].push(metric.better.cost(value).ln());
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

/// What sessions are taken to differ by when the baseline cannot say: 3 %.
pub(super) const UNCALIBRATED: Variance = Variance { value: 0.03 * 0.03, freedom: f64::INFINITY };

/// Sessions differ by at least 0.5 %, even where three of them happened to agree.
const SESSION_FLOOR: f64 = 0.005;

/// Blocks differ by at least 0.4 %: peak memory may repeat to the byte, which is no proof for the next process.
const BLOCK_FLOOR: f64 = 0.004;

/// How much the sessions of a baseline differ, by kind of metric.
pub(super) struct Sessions(BTreeMap<&'static str, Variance>);

impl Sessions {
    /// Pools over metrics of one kind, because three sessions alone say little. The degrees of freedom stay those of the
    /// sessions: a machine that is slow today is slow in every scenario, so that more of them are not more evidence.
    pub(super) fn of<'a>(series: impl Iterator<Item = (&'static Metric, &'a Series)>) -> Self {
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
        Self(pooled.collect())
    }

    pub(super) fn noise(&self, metric: &Metric) -> Variance {
        let floor = Variance { value: SESSION_FLOOR * SESSION_FLOOR, freedom: f64::INFINITY };
        self.0
            .get(metric.kind())
            .copied()
            .filter(|noise| noise.value > floor.value)
            .unwrap_or(floor)
    }
}

/// Puts together the spread between processes, sessions and builds. `None` where nothing says how much one process differs
/// from the next.
///
/// With fewer than eight current blocks their spread is taken from the baseline's sessions; a current run that is noisier
/// than these can widen it, never narrow it. `level` is that of the whole family of metrics.
pub(super) fn evidence(
    base: &Series,
    current: &Series,
    session: Variance,
    layout_sd: f64,
    level: f64,
) -> Option<Evidence> {
    let process = process(base, current)?;
    let sessions = 1.0 / base.sessions.len() as f64 + 1.0 / current.sessions.len() as f64;
    let mut terms = process;
    terms.push((session.value * sessions, session.freedom));
    terms.push((layout_sd * layout_sd, f64::INFINITY));
    let error = terms.iter().map(|(variance, _)| variance).sum::<f64>().sqrt();
    let freedom = stats::welch_satterthwaite(&terms);

    let theta = current.centre() - base.centre();
    let around = |level: f64| {
        let half = stats::student_t(level, freedom) * error;
        Interval { lo: theta - half, hi: theta + half }
    };
    let smallest = (stats::student_t(level, freedom) + stats::student_t(0.8, freedom)) * error;
    let single = around(0.95);
    let (pass, family) = (single.hi, around(level)); // One look: a pass pays for no others.
    Some(Evidence { error, freedom, single, pass, family, smallest })
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
