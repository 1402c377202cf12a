//! Curves, points and reference lines over a quantity or over time.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::element::{PathElement, Polygon};
use plotters::style::text_anchor::{HPos, VPos};

use super::backend::{Canvas, Svg, canvas};
use super::downsample::downsample;
use super::header::{
    EDGE, Header, LegendEntry, LegendSymbol, TEXT, draw_cross, draw_marker, shorten, text_style,
    width,
};
use super::theme::ThemeColor;
use super::ticks::{AxisEnd, Ticks, position, ticks};
use super::units::{UNIT, WIDTH, px};
use super::{Axis, ChartError, Lines, Point, Scale, Series, SeriesStyle};

/// Height of the plot alone.
const PLOT: i32 = 190;
/// Height of the vertical axis's label, which stands above the axis.
const ABOVE: i32 = 30;
/// Height of the horizontal axis's numbers and label.
const BELOW: i32 = 44;
/// Right margin, for half of the last number.
const RIGHT: i32 = 18;
/// Up to this many points have markers and error bars; more get a line and a band.
const MAX_MARKERS: usize = 24;
/// Larger values are mistakes, and their digits do not fit.
const MAX_ABS: f64 = 1e15;
/// About the year 9000: a later time is not in seconds.
const MAX_TIME: f64 = 2.2e11;
/// Number of markers on a longer line.
const SPARSE_MARKERS: usize = 7;

/// A plot with axes that maps positions to pixels.
pub(super) type PlotArea<'a, 'b> = ChartContext<'a, Svg<'b>, Cartesian2d<Ticks, Ticks>>;

/// The smallest and the largest value.
pub(super) type ValueRange = (f64, f64);

/// The legend: empty for a single series.
pub(super) fn legend(lines: &Lines<'_>) -> Vec<LegendEntry> {
    let is_drawn = |series: &Series| match series.style {
        SeriesStyle::Failures => !series.points.is_empty(),
        _ => series.points.iter().any(|point| point.y.is_some()),
    };
    let drawn = lines.series.iter().enumerate().filter(|(_, series)| is_drawn(series));
    let keys: Vec<LegendEntry> =
        drawn.map(|(at, series)| (legend_symbol(series, at), series.name.clone())).collect();
    if keys.len() > 1 { keys } else { Vec::new() }
}

fn legend_symbol(series: &Series, at: usize) -> LegendSymbol {
    match series.style {
        SeriesStyle::Line if series.points.len() > MAX_MARKERS => LegendSymbol::Curve(at),
        SeriesStyle::Line => LegendSymbol::Line(at),
        SeriesStyle::Points => LegendSymbol::Mark(at),
        SeriesStyle::Reference => LegendSymbol::Reference,
        SeriesStyle::Failures => LegendSymbol::Failure,
    }
}

/// Draws the chart; returns its height in units.
pub(super) fn draw(lines: &Lines<'_>, head: &Header, body: &mut String) -> Result<i32, ChartError> {
    let (x, y) = ranges(lines)?;
    let height = height(head);
    let canvas = canvas(body, height);
    head.draw(&canvas)?;
    let plot = axes(&canvas, head, (&lines.x, x), (&lines.y, y))?;
    for (at, series) in lines.series.iter().enumerate().rev() {
        let points = downsample(&series.points);
        let painter = SeriesPainter {
            canvas: &canvas,
            plot: &plot,
            scales: (lines.x.scale, lines.y.scale),
            at,
        };
        match series.style {
            SeriesStyle::Line => {
                painter.intervals(&points)?;
                painter.line(&points)?;
            }
            SeriesStyle::Points => {
                painter.intervals(&points)?;
                painter.marks(&points)?;
            }
            SeriesStyle::Reference => painter.reference(&points)?,
            SeriesStyle::Failures => painter.failures(&points)?,
        }
    }
    Ok(height)
}

/// Height in units of a chart with one plot.
pub(super) fn height(head: &Header) -> i32 {
    head.height() + ABOVE + PLOT + BELOW
}

