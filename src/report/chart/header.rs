//! Title and legend above the plot, where they cannot cover data; and estimated text widths, as no
//! font is available.

use plotters::element::{Circle, PathElement, Polygon, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontStyle, IntoFont as _, TextStyle};

use super::ChartError;
use super::backend::Canvas;
use super::theme::ThemeColor;
use super::units::{UNIT, WIDTH, px};

/// Font size in units.
pub(super) const TEXT: i32 = 13;
const TITLE: i32 = 15;
/// Margin.
pub(super) const EDGE: i32 = 8;
const TITLE_LINE: i32 = 19;
const LEGEND_LINE: i32 = 18;
const SAMPLE: i32 = 26;

/// The symbol of a legend entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LegendSymbol {
    /// A line with its dash and marker.
    Line(usize),
    /// A solid line and its marker.
    Curve(usize),
    /// A marker.
    Mark(usize),
    /// A dashed reference line.
    Reference,
    /// A cross.
    Failure,
    /// A line without a marker.
    Upright(usize),
    /// A filled box.
    Box(usize),
}

/// A name in the legend.
pub(super) type LegendEntry = (LegendSymbol, String);

/// Title and legend, broken into lines.
pub(super) struct Header {
    title: Vec<String>,
    /// Entries with their horizontal positions.
    legend: Vec<Vec<(i32, LegendEntry)>>,
}

impl Header {
    pub(super) fn new(title: &str, keys: Vec<LegendEntry>) -> Self {
        let room = WIDTH - 2 * EDGE;
        let mut legend: Vec<Vec<(i32, LegendEntry)>> = Vec::new();
        let mut at = room;
        for (sample, name) in keys {
            let name = shorten(&name, room - SAMPLE - 6);
            let wide = SAMPLE + 6 + width(&name, TEXT);
            if at + wide > room {
                legend.push(Vec::new());
                at = 0;
            }
            if let Some(line) = legend.last_mut() {
                line.push((EDGE + at, (sample, name)));
            }
            at += wide + 16;
        }
        Self { title: wrap_title(title, room), legend }
    }

    /// Height in units.
    pub(super) fn height(&self) -> i32 {
        let lines = |count: usize, line: i32| i32::try_from(count).unwrap_or(0) * line;
        EDGE + lines(self.title.len(), TITLE_LINE) + lines(self.legend.len(), LEGEND_LINE)
    }

    pub(super) fn draw(&self, canvas: &Canvas<'_>) -> Result<(), ChartError> {
        let mut y = EDGE;
        for line in &self.title {
            let style = text_style(ThemeColor::Strong, TITLE, HPos::Left, VPos::Top);
            let font = style.font.style(FontStyle::Bold);
            canvas.draw_text(line, &TextStyle { font, ..style }, px(EDGE, y))?;
            y += TITLE_LINE;
        }
        for line in &self.legend {
            let middle = y + LEGEND_LINE / 2;
            for (x, (sample, name)) in line {
                draw_legend_symbol(canvas, *sample, *x, middle)?;
                let style = text_style(ThemeColor::Soft, TEXT, HPos::Left, VPos::Center);
                canvas.draw_text(name, &style, px(x + SAMPLE + 6, middle))?;
            }
            y += LEGEND_LINE;
        }
        Ok(())
    }
}

fn draw_legend_symbol(
    canvas: &Canvas<'_>,
    sample: LegendSymbol,
    x: i32,
    y: i32,
) -> Result<(), ChartError> {
    let path = vec![px(x, y), px(x + SAMPLE, y)];
    let centre = px(x + SAMPLE / 2, y);
    match sample {
        LegendSymbol::Line(at) => {
            canvas.draw(&PathElement::new(path, ThemeColor::Series(at).line(20)))?;
            draw_marker(canvas, at, centre, 35)
        }
        LegendSymbol::Curve(at) => {
            canvas.draw(&PathElement::new(path, ThemeColor::Series(at).solid(15)))?;
            draw_marker(canvas, at, centre, 35)
        }
        LegendSymbol::Upright(at) => {
            Ok(canvas.draw(&PathElement::new(path, ThemeColor::Series(at).line(20)))?)
        }
        LegendSymbol::Mark(at) => draw_marker(canvas, at, centre, 40),
        LegendSymbol::Reference => {
            Ok(canvas.draw(&PathElement::new(path, ThemeColor::Soft.dashed(15)))?)
        }
        LegendSymbol::Failure => draw_cross(canvas, centre),
        LegendSymbol::Box(at) => draw_bar(canvas, at, [px(x + 4, y - 5), px(x + 22, y + 5)]),
    }
}

