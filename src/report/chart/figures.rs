//! The charts of reports, from plain numbers: which scale suits which question.

use super::{
    Axis, Bars, Chart, Data, Histogram, Lines, Look, Mark, Number, Panel, Point, Scale, Series,
};

/// The text of a chart, in the language of its report.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// Above the picture.
    pub title: &'a str,
    /// What the picture says, for those who do not see it.
    pub alt: &'a str,
    /// The lower axis, with its unit.
    pub x: &'a str,
    /// The upright axis, with its unit.
    pub y: &'a str,
    /// How numbers are written.
    pub number: Number<'a>,
}

/// A name in the legend, and values.
pub type Curve = (String, Vec<Point>);

/// A straight line, in the units of the axes.
pub struct Straight {
    /// Its name in the legend.
    pub name: String,
    /// The value where the lower axis is zero.
    pub intercept: f64,
    /// What a step of one to the right adds.
    pub slope: f64,
}

/// Time to first token over the length of the prompt, with a fitted line (Theil–Sen). Both axes are
/// even, so that the line is straight: its slope is the cost of a token, its start what every
/// request costs.
pub fn ttft_by_prompt<'a>(words: &Words<'a>, measured: Curve, fit: Option<Straight>) -> Chart<'a> {
    let places = || measured.1.iter().map(|point| point.x);
    let ends = places().reduce(f64::min).zip(places().reduce(f64::max));
    let line = fit.zip(ends).map(|(fit, (from, to))| Series {
        points: [from, to].map(|x| Point::new(x, fit.intercept + fit.slope * x)).into(),
        name: fit.name,
        look: Look::Reference,
    });
    let series = [curve(Look::Points, measured)].into_iter().chain(line).collect();
    lines(words, Scale::Whole, Scale::Zero, series)
}

/// The rate of each step over its position, a curve for each scenario. Long curves are drawn as
/// medians of 400 bins.
pub fn rate_by_step<'a>(words: &Words<'a>, curves: Vec<Curve>) -> Chart<'a> {
    let series = curves.into_iter().map(|one| curve(Look::Line, one)).collect();
    lines(words, Scale::Whole, Scale::Zero, series)
}

/// Prefill and decode of each scenario, beside each other and each with its own scale. `words.x`
/// and `words.y` are not used: every panel has its own label.
pub fn throughput<'a>(
    words: &Words<'a>,
    scenarios: Vec<String>,
    panels: Vec<Panel<'a>>,
) -> Chart<'a> {
    chart(words, Data::Bars(Bars { categories: scenarios, panels }))
}

/// A rate over the depth of the context; several curves where the context was extended in several
/// ways.
pub fn rate_by_depth<'a>(words: &Words<'a>, curves: Vec<Curve>) -> Chart<'a> {
    let scale = doubling(&curves);
    let series = curves.into_iter().map(|one| curve(Look::Line, one)).collect();
    lines(words, scale, Scale::Zero, series)
}

/// The rate of whole batches over their size, and what it would be if every sequence ran as fast as
/// one alone. Without a value at one there is no such line.
pub fn batch_scaling<'a>(words: &Words<'a>, measured: Curve, ideal: &str) -> Chart<'a> {
    let alone = measured.1.iter().find(|point| point.x == 1.0).and_then(|point| point.y);
    let largest = measured.1.iter().map(|point| point.x).fold(1.0, f64::max);
    let line = alone.map(|alone| {
        // Straight on an even axis, bent on one of doublings: drawn in small steps.
        let steps = 32;
        let size = |step: i32| largest.powf(f64::from(step) / f64::from(steps));
        let points = (0..=steps).map(|step| Point::new(size(step), alone * size(step))).collect();
        Series { name: ideal.into(), points, look: Look::Reference }
    });
    let series = [curve(Look::Line, measured)].into_iter().chain(line).collect();
    lines(words, Scale::Doubling, Scale::Zero, series)
}

/// How often values occur; marks such as median and p95 have their values in their names.
pub fn distribution<'a>(words: &Words<'a>, values: Vec<f64>, marks: Vec<Mark>) -> Chart<'a> {
    let histogram = Histogram {
        x: axis(words.x, Scale::Around, words.number),
        y: axis(words.y, Scale::Whole, words.number),
        values,
        marks,
    };
    chart(words, Data::Histogram(histogram))
}

/// Memory over requests or over seconds. The axis does not start at zero: growth is what is looked
/// for.
pub fn memory<'a>(words: &Words<'a>, curves: Vec<Curve>) -> Chart<'a> {
    let series = curves.into_iter().map(|one| curve(Look::Line, one)).collect();
    lines(words, Scale::Whole, Scale::Around, series)
}

/// Values over time, in seconds since 1970; a place without a value breaks the line. `failures` are
/// times with a name for the legend.
pub fn trend<'a>(words: &Words<'a>, curves: Vec<Curve>, failures: (String, Vec<f64>)) -> Chart<'a> {
    let (name, at) = failures;
    let points: Vec<Point> = at.into_iter().map(Point::missing).collect();
    let failed = (!points.is_empty()).then_some(Series { name, points, look: Look::Failures });
    let series = curves.into_iter().map(|one| curve(Look::Line, one)).chain(failed).collect();
    lines(words, Scale::Time, Scale::Zero, series)
}

/// Doublings for lengths that span some of them; a depth of zero is on no such axis.
fn doubling(curves: &[Curve]) -> Scale {
    let places = || curves.iter().flat_map(|(_, points)| points).map(|point| point.x);
    let (lo, hi) = (places().fold(f64::INFINITY, f64::min), places().fold(0.0, f64::max));
    if lo > 0.0 && hi >= 8.0 * lo { Scale::Doubling } else { Scale::Whole }
}

fn curve(look: Look, (name, points): Curve) -> Series {
    Series { name, points, look }
}

fn lines<'a>(words: &Words<'a>, x: Scale, y: Scale, series: Vec<Series>) -> Chart<'a> {
    let x = axis(words.x, x, words.number);
    let y = axis(words.y, y, words.number);
    chart(words, Data::Lines(Lines { x, y, series }))
}

fn axis<'a>(label: &str, scale: Scale, number: Number<'a>) -> Axis<'a> {
    Axis { label: label.into(), scale, number }
}

fn chart<'a>(words: &Words<'_>, data: Data<'a>) -> Chart<'a> {
    Chart { title: words.title.into(), alt: words.alt.into(), data }
}
