//! Statistics on plain slices: median and quantiles, trimmed mean with winsorized variance, Student
//! t, Welch–Satterthwaite degrees of freedom, Clopper–Pearson intervals, moderated variances
//! (empirical Bayes), Theil–Sen lines and the Mann–Whitney test. Knows nothing of what was
//! measured. A statistic that needs more values than there are is `None`, never zero.

use std::cell::RefCell;
use std::collections::HashMap;

use statrs::distribution::{Beta, Continuous as _, ContinuousCDF as _, Normal, StudentsT};

mod empirical_bayes;
mod mann_whitney;
mod random;
mod theil_sen;

pub use empirical_bayes::VariancePrior;
pub(crate) use mann_whitney::mann_whitney;
pub use random::Random;
pub use theil_sen::{Line, LineFit};
pub(crate) use theil_sen::{fit_line, theil_sen};

/// The middle value; of an even count the mean of the two middle ones.
pub fn median(values: &[f64]) -> Option<f64> {
    interpolated(values, 0.5)
}

/// A quantile above the median: linear interpolation between order statistics (type 7 of Hyndman
/// and Fan 1996).
///
/// `None` where fewer than one value is expected above it, n(1-q) < 1: the p99 of 20 values would
/// just be their maximum.
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    // Floating point: 10 * (1 - 0.9) is slightly below 1.
    (values.len() as f64 * (1.0 - q) >= 1.0 - 1e-9).then(|| interpolated(values, q))?
}

fn interpolated(values: &[f64], q: f64) -> Option<f64> {
    let sorted = sorted(values);
    let at = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sample standard deviation, with n-1.
pub fn sd(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| (sum_of_squares(values) / (values.len() - 1) as f64).sqrt())
}

/// The sum of squared deviations from the mean.
pub(crate) fn sum_of_squares(values: &[f64]) -> f64 {
    let centre = mean(values).unwrap_or(0.0);
    values.iter().map(|value| (value - centre).powi(2)).sum()
}

/// A trimmed mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TrimmedMean {
    /// Mean of the values that remain after trimming both ends.
    pub value: f64,
    /// Standard error and its degrees of freedom; `None` below five values.
    pub error: Option<(f64, f64)>,
}

/// The trimmed mean and its standard error from the winsorized variance (Tukey and McLaughlin
/// 1963), with K - 2g - 1 degrees of freedom where g values are trimmed on each side.
///
/// g is a tenth of the values, and at least one from three values on, so that a single disturbed
/// process never moves the mean: of three values the result is the median. One or two values are
/// averaged. Below five values at most one degree of freedom would remain, too few for an error
/// estimate: the error is `None` and the caller takes it from elsewhere.
pub(crate) fn trimmed_mean(values: &[f64]) -> Option<TrimmedMean> {
    let count = values.len();
    let sorted = sorted(values);
    let trim = trimmed_per_side(count);
    let kept = &sorted[trim..count - trim];
    let value = mean(kept)?;
    let error = (count >= 5).then(|| {
        let winsorized: Vec<f64> =
            sorted.iter().map(|x| x.clamp(kept[0], kept[kept.len() - 1])).collect();
        let share = kept.len() as f64 / count as f64;
        let deviation = sd(&winsorized).expect("five values have a deviation");
        (deviation / (share * (count as f64).sqrt()), (kept.len() - 1) as f64)
    });
    Some(TrimmedMean { value, error })
}

fn trimmed_per_side(count: usize) -> usize {
    if count < 3 { 0 } else { (count / 10).max(1) }
}

/// Variance of [`trimmed_mean`] relative to that of the arithmetic mean, for normal values: what
/// its robustness costs in efficiency. From the variances of normal order statistics; above eight
/// values, that of a tenth trimmed.
pub(crate) fn trimmed_mean_variance_ratio(count: usize) -> f64 {
    match count {
        0..=2 => 1.0,
        3 => 1.35,
        4 => 1.19,
        5 => 1.14,
        6 => 1.10,
        7 => 1.08,
        _ => 1.06,
    }
}

