//! Charts as PNG for places that show no SVG: light colours on white. Needs the feature `png`.

use crate::{Error, Result};

/// Maximum width in pixels; the height follows from the aspect ratio.
#[cfg(feature = "png")]
const WIDEST: u32 = 8192;

/// Converts an SVG of [`super::svg`] to a PNG `width` pixels wide, in light colours on white. Text
/// uses the system's sans-serif font, or any other font.
///
/// # Errors
/// When the system has no font, when `width` is zero or above 8192, when the text is no SVG; always
/// in a build without the feature `png`.
#[cfg(feature = "png")]
pub fn png(svg: &str, width: u32) -> Result<Vec<u8>> {
    use resvg::tiny_skia::{Color, Pixmap, Transform};
    use resvg::usvg::{Options, Tree};

    if !(1..=WIDEST).contains(&width) {
        return Err(Error::Unsupported(format!(
            "a PNG {width} pixels wide; the width must be 1 to {WIDEST}"
        )));
    }
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    let Some(any) = fonts.faces().find_map(|face| Some(face.families.first()?.0.clone())) else {
        let text = "charts as PNG on a system without fonts; install one, for example `fonts-dejavu-core`, or use SVG";
        return Err(Error::Unsupported(text.into()));
    };
    let sans = sans_serif_font(fonts).unwrap_or(any);
    fonts.set_sans_serif_family(sans);
    let no_picture = |why: String| Error::Failed(format!("cannot draw a chart as PNG: {why}"));
    let tree = Tree::from_str(&resolve_css_variables(svg), &options)
        .map_err(|err| no_picture(err.to_string()))?;
    let scale = width as f32 / tree.size().width();
    let height = (tree.size().height() * scale).ceil() as u32;
    let mut pixels = Pixmap::new(width, height).ok_or_else(|| no_picture("too large".into()))?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|err| no_picture(err.to_string()))
}

/// Not available in this build.
///
/// # Errors
/// Always: names the missing feature.
#[cfg(not(feature = "png"))]
pub fn png(_svg: &str, _width: u32) -> Result<Vec<u8>> {
    Err(Error::Unsupported(
        "charts as PNG in this build; build with `--features png`, or use SVG".into(),
    ))
}

/// An installed sans-serif font; the names that resvg looks for are not on every system.
#[cfg(feature = "png")]
fn sans_serif_font(fonts: &resvg::usvg::fontdb::Database) -> Option<String> {
    const KNOWN: [&str; 8] = [
        "DejaVu Sans",
        "Noto Sans",
        "Liberation Sans",
        "Arial",
        "Helvetica",
        "Segoe UI",
        "Roboto",
        "Verdana",
    ];
    let has = |name: &str| {
        fonts.faces().any(|face| face.families.iter().any(|(family, _)| family == name))
    };
    KNOWN.into_iter().find(|name| has(name)).map(Into::into)
}

/// Replaces custom properties by their fallbacks: `var(--ink, #1b1f24)` becomes `#1b1f24`. Only in
/// attributes; in text, quotes are escaped.
#[cfg(any(feature = "png", test))]
pub(super) fn resolve_css_variables(svg: &str) -> String {
    let mut parts = svg.split("=\"var(");
    let mut out = String::from(parts.next().unwrap_or_default());
    for part in parts {
        out.push_str("=\"");
        let value = part
            .split_once(")\"")
            .and_then(|(paint, rest)| Some((paint.split_once(", ")?.1, rest)));
        match value {
            Some((fallback, rest)) => out.extend([fallback, "\"", rest]),
            None => out.extend(["var(", part]),
        }
    }
    out
}
