//! Bar charts: panels side by side, each with its own scale from zero, so that quantities of
//! different units never share a scale.

use plotters::chart::ChartBuilder;
use plotters::element::PathElement;
use plotters::style::text_anchor::{HPos, VPos};

use super::backend::{Canvas, canvas};
use super::header::{
    EDGE, Header, LegendEntry, LegendSymbol, TEXT, draw_bar, shorten, text_style, width,
};
use super::lines::value_range;
use super::theme::ThemeColor;
use super::ticks::three_digits;
use super::units::{UNIT, WIDTH, px};
use super::{Bars, ChartError, Panel, Scale};

/// Height of the panel labels.
const ABOVE: i32 = 24;
/// Height of a bar including the gap to the next.
const BAR: i32 = 17;
/// Gap between categories.
const BETWEEN: i32 = 6;
/// Gap between panels.
const GAP: i32 = 14;
/// Gap between a bar and its number.
const BESIDE: i32 = 4;

/// The legend: empty if there is only one group.
pub(super) fn legend(bars: &Bars<'_>) -> Vec<LegendEntry> {
    let groups = bars.panels.first().map_or(&[][..], |panel| &panel.groups);
    let named = groups.iter().enumerate().filter(|_| groups.len() > 1);
    named.map(|(at, group)| (LegendSymbol::Box(at), group.name.clone())).collect()
}

/// The geometry of the panels.
struct Layout {
    top: i32,
    panel: i32,
    row: i32,
}

/// Draws the chart; returns its height in units.
pub(super) fn draw(bars: &Bars<'_>, head: &Header, body: &mut String) -> Result<i32, ChartError> {
    check(bars)?;
    let widest = bars.categories.iter().map(|name| width(name, TEXT)).max().unwrap_or(0);
    let names = widest.min(WIDTH * 2 / 5);
    let panels = i32::try_from(bars.panels.len()).map_err(|_| ChartError::Layout)?;
    let panel = (WIDTH - 2 * EDGE - names) / panels - GAP;
    let groups = bars.panels.iter().map(|panel| panel.groups.len()).max().unwrap_or(1);
    let row = i32::try_from(groups).map_err(|_| ChartError::Layout)? * BAR + BETWEEN;
    let rows = i32::try_from(bars.categories.len()).map_err(|_| ChartError::Layout)?;
    // A panel needs room for a number and a bar; plotters' pixel counts limit the height.
    if panel < 60 || rows > 10_000 || row > 1000 {
        return Err(ChartError::Layout);
    }
    let layout = Layout { top: head.height() + ABOVE, panel, row };
    let height = layout.top + rows * row + EDGE;
    let canvas = canvas(body, height);
    head.draw(&canvas)?;
    let style = text_style(ThemeColor::Strong, TEXT, HPos::Right, VPos::Center);
    for (name, at) in bars.categories.iter().zip(0..) {
        let at = px(EDGE + names, layout.top + at * row + row / 2);
        canvas.draw_text(&shorten(name, names), &style, at)?;
    }
    for (panel, at) in bars.panels.iter().zip(0..) {
        let left = EDGE + names + GAP + at * (layout.panel + GAP);
        draw_panel(&canvas, panel, left, &layout, bars.categories.len())?;
    }
    Ok(height)
}

fn check(bars: &Bars<'_>) -> Result<(), ChartError> {
    let groups = || bars.panels.iter().flat_map(|panel| &panel.groups);
    if groups().any(|group| group.values.len() != bars.categories.len()) {
        return Err(ChartError::Uneven);
    }
    let values: Vec<f64> =
        groups().flat_map(|group| group.values.iter().flatten().copied()).collect();
    let (lo, _) = value_range(Scale::Zero, &values)?;
    if lo < 0.0 { Err(ChartError::TooLow) } else { Ok(()) }
}

fn draw_panel(
    canvas: &Canvas<'_>,
    panel: &Panel<'_>,
    left: i32,
    layout: &Layout,
    rows: usize,
) -> Result<(), ChartError> {
    let soft = |h| text_style(ThemeColor::Soft, TEXT, h, VPos::Center);
    let label = shorten(&panel.label, layout.panel);
    canvas.draw_text(&label, &soft(HPos::Left), px(left, layout.top - ABOVE / 2))?;
    let values = || panel.groups.iter().flat_map(|group| group.values.iter().flatten());
    let text = |value: f64| (panel.number)(value, three_digits(value));
    let numbers = values().map(|value| width(&text(*value), TEXT)).max().unwrap_or(0);
    let longest = (layout.panel - numbers - BESIDE).max(20);
    let most = values().copied().fold(0.0, f64::max);
    let height = rows as i32 * layout.row;
    let area = canvas.clone().shrink(px(left, layout.top), px(longest, height));
    let most = if most > 0.0 { most } else { 1.0 };
    let plot = ChartBuilder::on(&area).build_cartesian_2d(0.0..most, f64::from(height)..0.0)?;
    for (at, group) in panel.groups.iter().enumerate() {
        for (value, row) in group.values.iter().zip(0..) {
            let top = row * layout.row + BETWEEN / 2 + at as i32 * BAR;
            let middle = layout.top + top + BAR / 2;
            let Some(value) = value else {
                canvas.draw_text("–", &soft(HPos::Left), px(left + BESIDE, middle))?;
                continue;
            };
            let corners = [(0.0, f64::from(top + 1)), (*value, f64::from(top + BAR - 1))];
            draw_bar(canvas, at, corners.map(|corner| plot.backend_coord(&corner)))?;
            let end = plot.backend_coord(&(*value, 0.0)).0 + BESIDE * UNIT;
            canvas.draw_text(&text(*value), &soft(HPos::Left), (end, middle * UNIT))?;
        }
    }
    let axis = vec![px(left, layout.top), px(left, layout.top + height)];
    canvas.draw(&PathElement::new(axis, ThemeColor::Soft.solid(10)))?;
    Ok(())
}
