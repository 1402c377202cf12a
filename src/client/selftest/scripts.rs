//! What the mock server answers in each case.

use std::time::Duration;

use serde_json::json;

use crate::client::mock::{Script, Step, chat_chunk, chunked, event, usage_chunk};
use crate::client::{ChatMessage, Generation, Request};

/// A chat of at most `tokens` tokens.
pub(super) fn request(tokens: u64) -> Request {
    let message = ChatMessage { role: "user", content: "Count.".into() };
    Request::chat(&[message], &Generation::exactly("mock", tokens))
}

pub(super) const DONE: &str = "data: [DONE]\n\n";

pub(super) fn role() -> String {
    event(&chat_chunk(&json!({ "role": "assistant", "content": "" }), None))
}

pub(super) fn content(text: &str) -> String {
    event(&chat_chunk(&json!({ "content": text }), None))
}

pub(super) fn finish(reason: &str) -> String {
    event(&chat_chunk(&json!({}), Some(reason)))
}

pub(super) fn usage(completion: u64) -> String {
    event(&usage_chunk(7, completion, 0))
}

/// The role and two tokens.
pub(super) fn beginning() -> [String; 3] {
    [role(), content(" 0"), content(" 1")]
}

/// The finish, the count of two tokens, and `[DONE]`.
pub(super) fn ending() -> [String; 3] {
    [finish("stop"), usage(2), DONE.into()]
}

/// Each text in a chunk of its own.
pub(super) fn writes<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> Vec<Step> {
    texts.into_iter().map(|text| Step::Write(chunked(text))).collect()
}

/// A whole stream of these texts.
pub(super) fn stream<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> Script {
    Script::stream(writes(texts))
}

/// Two tokens, then these steps instead of an ending.
pub(super) fn broken(steps: impl IntoIterator<Item = Step>) -> Script {
    Script::open_stream(writes(beginning()).into_iter().chain(steps))
}

/// These steps alone, without a head.
pub(super) fn raw(steps: impl IntoIterator<Item = Step>) -> Script {
    Script { steps: steps.into_iter().collect() }
}

/// A stream in which everything is `\r\n`, `\r` or a comment where that is allowed.
pub(super) fn odd_lines() -> Script {
    let events = [beginning(), ending()].concat();
    let ends = ["\r\n\r\n", "\r\r", "\n\n"];
    let mut texts = vec!["\u{feff}: hello\r\n\r\n".to_owned(), "retry: 10\rid: 1\r\r".to_owned()];
    for (number, event) in events.iter().enumerate() {
        let end = ends[number % ends.len()];
        texts.push(format!(": comment{}{end}", &end[..end.len() / 2]));
        texts.push(format!("event: message{}", &end[..end.len() / 2]));
        texts.push(event.trim_end().to_owned() + end);
    }
    stream(texts)
}

/// A stream written byte by byte, with characters of two to four bytes.
pub(super) fn byte_by_byte() -> Script {
    let texts = [role(), content(" é한"), content("💥"), finish("stop"), usage(2), DONE.into()];
    let mut bytes: Vec<u8> = texts.iter().flat_map(chunked).collect();
    bytes.extend_from_slice(b"0\r\n\r\n");
    Script::open_stream([Step::OneByteAtATime(bytes)])
}

/// All events in one chunk, whose first event came half in the chunk before.
pub(super) fn joined_and_split() -> Script {
    let all = [beginning(), ending()].concat().concat();
    let (first, rest) = all.split_at(40);
    stream([first, rest])
}

/// Comments for `total`, between a token and the next.
pub(super) fn pings(total: Duration, every: Duration) -> Script {
    let mut steps = writes(&beginning()[..2]);
    for _ in 0..total.as_millis() / every.as_millis() {
        steps.push(Step::Pause(every));
        steps.extend(writes([": ping\n\n"]));
    }
    steps.extend(writes(&beginning()[2..]));
    steps.extend(writes(ending()));
    Script::stream(steps)
}

/// A body that ends with the connection instead of with a length.
pub(super) fn until_close() -> Script {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let text = [beginning(), ending()].concat().concat();
    raw([Step::Write((head.to_owned() + &text).into_bytes()), Step::Close])
}

/// A server that refuses two optional fields, one after the other.
pub(super) fn picky(path: &str, body: &str) -> Script {
    if path == "/v1/models" {
        let models = json!({ "object": "list", "data": [{ "id": "mock" }] }).to_string();
        return Script::whole(200, "", "application/json", &models);
    }
    let refused = ["min_tokens", "ignore_eos"].into_iter().find(|field| body.contains(field));
    match refused {
        Some(field) => Script::error(400, "", &format!("extra fields not permitted: {field}")),
        None => stream([content(" 3"), finish("length"), usage(1), DONE.into()]),
    }
}

/// A page of metrics as vLLM has it.
pub(super) const METRICS: &str = "# TYPE vllm:num_requests_waiting gauge\n\
    vllm:num_requests_waiting{engine=\"0\"} 3.0\n\
    vllm:prefix_cache_queries_total{engine=\"0\"} 640.0\n";
