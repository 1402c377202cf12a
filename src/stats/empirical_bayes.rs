//! Moderated variances by empirical Bayes: each of many variance estimates of one kind is shrunk
//! towards their common prior (Smyth 2004, "Linear models and empirical Bayes methods for assessing
//! differential expression in microarray experiments", section 6.2).

use statrs::function::gamma::digamma;

/// The prior of the variances: a scaled inverse chi-squared distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VariancePrior {
    /// Location, s0².
    pub variance: f64,
    /// Prior degrees of freedom, d0: its weight against an estimate.
    pub freedom: f64,
}

impl VariancePrior {
    /// Fits the prior to estimates, each with its degrees of freedom, by the moments of their
    /// logarithms; d0 is at most `max_freedom`. `None` below three estimates, too few to estimate
    /// how much they vary.
    ///
    /// Estimates that vary no more than their sampling error explains share one variance: d0 is
    /// `max_freedom`. The more they vary, the smaller d0 is.
    pub fn fit(estimates: &[(f64, f64)], max_freedom: f64) -> Option<Self> {
        if estimates.len() < 3 {
            return None;
        }
        let count = estimates.len() as f64;
        // E[ln s²] of an estimate with d degrees of freedom is ln σ² + digamma(d/2) - ln(d/2).
        let expected = |freedom: f64| digamma(freedom / 2.0) - (freedom / 2.0).ln();
        let centred: Vec<f64> = estimates
            .iter()
            .map(|(variance, freedom)| variance.ln() - expected(*freedom))
            .collect();
        let mean = centred.iter().sum::<f64>() / count;
        let sampling =
            estimates.iter().map(|(_, freedom)| trigamma(freedom / 2.0)).sum::<f64>() / count;
        let excess = super::sum_of_squares(&centred) / (count - 1.0) - sampling;
        let freedom = 2.0 * inverse_trigamma(excess, max_freedom / 2.0);
        Some(Self { variance: (mean + expected(freedom)).exp(), freedom })
    }

    /// The moderated variance, the mean of prior and estimate weighted by degrees of freedom, with
    /// its own degrees of freedom, d0 + d.
    pub(crate) fn moderate(self, variance: f64, freedom: f64) -> (f64, f64) {
        let all = self.freedom + freedom;
        ((self.freedom * self.variance + freedom * variance) / all, all)
    }
}

/// The derivative of digamma: asymptotic series from 12 on, recurrence below (Abramowitz and Stegun
/// 6.4.12, 6.4.6).
fn trigamma(x: f64) -> f64 {
    let (mut x, mut sum) = (x, 0.0);
    while x < 12.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = 1.0 / 6.0 - inverse * (1.0 / 30.0 - inverse * (1.0 / 42.0 - inverse / 30.0));
    sum + 1.0 / x + inverse / 2.0 + inverse / x * series
}

/// The inverse of trigamma, a decreasing function, by bisection; at most `max`.
fn inverse_trigamma(value: f64, max: f64) -> f64 {
    if value <= trigamma(max) {
        return max;
    }
    let (mut low, mut high) = (1e-6, max);
    while high / low > 1.0 + 4.0 * f64::EPSILON {
        let middle = f64::sqrt(low * high);
        if middle <= low || middle >= high {
            break;
        }
        if trigamma(middle) > value { low = middle } else { high = middle }
    }
    f64::sqrt(low * high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Random;

    #[test]
    fn trigamma_agrees_with_the_tables() {
        // SciPy: polygamma(1, x).
        for (x, expected) in [
            (0.5, 4.934802200544679),
            (1.0, 1.6449340668482264),
            (2.5, 0.49035775610023474),
            (10.0, 0.10516633568168575),
        ] {
            assert!((trigamma(x) - expected).abs() < 1e-9, "{x}: {}", trigamma(x));
            assert!((inverse_trigamma(expected, 1e3) - x).abs() < 1e-7 * x, "{x}");
            assert_eq!(inverse_trigamma(expected, 0.25), 0.25, "{x}");
        }
    }

    #[test]
    fn equal_variances_give_a_strong_prior_and_unequal_ones_a_weak_one() {
        let fit = |variances: &[f64], max_freedom| {
            let estimates: Vec<(f64, f64)> = variances.iter().map(|one| (*one, 5.0)).collect();
            VariancePrior::fit(&estimates, max_freedom)
        };
        assert_eq!(fit(&[1.0, 2.0], 20.0), None);
        let equal = fit(&[4.0; 10], 20.0).unwrap();
        assert_eq!(equal.freedom, 20.0);
        let unlike = fit(&[1e-4, 1.0, 1e4, 1e-4, 1.0, 1e4], 20.0).unwrap();
        assert!(unlike.freedom < 0.3, "{unlike:?}");
        assert_eq!(VariancePrior { variance: 2.0, freedom: 10.0 }.moderate(8.0, 5.0), (4.0, 15.0));
    }

    #[test]
    fn the_fit_recovers_the_distribution_that_variances_were_drawn_from() {
        let mut random = Random::new(7);
        let mut chi_squared =
            |freedom: usize| (0..freedom).map(|_| random.normal().powi(2)).sum::<f64>();
        // σ² = d0 s0² / chi²(d0) with d0 = 8 and s0² = 2; estimates with 4 degrees of freedom.
        let estimates: Vec<(f64, f64)> = (0..20_000)
            .map(|_| {
                let sigma = 8.0 * 2.0 / chi_squared(8);
                (sigma * chi_squared(4) / 4.0, 4.0)
            })
            .collect();
        let found = VariancePrior::fit(&estimates, 1e6).unwrap();
        assert!(
            (found.variance - 2.0).abs() < 0.1 && (found.freedom - 8.0).abs() < 0.8,
            "{found:?}"
        );
    }
}
