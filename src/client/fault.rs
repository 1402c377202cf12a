//! What can go wrong with a request, each told apart under a stable name.

use std::time::Duration;

/// Why a request gave no complete answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Fault {
    #[error("the host name cannot be resolved: {0}")]
    NameLookup(String),
    #[error("the connection is refused; is the server running?")]
    ConnectRefused,
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error(
        "the server's certificate is not trusted: {0}; add its CA to the system's store, or name a \
         PEM file that holds it in SSL_CERT_FILE"
    )]
    Certificate(String),
    #[error("no TLS connection: {0}; does the server speak https?")]
    Tls(String),
    #[error("the connection ended before an answer began")]
    ResetBeforeHeaders,
    #[error("the answer is not HTTP/1.1: {0}")]
    MalformedHttp(String),
    #[error("status {status}: {message}")]
    ClientError { status: u16, message: String },
    #[error("status 429, too many requests: {message}")]
    TooManyRequests { retry_after_s: Option<u64>, message: String },
    #[error("status 500: {message}")]
    InternalError { message: String },
    #[error("status 503, unavailable: {message}")]
    Unavailable { retry_after_s: Option<u64>, message: String },
    #[error("status {status}: {message}")]
    ServerError { status: u16, message: String },
    #[error("the server is out of memory: {message}")]
    OutOfMemory { message: String },
    #[error("redirected to {target}, which is not followed; name that server instead")]
    Redirect { target: String },
    #[error("the content type is `{found}` instead of `{expected}`")]
    ContentType { expected: &'static str, found: String },
    #[error("not a stream of server-sent events: {0}")]
    MalformedSse(String),
    #[error("invalid JSON: {0}")]
    MalformedJson(String),
    #[error("not UTF-8")]
    InvalidUtf8,
    #[error("an error in the stream: {message}")]
    StreamError { message: String },
    #[error("the connection ended within the answer")]
    ResetMidStream,
    #[error("the answer ended with neither `finish_reason` nor `[DONE]`")]
    Truncated,
    #[error("no answer began within {0:?}")]
    FirstByteTimeout(Duration),
    #[error("no further byte within {0:?}")]
    Stall(Duration),
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer is longer than {0} bytes")]
    BodyTooLarge(u64),
    #[error("an event is longer than {0} bytes")]
    EventTooLarge(u64),
}

impl Fault {
    /// The stable name, in records and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NameLookup(_) => "name-lookup",
            Self::ConnectRefused => "connect-refused",
            Self::ConnectTimeout(_) => "connect-timeout",
            Self::Connect(_) => "connect",
            Self::Certificate(_) => "certificate",
            Self::Tls(_) => "tls",
            Self::ResetBeforeHeaders => "reset-before-headers",
            Self::MalformedHttp(_) => "malformed-http",
            Self::ClientError { .. } => "http-4xx",
            Self::TooManyRequests { .. } => "http-429",
            Self::InternalError { .. } => "http-500",
            Self::Unavailable { .. } => "http-503",
            Self::ServerError { .. } => "http-5xx",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::Redirect { .. } => "redirect",
            Self::ContentType { .. } => "content-type",
            Self::MalformedSse(_) => "malformed-sse",
            Self::MalformedJson(_) => "malformed-json",
            Self::InvalidUtf8 => "invalid-utf8",
            Self::StreamError { .. } => "error-in-stream",
            Self::ResetMidStream => "reset-mid-stream",
            Self::Truncated => "truncated",
            Self::FirstByteTimeout(_) => "first-byte-timeout",
            Self::Stall(_) => "stall",
            Self::Timeout(_) => "timeout",
            Self::BodyTooLarge(_) => "body-too-large",
            Self::EventTooLarge(_) => "event-too-large",
        }
    }

    /// How long the server asks to wait, in seconds.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::TooManyRequests { retry_after_s, .. }
            | Self::Unavailable { retry_after_s, .. } => *retry_after_s,
            _ => None,
        }
    }

    /// The fault of a status that is no success and no redirect.
    pub(crate) fn of_status(status: u16, retry_after_s: Option<u64>, message: String) -> Self {
        match status {
            429 => Self::TooManyRequests { retry_after_s, message },
            ..500 => Self::ClientError { status, message },
            _ if is_out_of_memory(&message) => Self::OutOfMemory { message },
            500 => Self::InternalError { message },
            503 => Self::Unavailable { retry_after_s, message },
            _ => Self::ServerError { status, message },
        }
    }

    /// The fault of an error object within a stream.
    pub(crate) fn of_stream(message: String) -> Self {
        if is_out_of_memory(&message) {
            return Self::OutOfMemory { message };
        }
        Self::StreamError { message }
    }
}

/// Whether a server's message says that memory ran out: PyTorch, CUDA, ROCm, Metal, ggml.
fn is_out_of_memory(message: &str) -> bool {
    let text = message.to_lowercase();
    let phrases = ["out of memory", "outofmemory", "out_of_memory", "failed to allocate"];
    phrases.iter().any(|phrase| text.contains(phrase))
}

/// What is wrong with an answer that counts nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Defect {
    #[error("the answer has no `usage`: its token counts are missing")]
    MissingUsage,
    #[error("`usage` contradicts the answer: {0}; its token counts are missing")]
    WrongUsage(String),
    #[error("the stream ended without `[DONE]`")]
    MissingDone,
}

impl Defect {
    /// The stable name, in records and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MissingUsage => "missing-usage",
            Self::WrongUsage(_) => "wrong-usage",
            Self::MissingDone => "missing-done",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_apart_and_memory_by_the_text() {
        for (status, message, name) in [
            (400, "bad", "http-4xx"),
            (404, "no such model", "http-4xx"),
            (400, "CUDA out of memory", "http-4xx"),
            (429, "slow down", "http-429"),
            (500, "boom", "http-500"),
            (500, "CUDA out of memory. Tried to allocate 2 GiB", "out-of-memory"),
            (503, "loading", "http-503"),
            (503, "torch.OutOfMemoryError", "out-of-memory"),
            (502, "bad gateway", "http-5xx"),
        ] {
            let fault = Fault::of_status(status, Some(7), message.into());
            assert_eq!(fault.name(), name, "{status} {message}");
            assert!(fault.to_string().contains(message), "{fault}");
        }
        let waits = |status| Fault::of_status(status, Some(7), String::new()).retry_after_s();
        assert_eq!([429, 503, 500].map(waits), [Some(7), Some(7), None]);
        assert_eq!(Fault::of_stream("ggml: failed to allocate".into()).name(), "out-of-memory");
        assert_eq!(Fault::of_stream("aborted".into()).name(), "error-in-stream");
    }
}
