//! Colours and dashes of charts. Plotters only passes RGB values, so a colour encodes an index into
//! the tables below.

use plotters::style::{RGBAColor, RGBColor, ShapeStyle};

use super::units::UNIT;

/// Style sheet of a page with charts: the page's font, and series colours for both themes. The
/// page's own `--ink`, `--soft`, `--line` and `--bad` are used if defined.
///
/// Series colours are those of Okabe and Ito (2008), distinguishable with any colour vision; those
/// too pale for white or too dark for black are adjusted.
pub const CSS: &str = "\
.chart { display: block; width: 100%; height: auto; font-family: inherit; font-variant-numeric: tabular-nums }
:root { --c1: #0072b2; --c2: #d55e00; --c3: #007d5b; --c4: #b0578e; --c5: #a36a00; --c6: #3b87b5 }
@media (prefers-color-scheme: dark) { :root { --c1: #56b4e9; --c2: #ff8a3d; --c3: #2fc79b; --c4: #e39cc4; --c5: #e69f00; --c6: #f0e442 } }
";

/// A colour by its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThemeColor {
    /// Titles and values.
    Strong,
    /// Labels and reference lines.
    Soft,
    /// Grid lines.
    Grid,
    /// Failures.
    Bad,
    /// A series by index; colours repeat after six.
    Series(usize),
}

/// Custom properties with their fallbacks.
const PAINTS: [&str; 10] = [
    "var(--ink, #1b1f24)",
    "var(--soft, #59636e)",
    "var(--line, #d1d9e0)",
    "var(--bad, #b3261e)",
    "var(--c1, #0072b2)",
    "var(--c2, #d55e00)",
    "var(--c3, #007d5b)",
    "var(--c4, #b0578e)",
    "var(--c5, #a36a00)",
    "var(--c6, #3b87b5)",
];

/// Dash patterns; the first is solid.
const DASHES: [&str; 6] = ["", "6 3", "2 2.5", "8 3 2 3", "4 2", "10 4"];

/// The dash pattern of reference lines.
const REFERENCE: usize = 4;

impl ThemeColor {
    fn index(self) -> usize {
        match self {
            ThemeColor::Strong => 0,
            ThemeColor::Soft => 1,
            ThemeColor::Grid => 2,
            ThemeColor::Bad => 3,
            ThemeColor::Series(at) => 4 + at % 6,
        }
    }

    /// The colour that encodes this role.
    pub(super) fn colour(self) -> RGBColor {
        RGBColor(self.index() as u8, 0, 0)
    }

    /// A line, in tenths of a unit; a series has its own dash pattern.
    pub(super) fn line(self, width: i32) -> ShapeStyle {
        let dash = match self {
            ThemeColor::Series(at) => at % DASHES.len(),
            _ => 0,
        };
        stroke(RGBColor(self.index() as u8, dash as u8, 0), width)
    }

    /// A solid line.
    pub(super) fn solid(self, width: i32) -> ShapeStyle {
        stroke(self.colour(), width)
    }

    /// A line with the dash pattern of references.
    pub(super) fn dashed(self, width: i32) -> ShapeStyle {
        stroke(RGBColor(self.index() as u8, REFERENCE as u8, 0), width)
    }

    /// A filled area of the given opacity.
    pub(super) fn area(self, alpha: f64) -> ShapeStyle {
        let RGBColor(r, g, b) = self.colour();
        ShapeStyle { color: RGBAColor(r, g, b, alpha), filled: true, stroke_width: 0 }
    }
}

fn stroke(RGBColor(r, g, b): RGBColor, tenths: i32) -> ShapeStyle {
    let width = (tenths * UNIT / 10).unsigned_abs();
    ShapeStyle { color: RGBAColor(r, g, b, 1.0), filled: false, stroke_width: width }
}

/// Decodes a colour into paint and dash pattern.
pub(super) fn paint(rgb: (u8, u8, u8)) -> (&'static str, &'static str) {
    let paint = PAINTS.get(usize::from(rgb.0)).copied().unwrap_or(PAINTS[0]);
    (paint, DASHES.get(usize::from(rgb.1)).copied().unwrap_or(DASHES[0]))
}
