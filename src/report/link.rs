//! The link to our page in Criterion's index.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Criterion's index page with a link to ours below its heading; `about` describes the page. A page
/// that already has the link is unchanged. `None` if the page has no body.
pub fn link(index: &str, href: &str, about: &str) -> Option<String> {
    let escaped = href.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let mark = format!("<!-- candlemark: {} -->", escaped.replace("--", "- -"));
    let line = format!("{mark}<p><a href=\"{escaped}\">candlemark: {about}</a></p>{mark}");
    if let Some((before, rest)) = index.split_once(&mark) {
        let (_, after) = rest.split_once(&mark)?;
        return Some(format!("{before}{line}{after}"));
    }
    let body = index.find("<body")?;
    let at = body + index[body..].find('>')? + 1;
    Some(format!("{}\n{line}{}", &index[..at], &index[at..]))
}

/// Adds the link to a page on disk, such as `target/criterion/report/index.html`.
///
/// # Errors
/// When the page cannot be read or written, or has no body.
pub fn link_into(index: &Path, href: &str, about: &str) -> Result<()> {
    let read = |source| Error::Read { path: index.into(), source };
    let page = fs::read_to_string(index).map_err(read)?;
    let why = || Error::Invalid { path: index.into(), why: "it has no `<body>`".into() };
    let linked = link(&page, href, about).ok_or_else(why)?;
    if linked == page { Ok(()) } else { files::write(index, linked.as_bytes()) }
}
