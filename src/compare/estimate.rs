//! The standard error of a change against a stored baseline, from three variance components:
//! between processes, between sessions and between code layouts. Knows no metric's limit and gives
//! no verdict.

use std::collections::BTreeMap;

use crate::compare::looks::{BLOCK_FLOOR, Levels};
use crate::compare::series::{Series, SeriesPair};
use crate::compare::{BLOCKS_NEEDED, Evidence, SESSIONS_NEEDED};
use crate::record::calibration::SdEstimate;
use crate::stats;
use crate::workload::Metric;

/// A variance with its degrees of freedom; infinite where it is assumed.
pub(super) type Variance = (f64, f64);

/// The variance of an estimated standard deviation.
fn variance(estimate: &SdEstimate) -> Variance {
    (estimate.sd * estimate.sd, estimate.freedom)
}

/// The pooled variance: two estimates of the same variance, weighted by degrees of freedom, which
/// has the least variance for normal values.
fn pooled(one: Variance, other: Variance) -> Variance {
    let freedom = one.1 + other.1;
    ((one.0 * one.1 + other.0 * other.1) / freedom, freedom)
}

/// Pools variances over the metrics of a kind: their mean, with the smallest of their degrees of
/// freedom. Scenarios share their sessions and code layouts, so that more scenarios are not more
/// evidence.
pub(crate) fn pool_by_kind(
    variances: impl Iterator<Item = (&'static Metric, Variance)>,
) -> BTreeMap<&'static str, Variance> {
    let mut kinds: BTreeMap<&'static str, Vec<Variance>> = BTreeMap::new();
    for (metric, variance) in variances {
        kinds.entry(metric.kind()).or_default().push(variance);
    }
    let pool = |(kind, variances): (&'static str, Vec<Variance>)| {
        let sum: f64 = variances.iter().map(|(variance, _)| variance).sum();
        let freedom = variances.iter().map(|(_, freedom)| *freedom).fold(f64::INFINITY, f64::min);
        (kind, ((sum / variances.len() as f64).max(0.0), freedom))
    };
    kinds.into_iter().map(pool).collect()
}

/// Assumed between sessions when the baseline has too few of them: 3 %.
pub(super) const UNCALIBRATED: Variance = (0.03 * 0.03, f64::INFINITY);

/// Smallest standard deviation between sessions, even where three of them happened to agree: 0.5 %.
const SESSION_FLOOR: f64 = 0.005;

/// The variance between sessions, by kind of metric.
pub(super) struct SessionVariances<'a> {
    of_baseline: BTreeMap<&'static str, Variance>,
    calibrated: &'a BTreeMap<String, SdEstimate>,
}

impl<'a> SessionVariances<'a> {
    /// Averages over the metrics of one kind, because three sessions alone estimate a variance
    /// badly. A machine that is slow today is slow in every scenario.
    ///
    /// The estimate of a calibration is pooled with it: both estimate how much this machine varies
    /// from one session to another.
    pub(super) fn new<'b>(
        series: impl Iterator<Item = (&'static Metric, &'b Series)>,
        calibrated: &'a BTreeMap<String, SdEstimate>,
    ) -> Self {
        let between = series.filter_map(|(metric, series)| {
            let sessions = series.sessions.len();
            let between = series.between_sessions().filter(|_| sessions >= SESSIONS_NEEDED)?;
            Some((metric, (between, (sessions - 1) as f64)))
        });
        Self { of_baseline: pool_by_kind(between), calibrated }
    }

    /// Whether a calibration knows the variance as well as three sessions would.
    pub(super) fn is_calibrated(&self, metric: &Metric) -> bool {
        let needed = (SESSIONS_NEEDED - 1) as f64;
        self.calibrated.get(metric.kind()).is_some_and(|estimate| estimate.freedom >= needed)
    }

    /// The variance between sessions of a metric.
    pub(super) fn of(&self, metric: &Metric) -> Variance {
        let own = self.of_baseline.get(metric.kind()).copied();
        let calibrated = self.calibrated.get(metric.kind()).map(variance);
        let variance = match (own, calibrated) {
            (Some(own), Some(calibrated)) => Some(pooled(own, calibrated)),
            (own, calibrated) => own.or(calibrated),
        };
        let floor = (SESSION_FLOOR * SESSION_FLOOR, f64::INFINITY);
        variance.filter(|variance| variance.0 > floor.0).unwrap_or(floor)
    }
}

