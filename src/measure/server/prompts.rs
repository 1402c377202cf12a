//! Prompts for a server: salted against prefix caches, or cut to a number of its tokens.

use std::cmp::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::files::hex;
use crate::workload::{RUNNING_TEXT, TEXT_HASH};

/// Numbers that no prompt had before: microseconds, with the digits that change first in front.
/// Nine digits are as many tokens in most vocabularies, whichever they are.
#[derive(Default)]
pub(super) struct Salts {
    last: u64,
}

impl Salts {
    fn next(&mut self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last = (self.last + 1).max(now.as_micros() as u64);
        format!("{:09}", self.last % 1_000_000_000).chars().rev().collect()
    }

    /// A prompt that no prefix cache knows from its first token on.
    pub(super) fn salted(&mut self, prompt: &str) -> String {
        format!("{}: {prompt}", self.next())
    }
}

/// The number of tries to meet a length.
const TRIES: usize = 16;

/// Bytes of English per token of usual vocabularies, to begin with.
const BYTES_PER_TOKEN: usize = 4;

/// The running text, cut so that it has this number of tokens, or as near as characters allow.
/// `count` says how many tokens a text has, by the server.
///
/// # Errors
/// Those of `count`.
pub(super) fn text_of_length<E>(
    tokens: usize,
    mut count: impl FnMut(&str) -> Result<usize, E>,
) -> Result<String, E> {
    let text = |length: usize| RUNNING_TEXT.chars().cycle().take(length).collect::<String>();
    // The longest text that is too short and the shortest that is too long, with their tokens.
    let (mut below, mut above) = ((0, 0), None::<(usize, usize)>);
    let mut length = (tokens * BYTES_PER_TOKEN).max(1);
    let mut best = (usize::MAX, String::new());
    for _ in 0..TRIES {
        let candidate = text(length);
        let found = count(&candidate)?;
        let distance = found.abs_diff(tokens);
        if distance < best.0 {
            best = (distance, candidate);
        }
        match found.cmp(&tokens) {
            Ordering::Equal => break,
            Ordering::Less => below = (length, found),
            Ordering::Greater => above = Some((length, found)),
        }
        length = match above {
            Some((most, _)) if most <= below.0 + 1 => break,
            Some((most, many)) => {
                let (least, few) = below;
                let share = (tokens - few) as f64 / (many - few).max(1) as f64;
                let step = ((most - least) as f64 * share).round() as usize;
                (least + step).clamp(least + 1, most - 1)
            }
            // As many characters per token as so far.
            None => (length * tokens / found.max(1)).max(length + 1),
        };
    }
    Ok(best.1)
}

/// SHA-256 of texts: of each its length in bytes as little-endian u64, then its bytes. The prefix
/// tells it from a hash of token ids.
pub(super) fn hash_texts<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    TEXT_HASH.to_owned() + &hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn salts_differ_from_their_first_digit_on() {
        let mut salts = Salts { last: u64::MAX / 2 };
        let drawn: Vec<String> = (0..3).map(|_| salts.salted("a")).collect();
        let firsts: std::collections::BTreeSet<_> = drawn.iter().map(|text| &text[..1]).collect();
        assert_eq!(firsts.len(), 3, "{drawn:?}");
        assert!(drawn.iter().all(|text| text.len() == 12 && text.ends_with(": a")), "{drawn:?}");
    }

    #[test]
    fn a_length_is_met_with_few_requests_in_any_vocabulary() {
        let pieces =
            |text: &str| text.split_whitespace().map(|word| word.len().div_ceil(4)).sum::<usize>();
        let characters = |text: &str| text.len().div_ceil(3);
        let words = |text: &str| text.split_whitespace().count();
        let template = |text: &str| 9 + pieces(text);
        let tokenizers: [&dyn Fn(&str) -> usize; 4] = [&pieces, &characters, &words, &template];
        for (tokenizer, name) in
            tokenizers.into_iter().zip(["pieces", "characters", "words", "template"])
        {
            for length in [16, 64, 256, 1024] {
                let mut requests = 0;
                let count = |text: &str| {
                    requests += 1;
                    Ok::<_, Infallible>(tokenizer(text))
                };
                let Ok(text) = text_of_length(length, count);
                assert_eq!(tokenizer(&text), length, "{name}");
                assert!(requests <= TRIES, "{requests}");
            }
        }
    }
}
