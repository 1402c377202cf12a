//! Formatting of numbers and tables, and escaping of text.

use std::collections::BTreeMap;

use crate::workload::Metric;

/// The maximum length of a Markdown document: GitHub cuts a comment at 65,536 characters.
pub(super) const MAX_MARKDOWN_CHARS: usize = 60_000;

/// Four significant digits with thousands separators: `0.01234`, `12.34`, `1,234`, `1,234,567`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    // The exponent after rounding: 99.996 is 100.0.
    let rounded = format!("{value:.3e}");
    let magnitude: i32 =
        rounded.split_once('e').map_or(0, |(_, exponent)| exponent.parse().expect("an exponent"));
    let digits = format!("{value:.*}", (3 - magnitude).clamp(0, 9) as usize);
    let digits = if value == 0.0 { "0".into() } else { digits };
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    format!("{sign}{}{rest}", group_thousands(whole))
}

/// Names and values on one line: `a 1, b 2`.
pub(super) fn name_value_list(fields: &BTreeMap<String, String>) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
    fields.join(", ")
}

/// Digits with commas between thousands.
pub(super) fn group_thousands(digits: &str) -> String {
    let (first, rest) = digits.split_at(digits.len() % 3);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group));
    let first = (!first.is_empty()).then(|| first.into());
    first.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

/// A share as a signed percentage without the unit: `-7.9`, `+0.0`, `+150`.
pub(super) fn signed_percent(share: f64) -> String {
    let percent = 100.0 * share;
    let text =
        if percent.abs() < 99.95 { format!("{percent:+.1}") } else { format!("{percent:+.0}") };
    if text == "-0.0" { "+0.0".into() } else { text }
}

/// A share as a signed percentage: `-7.9 %`.
pub fn percent(share: f64) -> String {
    format!("{} %", signed_percent(share))
}

/// Seconds for people: `4.2 s`, `40 s`, `3 min 20 s`, `1 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, rest) => format!("{rest} s"),
        (0, minutes, rest) => format!("{minutes} min {rest} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A stored value in the metric's display unit, without the unit.
pub(crate) fn metric_value(metric: &Metric, stored: f64) -> String {
    number(stored * metric.scale)
}

/// A metric's label with its unit.
pub(crate) fn metric_label(metric: &Metric) -> String {
    if metric.unit.is_empty() {
        metric.label.into()
    } else {
        format!("{} {}", metric.label, metric.unit)
    }
}

/// Replaces control characters, line ends, bidirectional and invisible characters, and commands to
/// a CI runner that reads the output: GitHub's begin a line with `::` or follow `##[` anywhere.
pub(crate) fn sanitize(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let text: String = text.chars().map(|c| if odd(c) { '\u{fffd}' } else { c }).collect();
    let text = text.replace("##[", "##\u{fffd}");
    let start = text.len() - text.trim_start().len();
    match text[start..].strip_prefix("::") {
        Some(rest) => format!("{}\u{fffd}:{rest}", &text[..start]),
        None => text,
    }
}

/// Splits text at single backticks into plain pieces and code (`true`). Text with other backticks
/// is a single plain piece.
pub(super) fn split_code(text: &str) -> Vec<(bool, &str)> {
    let pieces: Vec<&str> = text.split('`').collect();
    let inner = pieces.get(1..pieces.len() - 1).unwrap_or_default();
    if pieces.len().is_multiple_of(2) || inner.iter().any(|piece| piece.is_empty()) {
        return vec![(false, text)];
    }
    pieces.into_iter().enumerate().map(|(at, piece)| (at % 2 == 1, piece)).collect()
}

/// Text escaped for Markdown: it ends no cell, opens no tag or link, notifies nobody, strikes
/// nothing out. Text between single backticks becomes a code span; other backticks are escaped.
pub(super) fn escape_markdown(text: &str) -> String {
    let text = sanitize(text);
    let pieces = split_code(&text).into_iter();
    pieces
        .map(|(is_code, piece)| if is_code { code_span(piece) } else { escape_literally(piece) })
        .collect()
}

/// A code span in Markdown. As it has no escapes, some text needs the HTML element.
pub(super) fn code_span(text: &str) -> String {
    if text.contains(['`', '|', '<', '\\', '@', '[']) {
        format!("<code>{}</code>", escape_literally(text))
    } else {
        format!("`{text}`")
    }
}

/// Lines as a block of code in Markdown, which they cannot end.
pub(super) fn code_block(language: &str, lines: &[String]) -> String {
    let text = lines.join("\n");
    let ticks = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(ticks + 1));
    format!("{fence}{language}\n{text}\n{fence}\n")
}

fn escape_literally(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '@' => escaped += "&#64;",
            '`' => escaped += "&#96;",
            '\\' | '|' | '*' | '[' | ']' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    // Neither automatic links, nor strikethrough, nor emphasis.
    let escaped = escaped.replace("://", ":\\//").replace("www.", "www\\.");
    escaped.replace("~~", "\\~\\~").replace("__", "\\_\\_")
}

/// Text escaped for the content and the attributes of XML and HTML.
pub(super) fn escape_xml(text: &str) -> String {
    let mut escaped = String::new();
    for c in sanitize(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'), // Not allowed in XML.
            _ => escaped.push(c),
        }
    }
    escaped
}

/// The output format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextFormat {
    Terminal,
    Markdown,
}

impl TextFormat {
    pub(super) fn escape(self, text: &str) -> String {
        match self {
            TextFormat::Terminal => sanitize(text),
            TextFormat::Markdown => escape_markdown(text),
        }
    }
}

/// A commit, abbreviated to 12 digits.
pub(crate) fn short_commit(commit: &str) -> String {
    commit.chars().take(12).collect()
}