/// Combines the variance components (Welch–Satterthwaite). `None` where the variance between
/// processes cannot be estimated.
///
/// With fewer than eight current blocks, that variance is taken from the baseline's sessions; a
/// current run that is noisier can widen the interval, never narrow it.
pub(super) fn evidence(
    series: &SeriesPair,
    session: Variance,
    layout: SdEstimate,
    levels: Levels,
) -> Option<Evidence> {
    let SeriesPair { base, current } = series;
    let process = process_variances(base, current)?;
    let sessions = 1.0 / base.sessions.len() as f64 + 1.0 / current.sessions.len() as f64;
    let others = [(session.0 * sessions, session.1), variance(&layout)];
    let irreducible = base.centre_variance() + (others[0].0 + others[1].0);
    let terms = [process, others.into()].concat();
    Some(levels.evidence(series.theta(), &terms, irreducible.sqrt()))
}

/// The variances of both centres that are due to the variation between processes.
fn process_variances(base: &Series, current: &Series) -> Option<Vec<Variance>> {
    let (before, now) = (base.count(), current.count());
    let per_block = |count: usize| stats::trimmed_mean_variance_ratio(count) / count as f64;
    let floor = BLOCK_FLOOR * BLOCK_FLOOR * (1.0 / before as f64 + 1.0 / now as f64);
    let (squares, freedom) = base.within_sessions();
    let (more_squares, more_freedom) = current.within_sessions();
    if before >= BLOCKS_NEEDED && base.sessions.len() == before {
        // One block per session: the variance between sessions includes that between processes.
        return Some(vec![(floor, f64::INFINITY)]);
    }
    if freedom + more_freedom == 0.0 {
        return None;
    }
    let pooled = ((squares + more_squares) / (freedom + more_freedom), freedom + more_freedom);
    let own = (squares / freedom, freedom);
    let (variance, freedom) = if freedom > 0.0 && own.0 >= pooled.0 { own } else { pooled };
    let terms = match stats::trimmed_mean(&current.sessions.concat())?.error {
        Some((error, its_freedom)) if now >= BLOCKS_NEEDED => {
            vec![(variance * per_block(before), freedom), (error * error, its_freedom)]
        }
        _ => vec![(variance * (per_block(before) + per_block(now)), freedom)],
    };
    let total: f64 = terms.iter().map(|(variance, _)| variance).sum();
    Some(if total >= floor { terms } else { vec![(floor, f64::INFINITY)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_estimates_are_pooled_by_their_degrees_of_freedom() {
        let calibrated = variance(&SdEstimate { sd: 0.02, freedom: 8.0 });
        let (value, freedom) = pooled((0.0001, 2.0), calibrated);
        assert!((value - 0.00034).abs() < 1e-12, "{value}");
        assert_eq!(freedom, 10.0);
    }

    #[test]
    fn a_calibration_is_pooled_with_the_baseline_s_own_sessions_or_stands_alone() {
        let metric = crate::workload::metric("decode_tok_s").unwrap();
        let series = |sessions: &[&[f64]]| Series {
            sessions: sessions.iter().map(|session| session.to_vec()).collect(),
        };
        // Means 0.00, 0.02 and 0.04, variance 0.0004, blocks without any variance.
        let three = series(&[&[0.0, 0.0], &[0.02, 0.02], &[0.04, 0.04]]);
        let one = series(&[&[0.0, 0.0]]);
        let calibrated =
            |sd, freedom| BTreeMap::from([("decode".to_owned(), SdEstimate { sd, freedom })]);
        let none = BTreeMap::new();
        for (series, estimates, value, freedom) in [
            (&three, &none, 0.0004, 2.0),
            (&three, &calibrated(0.01, 6.0), 0.000175, 8.0),
            (&one, &calibrated(0.01, 6.0), 0.0001, 6.0),
            (&one, &calibrated(0.001, 6.0), 0.000025, f64::INFINITY), // Not below the floor.
            (&one, &none, 0.000025, f64::INFINITY),
        ] {
            let sessions = SessionVariances::new([(metric, series)].into_iter(), estimates);
            let found = sessions.of(metric);
            assert!((found.0 - value).abs() < 1e-12, "{found:?} is not {value}");
            assert_eq!(found.1, freedom);
        }
        for (freedom, known) in [(1.0, false), (2.0, true)] {
            let estimates = calibrated(0.01, freedom);
            assert_eq!(
                SessionVariances::new([].into_iter(), &estimates).is_calibrated(metric),
                known
            );
        }
    }
}
