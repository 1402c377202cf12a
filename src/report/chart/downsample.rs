//! Downsampling of long curves: a chart has no room for thousands of points.

use super::Point;
use crate::stats;

/// Maximum number of bins of a curve.
pub(super) const MAX_POINTS: usize = 400;

/// The points sorted, or for a longer curve one point per bin of [`MAX_POINTS`] bins of equal
/// width: the median of the values at the middle of the bin, and the medians of the interval ends.
/// A bin without values stays a gap. Single outliers disappear; a histogram shows them.
pub(super) fn downsample(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.x.total_cmp(&b.x));
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return sorted };
    if sorted.len() <= MAX_POINTS {
        return sorted;
    }
    let (start, width) = (first.x, (last.x - first.x) / MAX_POINTS as f64);
    let bin = |point: &Point| (((point.x - start) / width) as usize).min(MAX_POINTS - 1);
    sorted.chunk_by(|a, b| bin(a) == bin(b)).map(bin_median).collect()
}

fn bin_median(points: &[Point]) -> Point {
    let of = |part: &dyn Fn(&Point) -> Option<f64>| {
        stats::median(&points.iter().filter_map(part).collect::<Vec<_>>())
    };
    let lo = of(&|point| Some(point.interval?.0));
    let hi = of(&|point| Some(point.interval?.1));
    Point {
        x: (points[0].x + points[points.len() - 1].x) / 2.0,
        y: of(&|point| point.y),
        interval: lo.zip(hi),
    }
}
