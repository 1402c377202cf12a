//! A plot with two axes, which lines and histograms share.

use super::header::{EDGE, shorten, width};
use super::svg::{Align, Paint, Position, Svg, WIDTH};
use super::ticks::{AxisEnd, Ticks, ticks};
use super::{Axis, ChartError, Number, Scale};

/// Height of the plot alone.
const PLOT: f64 = 190.0;
/// Height of the vertical axis's label, which stands above the axis.
const ABOVE: f64 = 30.0;
/// Height of the horizontal axis's numbers and label.
const BELOW: f64 = 44.0;
/// Right margin, for half of the last number.
const RIGHT: f64 = 18.0;
/// The resolution of positions: an axis lies beside the area that it bounds.
pub(super) const STEP: f64 = 0.1;
/// Larger values are mistakes, and their digits do not fit.
const MAX_ABS: f64 = 1e15;
/// About the year 9000: a later time is not in seconds.
const MAX_TIME: f64 = 2.2e11;

/// The smallest and the largest value.
pub(super) type ValueRange = (f64, f64);

/// The smallest and the largest value, if all can be drawn.
pub(super) fn value_range(scale: Scale, values: &[f64]) -> Result<ValueRange, ChartError> {
    let most = if scale == Scale::Time { MAX_TIME } else { MAX_ABS };
    if values.iter().any(|value| !value.is_finite() || value.abs() > most) {
        return Err(ChartError::Unusable);
    }
    let lo = values.iter().copied().reduce(f64::min).ok_or(ChartError::Empty)?;
    let hi = values.iter().copied().reduce(f64::max).ok_or(ChartError::Empty)?;
    Ok((lo, hi))
}

/// An axis with its ticks, and where it starts and ends in the picture.
struct Side {
    ticks: Ticks,
    ends: (f64, f64),
}

impl Side {
    fn at(&self, value: f64) -> f64 {
        let (lo, hi) = self.ticks.range;
        let (from, to) = self.ends;
        let steps = ((to - from) / STEP).round();
        from + (steps * (value - lo) / (hi - lo)).round() * STEP
    }

    fn labels(&self) -> impl Iterator<Item = (f64, &str)> {
        let labels = self.ticks.at.iter().zip(&self.ticks.labels);
        labels.map(|(at, label)| (self.at(*at), label.as_str()))
    }
}

/// The area between the axes.
pub(super) struct Plot {
    x: Side,
    y: Side,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Plot {
    /// A plot below `header` with axes for values in these ranges.
    pub(super) fn new(
        header: f64,
        (x_axis, x): (&Axis, ValueRange),
        (y_axis, y): (&Axis, ValueRange),
        number: Number<'_>,
    ) -> Self {
        let (top, bottom) = (header + ABOVE, header + ABOVE + PLOT);
        let up = ticks(y_axis.scale, y, 6, AxisEnd::AtTick, number, |_| true);
        let numbers = up.labels.iter().map(|label| width(label)).fold(0.0, f64::max);
        let left = (EDGE + numbers + 6.0).min(WIDTH / 3.0).floor();
        let room = WIDTH - left - RIGHT;
        let fits = |ticks: &Ticks| labels_fit(ticks, room);
        let along = ticks(x_axis.scale, x, 8, AxisEnd::Padded, number, fits);
        let right = WIDTH - right_margin(&along, room);
        Self {
            x: Side { ticks: along, ends: (left, right - STEP) },
            y: Side { ticks: up, ends: (bottom - STEP, top) },
            top,
            bottom,
        }
    }

    /// The position of a value.
    pub(super) fn at(&self, x: f64, y: f64) -> Position {
        (self.x.at(x), self.y.at(y))
    }

    /// Draws horizontal grid lines, and the axes with ticks and labels; returns the height of the
    /// picture.
    pub(super) fn draw(&self, svg: &mut Svg, x_label: &str, y_label: &str) -> f64 {
        let Self { x, y, top, bottom } = self;
        let ((left, right), (low, high)) = (x.ends, y.ends);
        let (grid, soft) = (Paint::Grid.solid(1.0), Paint::Soft);
        for (at, _) in y.labels() {
            svg.line(&[(left, at), (right, at)], &grid);
        }
        let axis = left - STEP;
        svg.line(&[(axis, high), (axis, low)], &grid);
        for (at, label) in y.labels() {
            svg.text(label, (left - 6.0, at), Align::End, soft);
            svg.line(&[(axis - 3.0, at), (axis, at)], &grid);
        }
        svg.line(&[(left, *bottom), (right, *bottom)], &grid);
        for (at, label) in x.labels() {
            svg.text(label, (at, bottom + 11.5), Align::Middle, soft);
            svg.line(&[(at, *bottom), (at, bottom + 3.0)], &grid);
        }
        let y_label = shorten(y_label, WIDTH - 2.0 * EDGE);
        svg.text(&y_label, (EDGE, top - ABOVE + 10.0), Align::Start, soft);
        let x_label = shorten(x_label, right + STEP - left);
        let middle = ((left + right + STEP) / 2.0).floor();
        svg.text(&x_label, (middle, bottom + BELOW - 12.0), Align::Middle, soft);
        bottom + BELOW
    }
}

/// The right margin that keeps the last label of a horizontal axis whole.
fn right_margin(along: &Ticks, room: f64) -> f64 {
    let Some((at, label)) = along.at.last().zip(along.labels.last()) else { return RIGHT };
    let (lo, hi) = along.range;
    let beyond = (hi - at) / (hi - lo) * room;
    RIGHT.max((width(label) / 2.0).floor() + 4.0 - beyond.trunc())
}

/// Whether the labels of a horizontal axis do not touch.
fn labels_fit(ticks: &Ticks, room: f64) -> bool {
    let (lo, hi) = ticks.range;
    let half = |at: usize| width(&ticks.labels[at]) / 2.0;
    (1..ticks.at.len()).all(|at| {
        let gap = (ticks.at[at] - ticks.at[at - 1]) * room / (hi - lo);
        half(at - 1) + half(at) + 10.0 <= gap
    })
}
