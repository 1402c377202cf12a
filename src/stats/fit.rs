//! Lines through points that a few bad points do not move.

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

/// A line with what is known of its slope.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// The Theil-Sen line.
    pub line: Line,
    /// Between these lies the slope in 90 % of resamplings; `None` below [`FEWEST_FOR_INTERVAL`]
    /// points.
    pub slope_90: Option<(f64, f64)>,
    /// How many points it goes through.
    pub points: usize,
}

impl Fit {
    /// Whether the interval of the slope leaves out zero; `None` where there is no interval.
    pub fn is_sloped(&self) -> Option<bool> {
        self.slope_90.map(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// An interval from fewer points would be one of how few they are.
pub const FEWEST_FOR_INTERVAL: usize = 5;

/// Resamplings of the bootstrap: its 5 % quantiles then lie beyond 50 of them.
const RESAMPLINGS: usize = 1000;

/// The line whose slope is the median of the slopes between all pairs of points with different x
/// (Theil 1950, Sen 1968), and whose intercept is the median of y - slope x. Up to 29 % of the
/// points may be anywhere without moving it far. `None` where no two x differ. Time and memory grow
/// with the square of the points: for hundreds, not for millions.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<Line> {
    let slope = median_slope(points, &mut Vec::new())?;
    let rests: Vec<f64> = points.iter().map(|(x, y)| y - slope * x).collect();
    Some(Line { slope, intercept: median(&rests)? })
}

/// The median of the slopes between points, which are collected in `slopes`.
fn median_slope(points: &[(f64, f64)], slopes: &mut Vec<f64>) -> Option<f64> {
    slopes.clear();
    for (i, a) in points.iter().enumerate() {
        let others = points[i + 1..].iter().filter(|b| a.0 != b.0);
        slopes.extend(others.map(|b| (b.1 - a.1) / (b.0 - a.0)));
    }
    if slopes.is_empty() {
        return None;
    }
    // Half sorted is enough, and a bootstrap asks a thousand times.
    let count = slopes.len();
    let (below, middle, _) = slopes.select_nth_unstable_by(count / 2, f64::total_cmp);
    let before = below.iter().copied().max_by(f64::total_cmp).filter(|_| count.is_multiple_of(2));
    Some(before.map_or(*middle, |before| before + (*middle - before) / 2.0))
}

/// The Theil-Sen line with a 90 % interval of its slope: percentiles of the slopes through points
/// drawn anew with replacement (Efron 1979). Draws in which no two x differ say nothing of a slope
/// and are drawn again. The same points and seed give the same interval.
///
/// The interval takes the points as independent: those of one process are, at best, a statement
/// about that process.
pub fn fit(points: &[(f64, f64)], seed: u64) -> Option<Fit> {
    let line = theil_sen(points)?;
    let slope_90 = (points.len() >= FEWEST_FOR_INTERVAL).then(|| interval(points, seed));
    Some(Fit { line, slope_90, points: points.len() })
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
            // Slopes 1, 2 and 3 between three points; rests 0, -1 and 0.
            (&[(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)], Some((2.0, 0.0))),
            // One x twice: slopes 1 and 3; rests 0, -1 and 1.
            (&[(0.0, 0.0), (1.0, 1.0), (1.0, 3.0)], Some((2.0, 0.0))),
        ] {
            let found = theil_sen(points).map(|line| (line.slope, line.intercept));
            assert_eq!(found, expected, "{points:?}");
        }
    }

    #[test]
    fn a_bad_point_does_not_move_it() {
        let mut points: Vec<(f64, f64)> =
            (0..8).map(|i| (f64::from(i), 10.0 + 0.5 * f64::from(i))).collect();
        points[7].1 = 1000.0;
        let line = theil_sen(&points).unwrap();
        assert_eq!((line.slope, line.intercept), (0.5, 10.0));
        assert_eq!(line.at(4.0), 12.0);
    }

    #[test]
    fn an_interval_needs_five_points_and_is_the_same_again() {
        let points = |n: usize| (0..n).map(|i| (i as f64, 3.0 * i as f64)).collect::<Vec<_>>();
        assert_eq!(fit(&points(4), 1).unwrap().slope_90, None);
        assert_eq!(fit(&points(4), 1).unwrap().is_sloped(), None);
        let exact = fit(&points(5), 1).unwrap();
        assert_eq!((exact.slope_90, exact.points), (Some((3.0, 3.0)), 5));
        assert_eq!(exact.is_sloped(), Some(true));
        let noisy: Vec<(f64, f64)> =
            points(20).iter().map(|&(x, _)| (x, if x % 2.0 == 0.0 { 1.0 } else { 2.0 })).collect();
        let first = fit(&noisy, 7).unwrap();
        assert_eq!(first, fit(&noisy, 7).unwrap());
        let (low, high) = first.slope_90.unwrap();
        assert!(low <= 0.0 && 0.0 <= high, "{low}..{high}");
        assert_eq!(first.is_sloped(), Some(false));
        assert_eq!(fit(&[(1.0, 1.0); 6], 1), None);
    }

    #[test]
    fn a_slope_lies_in_its_interval_nine_times_in_ten() {
        let mut random = Random::new(11);
        let trials = 100;
        let within = (0..trials).filter(|trial| {
            let points: Vec<(f64, f64)> =
                (0..10).map(|i| (f64::from(i), 2.0 * f64::from(i) + random.normal())).collect();
            let (low, high) = fit(&points, *trial).unwrap().slope_90.unwrap();
            low <= 2.0 && 2.0 <= high
        });
        let share = within.count() as f64 / trials as f64;
        assert!((0.82..=0.97).contains(&share), "{share}");
    }
}
