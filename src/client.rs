//! A client of OpenAI-compatible servers that measures them: what was sent and what came, when.
//!
//! `Client::send` never fails: whatever happened is in the `Exchange`. It knows nothing of
//! load, of records and of verdicts. One thread holds a thousand streams, see `selftest`.
//!
//! HTTP/1.1 is hyper's, on connections of our own: their set-up is timed apart, and the bytes of an
//! answer are stamped when they are read from the socket, before anything parses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response};

use crate::error::Error;

mod chunk;
mod connection;
mod endpoint;
mod exchange;
mod fault;
mod identity;
mod limits;
pub mod mock;
mod probe;
mod request;
pub mod selftest;
mod server_metrics;
mod sse;

pub use chunk::{Chunk, ChunkClass, Usage};
pub use endpoint::{ApiKey, Endpoint};
pub use exchange::{ChunkArrival, CountSource, Exchange, Outcome, Timeline};
pub use fault::{Defect, Fault};
pub use identity::{Identity, identify};
pub use limits::{Limits, TextPolicy};
pub use probe::{Api, Capabilities, probe, served_model};
pub use request::{ChatMessage, Delivery, Generation, OptionalField, Prompt, Request};
pub use server_metrics::{Scrape, ServerKind, ServerMetric};
pub use sse::{SseError, SseEvent, SseParser};

use connection::{Connection, Connector};
use limits::Deadlines;
use request::AnswerKind;

/// The most bytes that are read of the body of a failed request.
const MAX_MESSAGE_BYTES: u64 = 64 << 10;

/// How long the end of a body is waited for after `[DONE]`, so that the connection can be kept.
const END_OF_BODY_GRACE: Duration = Duration::from_millis(100);

/// A client of one server. A clone is cheap and shares the idle connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    limits: Limits,
    endpoint: Endpoint,
    key: Option<ApiKey>,
    /// The header of the key.
    authorization: Option<HeaderValue>,
    host: HeaderValue,
    requests: AtomicU64,
}

impl Client {
    /// A client of the endpoint, which connects when it sends.
    ///
    /// # Errors
    /// When the endpoint's host is no host, or TLS cannot be set up.
    pub fn new(endpoint: Endpoint, key: Option<ApiKey>, limits: Limits) -> crate::Result<Self> {
        let host = HeaderValue::try_from(endpoint.authority())
            .map_err(|_| Error::Usage(format!("`{endpoint}` is not the address of a server")))?;
        let authorization = key.as_ref().and_then(ApiKey::header);
        let connector = Connector::new(endpoint.clone(), limits.connect)?;
        let requests = AtomicU64::new(0);
        let shared = Shared { connector, limits, endpoint, key, authorization, host, requests };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The server's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Sends a request now and reads the answer. `scheduled` is when it was to be sent.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO and timers, such as [`runtime`].
    pub async fn send(&self, request: &Request, scheduled: Instant) -> Exchange {
        let number = self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let id = format!("candlemark-{}-{number}", std::process::id());
        let mut exchange = Exchange::new(id, scheduled);
        if let Err(fault) = self.exchange(request, &mut exchange).await {
            exchange.fault = Some(fault);
            exchange.timeline.end = Instant::now();
        }
        exchange
    }

    async fn exchange(&self, request: &Request, exchange: &mut Exchange) -> Result<(), Fault> {
        let Shared { connector, limits, .. } = &*self.shared;
        let started = Instant::now();
        let mut kept = connector.idle().await;
        let (connection, response, mut deadlines) = loop {
            exchange.timeline.is_reused = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => {
                    let connected = connector.connect().await;
                    exchange.timeline.set_up = started.elapsed();
                    connected?
                }
            };
            let http = self.http_request(request, &exchange.id)?;
            let sent = Instant::now();
            exchange.timeline.sent = Some(sent);
            let response = connection.sender.send_request(http);
            let mut deadlines = Deadlines::new(*limits, started, sent);
            match deadlines.drive(&mut connection, response).await? {
                Ok(response) => break (connection, response, deadlines),
                // A server may close a connection that it kept at any time, also while a request is
                // on its way (RFC 9112, 9.3.1). llama-server does after every stream.
                Err(source) if exchange.timeline.is_reused && !source.is_parse() => {
                    exchange.timeline.is_resent = true;
                }
                Err(source) => return Err(fault_before_headers(&source)),
            }
        };
        deadlines.head_came();
        exchange.timeline.first_byte = Some(connection.arrivals.last());
        exchange.status = Some(response.status().as_u16());
        let mut answer = Answer { connection, deadlines, limits: *limits, received: 0 };
        self.read(request, response, &mut answer, exchange).await?;
        connector.keep(answer.connection).await;
        Ok(())
    }

