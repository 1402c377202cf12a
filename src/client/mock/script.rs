//! What a mock server writes, and when.

use std::time::Duration;

use serde_json::{Value, json};

/// One thing that the mock does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Waits.
    Pause(Duration),
    /// Writes bytes.
    Write(Vec<u8>),
    /// Writes bytes and notes the instant before.
    Token(Vec<u8>),
    /// Writes bytes each by itself.
    OneByteAtATime(Vec<u8>),
    /// Writes bytes again and again with a pause, until the client closes the connection.
    Repeat(Vec<u8>, Duration),
    /// Closes the connection in order (FIN).
    Close,
    /// Resets the connection (RST).
    Reset,
    /// Writes nothing until the client closes the connection.
    Hold,
}

/// An answer, from its status line to its last byte.
#[derive(Debug, Clone)]
pub struct Script {
    /// The steps in order. Without an end of its own, the connection stays open for the next
    /// request.
    pub steps: Vec<Step>,
}

impl Script {
    /// An answer with a body of known length.
    pub fn whole(status: u16, headers: &str, content_type: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} Status\r\n{headers}content-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        Self { steps: vec![Step::Write(text.into_bytes())] }
    }

    /// A failure with the API's error object. Headers end in CRLF.
    pub fn error(status: u16, headers: &str, message: &str) -> Self {
        let body = json!({ "error": { "message": message, "code": status } }).to_string();
        Self::whole(status, headers, "application/json", &body)
    }

    /// A stream of server-sent events: the head, the steps, and the end of the body.
    pub fn stream(steps: impl IntoIterator<Item = Step>) -> Self {
        let mut script = Self::open_stream(steps);
        script.steps.push(Step::Write(b"0\r\n\r\n".to_vec()));
        script
    }

    /// A stream whose steps end it, or that never ends.
    pub fn open_stream(steps: impl IntoIterator<Item = Step>) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
        let head = Step::Write(head.into());
        Self { steps: std::iter::once(head).chain(steps).collect() }
    }

    /// A stream as a server sends it: the role at once, the first token after `ttft`, each further
    /// one `gap` later in a chunk of its own, then `usage` and `[DONE]`.
    pub fn generation(ttft: Duration, gap: Duration, tokens: u64) -> Self {
        let role = chat_chunk(&json!({ "role": "assistant", "content": "" }), None);
        let mut steps = vec![Step::Write(chunked(event(&role)))];
        for number in 0..tokens {
            steps.push(Step::Pause(if number == 0 { ttft } else { gap }));
            let finish = (number + 1 == tokens).then_some("length");
            let content = format!(" {number}");
            let chunk = chat_chunk(&json!({ "content": content }), finish);
            steps.push(Step::Token(chunked(event(&chunk))));
        }
        let usage = usage_chunk(7, tokens, 0);
        steps.push(Step::Write(chunked(&(event(&usage) + "data: [DONE]\n\n"))));
        Self::stream(steps)
    }
}

/// A chunk of a chat with this delta.
pub fn chat_chunk(delta: &Value, finish_reason: Option<&str>) -> Value {
    json!({
        "id": "mock", "object": "chat.completion.chunk", "model": "mock",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish_reason }],
    })
}

/// A chunk with token counts alone.
pub fn usage_chunk(prompt: u64, completion: u64, cached: u64) -> Value {
    json!({
        "id": "mock", "object": "chat.completion.chunk", "model": "mock", "choices": [],
        "usage": {
            "prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": { "cached_tokens": cached },
        },
    })
}

/// A server-sent event with this JSON.
pub fn event(json: &Value) -> String {
    format!("data: {json}\n\n")
}

/// Bytes in one chunk of HTTP's chunked coding.
pub fn chunked(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}
