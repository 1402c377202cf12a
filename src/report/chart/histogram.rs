//! Histograms with named vertical lines.

use plotters::element::{PathElement, Rectangle};

use super::backend::canvas;
use super::header::{Header, LegendEntry, LegendSymbol};
use super::lines::value_range;
use super::theme::ThemeColor;
use super::ticks::position;
use super::units::UNIT;
use super::{ChartError, Histogram, lines};
use crate::stats;

/// Maximum number of bins; more would be thinner than their borders.
const MAX_BINS: usize = 40;

/// The legend: the marks, in the order given.
pub(super) fn legend(histogram: &Histogram<'_>) -> Vec<LegendEntry> {
    let marks = histogram.marks.iter().enumerate();
    marks.map(|(at, mark)| (LegendSymbol::Upright(at + 1), mark.name.clone())).collect()
}

/// Draws the chart; returns its height in units.
pub(super) fn draw(
    histogram: &Histogram<'_>,
    head: &Header,
    body: &mut String,
) -> Result<i32, ChartError> {
    let scale = histogram.x.scale;
    let marks = histogram.marks.iter().map(|mark| mark.at);
    value_range(scale, &histogram.values)?;
    if histogram.values.len() < 2 {
        return Err(ChartError::OneValue);
    }
    let all: Vec<f64> = histogram.values.iter().copied().chain(marks).collect();
    let range = value_range(scale, &all)?;
    let at: Vec<f64> = histogram.values.iter().map(|value| position(scale, *value)).collect();
    let bins = bins(&at);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let height = lines::height(head);
    let canvas = canvas(body, height);
    head.draw(&canvas)?;
    let plot =
        lines::axes(&canvas, head, (&histogram.x, range), (&histogram.y, (0.0, most as f64)))?;
    for bin in bins.iter().filter(|bin| bin.count > 0) {
        let (left, top) = plot.backend_coord(&(bin.from, bin.count as f64));
        let (right, bottom) = plot.backend_coord(&(bin.to, 0.0));
        let border = UNIT / 2;
        let corners = [(left + border, top), ((right - border).max(left + 2 * border), bottom)];
        canvas.draw(&Rectangle::new(corners, ThemeColor::Series(0).area(0.75)))?;
    }
    for (at, mark) in histogram.marks.iter().enumerate() {
        let (x, _) = plot.backend_coord(&(position(scale, mark.at), 0.0));
        let (_, upright) = plot.plotting_area().get_pixel_range();
        let path = vec![(x, upright.end), (x, upright.start)];
        canvas.draw(&PathElement::new(path, ThemeColor::Series(at + 1).line(20)))?;
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