/// The value ranges of both axes.
fn ranges(lines: &Lines<'_>) -> Result<(ValueRange, ValueRange), ChartError> {
    let mut places = Vec::new();
    let mut values = Vec::new();
    let mut own = 0;
    for series in &lines.series {
        for point in &series.points {
            places.push(point.x);
            if series.style == SeriesStyle::Failures {
                continue;
            }
            values.extend(point.y);
            values.extend(point.interval.into_iter().flat_map(|(lo, hi)| [lo, hi]));
            own += usize::from(point.y.is_some() && series.style != SeriesStyle::Reference);
        }
    }
    if own == 0 {
        return Err(ChartError::Empty);
    }
    let x = value_range(lines.x.scale, &places)?;
    let y = value_range(lines.y.scale, &values)?;
    if own == 1 || x.0 == x.1 {
        return Err(ChartError::OneValue);
    }
    Ok((x, y))
}

/// The smallest and the largest value, if all can be drawn.
pub(super) fn value_range(scale: Scale, values: &[f64]) -> Result<ValueRange, ChartError> {
    let most = if scale == Scale::Time { MAX_TIME } else { MAX_ABS };
    if values.iter().any(|value| !value.is_finite() || value.abs() > most) {
        return Err(ChartError::Unusable);
    }
    if scale == Scale::Doubling && values.iter().any(|value| *value <= 0.0) {
        return Err(ChartError::TooLow);
    }
    let lo = values.iter().copied().reduce(f64::min).ok_or(ChartError::Empty)?;
    let hi = values.iter().copied().reduce(f64::max).ok_or(ChartError::Empty)?;
    Ok((lo, hi))
}