/// The marker of a series, distinguished by shape; `radius` in tenths of a unit.
pub(super) fn draw_marker(
    canvas: &Canvas<'_>,
    series: usize,
    (x, y): (i32, i32),
    radius: i32,
) -> Result<(), ChartError> {
    let r = radius * UNIT / 10;
    let colour = ThemeColor::Series(series);
    let filled = colour.area(1.0);
    let polygon = |corners: Vec<(i32, i32)>| canvas.draw(&Polygon::new(corners, filled));
    match series % 6 {
        0 => canvas.draw(&Circle::new((x, y), r, filled)),
        1 => canvas.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], filled)),
        2 => polygon(vec![(x, y - r - r / 3), (x + r + r / 5, y + r), (x - r - r / 5, y + r)]),
        3 => polygon(vec![
            (x, y - r - r / 2),
            (x + r + r / 2, y),
            (x, y + r + r / 2),
            (x - r - r / 2, y),
        ]),
        4 => canvas.draw(&Circle::new((x, y), r, colour.solid(15))),
        _ => canvas.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], colour.solid(15))),
    }?;
    Ok(())
}

/// A bar: the first group is opaque, others are pale with a border.
pub(super) fn draw_bar(
    canvas: &Canvas<'_>,
    group: usize,
    corners: [(i32, i32); 2],
) -> Result<(), ChartError> {
    let colour = ThemeColor::Series(group);
    let alpha = if group == 0 { 1.0 } else { 0.3 };
    canvas.draw(&Rectangle::new(corners, colour.area(alpha)))?;
    if group > 0 {
        canvas.draw(&Rectangle::new(corners, colour.solid(12)))?;
    }
    Ok(())
}

/// The cross of a failure.
pub(super) fn draw_cross(canvas: &Canvas<'_>, (x, y): (i32, i32)) -> Result<(), ChartError> {
    let r = 4 * UNIT;
    for dy in [-r, r] {
        let path = vec![(x - r, y - dy), (x + r, y + dy)];
        canvas.draw(&PathElement::new(path, ThemeColor::Bad.solid(20)))?;
    }
    Ok(())
}

/// A text style with a font size in units.
pub(super) fn text_style(colour: ThemeColor, size: i32, h: HPos, v: VPos) -> TextStyle<'static> {
    let font = ("sans-serif", size * UNIT).into_font();
    TextStyle { font, color: colour.colour().to_backend_color(), pos: Pos::new(h, v) }
}

/// Estimated width of text in units, from the widths of common sans-serif fonts; rather too wide
/// than too narrow.
pub(super) fn width(text: &str, size: i32) -> i32 {
    let hundredths: i32 = text
        .chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | '\u{a0}' => 32,
            'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '/' | '-' => 40,
            'm' | 'w' | 'M' | 'W' | '@' | '%' => 92,
            'A'..='Z' | '_' => 70,
            '\u{1100}'.. => 100,
            _ => 59,
        })
        .sum();
    (hundredths * size + 99) / 100
}

/// Text shorten to fit, with an ellipsis in the middle: names often differ at their ends.
pub(super) fn shorten(text: &str, room: i32) -> String {
    let chars: Vec<char> = text.chars().collect();
    // No line holds 200 characters, and a name may be of any length.
    (chars.len().saturating_sub(200)..=chars.len())
        .map(|cut| {
            let kept = chars.len() - cut;
            let (start, end) = (kept.div_ceil(2), kept / 2);
            let start: String = chars[..start].iter().collect();
            let end: String = chars[chars.len() - end..].iter().collect();
            if cut == 0 { start + &end } else { format!("{start}…{end}") }
        })
        .find(|short| width(short, TEXT) <= room)
        .unwrap_or_default()
}

/// Breaks a title into at most two lines.
fn wrap_title(title: &str, room: i32) -> Vec<String> {
    // Bold text is a sixth wider than `width` estimates.
    let room = room * TEXT * 6 / (TITLE * 7);
    let mut first = String::new();
    let mut words = title.split_whitespace().peekable();
    while let Some(word) = words.peek() {
        let longer = if first.is_empty() { (*word).into() } else { format!("{first} {word}") };
        if width(&longer, TEXT) > room {
            break;
        }
        first = longer;
        words.next();
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    let lines = [first, shorten(&rest, room)];
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}