/// The `p` quantile of Student's t distribution with this many degrees of freedom (Student 1908).
/// Infinite degrees of freedom give the normal distribution.
///
/// Results are cached: inverting the distribution costs microseconds, and a replay of thousands of
/// suites asks for the same few quantiles.
pub(crate) fn student_t_quantile(p: f64, freedom: f64) -> f64 {
    thread_local! {
        static CACHE: RefCell<HashMap<[u64; 2], f64>> = RefCell::default();
    }
    let invert = || {
        if freedom > 1e4 {
            // The two distributions agree to four digits there; inverting Student t loses more.
            return Normal::standard().inverse_cdf(p);
        }
        let freedom = freedom.max(1.0);
        let tail = p.min(1.0 - p);
        if tail <= 0.0 || tail == 0.5 {
            return if p == 0.5 { 0.0 } else { (p - 0.5) * f64::INFINITY };
        }
        upper_tail_quantile(tail, freedom).copysign(p - 0.5)
    };
    CACHE.with_borrow_mut(|cache| {
        if cache.len() > 1 << 16 {
            cache.clear(); // Bounds the memory of a process that runs for weeks.
        }
        *cache.entry([p.to_bits(), freedom.to_bits()]).or_insert_with(invert)
    })
}

/// The value that Student t exceeds with this probability, below a half: Newton's method on the
/// logarithms of both, which are nearly proportional in the tail. Several times as fast as the
/// bisection of the library.
fn upper_tail_quantile(probability: f64, freedom: f64) -> f64 {
    let student = StudentsT::new(0.0, 1.0, freedom).expect("one or more degrees of freedom");
    let normal = -Normal::standard().inverse_cdf(probability);
    let mut x = normal * (1.0 + (normal * normal + 1.0) / (4.0 * freedom));
    for _ in 0..60 {
        let tail = student.cdf(-x);
        let step = (tail / probability).ln() * tail / (x * student.pdf(x));
        x *= step.clamp(-2.0, 2.0).exp();
        if step.abs() < 1e-14 {
            break;
        }
    }
    x
}

/// Welch–Satterthwaite: the effective degrees of freedom of a sum of variances, each with its own
/// (Welch 1947, Satterthwaite 1946). A variance that is assumed rather than estimated has
/// infinitely many. The result is at least one.
pub(crate) fn welch_satterthwaite(terms: &[(f64, f64)]) -> f64 {
    let total: f64 = terms.iter().map(|(variance, _)| variance).sum();
    let spread: f64 = terms.iter().map(|(variance, freedom)| variance * variance / freedom).sum();
    if spread > 0.0 { (total * total / spread).max(1.0) } else { f64::INFINITY }
}

