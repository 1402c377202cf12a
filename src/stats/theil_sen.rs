//! Theil–Sen lines: a robust regression that outliers do not move.

use serde::Serialize;

use crate::stats::{Random, median};

/// A straight line: y = intercept + slope x.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// In units of y per unit of x.
    pub slope: f64,
    /// In units of y.
    pub intercept: f64,
}

impl Line {
    /// The line's y at this x.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

/// A Theil–Sen line with the confidence interval of its slope.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LineFit {
    /// The line.
    pub line: Line,
    /// The 90 % bootstrap confidence interval of the slope; `None` below 5 points.
    pub slope_90: Option<(f64, f64)>,
    /// Number of points.
    pub points: usize,
}

/// Fewest points for a confidence interval of the slope.
pub(crate) const FEWEST_FOR_INTERVAL: usize = 5;

/// Resamples of the bootstrap: 50 of them lie beyond each 5 % quantile.
const RESAMPLINGS: usize = 1000;

/// The Theil–Sen line: the slope is the median of the slopes between all pairs of points with
/// different x (Theil 1950, Sen 1968), the intercept the median of y - slope x. Its breakdown point
/// is 29 % of the points. `None` where no two x differ. Time and memory grow with the square of the
/// number of points: for hundreds, not for millions.
pub(crate) fn theil_sen(points: &[(f64, f64)]) -> Option<Line> {
    let slope = median_slope(points, &mut Vec::new())?;
    let intercepts: Vec<f64> = points.iter().map(|(x, y)| y - slope * x).collect();
    Some(Line { slope, intercept: median(&intercepts)? })
}

/// The median of the pairwise slopes, which are collected in the buffer `slopes`.
fn median_slope(points: &[(f64, f64)], slopes: &mut Vec<f64>) -> Option<f64> {
    slopes.clear();
    for (i, a) in points.iter().enumerate() {
        let others = points[i + 1..].iter().filter(|b| a.0 != b.0);
        slopes.extend(others.map(|b| (b.1 - a.1) / (b.0 - a.0)));
    }
    if slopes.is_empty() {
        return None;
    }
    // A selection instead of a sort: the bootstrap runs this a thousand times.
    let count = slopes.len();
    let (below, middle, _) = slopes.select_nth_unstable_by(count / 2, f64::total_cmp);
    let before = below.iter().copied().max_by(f64::total_cmp).filter(|_| count.is_multiple_of(2));
    Some(before.map_or(*middle, |before| before + (*middle - before) / 2.0))
}

/// The Theil–Sen line with a 90 % confidence interval of its slope by the percentile bootstrap
/// (Efron 1979). Resamples in which no two x differ have no slope and are drawn again. The same
/// points and seed give the same interval.
///
/// The bootstrap assumes independent points: an interval from points of one process holds for that
/// process only.
pub(crate) fn fit_line(points: &[(f64, f64)], seed: u64) -> Option<LineFit> {
    let line = theil_sen(points)?;
    let slope_90 = (points.len() >= FEWEST_FOR_INTERVAL).then(|| interval(points, seed));
    Some(LineFit { line, slope_90, points: points.len() })
}

fn interval(points: &[(f64, f64)], seed: u64) -> (f64, f64) {
    let mut random = Random::new(seed);
    let mut slopes = Vec::with_capacity(RESAMPLINGS);
    let (mut drawn, mut buffer) = (Vec::with_capacity(points.len()), Vec::new());
    while slopes.len() < RESAMPLINGS {
        drawn.clear();
        drawn.extend((0..points.len()).map(|_| points[random.below(points.len())]));
        slopes.extend(median_slope(&drawn, &mut buffer));
    }
    slopes.sort_by(f64::total_cmp);
    (slopes[RESAMPLINGS / 20], slopes[RESAMPLINGS - 1 - RESAMPLINGS / 20])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_its_points() {
        for (points, expected) in [
            ([].as_slice(), None),
            (&[(1.0, 5.0)], None),
            (&[(2.0, 5.0), (2.0, 7.0)], None), // No two x differ.
            (&[(1.0, 5.0), (3.0, 9.0)], Some((2.0, 3.0))),
            (&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0)], Some((2.0, 1.0))),
            // Pairwise slopes 1, 2 and 3; intercepts 0, -1 and 0.
            (&[(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)], Some((2.0, 0.0))),
            // One x twice: slopes 1 and 3; intercepts 0, -1 and 1.
            (&[(0.0, 0.0), (1.0, 1.0), (1.0, 3.0)], Some((2.0, 0.0))),
        ] {
            let found = theil_sen(points).map(|line| (line.slope, line.intercept));
            assert_eq!(found, expected, "{points:?}");
        }
    }

    #[test]
    fn an_outlier_does_not_move_the_line() {
        let mut points: Vec<(f64, f64)> =
            (0..8).map(|i| (f64::from(i), 10.0 + 0.5 * f64::from(i))).collect();
        points[7].1 = 1000.0;
        let line = theil_sen(&points).unwrap();
        assert_eq!((line.slope, line.intercept), (0.5, 10.0));
        assert_eq!(line.at(4.0), 12.0);
    }

    #[test]
    fn an_interval_needs_five_points_and_is_reproducible() {
        let points = |n: usize| (0..n).map(|i| (i as f64, 3.0 * i as f64)).collect::<Vec<_>>();
        assert_eq!(fit_line(&points(4), 1).unwrap().slope_90, None);
        let exact = fit_line(&points(5), 1).unwrap();
        assert_eq!((exact.slope_90, exact.points), (Some((3.0, 3.0)), 5));
        let noisy: Vec<(f64, f64)> =
            points(20).iter().map(|&(x, _)| (x, if x % 2.0 == 0.0 { 1.0 } else { 2.0 })).collect();
        let first = fit_line(&noisy, 7).unwrap();
        assert_eq!(first, fit_line(&noisy, 7).unwrap());
        let (low, high) = first.slope_90.unwrap();
        assert!(low <= 0.0 && 0.0 <= high, "{low}..{high}");
        assert_eq!(fit_line(&[(1.0, 1.0); 6], 1), None);
    }

    #[test]
    fn a_slope_lies_in_its_interval_nine_times_in_ten() {
        let mut random = Random::new(11);
        let trials = 100;
        let within = (0..trials).filter(|trial| {
            let points: Vec<(f64, f64)> =
                (0..10).map(|i| (f64::from(i), 2.0 * f64::from(i) + random.normal())).collect();
            let (low, high) = fit_line(&points, *trial).unwrap().slope_90.unwrap();
            low <= 2.0 && 2.0 <= high
        });
        let share = within.count() as f64 / trials as f64;
        assert!((0.82..=0.97).contains(&share), "{share}");
    }
}