    fn http_request(
        &self,
        request: &Request,
        id: &str,
    ) -> Result<hyper::Request<Full<Bytes>>, Fault> {
        let Shared { endpoint, authorization, host, .. } = &*self.shared;
        let method = if request.body.is_some() { Method::POST } else { Method::GET };
        let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        let mut http = hyper::Request::builder()
            .method(method)
            .uri(endpoint.path(request.path))
            .header(header::HOST, host)
            .header(header::ACCEPT, request.answer.content_type())
            .header(header::USER_AGENT, agent)
            .header("x-request-id", id);
        if request.body.is_some() {
            http = http.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = authorization {
            http = http.header(header::AUTHORIZATION, authorization);
        }
        let body = Full::new(request.body.clone().unwrap_or_default());
        http.body(body).map_err(|source| Fault::Connect(source.to_string()))
    }

    async fn read(
        &self,
        request: &Request,
        response: Response<Incoming>,
        answer: &mut Answer,
        exchange: &mut Exchange,
    ) -> Result<(), Fault> {
        let (head, mut body) = response.into_parts();
        let status = head.status;
        if status.is_redirection() {
            return Err(Fault::Redirect { target: redirect_target(&head.headers) });
        }
        if !status.is_success() {
            let retry_after_s = text_of(&head.headers, header::RETRY_AFTER).parse().ok();
            // What came of the message is better than the reason why the rest did not.
            let mut text = Vec::new();
            answer.limits.body_bytes = MAX_MESSAGE_BYTES;
            let _ = answer.read_whole(&mut body, &mut text).await;
            let message = self.message(&chunk::body_message(&String::from_utf8_lossy(&text)));
            return Err(Fault::of_status(status.as_u16(), retry_after_s, message));
        }
        let expected = request.answer.content_type();
        let found = text_of(&head.headers, header::CONTENT_TYPE);
        if !found.to_ascii_lowercase().starts_with(expected) {
            return Err(Fault::ContentType { expected, found: self.message(found) });
        }
        let done = match request.answer {
            AnswerKind::Stream => answer.read_stream(&mut body, exchange).await,
            AnswerKind::Whole => answer.read_answer(&mut body, exchange).await,
            AnswerKind::Json | AnswerKind::Text => {
                answer.read_document(&mut body, request, exchange).await
            }
        };
        done.map_err(|fault| match fault {
            Fault::StreamError { message } => {
                Fault::StreamError { message: self.message(&message) }
            }
            Fault::OutOfMemory { message } => {
                Fault::OutOfMemory { message: self.message(&message) }
            }
            fault => fault,
        })?;
        if matches!(request.answer, AnswerKind::Stream | AnswerKind::Whole) {
            exchange.check_usage(request.max_tokens);
        }
        Ok(())
    }

    /// A server's words, shortened and without the key.
    fn message(&self, text: &str) -> String {
        let text = match &self.shared.key {
            Some(key) => key.remove_from(text),
            None => text.to_owned(),
        };
        crate::error::shortened(text.trim())
    }
}

/// An answer being read.
struct Answer {
    connection: Connection,
    deadlines: Deadlines,
    limits: Limits,
    /// Bytes of the body so far.
    received: u64,
}

impl Answer {
    /// The next bytes of the body and the instant at which they were read; `None` at its end.
    async fn next(&mut self, body: &mut Incoming) -> Result<Option<(Bytes, Instant)>, Fault> {
        loop {
            let frame = self.deadlines.drive(&mut self.connection, body.frame()).await?;
            let at = self.connection.arrivals.last();
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|source| fault_mid_stream(&source))?;
            let Ok(bytes) = frame.into_data() else { continue }; // Trailers.
            self.received += bytes.len() as u64;
            if self.received > self.limits.body_bytes {
                return Err(Fault::BodyTooLarge(self.limits.body_bytes));
            }
            return Ok(Some((bytes, at)));
        }
    }

    async fn read_stream(
        &mut self,
        body: &mut Incoming,
        exchange: &mut Exchange,
    ) -> Result<(), Fault> {
        let mut parser = SseParser::new(self.limits.event_bytes);
        let mut events = Vec::new();
        loop {
            let next = self.next(body).await?;
            let at = next.as_ref().map_or_else(|| self.connection.arrivals.last(), |(_, at)| *at);
            exchange.timeline.end = at;
            let parsed = match &next {
                Some((bytes, _)) => parser.push(bytes, &mut events),
                None => parser.finish(&mut events),
            };
            for event in events.drain(..) {
                if self.take_event(&event, at, exchange)? {
                    self.skip_rest(body).await;
                    return Ok(());
                }
            }
            parsed.map_err(sse_fault)?;
            if next.is_none() {
                break;
            }
        }
        if exchange.finish_reason.is_none() {
            return Err(Fault::Truncated);
        }
        exchange.defects.push(Defect::MissingDone);
        Ok(())
    }