/// The exact 95 % confidence interval of a probability, from `hits` in `trials` (Clopper and
/// Pearson 1934); each end errs with 2.5 % at most. Without trials it is 0 to 1.
pub(crate) fn clopper_pearson(hits: usize, trials: usize) -> (f64, f64) {
    assert!(hits <= trials, "{hits} of {trials}");
    const TAIL: f64 = 0.025;
    let beta = |a: usize, b: usize, p: f64| {
        Beta::new(a as f64, b as f64).expect("both counts are above 0").inverse_cdf(p)
    };
    let low = if hits == 0 { 0.0 } else { beta(hits, trials - hits + 1, TAIL) };
    let high = if hits == trials { 1.0 } else { beta(hits + 1, trials - hits, 1.0 - TAIL) };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_pair() {
        for (values, expected) in [
            ([].as_slice(), None),
            (&[7.0], Some(7.0)),
            (&[1.0, 4.0], Some(2.5)),
            (&[9.0, 1.0, 4.0], Some(4.0)),
            (&[8.0, 1.0, 2.0, 4.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_quantile_needs_a_value_beyond_it() {
        let count = |n: usize| (1..=n).map(|i| i as f64).collect::<Vec<_>>();
        assert_eq!(quantile(&count(9), 0.9), None);
        near(quantile(&count(10), 0.9).unwrap(), 9.1, 1e-12);
        assert_eq!(quantile(&count(19), 0.95), None);
        near(quantile(&count(20), 0.95).unwrap(), 19.05, 1e-12);
        assert_eq!(quantile(&count(99), 0.99), None);
        near(quantile(&count(100), 0.99).unwrap(), 99.01, 1e-12);
        assert_eq!(quantile(&[], 0.9), None);
    }

    #[test]
    fn the_standard_deviation_divides_by_one_less_than_the_count() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[3.0]), Some(3.0));
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
        assert_eq!(sd(&[3.0]), None);
        near(sd(&[1.0, 3.0]).unwrap(), 2f64.sqrt(), 1e-15);
        near(sd(&[2.0, 4.0, 6.0]).unwrap(), 2.0, 1e-15);
        near(sd(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap(), (32f64 / 7.0).sqrt(), 1e-15);
    }

    #[test]
    fn one_outlier_does_not_move_a_trimmed_mean() {
        assert_eq!(trimmed_mean(&[]), None);
        assert_eq!(trimmed_mean(&[2.0]), Some(TrimmedMean { value: 2.0, error: None }));
        assert_eq!(trimmed_mean(&[2.0, 4.0]), Some(TrimmedMean { value: 3.0, error: None }));
        assert_eq!(trimmed_mean(&[2.0, 90.0, 4.0]), Some(TrimmedMean { value: 4.0, error: None }));
        assert_eq!(
            trimmed_mean(&[1.0, 2.0, 4.0, 90.0]),
            Some(TrimmedMean { value: 3.0, error: None })
        );
        // Winsorized: 2 2 3 4 4, variance 1; SE = 1 / (3/5 * sqrt 5).
        let five = trimmed_mean(&[1.0, 2.0, 3.0, 4.0, 90.0]).unwrap();
        assert_eq!(five.value, 3.0);
        let (error, freedom) = five.error.unwrap();
        near(error, 1.0 / (0.6 * 5f64.sqrt()), 1e-12);
        assert_eq!(freedom, 2.0);
        let twenty = trimmed_mean(&(1..=20).map(f64::from).collect::<Vec<_>>()).unwrap();
        assert_eq!((twenty.value, twenty.error.unwrap().1), (10.5, 15.0));
    }

    #[test]
    fn quantiles_of_student_t_agree_with_the_tables() {
        for (p, freedom, expected) in [
            (0.95, 1.0, 6.313752),
            (0.975, 2.0, 4.302653),
            (0.95, 3.0, 2.353363),
            (0.8, 5.0, 0.919544),
            (0.95, 5.0, 2.015048),
            (0.975, 5.0, 2.570582),
            (0.99, 7.0, 2.997952),
            (0.9995, 10.0, 4.586894),
            (0.975, 30.0, 2.042272),
            (0.95, 120.0, 1.657651),
        ] {
            near(student_t_quantile(p, freedom), expected, 1e-6);
        }
        near(student_t_quantile(0.9995, 1.0) / 636.619249, 1.0, 1e-6);
        near(student_t_quantile(0.975, f64::INFINITY), 1.959964, 1e-6);
        near(student_t_quantile(0.975, 1e4), 1.960201, 1e-5);
        near(student_t_quantile(0.05, 5.0), -2.015048, 1e-6);
        near(student_t_quantile(0.5, 4.0), 0.0, 1e-9);
    }

    #[test]
    fn degrees_of_freedom_of_a_sum_lie_between_the_smallest_and_all_together() {
        near(welch_satterthwaite(&[(2.0, 4.0)]), 4.0, 1e-12);
        near(welch_satterthwaite(&[(1.0, 4.0), (1.0, 4.0)]), 8.0, 1e-12);
        near(welch_satterthwaite(&[(1.0, 4.0), (1.0, f64::INFINITY)]), 16.0, 1e-12);
        assert_eq!(welch_satterthwaite(&[(0.0, 4.0)]), f64::INFINITY);
    }

    #[test]
    fn the_clopper_pearson_interval_agrees_with_the_tables() {
        // SciPy: binomtest(k, n).proportion_ci(method="exact").
        for (hits, trials, low, high) in [
            (0, 0, 0.0, 1.0),
            (0, 30, 0.0, 0.115703),
            (0, 60, 0.0, 0.059629),
            (1, 10, 0.002529, 0.445016),
            (5, 10, 0.187086, 0.812914),
            (20, 20, 0.831566, 1.0),
        ] {
            let (found_low, found_high) = clopper_pearson(hits, trials);
            near(found_low, low, 1e-6);
            near(found_high, high, 1e-6);
        }
    }
}
