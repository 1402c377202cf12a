//! The SVG backend of plotters. Unlike plotters' own backend it has fractional units, theme
//! colours, dashes, and text in the surrounding font.

use std::convert::Infallible;
use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    FontStyle,
};

use crate::report::chart::theme;
use crate::report::chart::units::{UNIT, WIDTH};
use crate::report::text::escape_xml;

/// A drawing area in pixels from the upper left.
pub(super) type Canvas<'a> = DrawingArea<Svg<'a>, Shift>;

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// An SVG element around `body`, `height` units high.
pub(super) fn document(title: &str, alt: &str, height: i32, body: &str) -> String {
    let (title, alt) = (escape_xml(title), escape_xml(alt));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" \
         font-family=\"sans-serif\" role=\"img\" aria-label=\"{alt}\">\n<title>{title}</title>\n{body}</svg>\n"
    )
}

/// A canvas `height` units high that appends to `body`.
pub(super) fn canvas(body: &mut String, height: i32) -> Canvas<'_> {
    let size = ((WIDTH * UNIT).unsigned_abs(), (height * UNIT).unsigned_abs());
    Svg { body, size }.into_drawing_area()
}

/// Appends SVG elements to a string.
pub(super) struct Svg<'a> {
    body: &'a mut String,
    size: (u32, u32),
}

impl Svg<'_> {
    /// An element with a fill or stroke; fully transparent elements are omitted.
    fn element(&mut self, shape: &str, style: &impl BackendStyle, filled: bool) {
        let BackendColor { alpha, rgb } = style.color();
        if alpha == 0.0 {
            return;
        }
        let (paint, dash) = theme::paint(rgb);
        let _ = write!(self.body, "<{shape}");
        if filled {
            let _ = write!(self.body, " fill=\"{paint}\"");
        } else {
            let width = units(style.stroke_width() as i32);
            let _ = write!(self.body, " fill=\"none\" stroke=\"{paint}\" stroke-width=\"{width}\"");
            if !dash.is_empty() {
                let _ = write!(self.body, " stroke-dasharray=\"{dash}\"");
            }
        }
        if alpha < 1.0 {
            let _ = write!(self.body, " opacity=\"{alpha}\"");
        }
        self.body.push_str("/>\n");
    }
}

impl DrawingBackend for Svg<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, at: BackendCoord, color: BackendColor) -> Drawn {
        self.draw_rect(at, (at.0 + 1, at.1 + 1), &color, true)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let (x, y) = (from.0.min(to.0), from.1.min(to.1));
        let (width, height) = ((to.0 - from.0).abs(), (to.1 - from.1).abs());
        let [x, y, width, height] = [x, y, width, height].map(units);
        let shape = format!("rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        self.element(&shape, style, fill);
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        self.element(&format!("polyline points=\"{}\"", points(path)), style, false);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Drawn {
        self.element(&format!("polygon points=\"{}\"", points(corners)), style, true);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        centre: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let [x, y, r] = [centre.0, centre.1, radius as i32].map(units);
        self.element(&format!("circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\""), style, fill);
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        let anchor = match style.anchor().h_pos {
            HPos::Left => "",
            HPos::Center => " text-anchor=\"middle\"",
            HPos::Right => " text-anchor=\"end\"",
        };
        // The baseline of text relative to its anchor, as a share of the font size.
        let below = match style.anchor().v_pos {
            VPos::Top => 0.78,
            VPos::Center => 0.35,
            VPos::Bottom => -0.22,
        };
        let (x, y) = (units(at.0), units(at.1 + (style.size() * below).round() as i32));
        let size = units(style.size().round() as i32);
        let weight = match style.style() {
            FontStyle::Bold => " font-weight=\"600\"",
            _ => "",
        };
        let (paint, _) = theme::paint(style.color().rgb);
        let text = escape_xml(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\"{anchor} font-size=\"{size}\"{weight} fill=\"{paint}\">{text}</text>"
        );
        Ok(())
    }
}

fn points(path: impl IntoIterator<Item = BackendCoord>) -> String {
    let pairs: Vec<String> =
        path.into_iter().map(|(x, y)| format!("{},{}", units(x), units(y))).collect();
    pairs.join(" ")
}

/// Pixels of plotters as units: `105` is `10.5`.
fn units(pixels: i32) -> String {
    let text = format!("{:.1}", f64::from(pixels) / f64::from(UNIT));
    text.strip_suffix(".0").map_or_else(|| text.clone(), Into::into)
}
