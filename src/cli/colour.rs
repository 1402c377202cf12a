//! Colour on a terminal; `NO_COLOR` and `TERM=dumb` turn it off. Text means the same without.

use std::ffi::OsStr;
use std::io::IsTerminal;

use clap::builder::styling::{AnsiColor, Style};

/// What a word tells.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Tone {
    Good,
    Caution,
    Bad,
    Heading,
}

/// Verdict words of a sentence and of a table's last column.
const WORDS: &[(&str, Tone)] = &[
    ("REGRESSION", Tone::Bad),
    ("REGRESSED", Tone::Bad),
    ("FAILED", Tone::Bad),
    ("INVALID", Tone::Bad),
    ("OUTPUT CHANGED", Tone::Bad),
    ("UNDECIDED", Tone::Caution),
    ("INCONCLUSIVE", Tone::Caution),
    ("NOT COMPARABLE", Tone::Caution),
    ("MISSING", Tone::Caution),
    ("IMPROVED", Tone::Good),
    ("PASS", Tone::Good),
];

/// Whether a stream shows colour.
pub(super) fn is_on(stream: &impl IsTerminal) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == OsStr::new("dumb"));
    stream.is_terminal() && !no_color && !dumb
}

/// The text in a colour.
pub(super) fn paint(text: &str, tone: Tone) -> String {
    let style = match tone {
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Caution => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Heading => Style::new().bold(),
    };
    format!("{style}{text}{style:#}")
}

/// A message whose `error:` or `warning:` is in colour if stderr shows it.
pub(super) fn message(line: &str) -> String {
    let labels = [("error:", Tone::Bad), ("warning:", Tone::Caution), ("next:", Tone::Heading)];
    let found =
        labels.iter().find_map(|(label, tone)| Some((label, tone, line.strip_prefix(label)?)));
    match found.filter(|_| is_on(&std::io::stderr())) {
        Some((label, tone, rest)) => paint(label, *tone) + rest,
        None => line.to_owned(),
    }
}

/// The verdict of a terminal with its verdict words in colour.
pub(super) fn verdict(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(row).collect();
    if let Some(first) = lines.first_mut()
        && let Some((word, tone)) = WORDS.iter().find(|(word, _)| first.starts_with(word))
    {
        *first = paint(word, *tone) + &first[word.len()..];
    }
    lines.join("\n") + "\n"
}

/// A row of a table, which begins with a space: its heading, or its last column in colour.
fn row(line: &str) -> String {
    if !line.starts_with(' ') {
        return line.to_owned();
    }
    if line.starts_with(" scenario ") {
        return paint(line, Tone::Heading);
    }
    let last = WORDS
        .iter()
        .filter_map(|(word, tone)| Some((line.rfind(&format!("  {word}"))? + 2, *tone)));
    match last.max_by_key(|(at, _)| *at) {
        Some((at, tone)) => line[..at].to_owned() + &paint(&line[at..], tone),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_words_are_coloured_and_no_text_changes() {
        let text = "REGRESSION: 1 of 2 metrics regressed.\n\n scenario  verdict\n code/b1   REGRESSED\n \
                    code/b4   PASS (worse, within limit)\n\n- a remark  PASS\n";
        let coloured = verdict(text);
        let plain: String = coloured
            .split('\u{1b}')
            .enumerate()
            .map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 })
            .collect();
        assert_eq!(plain, text);
        assert!(
            coloured.starts_with('\u{1b}') && coloured.contains("mREGRESSED\u{1b}"),
            "{coloured:?}"
        );
        assert!(coloured.contains("mPASS (worse, within limit)\u{1b}"), "{coloured:?}");
        assert!(coloured.ends_with("\n- a remark  PASS\n"), "{coloured:?}");
        assert!(!is_on(&std::fs::File::open("/dev/null").unwrap()));
    }
}
