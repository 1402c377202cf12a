//! Colour on a terminal; `NO_COLOR` and `TERM=dumb` turn it off. Text means the same without.

use std::ffi::OsStr;
use std::io::IsTerminal;

use clap::builder::styling::{AnsiColor, Style};

use crate::compare::Judgement;
use crate::report::{self, Tone};

/// Whether a stream shows colour.
pub(super) fn is_on(stream: &impl IsTerminal) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == OsStr::new("dumb"));
    stream.is_terminal() && !no_color && !dumb
}

/// The text in a colour; headings are bold.
fn paint(text: &str, tone: Tone) -> String {
    let style = match tone {
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Unsure => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Plain | Tone::Struck => Style::new().bold(),
    };
    format!("{style}{text}{style:#}")
}

/// A message whose `error:` or `warning:` is in colour if stderr shows it.
pub(super) fn message(line: &str) -> String {
    let labels = [("error:", Tone::Bad), ("warning:", Tone::Unsure), ("next:", Tone::Plain)];
    let found =
        labels.iter().find_map(|(label, tone)| Some((label, tone, line.strip_prefix(label)?)));
    match found.filter(|_| is_on(&std::io::stderr())) {
        Some((label, tone, rest)) => paint(label, *tone) + rest,
        None => line.to_owned(),
    }
}

/// The text of a verdict with its first word, the heading of its table and the verdicts of the rows
/// in colour.
pub(super) fn verdict(text: &str, judgement: &Judgement) -> String {
    let (word, tone) = report::outcome_word(judgement.outcome);
    let mut cells = report::verdict_cells(judgement).into_iter();
    let mut in_table = false;
    let mut coloured = String::new();
    for (at, line) in text.lines().enumerate() {
        coloured += &match line {
            first if at == 0 => first.replacen(word, &paint(word, tone), 1),
            heading if !in_table && heading.starts_with(" scenario ") => {
                in_table = true;
                paint(heading, Tone::Plain)
            }
            row if in_table => {
                let last = cells.next().and_then(|(cell, tone)| {
                    let cell = cell.trim_end();
                    Some(row.strip_suffix(cell)?.to_owned() + &paint(cell, tone))
                });
                last.unwrap_or_else(|| row.to_owned())
            }
            line => line.to_owned(),
        };
        coloured.push('\n');
    }
    coloured
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Policy, paired};
    use crate::inputs;

    #[test]
    fn verdict_words_are_coloured_and_no_text_changes() {
        for (pair, word, cells) in [
            ("regressed", "REGRESSION", 6),
            ("new-and-missing", "NOT COMPARABLE", 8),
            ("hostile", "REGRESSION", 6),
            ("identical", "PASS", 0),
        ] {
            let judgement = paired::judge(&inputs::pair(pair), &Policy::default());
            let text = report::verdict_text(&judgement, "candlemark check");
            let coloured = verdict(&text, &judgement);
            let mut plain = String::new();
            for (at, part) in coloured.split('\u{1b}').enumerate() {
                plain += if at == 0 { part } else { part.split_once('m').unwrap().1 };
            }
            assert_eq!(plain, text);
            let first = coloured.lines().next().unwrap();
            assert!(first.starts_with('\u{1b}') && first.contains(&format!("m{word}\u{1b}")));
            assert_eq!(report::verdict_cells(&judgement).len(), cells, "{text}");
            for (cell, _) in report::verdict_cells(&judgement) {
                assert!(coloured.contains(&format!("m{cell}\u{1b}")), "{coloured:?}");
            }
        }
        assert!(!is_on(&std::fs::File::open("/dev/null").unwrap()));
    }
}
