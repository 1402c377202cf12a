//! The block values of one metric as ln costs, grouped by session.

use crate::record::{Block, Case};
use crate::stats;
use crate::workload::{Better, Metric};

/// The ln costs of one metric of one scenario, one list per session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) sessions: Vec<Vec<f64>>,
}

/// One metric of the base and of the run.
pub(super) struct SeriesPair {
    pub(super) base: Series,
    pub(super) current: Series,
}

impl SeriesPair {
    /// The change of ln cost.
    pub(super) fn theta(&self) -> f64 {
        self.current.centre() - self.base.centre()
    }
}

impl Series {
    /// Leaves out blocks without a value, and values that are not positive: no change is computed
    /// from a zero.
    pub(super) fn new(case: &Case, metric: &Metric) -> Self {
        Self::adjusted(case, metric, |_| 0.0)
    }

    /// As [`Series::new`], with an adjustment subtracted from the ln cost of each block.
    pub(super) fn adjusted(
        case: &Case,
        metric: &Metric,
        adjustment: impl Fn(&Block) -> f64,
    ) -> Self {
        let mut ids: Vec<&str> = Vec::new();
        let mut sessions: Vec<Vec<f64>> = Vec::new();
        for block in &case.blocks {
            let value = block.value(metric.name);
            let Some(value) = value.filter(|value| value.is_finite() && *value > 0.0) else {
                continue;
            };
            let at = ids.iter().position(|id| *id == block.session).unwrap_or_else(|| {
                ids.push(&block.session);
                sessions.push(Vec::new());
                ids.len() - 1
            });
            sessions[at].push(metric.better.cost(value).ln() - adjustment(block));
        }
        Self { sessions }
    }

    /// Number of blocks.
    pub(super) fn count(&self) -> usize {
        self.sessions.iter().map(Vec::len).sum()
    }

    /// The trimmed mean of all blocks.
    pub(super) fn centre(&self) -> f64 {
        stats::trimmed_mean(&self.sessions.concat())
            .expect("only metrics with blocks are compared")
            .value
    }

    /// The block values in the metric's stored unit.
    pub(super) fn values(&self, better: Better) -> Vec<f64> {
        self.sessions.iter().flatten().map(|ln_cost| better.cost(ln_cost.exp())).collect()
    }

    /// Sum of squared deviations of the blocks from their session's mean, with its degrees of
    /// freedom.
    pub(super) fn within_sessions(&self) -> (f64, f64) {
        let squares = self.sessions.iter().map(|session| stats::sum_of_squares(session)).sum();
        (squares, (self.count() - self.sessions.len()) as f64)
    }

    /// The variance of the centre from the spread within sessions; 0 where each block is a session
    /// of its own.
    pub(super) fn centre_variance(&self) -> f64 {
        let (squares, freedom) = self.within_sessions();
        let count = self.count();
        if freedom > 0.0 {
            squares / freedom * stats::trimmed_mean_variance_ratio(count) / count as f64
        } else {
            0.0
        }
    }

    /// The variance component between sessions: the variance of the session means less what the
    /// blocks within them explain. May be negative.
    pub(super) fn between_sessions(&self) -> Option<f64> {
        let means: Vec<f64> =
            self.sessions.iter().filter_map(|session| stats::mean(session)).collect();
        let between = stats::sd(&means)?.powi(2);
        let (squares, freedom) = self.within_sessions();
        let process = if freedom > 0.0 { squares / freedom } else { 0.0 };
        let share = self.sessions.iter().map(|session| 1.0 / session.len() as f64).sum::<f64>()
            / means.len() as f64;
        Some(between - process * share)
    }
}