    /// Takes an event; returns whether it is the last.
    fn take_event(
        &self,
        event: &SseEvent,
        at: Instant,
        exchange: &mut Exchange,
    ) -> Result<bool, Fault> {
        let data = event.data.trim();
        if event.name == "error" {
            return Err(Fault::of_stream(chunk::body_message(data)));
        }
        if data == "[DONE]" {
            return Ok(true);
        }
        let chunk = Chunk::parse(data).map_err(|why| Fault::MalformedJson(why.to_string()))?;
        exchange.take(chunk, at, self.limits.text)?;
        Ok(false)
    }

    /// Reads to the end of the body, which a connection needs to be used again. Not for long: the
    /// answer is complete.
    async fn skip_rest(&mut self, body: &mut Incoming) {
        let rest = async { while let Ok(Some(_)) = self.next(body).await {} };
        let _ = tokio::time::timeout(END_OF_BODY_GRACE, rest).await;
    }

    async fn read_answer(
        &mut self,
        body: &mut Incoming,
        exchange: &mut Exchange,
    ) -> Result<(), Fault> {
        let text = self.read_text(body, exchange).await?;
        let chunk = Chunk::parse(&text).map_err(|why| Fault::MalformedJson(why.to_string()))?;
        exchange.take_text(chunk, self.limits.text)
    }

    async fn read_document(
        &mut self,
        body: &mut Incoming,
        request: &Request,
        exchange: &mut Exchange,
    ) -> Result<(), Fault> {
        let text = self.read_text(body, exchange).await?;
        if request.answer == AnswerKind::Json {
            let valid = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            valid.map_err(|why| Fault::MalformedJson(why.to_string()))?;
        }
        // What is only fetched, models and metrics, is asked for its text.
        if self.limits.text == TextPolicy::Keep || request.body.is_none() {
            exchange.content = text;
        }
        Ok(())
    }

    async fn read_text(
        &mut self,
        body: &mut Incoming,
        exchange: &mut Exchange,
    ) -> Result<String, Fault> {
        let mut text = Vec::new();
        self.read_whole(body, &mut text).await?;
        exchange.timeline.end = self.connection.arrivals.last();
        String::from_utf8(text).map_err(|_| Fault::InvalidUtf8)
    }

    async fn read_whole(&mut self, body: &mut Incoming, text: &mut Vec<u8>) -> Result<(), Fault> {
        while let Some((bytes, _)) = self.next(body).await? {
            text.extend_from_slice(&bytes);
        }
        Ok(())
    }
}

/// Why there was no answer.
fn fault_before_headers(source: &hyper::Error) -> Fault {
    if source.is_parse() {
        return Fault::MalformedHttp(source.to_string());
    }
    Fault::ResetBeforeHeaders
}

/// Why a body ended early.
fn fault_mid_stream(source: &hyper::Error) -> Fault {
    use std::error::Error as _;
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let io = source.source().and_then(|inner| inner.downcast_ref::<std::io::Error>());
    match io {
        Some(io) if matches!(io.kind(), InvalidData | InvalidInput) => {
            Fault::MalformedHttp(io.to_string())
        }
        _ => Fault::ResetMidStream,
    }
}

fn sse_fault(error: SseError) -> Fault {
    match error {
        SseError::Malformed => Fault::MalformedSse(error.to_string()),
        SseError::InvalidUtf8 => Fault::InvalidUtf8,
        SseError::TooLarge(limit) => Fault::EventTooLarge(limit as u64),
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Where a redirect leads, for a message: scheme and host.
fn redirect_target(headers: &HeaderMap) -> String {
    let location = text_of(headers, header::LOCATION);
    match Endpoint::parse(location.split('?').next().unwrap_or_default()) {
        Ok(target) => format!("`{}`", target.origin()),
        Err(_) if location.starts_with('/') && !location.starts_with("//") => {
            "another path of the same host".into()
        }
        Err(_) => "another address".into(),
    }
}

/// A runtime of one thread, with IO and timers, that a client can run on.
///
/// # Errors
/// When the system gives no more files.
pub fn runtime() -> crate::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|source| Error::Failed(format!("cannot start a runtime: {source}")))
}

/// Lets this process have `connections` open at once, and some files.
///
/// # Errors
/// When the system's limit is lower.
pub fn allow_connections(connections: u64) -> crate::Result<()> {
    const OTHER_FILES: u64 = 100;
    let wanted = connections + OTHER_FILES;
    let failed = |found: String| {
        Error::Usage(format!(
            "{connections} connections at once need {wanted} open files, the limit is {found}; \
             raise it with `ulimit -n {wanted}`, or ask for less"
        ))
    };
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit >= wanted => Ok(()),
        Ok(limit) => Err(failed(limit.to_string())),
        Err(source) => Err(failed(format!("unknown ({source})"))),
    }
}

#[cfg(test)]
mod tests;
