//! Histograms with named vertical lines.

use super::header::{self, LegendEntry};
use super::plot::{Plot, value_range};
use super::svg::{Paint, Svg};
use super::{Axis, ChartError, Histogram, Number, Scale};
use crate::stats;

/// Maximum number of bins; more would be thinner than their borders.
const MAX_BINS: usize = 40;

/// The legend: the marks, in the order given.
fn legend(marks: &[(String, f64)]) -> Vec<LegendEntry> {
    let marks = marks.iter().zip(1..);
    let entry = |(mark, at): (&(String, f64), usize)| {
        let line = Some(Paint::Series(at).dashed(2.0));
        LegendEntry { name: mark.0.clone(), line, marker: None }
    };
    marks.map(entry).collect()
}

/// Draws the chart; returns its height.
pub(super) fn draw(
    svg: &mut Svg,
    title: &str,
    histogram: &Histogram,
    number: Number<'_>,
) -> Result<f64, ChartError> {
    let Histogram { x, y, values, marks } = histogram;
    value_range(Scale::Around, values)?;
    if values.len() < 2 {
        return Err(ChartError::OneValue);
    }
    let marked = marks.iter().map(|(_, at)| *at);
    let all: Vec<f64> = values.iter().copied().chain(marked).collect();
    let range = value_range(Scale::Around, &all)?;
    let bins = bins(values);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let x_axis = Axis { label: x.clone(), scale: Scale::Around };
    let y_axis = Axis { label: y.clone(), scale: Scale::Whole };
    let header = header::draw(svg, title, &legend(marks));
    let plot = Plot::new(header, (&x_axis, range), (&y_axis, (0.0, most as f64)), number);
    let height = plot.draw(svg, x, y);
    for bin in bins.iter().filter(|bin| bin.count > 0) {
        let (left, top) = plot.at(bin.from, bin.count as f64);
        let (right, bottom) = plot.at(bin.to, 0.0);
        let corners = [(left + 0.5, top), ((right - 0.5).max(left + 1.0), bottom)];
        svg.rectangle(corners, &format!("{} opacity=\"0.75\"", Paint::Series(0).fill()));
    }
    for ((_, at), series) in marks.iter().zip(1..) {
        let (x, _) = plot.at(*at, 0.0);
        let path = [(x, plot.bottom), (x, plot.top)];
        svg.line(&path, &Paint::Series(series).dashed(2.0));
    }
    Ok(height)
}

/// Values from `from` (inclusive) to `to` (exclusive; inclusive in the last bin).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bin {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) count: usize,
}

/// Bins of equal width by the Freedman–Diaconis rule (1981), twice the interquartile range over the
/// cube root of the count, but at least as many as Sturges' rule gives and at most [`MAX_BINS`].
pub(super) fn bins(values: &[f64]) -> Vec<Bin> {
    let lo = values.iter().copied().fold(f64::INFINITY, f64::min);
    let hi = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let count = values.len() as f64;
    if lo == hi {
        let half = (lo.abs() * 0.001).max(1e-9);
        return vec![Bin { from: lo - half, to: hi + half, count: values.len() }];
    }
    let negated: Vec<f64> = values.iter().map(|value| -value).collect();
    let quartiles = stats::quantile(values, 0.75).zip(stats::quantile(&negated, 0.75));
    let spread = quartiles.map_or(0.0, |(upper, lower)| upper + lower);
    let bin_count = (hi - lo) * count.cbrt() / (2.0 * spread);
    let sturges = count.log2().ceil() + 1.0;
    let bin_count = if bin_count.is_finite() { bin_count.ceil().max(sturges) } else { sturges };
    let number = (bin_count as usize).clamp(1, MAX_BINS);
    let width = (hi - lo) / number as f64;
    let mut bins: Vec<Bin> = (0..number)
        .map(|i| Bin { from: lo + i as f64 * width, to: lo + (i + 1) as f64 * width, count: 0 })
        .collect();
    for value in values {
        bins[(((value - lo) / width) as usize).min(number - 1)].count += 1;
    }
    bins
}