/// Axes with ticks and labels, and horizontal grid lines.
pub(super) fn axes<'a, 'b>(
    canvas: &'a Canvas<'b>,
    head: &Header,
    (x_axis, x): (&Axis<'_>, ValueRange),
    (y_axis, y): (&Axis<'_>, ValueRange),
) -> Result<PlotArea<'a, 'b>, ChartError> {
    let up = ticks(y_axis, y, 6, AxisEnd::AtTick, |_| true);
    let numbers = up.labels.iter().map(|label| width(label, TEXT)).max().unwrap_or(0);
    let left = (EDGE + numbers + 6).min(WIDTH / 3);
    let along =
        ticks(x_axis, x, 8, AxisEnd::Padded, |ticks| labels_fit(ticks, WIDTH - left - RIGHT));
    let right = right_margin(&along, left);
    let mut plot = ChartBuilder::on(canvas)
        .margin_top((head.height() + ABOVE) * UNIT)
        .margin_right(right * UNIT)
        .margin_bottom((BELOW - 22) * UNIT)
        .y_label_area_size(left * UNIT)
        .x_label_area_size(22 * UNIT)
        .build_cartesian_2d(along, up)?;
    let text = text_style(ThemeColor::Soft, TEXT, HPos::Left, VPos::Center);
    plot.configure_mesh()
        .disable_x_mesh()
        .bold_line_style(ThemeColor::Grid.solid(10))
        .light_line_style(ThemeColor::Grid.area(0.0))
        .axis_style(ThemeColor::Grid.solid(10))
        .label_style(text)
        .set_all_tick_mark_size(3 * UNIT)
        .draw()?;
    let label = text_style(ThemeColor::Soft, TEXT, HPos::Left, VPos::Center);
    let room = WIDTH - 2 * EDGE;
    let above = shorten(&y_axis.label, room);
    canvas.draw_text(&above, &label, px(EDGE, head.height() + 10))?;
    let below = text_style(ThemeColor::Soft, TEXT, HPos::Center, VPos::Center);
    let name = shorten(&x_axis.label, WIDTH - left - right);
    canvas.draw_text(&name, &below, px((left + WIDTH - right) / 2, height(head) - 12))?;
    Ok(plot)
}

/// The right margin that keeps the last label of a horizontal axis whole.
fn right_margin(along: &Ticks, left: i32) -> i32 {
    let Some((at, label)) = along.at.last().zip(along.labels.last()) else { return RIGHT };
    let (lo, hi) = along.range;
    let beyond = (hi - at) / (hi - lo) * f64::from(WIDTH - left - RIGHT);
    RIGHT.max(width(label, TEXT) / 2 + 4 - beyond as i32)
}

/// Whether the labels of a horizontal axis do not touch.
fn labels_fit(ticks: &Ticks, room: i32) -> bool {
    let (lo, hi) = ticks.range;
    let unit = f64::from(room) / (hi - lo);
    let half = |at: usize| f64::from(width(&ticks.labels[at], TEXT)) / 2.0;
    (1..ticks.at.len()).all(|at| {
        let gap = (ticks.at[at] - ticks.at[at - 1]) * unit;
        half(at - 1) + half(at) + 10.0 <= gap
    })
}

/// Draws one series.
struct SeriesPainter<'a, 'b, 'c> {
    canvas: &'a Canvas<'b>,
    plot: &'a PlotArea<'c, 'b>,
    scales: (Scale, Scale),
    at: usize,
}

impl SeriesPainter<'_, '_, '_> {
    fn pixel(&self, x: f64, y: f64) -> (i32, i32) {
        let at = (position(self.scales.0, x), position(self.scales.1, y));
        self.plot.backend_coord(&at)
    }

    /// Segments without a gap.
    fn segments(&self, points: &[Point]) -> Vec<Vec<(i32, i32)>> {
        let parts = points.split(|point| point.y.is_none()).filter(|part| !part.is_empty());
        parts
            .map(|part| part.iter().filter_map(|p| Some(self.pixel(p.x, p.y?))).collect())
            .collect()
    }

    fn line(&self, points: &[Point]) -> Result<(), ChartError> {
        let colour = ThemeColor::Series(self.at);
        let style = if points.len() > MAX_MARKERS { colour.solid(15) } else { colour.line(18) };
        for path in self.segments(points) {
            // A single point between two gaps has no line to draw.
            if let [alone] = path[..] {
                draw_marker(self.canvas, self.at, alone, 20)?;
            } else {
                self.canvas.draw(&PathElement::new(path, style))?;
            }
        }
        // Dashes are hard to see on a jagged line, so a long one has a few markers.
        let apart =
            if points.len() > MAX_MARKERS { points.len().div_ceil(SPARSE_MARKERS) } else { 1 };
        let marked: Vec<Point> = points.iter().copied().skip(apart / 2).step_by(apart).collect();
        self.marks(&marked)
    }

    fn marks(&self, points: &[Point]) -> Result<(), ChartError> {
        let radius = if points.len() <= MAX_MARKERS { 35 } else { 22 };
        for point in points {
            if let Some(y) = point.y {
                draw_marker(self.canvas, self.at, self.pixel(point.x, y), radius)?;
            }
        }
        Ok(())
    }

    fn reference(&self, points: &[Point]) -> Result<(), ChartError> {
        for path in self.segments(points) {
            self.canvas.draw(&PathElement::new(path, ThemeColor::Soft.dashed(15)))?;
        }
        Ok(())
    }

    fn failures(&self, points: &[Point]) -> Result<(), ChartError> {
        let bottom = self.plot.plotting_area().get_pixel_range().1.end;
        for point in points {
            let x = self.plot.backend_coord(&(position(self.scales.0, point.x), 0.0)).0;
            draw_cross(self.canvas, (x, bottom - 6 * UNIT))?;
        }
        Ok(())
    }

    /// Error bars if there are few points, otherwise a band.
    fn intervals(&self, points: &[Point]) -> Result<(), ChartError> {
        let colour = ThemeColor::Series(self.at);
        if points.len() > MAX_MARKERS {
            for part in points.split(|point| point.interval.is_none()) {
                let with_interval =
                    || part.iter().filter_map(|point| Some((point.x, point.interval?)));
                let upper = with_interval().map(|(x, (_, hi))| self.pixel(x, hi));
                let lower = with_interval().rev().map(|(x, (lo, _))| self.pixel(x, lo));
                let outline: Vec<(i32, i32)> = upper.chain(lower).collect();
                if outline.len() > 3 {
                    self.canvas.draw(&Polygon::new(outline, colour.area(0.2)))?;
                }
            }
            return Ok(());
        }
        for (x, (lo, hi)) in points.iter().filter_map(|point| Some((point.x, point.interval?))) {
            let (low, high) = (self.pixel(x, lo), self.pixel(x, hi));
            let cap = 4 * UNIT;
            let value_range = [low, high].map(|(x, y)| vec![(x - cap, y), (x + cap, y)]);
            for path in value_range.into_iter().chain([vec![low, high]]) {
                self.canvas.draw(&PathElement::new(path, colour.solid(12)))?;
            }
        }
        Ok(())
    }
}
