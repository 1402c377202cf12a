//! Curves, points and reference lines over a quantity or over time.

use super::header::{self, LegendEntry};
use super::plot::{Plot, ValueRange, value_range};
use super::svg::{Marker, Paint, Position, Svg};
use super::{ChartError, Lines, Number, Point, Series, SeriesStyle};

/// Up to this many points have markers.
const MAX_MARKERS: usize = 24;
/// Number of markers on a longer line.
const SPARSE_MARKERS: usize = 7;

/// The legend: empty for a single series.
fn legend(lines: &Lines) -> Vec<LegendEntry> {
    let is_drawn = |series: &Series| match series.style {
        SeriesStyle::Failures => !series.points.is_empty(),
        _ => series.points.iter().any(|(_, y)| y.is_some()),
    };
    let drawn = lines.series.iter().enumerate().filter(|(_, series)| is_drawn(series));
    let entries: Vec<LegendEntry> = drawn.map(|(at, series)| legend_entry(series, at)).collect();
    if entries.len() > 1 { entries } else { Vec::new() }
}

fn legend_entry(series: &Series, at: usize) -> LegendEntry {
    let (paint, marker) = (Paint::Series(at), Marker::Series(at));
    let (line, marker) = match series.style {
        SeriesStyle::Line if series.points.len() > MAX_MARKERS => {
            (Some(paint.solid(1.5)), Some((marker, 3.5)))
        }
        SeriesStyle::Line => (Some(paint.dashed(2.0)), Some((marker, 3.5))),
        SeriesStyle::Points => (None, Some((marker, 4.0))),
        SeriesStyle::Reference => (Some(Paint::Soft.dashed(1.5)), None),
        SeriesStyle::Failures => (None, Some((Marker::Cross, 4.0))),
    };
    LegendEntry { name: series.name.clone(), line, marker }
}

/// Draws the chart; returns its height.
pub(super) fn draw(
    svg: &mut Svg,
    title: &str,
    lines: &Lines,
    number: Number<'_>,
) -> Result<f64, ChartError> {
    let (x, y) = ranges(lines)?;
    let header = header::draw(svg, title, &legend(lines));
    let plot = Plot::new(header, (&lines.x, x), (&lines.y, y), number);
    let height = plot.draw(svg, &lines.x.label, &lines.y.label);
    for (at, series) in lines.series.iter().enumerate().rev() {
        draw_series(svg, &plot, series.style, at, &series.points);
    }
    Ok(height)
}

/// The value ranges of both axes.
fn ranges(lines: &Lines) -> Result<(ValueRange, ValueRange), ChartError> {
    let places: Vec<f64> =
        lines.series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).collect();
    let of = |styles: &[SeriesStyle]| -> Vec<f64> {
        let series = lines.series.iter().filter(|series| styles.contains(&series.style));
        series.flat_map(|series| &series.points).filter_map(|(_, y)| *y).collect()
    };
    let own = of(&[SeriesStyle::Line, SeriesStyle::Points]);
    if own.is_empty() {
        return Err(ChartError::Empty);
    }
    let x = value_range(lines.x.scale, &places)?;
    let y = value_range(lines.y.scale, &[own.clone(), of(&[SeriesStyle::Reference])].concat())?;
    if own.len() == 1 || x.0 == x.1 { Err(ChartError::OneValue) } else { Ok((x, y)) }
}

fn draw_series(svg: &mut Svg, plot: &Plot, style: SeriesStyle, at: usize, points: &[Point]) {
    let (paint, marker) = (Paint::Series(at), Marker::Series(at));
    let many = points.len() > MAX_MARKERS;
    let place = |(x, y): &Point| Some(plot.at(*x, (*y)?));
    // Without the gaps between them.
    let segments = points.split(|(_, y)| y.is_none()).filter(|part| !part.is_empty());
    let segments = segments.map(|part| part.iter().filter_map(place).collect::<Vec<Position>>());
    match style {
        SeriesStyle::Line => {
            let style = if many { paint.solid(1.5) } else { paint.dashed(1.8) };
            for path in segments {
                // A single point between two gaps has no line to draw.
                match path[..] {
                    [alone] => svg.marker(marker, alone, 2.0),
                    _ => svg.line(&path, &style),
                }
            }
            // Dashes are hard to see on a jagged line, so a long one has a few markers.
            let apart = if many { points.len().div_ceil(SPARSE_MARKERS) } else { 1 };
            for point in points.iter().skip(apart / 2).step_by(apart).filter_map(place) {
                svg.marker(marker, point, 3.5);
            }
        }
        SeriesStyle::Points => {
            for point in points.iter().filter_map(place) {
                svg.marker(marker, point, if many { 2.2 } else { 3.5 });
            }
        }
        SeriesStyle::Reference => {
            segments.for_each(|path| svg.line(&path, &Paint::Soft.dashed(1.5)));
        }
        SeriesStyle::Failures => {
            for (x, _) in points {
                svg.marker(Marker::Cross, (plot.at(*x, 1.0).0, plot.bottom - 6.0), 4.0);
            }
        }
    }
}
