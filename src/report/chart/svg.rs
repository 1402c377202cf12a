//! SVG elements as text, in units of the view box with one decimal. Paints are custom properties
//! with fallbacks for white paper.

use std::fmt::Write as _;

use crate::report::text::escape_xml;

/// Style sheet of a page with charts: the page's font, and series colours for both themes. The
/// page's own `--ink`, `--soft`, `--line` and `--bad` are used if defined.
///
/// Series colours are those of Okabe and Ito (2008), distinguishable with any colour vision; those
/// too pale for white or too dark for black are adjusted.
pub(crate) const CSS: &str = "\
.chart { display: block; width: 100%; height: auto; font-family: inherit; font-variant-numeric: tabular-nums }
:root { --c1: #0072b2; --c2: #d55e00; --c3: #007d5b; --c4: #b0578e; --c5: #a36a00; --c6: #3b87b5 }
@media (prefers-color-scheme: dark) { :root { --c1: #56b4e9; --c2: #ff8a3d; --c3: #2fc79b; --c4: #e39cc4; --c5: #e69f00; --c6: #f0e442 } }
";

/// Width of every chart. Text of 13 units is legible on a phone, where a unit is 0.8 pixels.
pub(super) const WIDTH: f64 = 440.0;

/// A position from the upper left.
pub(super) type Position = (f64, f64);

/// Paints of series with their dash patterns, the first of which is solid. They repeat.
const SERIES: [(&str, &str); 6] = [
    ("var(--c1, #0072b2)", ""),
    ("var(--c2, #d55e00)", "6 3"),
    ("var(--c3, #007d5b)", "2 2.5"),
    ("var(--c4, #b0578e)", "8 3 2 3"),
    ("var(--c5, #a36a00)", "4 2"),
    ("var(--c6, #3b87b5)", "10 4"),
];

/// A colour by its role.
#[derive(Debug, Clone, Copy)]
pub(super) enum Paint {
    /// Titles and names.
    Strong,
    /// Labels and reference lines.
    Soft,
    /// Grid lines.
    Grid,
    /// Failures.
    Bad,
    /// A series by index.
    Series(usize),
}

impl Paint {
    fn colour(self) -> &'static str {
        match self {
            Paint::Strong => "var(--ink, #1b1f24)",
            Paint::Soft => "var(--soft, #59636e)",
            Paint::Grid => "var(--line, #d1d9e0)",
            Paint::Bad => "var(--bad, #b3261e)",
            Paint::Series(at) => SERIES[at % SERIES.len()].0,
        }
    }

    /// The style of a filled shape.
    pub(super) fn fill(self) -> String {
        format!(" fill=\"{}\"", self.colour())
    }

    /// The style of a solid line.
    pub(super) fn solid(self, width: f64) -> String {
        format!(" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"", self.colour())
    }

    /// The style of a line with the dash pattern of its series, or of references.
    pub(super) fn dashed(self, width: f64) -> String {
        let dash = match self {
            Paint::Series(at) => SERIES[at % SERIES.len()].1,
            _ => "4 2",
        };
        let style = self.solid(width);
        if dash.is_empty() { style } else { format!("{style} stroke-dasharray=\"{dash}\"") }
    }
}

/// Where a text is relative to its position.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    Start,
    Middle,
    End,
}

/// The marker of a point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Marker {
    /// Of a series by index, distinguished by shape.
    Series(usize),
    /// The cross of a failure.
    Cross,
}

/// Elements in the order of drawing.
#[derive(Default)]
pub(super) struct Svg(String);

impl Svg {
    /// The whole picture.
    pub(super) fn document(&self, title: &str, alt: &str, height: f64) -> String {
        let (title, alt, body) = (escape_xml(title), escape_xml(alt), &self.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" \
             font-family=\"sans-serif\" role=\"img\" aria-label=\"{alt}\">\n<title>{title}</title>\n{body}</svg>\n"
        )
    }

    /// A line of the title below `top`.
    pub(super) fn title(&mut self, text: &str, top: Position) {
        let font = "font-size=\"15\" font-weight=\"600\"";
        self.text_element(text, (top.0, top.1 + 11.7), font, Paint::Strong);
    }

    /// Text whose middle line is at a height.
    pub(super) fn text(&mut self, text: &str, at: Position, align: Align, paint: Paint) {
        let font = match align {
            Align::Start => "font-size=\"13\"",
            Align::Middle => "text-anchor=\"middle\" font-size=\"13\"",
            Align::End => "text-anchor=\"end\" font-size=\"13\"",
        };
        self.text_element(text, (at.0, at.1 + 4.6), font, paint);
    }

    fn text_element(&mut self, text: &str, (x, baseline): Position, font: &str, paint: Paint) {
        let (x, y, fill, text) = (number(x), number(baseline), paint.fill(), escape_xml(text));
        let _ = writeln!(self.0, "<text x=\"{x}\" y=\"{y}\" {font}{fill}>{text}</text>");
    }

    pub(super) fn line(&mut self, path: &[Position], style: &str) {
        let _ = writeln!(self.0, "<polyline points=\"{}\"{style}/>", points(path));
    }

    pub(super) fn polygon(&mut self, corners: &[Position], style: &str) {
        let _ = writeln!(self.0, "<polygon points=\"{}\"{style}/>", points(corners));
    }

    pub(super) fn circle(&mut self, centre: Position, radius: f64, style: &str) {
        let [x, y, r] = [centre.0, centre.1, radius].map(number);
        let _ = writeln!(self.0, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\"{style}/>");
    }

    /// A rectangle from its upper left corner to its lower right one.
    pub(super) fn rectangle(&mut self, [from, to]: [Position; 2], style: &str) {
        let [x, y, width, height] = [from.0, from.1, to.0 - from.0, to.1 - from.1].map(number);
        let size = format!("width=\"{width}\" height=\"{height}\"");
        let _ = writeln!(self.0, "<rect x=\"{x}\" y=\"{y}\" {size}{style}/>");
    }

    pub(super) fn marker(&mut self, marker: Marker, at: Position, r: f64) {
        let around = |(dx, dy): Position| (at.0 + dx, at.1 + dy);
        let series = match marker {
            Marker::Series(series) => series,
            Marker::Cross => {
                for dy in [-r, r] {
                    self.line(&[(-r, -dy), (r, dy)].map(around), &Paint::Bad.solid(2.0));
                }
                return;
            }
        };
        let (fill, outline) = (Paint::Series(series).fill(), Paint::Series(series).solid(1.5));
        let square = [(-r, -r), (r, r)].map(around);
        // Larger, so that all cover about the same area.
        let (wide, tall, pointed) = (1.2 * r, 1.32 * r, 1.49 * r);
        match series % 6 {
            0 => self.circle(at, r, &fill),
            1 => self.rectangle(square, &fill),
            2 => self.polygon(&[(0.0, -tall), (wide, r), (-wide, r)].map(around), &fill),
            3 => {
                let corners = [(0.0, -pointed), (pointed, 0.0), (0.0, pointed), (-pointed, 0.0)];
                self.polygon(&corners.map(around), &fill);
            }
            4 => self.circle(at, r, &outline),
            _ => self.rectangle(square, &outline),
        }
    }
}

fn points(path: &[Position]) -> String {
    let pairs = path.iter().map(|(x, y)| format!("{},{}", number(*x), number(*y)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// A length with one decimal, none if it is whole.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), Into::into)
}
