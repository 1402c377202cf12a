//! Server-sent events, parsed as bytes arrive.
//!
//! The grammar is that of the HTML standard: lines end in LF, CR or CRLF, `:` begins a comment,
//! several `data` lines make one event. A line that can be no field (JSON without `data:`) is an
//! error here, where browsers ignore it. However the bytes are split, the events are the same.

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The text of its `event` field, usually empty.
    pub name: String,
    /// Its `data` lines, joined by LF.
    pub data: String,
}

/// What makes a stream invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line is no field and no comment.
    #[error("a line is no field of a server-sent event")]
    Malformed,
    /// An event is not UTF-8.
    #[error("an event is not UTF-8")]
    InvalidUtf8,
    /// An event is longer than the limit in bytes.
    #[error("an event is longer than {0} bytes")]
    TooLarge(usize),
}

/// The parser of one stream.
#[derive(Debug, Clone)]
pub struct SseParser {
    max_event_bytes: usize,
    /// The line that is not yet complete.
    line: Vec<u8>,
    /// The `data` of the event that is not yet complete, each line with an LF.
    data: Vec<u8>,
    name: String,
    /// A CR ended the last line, so that an LF belongs to it.
    after_cr: bool,
    is_first_line: bool,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The fields of the standard, and `error`, which llama-server sent for failures.
const FIELDS: [&[u8]; 5] = [b"data", b"event", b"id", b"retry", b"error"];

impl SseParser {
    /// A parser that refuses an event of more than `max_event_bytes`.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            line: Vec::new(),
            data: Vec::new(),
            name: String::new(),
            after_cr: false,
            is_first_line: true,
        }
    }

    /// Takes the next bytes and adds the events that they complete.
    ///
    /// # Errors
    /// When the stream is not valid; `events` has those before the fault. Bytes after it are not
    /// looked at.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.extend_line(rest)?;
                break;
            };
            self.extend_line(&rest[..end])?;
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.end_line(events)?;
        }
        Ok(())
    }

    /// Ends the stream. An event without its empty line counts: some servers leave it out after the
    /// last one.
    ///
    /// # Errors
    /// When the last event is not valid.
    pub fn finish(&mut self, events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        if !self.line.is_empty() {
            self.end_line(events)?;
        }
        self.end_event(events)
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.line.len() + self.data.len() + bytes.len() > self.max_event_bytes {
            return Err(SseError::TooLarge(self.max_event_bytes));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let mut text = &line[..];
        if std::mem::take(&mut self.is_first_line) {
            text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        let done = if text.is_empty() { self.end_event(events) } else { self.field(text) };
        self.line = line; // Keeps its allocation.
        self.line.clear();
        done
    }

    fn field(&mut self, line: &[u8]) -> Result<(), SseError> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"" | b"id" | b"retry" => {} // A comment, or of use to browsers only.
            b"data" | b"error" => {
                if field == b"error" {
                    self.name = "error".into();
                }
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => {
                let name = std::str::from_utf8(value).map_err(|_| SseError::InvalidUtf8)?;
                self.name = name.into();
            }
            other => {
                let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
                if !other.iter().all(is_name) || near_a_field(other) {
                    return Err(SseError::Malformed);
                }
            }
        }
        Ok(())
    }

    fn end_event(&mut self, events: &mut Vec<SseEvent>) -> Result<(), SseError> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            return Ok(()); // Without data it is no event.
        }
        let data = String::from_utf8(data).map_err(|_| SseError::InvalidUtf8)?;
        events.push(SseEvent { name, data });
        Ok(())
    }
}

/// Whether a field is one of the standard in other letters (`Data`), which would lose its text.
fn near_a_field(field: &[u8]) -> bool {
    FIELDS.iter().any(|known| field.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Random;

    /// The events of the parts and the end of the stream.
    fn parse<'a>(
        limit: usize,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<SseEvent>, Result<(), SseError>) {
        let (mut parser, mut events) = (SseParser::new(limit), Vec::new());
        for part in parts {
            if let Err(error) = parser.push(part, &mut events) {
                return (events, Err(error));
            }
        }
        let done = parser.finish(&mut events);
        (events, done)
    }

    #[test]
    fn events_are_those_of_the_standard() {
        use SseError::{InvalidUtf8, Malformed, TooLarge};
        type Events = &'static [(&'static str, &'static str)];
        let cases: [(&[u8], Events, Result<(), SseError>); 18] = [
            (b"", &[], Ok(())),
            (b"data: a\n\n", &[("", "a")], Ok(())),
            (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", &[("", "a"), ("", "b"), ("", "c")], Ok(())),
            (b"data:a\n\ndata:  b\n\n", &[("", "a"), ("", " b")], Ok(())),
            (b"data: a\ndata\ndata: b\n\n", &[("", "a\n\nb")], Ok(())),
            (b": ping\n\n:\n\ndata: a\n\n", &[("", "a")], Ok(())),
            (b"\xef\xbb\xbfdata: a\n\n", &[("", "a")], Ok(())),
            (b"event: error\nid: 7\nretry: 3\ndata: a\n\n", &[("error", "a")], Ok(())),
            (b"event: lost\n\ndata: a\n\n", &[("", "a")], Ok(())),
            (b"error: {}\n\n", &[("error", "{}")], Ok(())),
            (b"data: [DONE]", &[("", "[DONE]")], Ok(())),
            (b"later: x\nknown\ndata: a\n\n", &[("", "a")], Ok(())),
            (b"data: a\n\n{\"id\": 1}\n\n", &[("", "a")], Err(Malformed)),
            (b"two words\n\n", &[], Err(Malformed)),
            (b"DATA: a\n\n", &[], Err(Malformed)),
            (b"data: \xf0\x9f\x92\n\n", &[], Err(InvalidUtf8)),
            (b"data: \xf0\x9f\x92\xa5\n\n", &[("", "💥")], Ok(())),
            (b"data: 1234567890\ndata: 123456789012345\n\n", &[], Err(TooLarge(30))),
        ];
        for (bytes, expected, end) in cases {
            let (events, found) = parse(30, [bytes]);
            let events: Vec<(&str, &str)> =
                events.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            assert_eq!((&events[..], found), (expected, end), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events() {
        let pieces: [&[u8]; 16] = [
            b"data: ",
            b"\n",
            b"\n\n",
            b"\r\n",
            b"\r",
            b": ping",
            b"event: error",
            "{\"text\": \"é 💥 한\"}".as_bytes(),
            b"\xef\xbb\xbf",
            b"[DONE]",
            b"error: ",
            b"\xff",
            b"x",
            b"data",
            b"id: 1",
            b"data: a\n\ndata: b\r\n\r\n",
        ];
        for seed in 0..2_000 {
            let mut random = Random::new(seed);
            let chosen = (0..random.below(14)).flat_map(|_| pieces[random.below(pieces.len())]);
            let bytes: Vec<u8> = chosen.copied().collect();
            let whole = parse(40, [&bytes[..]]);
            let single = parse(40, bytes.chunks(1));
            assert_eq!(whole, single, "{}", bytes.escape_ascii());
            let mut rest = &bytes[..];
            let mut parts = Vec::new();
            while !rest.is_empty() {
                let (part, after) = rest.split_at(1 + random.below(rest.len()));
                parts.push(part);
                rest = after;
            }
            assert_eq!(whole, parse(40, parts), "{}", bytes.escape_ascii());
        }
    }
}
