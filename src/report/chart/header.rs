//! Title and legend above the plot, where they cannot cover data; and estimated text widths, as no
//! font is available.

use super::svg::{Align, Marker, Paint, Svg, WIDTH};

/// Margin.
pub(super) const EDGE: f64 = 8.0;
const TITLE_LINE: f64 = 19.0;
const LEGEND_LINE: f64 = 18.0;
/// Width of a symbol of the legend.
const SAMPLE: f64 = 26.0;
/// Gap between a symbol and its name.
const BESIDE: f64 = 6.0;

/// A name in the legend with its line, marker or both.
pub(super) struct LegendEntry {
    pub(super) name: String,
    /// The style of the line.
    pub(super) line: Option<String>,
    /// The marker and its size.
    pub(super) marker: Option<(Marker, f64)>,
}

/// Draws both; returns the height that they take.
pub(super) fn draw(svg: &mut Svg, title: &str, legend: &[LegendEntry]) -> f64 {
    let room = WIDTH - 2.0 * EDGE;
    let mut y = EDGE;
    for line in wrap_title(title, room) {
        svg.title(&line, (EDGE, y));
        y += TITLE_LINE;
    }
    let mut x = WIDTH;
    for entry in legend {
        let name = shorten(&entry.name, room - SAMPLE - BESIDE);
        let wide = SAMPLE + BESIDE + width(&name);
        if x + wide > WIDTH - EDGE {
            x = EDGE;
            y += LEGEND_LINE;
        }
        let middle = y - LEGEND_LINE / 2.0;
        if let Some(style) = &entry.line {
            svg.line(&[(x, middle), (x + SAMPLE, middle)], style);
        }
        if let Some((marker, size)) = entry.marker {
            svg.marker(marker, (x + SAMPLE / 2.0, middle), size);
        }
        svg.text(&name, (x + SAMPLE + BESIDE, middle), Align::Start, Paint::Soft);
        x += wide + 16.0;
    }
    y
}

/// Estimated width of text, from the widths of common sans-serif fonts; rather too wide than too
/// narrow.
pub(super) fn width(text: &str) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | '\u{a0}' => 32,
        'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '/' | '-' => 40,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 92,
        'A'..='Z' | '_' => 70,
        '\u{1100}'.. => 100,
        _ => 59,
    };
    (f64::from(13 * text.chars().map(of).sum::<i32>()) / 100.0).ceil()
}

/// Text shortened to fit, with an ellipsis in the middle: names often differ at their ends.
pub(super) fn shorten(text: &str, room: f64) -> String {
    let chars: Vec<char> = text.chars().collect();
    // No line holds 200 characters, and a name may be of any length.
    (chars.len().saturating_sub(200)..=chars.len())
        .map(|cut| {
            let kept = chars.len() - cut;
            let start: String = chars[..kept.div_ceil(2)].iter().collect();
            let end: String = chars[chars.len() - kept / 2..].iter().collect();
            if cut == 0 { start + &end } else { format!("{start}…{end}") }
        })
        .find(|short| width(short) <= room)
        .unwrap_or_default()
}

/// Breaks a title into at most two lines.
fn wrap_title(title: &str, room: f64) -> Vec<String> {
    // Titles are larger than other text, and bold text is a sixth wider than `width` estimates.
    let room = room * 13.0 / 15.0 * 6.0 / 7.0;
    let mut first = String::new();
    let mut words = title.split_whitespace().peekable();
    while let Some(word) = words.peek() {
        let longer = if first.is_empty() { (*word).into() } else { format!("{first} {word}") };
        if width(&longer) > room {
            break;
        }
        first = longer;
        words.next();
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    let lines = [first, shorten(&rest, room)];
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}
