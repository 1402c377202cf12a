//! What many variances of one kind say of each: empirical Bayes for variances (Smyth 2004, "Linear
//! models and empirical Bayes methods for assessing differential expression in microarray
//! experiments", section 6.2).

use statrs::function::gamma::digamma;

/// A scaled inverse chi-squared distribution that variances come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Its location, s0².
    pub variance: f64,
    /// What it is worth beside an estimate, in degrees of freedom, d0.
    pub freedom: f64,
}

impl Prior {
    /// Fits the distribution to estimates, each with its degrees of freedom, by the moments of
    /// their logarithms; `most` bounds what it may be worth. `None` of fewer than three, which
    /// say nothing of their spread.
    ///
    /// Estimates that differ by no more than their own error allows have one variance, and the
    /// prior is worth `most`; estimates that differ by much make it worth little.
    pub fn fit(estimates: &[(f64, f64)], most: f64) -> Option<Self> {
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
        let own = estimates.iter().map(|(_, freedom)| trigamma(freedom / 2.0)).sum::<f64>() / count;
        let excess = super::squares(&centred) / (count - 1.0) - own;
        let freedom = 2.0 * inverse_trigamma(excess, most / 2.0);
        Some(Self { variance: (mean + expected_of_prior(freedom)).exp(), freedom })
    }

    /// An estimate drawn towards the prior, each by its degrees of freedom, and what it is worth
    /// then.
    pub fn moderate(self, variance: f64, freedom: f64) -> (f64, f64) {
        let all = self.freedom + freedom;
        ((self.freedom * self.variance + freedom * variance) / all, all)
    }
}

/// digamma(d0/2) - ln(d0/2), by which the mean of logarithms lies off that of the prior's location.
fn expected_of_prior(freedom: f64) -> f64 {
    digamma(freedom / 2.0) - (freedom / 2.0).ln()
}

/// The derivative of digamma: its asymptotic series from 12 on, by recurrence below (Abramowitz and
/// Stegun 6.4.12, 6.4.6).
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

/// Where trigamma, which falls, has this value, as long as that is below `most`; `most` otherwise.
/// By bisection.
fn inverse_trigamma(value: f64, most: f64) -> f64 {
    if value <= trigamma(most) {
        return most;
    }
    let (mut low, mut high) = (1e-6, most);
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
    fn equal_variances_are_worth_the_most_and_unlike_ones_little() {
        let fit = |variances: &[f64], most| {
            let estimates: Vec<(f64, f64)> = variances.iter().map(|one| (*one, 5.0)).collect();
            Prior::fit(&estimates, most)
        };
        assert_eq!(fit(&[1.0, 2.0], 20.0), None);
        let equal = fit(&[4.0; 10], 20.0).unwrap();
        assert_eq!(equal.freedom, 20.0);
        let unlike = fit(&[1e-4, 1.0, 1e4, 1e-4, 1.0, 1e4], 20.0).unwrap();
        assert!(unlike.freedom < 0.3, "{unlike:?}");
        assert_eq!(Prior { variance: 2.0, freedom: 10.0 }.moderate(8.0, 5.0), (4.0, 15.0));
    }

    #[test]
    fn the_distribution_that_variances_were_drawn_from_is_found() {
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
        let found = Prior::fit(&estimates, 1e6).unwrap();
        assert!(
            (found.variance - 2.0).abs() < 0.1 && (found.freedom - 8.0).abs() < 0.8,
            "{found:?}"
        );
    }
}
