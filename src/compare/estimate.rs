//! The standard error of a change against a stored baseline, from three variance components:
//! between processes, between sessions and between code layouts. Knows no metric's limit and gives
//! no verdict.

use std::collections::BTreeMap;

use crate::compare::looks::{BLOCK_FLOOR, Levels};
use crate::compare::series::Series;
use crate::compare::{BLOCKS_NEEDED, Evidence, Interval, SESSIONS_NEEDED};
use crate::record::calibration::SdEstimate;
use crate::stats;
use crate::workload::Metric;

/// A variance with its degrees of freedom; infinite where it is assumed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Variance {
    value: f64,
    freedom: f64,
}

impl Variance {
    /// From an assumed standard deviation.
    pub(super) fn assumed(sd: f64) -> Self {
        Self { value: sd * sd, freedom: f64::INFINITY }
    }

    /// From an estimated standard deviation.
    pub(super) fn estimated(estimate: &SdEstimate) -> Self {
        Self { value: estimate.sd * estimate.sd, freedom: estimate.freedom }
    }

    /// The pooled variance: two estimates of the same variance, weighted by degrees of freedom,
    /// which has the least variance for normal values.
    fn pooled(self, other: Self) -> Self {
        let freedom = self.freedom + other.freedom;
        let value = (self.value * self.freedom + other.value * other.freedom) / freedom;
        Self { value, freedom }
    }
}

/// Assumed between sessions when the baseline has too few of them: 3 %.
pub(super) const UNCALIBRATED: Variance = Variance { value: 0.03 * 0.03, freedom: f64::INFINITY };

/// Smallest standard deviation between sessions, even where three of them happened to agree: 0.5 %.
const SESSION_FLOOR: f64 = 0.005;

/// The variance between sessions, by kind of metric.
pub(super) struct SessionVariances<'a> {
    of_baseline: BTreeMap<&'static str, Variance>,
    calibrated: &'a BTreeMap<String, SdEstimate>,
}

impl<'a> SessionVariances<'a> {
    /// Averages over the metrics of one kind, because three sessions alone estimate a variance
    /// badly. The degrees of freedom stay those of the sessions: a machine that is slow today is
    /// slow in every scenario, so the scenarios are not independent.
    ///
    /// The estimate of a calibration is pooled with it: both estimate how much this machine varies
    /// from one session to another.
    pub(super) fn new<'b>(
        series: impl Iterator<Item = (&'static Metric, &'b Series)>,
        calibrated: &'a BTreeMap<String, SdEstimate>,
    ) -> Self {
        let mut kinds: BTreeMap<&'static str, Vec<(f64, usize)>> = BTreeMap::new();
        for (metric, series) in series {
            let sessions = series.sessions.len();
            let between = series.between_sessions().filter(|_| sessions >= SESSIONS_NEEDED);
            if let Some(between) = between {
                kinds.entry(metric.kind()).or_default().push((between, sessions));
            }
        }
        let pooled = kinds.into_iter().map(|(kind, between)| {
            let mean =
                between.iter().map(|(between, _)| between).sum::<f64>() / between.len() as f64;
            let fewest =
                between.iter().map(|(_, sessions)| *sessions).min().unwrap_or(SESSIONS_NEEDED);
            (kind, Variance { value: mean.max(0.0), freedom: (fewest - 1) as f64 })
        });
        Self { of_baseline: pooled.collect(), calibrated }
    }

    /// Whether a calibration knows the variance as well as three sessions would.
    pub(super) fn is_calibrated(&self, metric: &Metric) -> bool {
        let needed = (SESSIONS_NEEDED - 1) as f64;
        self.calibrated.get(metric.kind()).is_some_and(|estimate| estimate.freedom >= needed)
    }

    /// The variance between sessions of a metric.
    pub(super) fn of(&self, metric: &Metric) -> Variance {
        let floor = Variance::assumed(SESSION_FLOOR);
        let own = self.of_baseline.get(metric.kind()).copied();
        let calibrated = self.calibrated.get(metric.kind()).map(Variance::estimated);
        let variance = match (own, calibrated) {
            (Some(own), Some(calibrated)) => Some(own.pooled(calibrated)),
            (own, calibrated) => own.or(calibrated),
        };
        variance.filter(|variance| variance.value > floor.value).unwrap_or(floor)
    }
}

/// Combines the variance components (Welch–Satterthwaite). `None` where the variance between
/// processes cannot be estimated.
///
/// With fewer than eight current blocks, that variance is taken from the baseline's sessions; a
/// current run that is noisier can widen the interval, never narrow it.
pub(super) fn evidence(
    base: &Series,
    current: &Series,
    session: Variance,
    layout: Variance,
    levels: Levels,
) -> Option<Evidence> {
    let process = process_variances(base, current)?;
    let sessions = 1.0 / base.sessions.len() as f64 + 1.0 / current.sessions.len() as f64;
    let others = [(session.value * sessions, session.freedom), (layout.value, layout.freedom)];
    let sum = |terms: &[(f64, f64)]| terms.iter().map(|(variance, _)| variance).sum::<f64>();
    let irreducible_error = (base.centre_variance() + sum(&others)).sqrt();
    let terms = [process, others.into()].concat();
    let standard_error = sum(&terms).sqrt();
    let freedom = stats::welch_satterthwaite(&terms);

    let theta = current.centre() - base.centre();
    let interval = |level: f64| {
        Interval::around(theta, stats::student_t_quantile(level, freedom) * standard_error)
    };
    let ci_familywise = interval(levels.familywise);
    Some(Evidence {
        standard_error,
        freedom,
        ci_90: interval(0.95),
        pass_bound: interval(levels.pass).hi,
        ci_familywise,
        irreducible_error,
        smallest_detectable: ci_familywise.hi - theta
            + stats::student_t_quantile(0.8, freedom) * standard_error,
    })
}

/// The variances of both centres that are due to the variation between processes.
fn process_variances(base: &Series, current: &Series) -> Option<Vec<(f64, f64)>> {
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
    let pooled = Variance {
        value: (squares + more_squares) / (freedom + more_freedom),
        freedom: freedom + more_freedom,
    };
    let own = Variance { value: squares / freedom, freedom };
    let per_process = if freedom > 0.0 && own.value >= pooled.value { own } else { pooled };
    let terms = match stats::trimmed_mean(&current.sessions.concat())?.error {
        Some((error, its_freedom)) if now >= BLOCKS_NEEDED => {
            vec![
                (per_process.value * per_block(before), per_process.freedom),
                (error * error, its_freedom),
            ]
        }
        _ => {
            vec![(per_process.value * (per_block(before) + per_block(now)), per_process.freedom)]
        }
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
        let pooled = own.pooled(Variance::estimated(&SdEstimate { sd: 0.02, freedom: 8.0 }));
        assert!((pooled.value - 0.00034).abs() < 1e-12, "{pooled:?}");
        assert_eq!(pooled.freedom, 10.0);
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
            let variance = sessions.of(metric);
            assert!((variance.value - value).abs() < 1e-12, "{variance:?} is not {value}");
            assert_eq!(variance.freedom, freedom);
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
