//! The `generation` tags of transformers, which minijinja lacks.

use std::borrow::Cow;

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark answers for training and print
/// nothing, by a `with` block: it has the same scope and the same lines.
pub(super) fn without_generation_tags(source: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(source);
    let mut at = 0;
    while let Some((start, end)) = next_tag(&text, at) {
        at = end;
        if !text[start..].starts_with("{%") {
            continue;
        }
        let inside = start + 2..end.saturating_sub(2).max(start + 2);
        let word =
            text[inside.clone()].trim_matches(|c: char| c.is_whitespace() || "-+".contains(c));
        let with = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            "raw" => {
                at = end_of_raw(&text, end);
                continue;
            }
            _ => continue,
        };
        let from = inside.start + text[inside].find(word).unwrap_or(0);
        let to = from + word.len();
        text.to_mut().replace_range(from..to, with);
        at = end - (to - from) + with.len();
    }
    text
}

/// The start and end of the next comment, expression or statement.
fn next_tag(text: &str, from: usize) -> Option<(usize, usize)> {
    let start = from
        + text
            .get(from..)?
            .match_indices('{')
            .find_map(|(at, _)| text[from + at + 1..].starts_with(['{', '%', '#']).then_some(at))?;
    let close = match text.as_bytes()[start + 1] {
        b'{' => "}}",
        b'%' => "%}",
        _ => return Some((start, start + 2 + text[start + 2..].find("#}")? + 2)),
    };
    let mut quote = None;
    let mut chars = text[start + 2..].char_indices();
    while let Some((at, c)) = chars.next() {
        let at = start + 2 + at;
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), _) => quote = Some(open).filter(|open| *open != c),
            (None, '\'' | '"') => quote = Some(c),
            (None, _) if text[at..].starts_with(close) => return Some((start, at + 2)),
            (None, _) => (),
        }
    }
    None
}

/// The end of the `{% endraw %}` after `from`.
fn end_of_raw(text: &str, from: usize) -> usize {
    let is_end = |at: usize| {
        let word =
            text[at + 2..].trim_start_matches(|c: char| c.is_whitespace() || "-+".contains(c));
        word.starts_with("endraw").then_some(text.len() - word.len())
    };
    text[from..].match_indices("{%").find_map(|(at, _)| is_end(from + at)).unwrap_or(text.len())
}
