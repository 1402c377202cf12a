//! The text of an answer as it grows: characters when they are complete, without control tokens,
//! up to a stop string.

use crate::tokenizer::{DecodeStream, Tokenizer};

/// Turns the tokens of one sequence into text.
pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    decoder: DecodeStream<'a>,
    stops: Stops,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, stop_strings: Vec<String>) -> Self {
        let stops = Stops { strings: stop_strings, held: String::new() };
        Self { tokenizer, decoder: tokenizer.stream(), stops }
    }

    /// The text that this token completes, and the stop string that ends it, if one does.
    pub(super) fn push(&mut self, id: u32, search: Search) -> (String, Option<String>) {
        if self.tokenizer.is_control(id) {
            return (String::new(), None);
        }
        match self.decoder.push(id) {
            None => (String::new(), None),
            Some(text) => match search {
                Search::Stops => self.stops.push(&text),
                Search::Off => (text, None),
            },
        }
    }

    /// The rest after the last token: what could have begun a stop string, and U+FFFD for an
    /// incomplete character.
    pub(super) fn finish(self) -> String {
        self.stops.held + &self.decoder.finish().unwrap_or_default()
    }
}

/// Whether stop strings are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    Stops,
    Off,
}

/// Finds stop strings in a text that comes in pieces. Text that may begin one is held back.
struct Stops {
    /// None is empty.
    strings: Vec<String>,
    /// The longest end of the text that begins a stop string.
    held: String,
}

impl Stops {
    /// The text before the stop string that ends first, and that string; or the text that can be
    /// given out. Of strings that end together the longest counts, so the result is the same
    /// however the text is cut into pieces.
    fn push(&mut self, piece: &str) -> (String, Option<String>) {
        self.held.push_str(piece);
        let found = self.strings.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, stop))
        });
        if let Some((_, start, stop)) = found.min_by_key(|(end, start, _)| (*end, *start)) {
            let stop = stop.clone();
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return (text, Some(stop));
        }
        let begins_stop = |at: &usize| {
            let end = &self.held[*at..];
            self.strings.iter().any(|stop| stop.starts_with(end))
        };
        let keep = self.held.char_indices().map(|(at, _)| at).find(begins_stop);
        let held = self.held.split_off(keep.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, held), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Random;

    /// The text and the stop string of pieces.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let strings = stops.iter().map(|&stop| stop.into()).collect();
        let mut stops = Stops { strings, held: String::new() };
        let mut all = String::new();
        for piece in pieces {
            let (text, stop) = stops.push(piece);
            all += &text;
            if stop.is_some() {
                return (all, stop);
            }
        }
        (all + &stops.held, None)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        for (stops, pieces, text, stop) in [
            (&["END"][..], &["a E", "N", "D b"][..], "a ", Some("END")),
            (&["END"], &["a E", "N", "T"], "a ENT", None),
            (&["aab"], &["a", "a", "a", "b"], "a", Some("aab")),
            (&["\n\n", "x"], &["1\n", "2\n", "\n3"], "1\n2", Some("\n\n")),
            (&["bc", "abcd"], &["abcd"], "a", Some("bc")),
            (&["c", "abc"], &["xabc"], "x", Some("abc")),
            (&["é!"], &["caf", "é", "!"], "caf", Some("é!")),
            (&[], &["a", "b"], "ab", None),
        ] {
            let expected = (text.to_owned(), stop.map(String::from));
            assert_eq!(run(stops, pieces), expected, "{stops:?} {pieces:?}");
        }
    }

    #[test]
    fn text_is_held_back_only_while_it_may_begin_a_stop_string() {
        let mut stops = Stops { strings: vec!["abc".into()], held: String::new() };
        assert_eq!(stops.push("xyab"), ("xy".into(), None));
        assert_eq!(stops.push("ab"), ("ab".into(), None));
        assert_eq!(stops.push("d"), ("abd".into(), None));
    }

    #[test]
    fn any_cut_of_a_text_gives_the_same() {
        let mut random = Random::new(7);
        let mut below = |limit: usize| random.below(limit);
        for _ in 0..2000 {
            let mut word = |most: usize| -> String {
                let length = 1 + below(most);
                (0..length).map(|_| ["a", "b", "é"][below(3)]).collect()
            };
            let text = word(12);
            let stops = [word(3), word(4)];
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut pieces = Vec::new();
            let mut start = 0;
            for (at, _) in text.char_indices().skip(1) {
                if below(2) == 0 {
                    pieces.push(&text[start..at]);
                    start = at;
                }
            }
            pieces.push(&text[start..]);
            assert_eq!(run(&stops, &pieces), run(&stops, &[&text]), "{stops:?} {pieces:?}");
        }
    }
}
