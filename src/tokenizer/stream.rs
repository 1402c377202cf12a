//! Streaming decoding. A character may span several tokens, so its bytes wait until it is complete.

use super::bpe::Tokenizer;

/// Decodes one sequence token by token. Its pieces together equal [`Tokenizer::decode`] of all ids.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// An incomplete character: at most three bytes.
    pending: Vec<u8>,
}

impl Tokenizer {
    /// Starts decoding a sequence.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, pending: Vec::new() }
    }
}

impl DecodeStream<'_> {
    /// The text that this token completes, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.pending.extend(self.tokenizer.token_bytes(id));
        let mut text = String::new();
        let mut tail = Vec::new();
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let rest = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(rest) {
                tail.extend(rest);
            } else if !rest.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending = tail;
        (!text.is_empty()).then_some(text)
    }

    /// The rest after the last token: U+FFFD for an incomplete character.
    pub fn finish(self) -> Option<String> {
        (!self.pending.is_empty()).then(|| String::from_utf8_lossy(&self.pending).into_owned())
    }
}

/// Whether more bytes could complete a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|err| err.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let tokenizer = Tokenizer::tiny().unwrap();
        let mut stream = tokenizer.stream();
        let id = |byte: char| tokenizer.inner.token_to_id(&byte.to_string()).unwrap();
        // "é" is c3 a9; a stray a9 after it is invalid.
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
