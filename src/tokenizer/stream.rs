//! Text from token ids as they come. A character may be spread over several tokens, so bytes wait
//! until they are whole.

use super::Tokenizer;

/// The text of one sequence so far; see [`Tokenizer::stream`]. All its pieces together are what
/// [`Tokenizer::decode`] gives for all ids.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    /// The beginning of a character: at most three bytes.
    waiting: Vec<u8>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, waiting: Vec::new() }
    }

    /// The text that this token completes, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.waiting.extend(self.tokenizer.token_bytes(id));
        let mut text = String::new();
        let mut tail = Vec::new();
        let mut chunks = self.waiting.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let rest = chunk.invalid();
            if chunks.peek().is_none() && is_beginning(rest) {
                tail.extend(rest);
            } else if !rest.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.waiting = tail;
        (!text.is_empty()).then_some(text)
    }

    /// What is left when no token follows: U+FFFD for a character that was never completed.
    pub fn finish(self) -> Option<String> {
        (!self.waiting.is_empty()).then(|| String::from_utf8_lossy(&self.waiting).into_owned())
    }
}

/// Whether more bytes could make a character of these.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|err| err.error_len().is_none())
}

/// The byte that a character of a byte-level token stands for: printable ones stand for themselves,
/// the 68 others were moved up to U+0100 and after, in order (GPT-2's `bytes_to_unicode`).
pub(super) fn byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let bytes: HashSet<u8> =
            ByteLevel::alphabet().into_iter().map(|c| byte(c).unwrap()).collect();
        assert_eq!(bytes.len(), 256);
        for (c, expected) in [
            ('A', Some(b'A')),
            ('Ġ', Some(b' ')),
            ('Ċ', Some(b'\n')),
            ('ł', Some(0xa0)),
            ('語', None),
        ] {
            assert_eq!(byte(c), expected, "{c}");
        }
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let tokenizer = Tokenizer::tiny().unwrap();
        let mut stream = tokenizer.stream();
        let id = |byte: char| tokenizer.inner.token_to_id(&byte.to_string()).unwrap();
        // "é" is c3 a9; the stray a9 after it can never become one.
        assert_eq!(stream.push(id('a')), Some("a".into()));
        assert_eq!(stream.push(id('Ã')), None);
        assert_eq!(stream.push(id('©')), Some("é".into()));
        assert_eq!(stream.push(id('©')), Some("\u{fffd}".into()));
        assert_eq!(stream.push(id('Ã')), None);
        assert_eq!(stream.push(id('b')), Some("\u{fffd}b".into()));
        assert_eq!(stream.push(u32::MAX), None);
        assert_eq!(stream.push(id('Ã')), None);
        assert_eq!(stream.finish(), Some("\u{fffd}".into()));
    }
}
