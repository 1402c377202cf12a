//! The link to our page in Criterion's index.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Criterion's index page with a link to ours below its first heading, or at the start of a body
/// without one; `about` says what is behind it. A page that already has the link is unchanged.
/// `None` if the page has no body.
pub fn link(index: &str, href: &str, about: &str) -> Option<String> {
    let href = href.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let line = format!("<p><b>candlemark:</b> <a href=\"{href}\">{about}</a></p>");
    if index.contains(&line) {
        return Some(index.to_owned());
    }
    let body = index.find("<body")?;
    let body = body + index[body..].find('>')? + 1;
    let ends = ["</h1>", "</h2>"].map(|end| Some(body + index[body..].find(end)? + end.len()));
    let heading = ends.into_iter().flatten().min();
    let (before, after) = index.split_at(heading.unwrap_or(body));
    Some(format!("{before}\n{line}{after}"))
}

/// Criterion's index and its pages of single cases, as names and addresses relative to it.
pub(super) fn criterion_links(index: &str) -> Vec<(String, String)> {
    let links = index.split("<a href=\"").skip(1).filter_map(|rest| {
        let (href, rest) = rest.split_once('"')?;
        let name = rest.split_once('>')?.1.split_once("</a>")?.0.trim();
        let case = href.starts_with("../") && href.ends_with("report/index.html");
        case.then(|| (name.to_owned(), href.to_owned()))
    });
    let links: Vec<(String, String)> = links.collect();
    let all = (!index.is_empty()).then(|| ("all cases".to_owned(), "index.html".to_owned()));
    all.into_iter().chain(links).collect()
}

/// Adds the link to a page on disk, such as `target/criterion/report/index.html`.
///
/// # Errors
/// When the page cannot be read or written, or has no body.
pub(crate) fn link_into(index: &Path, href: &str, about: &str) -> Result<()> {
    let page = files::read(index)?;
    let why = || Error::Invalid { path: index.into(), why: "it has no `<body>`".into() };
    let linked = link(&page, href, about).ok_or_else(why)?;
    if linked == page { Ok(()) } else { files::write(index, linked.as_bytes()) }
}
