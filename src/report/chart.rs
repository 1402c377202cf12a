//! Charts as SVG, from plain numbers. The SVG works in any page and theme: colours are custom
//! properties with fallbacks for white paper, no size is in pixels, and no element has an id, so
//! that one page can hold many charts. Knows neither records nor metrics; texts and number formats
//! come from the caller.

mod backend;
mod bars;
mod downsample;
mod header;
mod histogram;
mod lines;
mod theme;
mod ticks;
mod units;

use std::convert::Infallible;

use plotters::drawing::DrawingAreaErrorKind;

pub use theme::CSS;

/// Formats a number with so many decimals, in the language of the report: `12.5`, `12,5`.
pub type Number<'a> = &'a dyn Fn(f64, usize) -> String;

/// A chart description.
pub struct Chart<'a> {
    /// The heading; cut after two lines.
    pub title: String,
    /// Alternative text.
    pub alt: String,
    /// The data to draw.
    pub data: Data<'a>,
}

/// The kinds of chart.
pub enum Data<'a> {
    /// Values over a quantity: curves, points, fitted lines, time series.
    Lines(Lines<'a>),
    /// Values of named items, one bar each, from zero.
    Bars(Bars<'a>),
    /// A frequency distribution.
    Histogram(Histogram<'a>),
}

/// Values over a quantity.
pub struct Lines<'a> {
    /// The horizontal axis.
    pub x: Axis<'a>,
    /// The vertical axis.
    pub y: Axis<'a>,
    /// The series; the first is drawn on top.
    pub series: Vec<Series>,
}

/// An axis.
#[derive(Clone)]
pub struct Axis<'a> {
    /// Label with unit.
    pub label: String,
    /// How values are laid out on it.
    pub scale: Scale,
    /// Format of its numbers; a time axis always shows UTC.
    pub number: Number<'a>,
}

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Linear, including zero.
    Zero,
    /// Linear around the values; differences below 2 % are not magnified.
    Around,
    /// Linear around the values, with ticks at integers only.
    Whole,
    /// Logarithmic to base 2, for positive values.
    Doubling,
    /// Seconds since 1970-01-01 00:00 UTC, with dates and times in UTC.
    Time,
}

/// A series of points.
pub struct Series {
    /// Its name in the legend, which is drawn if there are several series.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
    /// How the points are drawn.
    pub style: SeriesStyle,
}

/// A data point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The horizontal position.
    pub x: f64,
    /// The value; `None` interrupts the line.
    pub y: Option<f64>,
    /// The confidence interval: lower and upper end.
    pub interval: Option<(f64, f64)>,
}

impl Point {
    /// A value without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y: Some(y), interval: None }
    }

    /// A missing value.
    pub fn missing(x: f64) -> Self {
        Self { x, y: None, interval: None }
    }
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeriesStyle {
    /// Connected points, with markers if there are few.
    Line,
    /// Markers only.
    Points,
    /// A dashed reference line, such as a fit.
    Reference,
    /// Crosses at the lower edge for failures; values are ignored.
    Failures,
}

/// A bar chart.
pub struct Bars<'a> {
    /// The items, from top to bottom.
    pub categories: Vec<String>,
    /// Panels side by side, each with its own scale.
    pub panels: Vec<Panel<'a>>,
}

/// Bars on a common scale.
pub struct Panel<'a> {
    /// Label with unit.
    pub label: String,
    /// Format of values.
    pub number: Number<'a>,
    /// Groups of bars; their names form the legend if there are several.
    pub groups: Vec<Group>,
}

/// One bar per category.
pub struct Group {
    /// Its name in the legend.
    pub name: String,
    /// One value per category; `None` if not measured.
    pub values: Vec<Option<f64>>,
}

/// A histogram.
pub struct Histogram<'a> {
    /// The values, with their unit.
    pub x: Axis<'a>,
    /// Their counts.
    pub y: Axis<'a>,
    /// All values.
    pub values: Vec<f64>,
    /// Named vertical lines, such as a median.
    pub marks: Vec<Mark>,
}

/// A vertical line.
pub struct Mark {
    /// Its text in the legend.
    pub name: String,
    /// Its value.
    pub at: f64,
}

/// Why a chart cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChartError {
    /// No values.
    #[error("no values")]
    Empty,
    /// A line or distribution of a single value would mislead.
    #[error("one value only")]
    OneValue,
    /// An infinite or undefined value, or one above 10¹⁵.
    #[error("a value is infinite, not a number or far too large")]
    Unusable,
    /// A value at or below zero on a logarithmic axis, or a negative bar.
    #[error("a value lies below what can be drawn")]
    TooLow,
    /// A group of bars with more or fewer values than there are categories.
    #[error("bars and their names differ in number")]
    Uneven,
    /// The parts do not fit.
    #[error("the picture cannot be laid out")]
    Layout,
}

impl From<DrawingAreaErrorKind<Infallible>> for ChartError {
    fn from(_: DrawingAreaErrorKind<Infallible>) -> Self {
        ChartError::Layout
    }
}

/// The chart as an SVG element, which is also a valid file.
///
/// # Errors
/// When the data cannot be drawn; the reason can be shown instead.
pub fn svg(chart: &Chart<'_>) -> Result<String, ChartError> {
    let (mut body, keys) = match &chart.data {
        Data::Lines(data) => (String::new(), lines::legend(data)),
        Data::Bars(data) => (String::new(), bars::legend(data)),
        Data::Histogram(data) => (String::new(), histogram::legend(data)),
    };
    let head = header::Header::new(&chart.title, keys);
    let height = match &chart.data {
        Data::Lines(data) => lines::draw(data, &head, &mut body),
        Data::Bars(data) => bars::draw(data, &head, &mut body),
        Data::Histogram(data) => histogram::draw(data, &head, &mut body),
    }?;
    Ok(backend::document(&chart.title, &chart.alt, height, &body))
}

#[cfg(test)]
mod tests;
