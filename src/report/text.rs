//! Formatting of numbers and tables, and escaping of text.

use comfy_table::{CellAlignment, Table, presets};

use crate::workload::Metric;

/// The maximum length of a Markdown document: GitHub cuts a comment at 65,536 characters.
pub(super) const LONGEST: usize = 60_000;

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
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

/// A share as a signed percentage without the unit: `-7.9`, `+0.0`, `+150`.
pub(super) fn signed(share: f64) -> String {
    let percent = 100.0 * share;
    let text =
        if percent.abs() < 99.95 { format!("{percent:+.1}") } else { format!("{percent:+.0}") };
    if text == "-0.0" { "+0.0".into() } else { text }
}

/// A share as a signed percentage: `-7.9 %`.
pub fn percent(share: f64) -> String {
    format!("{} %", signed(share))
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
pub fn shown(metric: &Metric, stored: f64) -> String {
    number(stored * metric.scale)
}

/// A metric's label with its unit.
pub(super) fn label(metric: &Metric) -> String {
    if metric.unit.is_empty() {
        metric.label.into()
    } else {
        format!("{} {}", metric.label, metric.unit)
    }
}

/// Replaces control characters, line ends, bidirectional and invisible characters, and commands to
/// a CI runner that reads the output: GitHub's begin a line with `::` or follow `##[` anywhere.
pub fn plain(text: &str) -> String {
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

pub(super) fn cell(text: &str) -> String {
    let mut escaped = String::new();
    for c in plain(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '@' => escaped += "&#64;",
            '\\' | '|' | '`' | '*' | '[' | ']' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// The output format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    Terminal,
    Markdown,
}

impl Medium {
    pub(super) fn escape(self, text: &str) -> String {
        match self {
            Medium::Terminal => plain(text),
            Medium::Markdown => cell(text),
        }
    }
}

pub(super) fn table(
    medium: Medium,
    header: &[&str],
    rows: &[Vec<String>],
    right: &[usize],
) -> String {
    let mut table = Table::new();
    table.load_style(match medium {
        Medium::Terminal => presets::NOTHING,
        Medium::Markdown => presets::ASCII_MARKDOWN,
    });
    let escaped = |cells: &mut dyn Iterator<Item = &str>| {
        cells.map(|cell| medium.escape(cell)).collect::<Vec<_>>()
    };
    table.set_header(escaped(&mut header.iter().copied()));
    for row in rows {
        table.add_row(escaped(&mut row.iter().map(String::as_str)));
    }
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}
