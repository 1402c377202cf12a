//! Bar charts: panels side by side, each with its own scale from zero, so that quantities of
//! different units never share a scale.

use super::header::{self, EDGE, shorten, width};
use super::plot::{STEP, value_range};
use super::svg::{Align, Paint, Svg, WIDTH};
use super::ticks::three_digits;
use super::{Bars, ChartError, Number, Panel, Scale};

/// Height of the panel labels.
const ABOVE: f64 = 24.0;
/// Height of a bar including the gap to the next.
const ROW: f64 = 23.0;
/// The middle of a bar's texts, and the upper and lower edge of the bar, within its row.
const MIDDLE: f64 = 11.0;
const BAR: (f64, f64) = (4.0, 19.0);
/// Gap between panels.
const GAP: f64 = 14.0;
/// Gap between a bar and its number.
const BESIDE: f64 = 4.0;

/// Draws the chart; returns its height.
pub(super) fn draw(
    svg: &mut Svg,
    title: &str,
    bars: &Bars,
    number: Number<'_>,
) -> Result<f64, ChartError> {
    let values: Vec<f64> =
        bars.panels.iter().flat_map(|panel| &panel.values).copied().flatten().collect();
    if value_range(Scale::Zero, &values)?.0 < 0.0 {
        return Err(ChartError::TooLow);
    }
    let widest = bars.categories.iter().map(|name| width(name)).fold(0.0, f64::max);
    let names = widest.min(WIDTH * 2.0 / 5.0);
    let top = header::draw(svg, title, &[]) + ABOVE;
    for (at, name) in bars.categories.iter().enumerate() {
        let place = (EDGE + names, top + at as f64 * ROW + MIDDLE);
        svg.text(&shorten(name, names), place, Align::End, Paint::Strong);
    }
    let room = ((WIDTH - 2.0 * EDGE - names) / bars.panels.len() as f64).floor() - GAP;
    for (at, panel) in bars.panels.iter().enumerate() {
        let left = EDGE + names + GAP + at as f64 * (room + GAP);
        draw_panel(svg, panel, (left, top), room, number);
    }
    Ok(top + bars.categories.len() as f64 * ROW + EDGE)
}

fn draw_panel(
    svg: &mut Svg,
    panel: &Panel,
    (left, top): (f64, f64),
    room: f64,
    number: Number<'_>,
) {
    let text = |value: f64| number(value, three_digits(value));
    let label = shorten(&panel.label, room);
    svg.text(&label, (left, top - ABOVE / 2.0), Align::Start, Paint::Soft);
    let values = || panel.values.iter().flatten().copied();
    let numbers = values().map(|value| width(&text(value))).fold(0.0, f64::max);
    let longest = (room - numbers - BESIDE).max(20.0) - STEP;
    let most = values().fold(f64::MIN_POSITIVE, f64::max);
    let mut row = top;
    for value in &panel.values {
        let mut end = left;
        if let Some(value) = value {
            end += ((longest / STEP).round() * value / most).round() * STEP;
            let corners = [(left, row + BAR.0), (end, row + BAR.1)];
            svg.rectangle(corners, &Paint::Series(0).fill());
        }
        let text = value.map_or("–".into(), text);
        svg.text(&text, (end + BESIDE, row + MIDDLE), Align::Start, Paint::Soft);
        row += ROW;
    }
    svg.line(&[(left, top), (left, row)], &Paint::Soft.solid(1.0));
}
