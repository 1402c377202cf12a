//! Charts as SVG: a description in plain numbers goes in, text comes out. One file is enough for a
//! page of any theme: colours are custom properties with fallbacks for white paper, nothing has a
//! fixed size in pixels, and no element has an id, so that many charts can stand in one page. Knows
//! neither records nor metrics; words and numbers come in the report's language.

mod backend;
mod bars;
mod figures;
mod head;
mod histogram;
mod lines;
mod png;
mod theme;
mod thin;
mod ticks;

use std::convert::Infallible;

use plotters::drawing::DrawingAreaErrorKind;

pub use figures::{
    Curve, Straight, Words, batch_scaling, distribution, memory, rate_by_depth, rate_by_step,
    throughput, trend, ttft_by_prompt,
};
pub use png::png;
pub use theme::CSS;

/// A number with so many decimals, in the language of the report: `12.5`, `12,5`.
pub type Number<'a> = &'a dyn Fn(f64, usize) -> String;

/// A chart in plain numbers.
pub struct Chart<'a> {
    /// Above the picture; cut where it fills more than two lines.
    pub title: String,
    /// What the picture says, for those who do not see it.
    pub alt: String,
    /// What is drawn.
    pub data: Data<'a>,
}

/// The kinds of chart.
pub enum Data<'a> {
    /// Values over a quantity: curves, points, fitted lines, values over time.
    Lines(Lines<'a>),
    /// Values of named things, one bar each, from zero.
    Bars(Bars<'a>),
    /// How often values occur.
    Histogram(Histogram<'a>),
}

/// Values over a quantity.
pub struct Lines<'a> {
    /// The quantity from left to right.
    pub x: Axis<'a>,
    /// The values from the bottom up.
    pub y: Axis<'a>,
    /// What is drawn, the first on top.
    pub series: Vec<Series>,
}

/// An axis.
#[derive(Clone)]
pub struct Axis<'a> {
    /// What it shows, with its unit.
    pub label: String,
    /// How values are laid out on it.
    pub scale: Scale,
    /// How its numbers are written; a time axis writes UTC by itself.
    pub number: Number<'a>,
}

/// How values are laid out on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, with zero in the picture.
    Zero,
    /// Evenly, around the values. Differences of under 2 % are not blown up to fill the picture.
    Around,
    /// Evenly, around the values, with marks at whole numbers only.
    Whole,
    /// Every doubling is as long as the next; for values above zero.
    Doubling,
    /// Seconds since 1970-01-01 00:00 UTC, marked with dates and times of day in UTC.
    Time,
}

/// Points of one kind.
pub struct Series {
    /// Its name in the legend, which is drawn where there are several.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
    /// How they are drawn.
    pub look: Look,
}

/// A value at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// The value; `None` where there is none, which breaks the line.
    pub y: Option<f64>,
    /// What holds the true value: the lower and the upper end.
    pub interval: Option<(f64, f64)>,
}

impl Point {
    /// A value without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y: Some(y), interval: None }
    }

    /// A place without a value.
    pub fn missing(x: f64) -> Self {
        Self { x, y: None, interval: None }
    }
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Joined; with a mark at each value while they are few.
    Line,
    /// A mark at each value.
    Points,
    /// A dashed line to measure others by: a fit, an ideal.
    Reference,
    /// Crosses on the lower edge, at places where something failed; values are not looked at.
    Failures,
}

/// Values of named things.
pub struct Bars<'a> {
    /// The things, from the top down.
    pub categories: Vec<String>,
    /// Pictures beside each other, each with a scale of its own.
    pub panels: Vec<Panel<'a>>,
}

/// Bars that share a scale.
pub struct Panel<'a> {
    /// What is shown, with its unit.
    pub label: String,
    /// How values are written.
    pub number: Number<'a>,
    /// Bars of one kind each; their names make the legend where there are several.
    pub groups: Vec<Group>,
}

/// One bar for every category.
pub struct Group {
    /// Its name in the legend.
    pub name: String,
    /// A value for each category, `None` where none was measured.
    pub values: Vec<Option<f64>>,
}

/// How often values occur.
pub struct Histogram<'a> {
    /// The values, with their unit.
    pub x: Axis<'a>,
    /// Their number.
    pub y: Axis<'a>,
    /// Every value.
    pub values: Vec<f64>,
    /// Upright lines with a name each, such as a median.
    pub marks: Vec<Mark>,
}

/// An upright line.
pub struct Mark {
    /// Its text in the legend.
    pub name: String,
    /// Its place.
    pub at: f64,
}

/// Why there is no chart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChart {
    /// There is nothing to draw.
    #[error("no values")]
    Empty,
    /// A line or a distribution of a single value would say what is not known.
    #[error("one value only")]
    OneValue,
    /// A value that no picture can hold: infinite, not a number, or beyond 10¹⁵.
    #[error("a value is infinite, not a number or far too large")]
    Unusable,
    /// A value at or below zero on an axis of doublings, or a bar below zero.
    #[error("a value lies below what can be drawn")]
    TooLow,
    /// A group of bars with more or fewer values than there are categories.
    #[error("bars and their names differ in number")]
    Uneven,
    /// The parts do not fit into the picture.
    #[error("the picture cannot be laid out")]
    Layout,
}

impl From<DrawingAreaErrorKind<Infallible>> for NoChart {
    fn from(_: DrawingAreaErrorKind<Infallible>) -> Self {
        NoChart::Layout
    }
}

/// The chart as an SVG element, which is also a file of its own.
///
/// # Errors
/// When the numbers make no picture; the reason can be shown in its place.
pub fn svg(chart: &Chart<'_>) -> Result<String, NoChart> {
    let (mut body, keys) = match &chart.data {
        Data::Lines(data) => (String::new(), lines::keys(data)),
        Data::Bars(data) => (String::new(), bars::keys(data)),
        Data::Histogram(data) => (String::new(), histogram::keys(data)),
    };
    let head = head::Head::new(&chart.title, keys);
    let height = match &chart.data {
        Data::Lines(data) => lines::draw(data, &head, &mut body),
        Data::Bars(data) => bars::draw(data, &head, &mut body),
        Data::Histogram(data) => histogram::draw(data, &head, &mut body),
    }?;
    Ok(backend::document(&chart.title, &chart.alt, height, &body))
}

#[cfg(test)]
mod tests;
