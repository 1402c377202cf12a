//! Charts as SVG, from plain numbers. The SVG works in any page and theme: colours are custom
//! properties with fallbacks for white paper, no size is in pixels, and no element has an id, so
//! that one page can hold many charts. Knows neither records nor metrics; texts and number formats
//! come from the caller.

mod bars;
mod header;
mod histogram;
mod lines;
mod plot;
mod svg;
mod ticks;

pub(crate) use svg::CSS;

use svg::Svg;

/// Formats a number with so many decimals, in the language of the report: `12.5`, `12,5`.
pub type Number<'a> = &'a dyn Fn(f64, usize) -> String;

/// A chart description.
pub struct Chart<'a> {
    /// The heading; cut after two lines.
    pub title: String,
    /// Alternative text.
    pub alt: String,
    /// Format of numbers; a time axis always shows UTC.
    pub number: Number<'a>,
    /// The data to draw.
    pub data: Data,
}

/// The kinds of chart.
pub enum Data {
    /// Values over a quantity: curves, points, fitted lines, time series.
    Lines(Lines),
    /// Values of named items, one bar each, from zero.
    Bars(Bars),
    /// A frequency distribution.
    Histogram(Histogram),
}

/// Values over a quantity.
pub struct Lines {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series; the first is drawn on top.
    pub series: Vec<Series>,
}

/// An axis.
pub struct Axis {
    /// Label with unit.
    pub label: String,
    /// How values are laid out on it.
    pub scale: Scale,
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

/// A position and the value there; `None` interrupts the line.
pub(crate) type Point = (f64, Option<f64>);

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
pub struct Bars {
    /// The items, from top to bottom.
    pub categories: Vec<String>,
    /// Panels side by side, each with its own scale.
    pub panels: Vec<Panel>,
}

/// Bars on a common scale.
pub struct Panel {
    /// Label with unit.
    pub label: String,
    /// One value per category; `None` if not measured.
    pub values: Vec<Option<f64>>,
}

/// A histogram.
pub struct Histogram {
    /// Label of the values, with their unit.
    pub x: String,
    /// Label of their counts.
    pub y: String,
    /// All values.
    pub values: Vec<f64>,
    /// Named vertical lines, such as a median.
    pub marks: Vec<(String, f64)>,
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
    /// A negative bar.
    #[error("a value lies below what can be drawn")]
    TooLow,
}

/// The chart as an SVG element, which is also a valid file.
///
/// # Errors
/// When the data cannot be drawn; the reason can be shown instead.
pub fn svg(chart: &Chart<'_>) -> Result<String, ChartError> {
    let (title, number) = (&*chart.title, chart.number);
    let mut svg = Svg::default();
    let height = match &chart.data {
        Data::Lines(data) => lines::draw(&mut svg, title, data, number),
        Data::Bars(data) => bars::draw(&mut svg, title, data, number),
        Data::Histogram(data) => histogram::draw(&mut svg, title, data, number),
    }?;
    Ok(svg.document(title, &chart.alt, height))
}

#[cfg(test)]
mod tests;
