//! Faults and well-formed oddities, each once, and what the client takes them for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::scripts::{
    self, DONE, beginning, broken, content, ending, finish, raw, request, role, stream, usage,
    writes,
};
use crate::client::mock::{
    Answer, Mock, MockRequest, Routes, Script, Step, chat_chunk, chunked, event,
};
use crate::client::{
    Api, ApiKey, Client, Delivery, Endpoint, Exchange, Fault, Generation, Limits, Prompt, Request,
    Scrape, probe,
};
use crate::error::{Error, Result};

/// What the client took a case for, or should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// `complete`, with the names of defects, or the name of the fault.
    pub name: String,
    /// What was received: reasoning, text and tool arguments.
    pub text: String,
    /// The server's count of generated tokens.
    pub tokens: Option<u64>,
    /// The number of the first chunk with a token, from 0.
    pub first_token: Option<usize>,
}

/// A case with what it was taken for.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// What the server did.
    pub case: String,
    /// What the client should take it for.
    pub expected: Observation,
    /// What it took it for.
    pub told: Observation,
    /// The message of the fault.
    pub message: Option<String>,
}

impl CaseResult {
    /// What an exchange is told as, beside what was expected.
    fn of(case: &str, expected: Observation, exchange: &Exchange) -> Self {
        let message = exchange.fault.as_ref().map(Fault::to_string);
        Self { case: case.into(), expected, told: describe(exchange), message }
    }

    /// Whether the client was right, in every detail.
    pub fn is_right(&self) -> bool {
        self.expected == self.told
    }
}

/// A case before it is run.
struct Case {
    name: &'static str,
    expected: Observation,
    answer: Answer,
    limits: Limits,
    request: Request,
    /// Where it is sent instead of to the mock.
    endpoint: Option<String>,
}

/// The complete answer of two tokens: ` 0 1`, the role before them.
fn complete() -> Observation {
    told("complete", " 0 1", Some(2), Some(1))
}

/// A fault after two tokens, which are kept.
fn after_two(name: &str) -> Observation {
    told(name, " 0 1", None, Some(1))
}

/// A fault before any token.
fn nothing(name: &str) -> Observation {
    told(name, "", None, None)
}

fn told(name: &str, text: &str, tokens: Option<u64>, first_token: Option<usize>) -> Observation {
    Observation { name: name.into(), text: text.into(), tokens, first_token }
}

/// Limits that no case meets by chance, however busy the machine is.
fn limits() -> Limits {
    let long = Duration::from_secs(20);
    Limits {
        connect: long,
        first_byte: long,
        stall: long,
        total: Duration::from_secs(60),
        body_bytes: 1 << 20,
        event_bytes: 1 << 16,
        ..Limits::default()
    }
}

fn case(name: &'static str, expected: Observation, script: Script) -> Case {
    let script = Arc::new(script);
    Case {
        name,
        expected,
        answer: Box::new(move |_: &MockRequest| Arc::clone(&script)),
        limits: limits(),
        request: request(2),
        endpoint: None,
    }
}

fn status(name: &'static str, status: u16, headers: &str, message: &str, expected: &str) -> Case {
    case(name, nothing(expected), Script::error(status, headers, message))
}

/// Answers that count, in unusual forms.
fn oddities() -> Vec<Case> {
    let delta = |delta| event(&chat_chunk(&delta, None));
    let tool = |arguments: &str| {
        delta(json!({ "tool_calls": [{ "index": 0, "function": { "arguments": arguments } }] }))
    };
    let mut last = chat_chunk(&json!({ "content": " 1" }), Some("stop"));
    last["usage"] = json!({ "prompt_tokens": 7, "completion_tokens": 2 });
    let [finish_it, count, done] = ending();
    let whole = json!({
        "choices": [{ "message": { "role": "assistant", "content": " 0 1" },
                      "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 7, "completion_tokens": 2 },
    });
    let text = |text: &str| event(&json!({ "choices": [{ "text": text, "finish_reason": null }] }));
    let short = Duration::from_millis(20);
    let stall = Duration::from_secs(1);
    vec![
        case("role chunk, usage-only chunk", complete(), stream([beginning(), ending()].concat())),
        case(
            "reasoning before the answer",
            told("complete", "hm 0", Some(2), Some(1)),
            stream([
                role(),
                delta(json!({ "reasoning_content": "hm" })),
                content(" 0"),
                finish("stop"),
                usage(2),
                DONE.into(),
            ]),
        ),
        case(
            "several tokens in a chunk",
            told("complete", " 0 1 2", Some(3), Some(1)),
            stream([role(), content(" 0 1 2"), finish("stop"), usage(3), DONE.into()]),
        )
        .of(request(3)),
        case(
            "usage with the last content",
            complete(),
            stream([role(), content(" 0"), event(&last), DONE.into()]),
        ),
        case(
            "empty deltas before the first token",
            told("complete", " 0 1", Some(2), Some(4)),
            stream(
                [
                    &[role(), content(""), delta(json!({})), delta(json!({ "content": null }))][..],
                    &beginning()[1..],
                    &ending()[..],
                ]
                .concat(),
            ),
        ),
        case(
            "arguments of a tool call",
            told("complete", "{x}", Some(2), Some(2)),
            stream([role(), tool(""), tool("{x"), tool("}"), finish("tool_calls"), usage(2), done]),
        ),
        case(
            "text completion",
            told("complete", " 0 1", Some(2), Some(0)),
            stream([text(" 0"), text(" 1"), finish_it.clone(), count.clone(), DONE.into()]),
        )
        .of(Request::completion(&Prompt::Ids(vec![1, 2]), &Generation::exactly("mock", 2))),
        case(
            "one byte at a time",
            told("complete", " é한💥", Some(2), Some(1)),
            scripts::byte_by_byte(),
        ),
        case("CRLF, CR, comments, byte order mark", complete(), scripts::odd_lines()),
        case("events joined and split", complete(), scripts::joined_and_split()),
        case("keep-alive pings", complete(), scripts::pings(2 * stall, short)).stalls(stall),
        case("a body that ends with the connection", complete(), scripts::until_close()),
        case(
            "`[DONE]`, and the body stays open",
            complete(),
            Script::open_stream(
                writes([beginning(), ending()].concat()).into_iter().chain([Step::Hold]),
            ),
        ),
        case(
            "no stream",
            told("complete", " 0 1", Some(2), None),
            Script::whole(200, "", "application/json", &whole.to_string()),
        )
        .of(Request::chat(
            &[],
            &Generation { delivery: Delivery::Whole, ..Generation::exactly("mock", 2) },
        )),
        case(
            "embeddings",
            told("complete", r#"{"data":[]}"#, None, None),
            Script::whole(200, "", "application/json", r#"{"data":[]}"#),
        )
        .of(Request::embeddings("mock", &["a".into()])),
        case(
            "no `[DONE]`",
            told("complete, missing-done", " 0 1", Some(2), Some(1)),
            stream([&beginning()[..], &[finish_it.clone(), count]].concat()),
        ),
        case(
            "no usage",
            told("complete, missing-usage", " 0 1", None, Some(1)),
            stream([&beginning()[..], &[finish_it.clone(), DONE.into()]].concat()),
        ),
        case(
            "usage of no tokens beside text",
            told("complete, wrong-usage", " 0 1", None, Some(1)),
            stream([&beginning()[..], &[finish_it.clone(), usage(0), DONE.into()]].concat()),
        ),
        case(
            "usage of more tokens than asked for",
            told("complete, wrong-usage", " 0 1", None, Some(1)),
            stream([&beginning()[..], &[finish_it, usage(3), DONE.into()]].concat()),
        ),
    ]
}

/// Answers that do not count, or only their beginning.
fn faults(other_host: &str) -> Vec<Case> {
    const WAIT: &str = "retry-after: 7\r\n";
    let tick = Duration::from_millis(10);
    let error = |message: &str| event(&json!({ "error": { "message": message } }));
    let moved = format!("location: {other_host}/v1/chat/completions?key=1\r\n");
    let page = Script::whole(200, "", "text/html", "<html>");
    let trickle = Step::Repeat(chunked(": \n"), tick);
    let endless = |text: &str| Script::open_stream([Step::Repeat(chunked(text), Duration::ZERO)]);
    vec![
        status("status 404", 404, "", "no such model", "http-4xx"),
        status("status 429, Retry-After", 429, WAIT, "slow down", "http-429 after 7 s"),
        status("status 500", 500, "", "boom", "http-500"),
        status("status 500, out of memory", 500, "", "CUDA out of memory", "out-of-memory"),
        status("status 503, Retry-After", 503, WAIT, "loading", "http-503 after 7 s"),
        status("status 502", 502, "", "bad gateway", "http-5xx"),
        status("redirect to another host", 307, &moved, "", "redirect"),
        case("another content type", nothing("content-type"), page),
        case("reset before headers", nothing("reset-before-headers"), raw([Step::Reset])),
        case("closed before headers", nothing("reset-before-headers"), raw([Step::Close])),
        case("not HTTP", nothing("malformed-http"), raw([Step::Write(b"SSH-2.0-x\r\n".into())])),
        case(
            "reset mid-stream",
            after_two("reset-mid-stream"),
            broken([Step::Pause(tick), Step::Reset]),
        ),
        case("closed mid-stream", after_two("reset-mid-stream"), broken([Step::Close])),
        case("a stream without an end", after_two("truncated"), stream(beginning())),
        case("stall", after_two("stall"), broken([Step::Hold])).stalls(Duration::from_secs(1)),
        case("silence", nothing("first-byte-timeout"), raw([Step::Hold])).with(|limits| {
            limits.first_byte = Duration::from_millis(200);
        }),
        case("slow loris", after_two("timeout"), broken([trickle])).with(|limits| {
            limits.total = Duration::from_secs(2);
        }),
        case("endless body", nothing("body-too-large"), endless(&role()))
            .with(|limits| limits.body_bytes = 1 << 14),
        case("endless event", nothing("event-too-large"), endless("data: 012345"))
            .with(|limits| limits.event_bytes = 1 << 10),
        case(
            "malformed JSON",
            after_two("malformed-json"),
            broken(writes(["data: {\"choices\n\n"])),
        ),
        case(
            "malformed SSE",
            after_two("malformed-sse"),
            broken(writes(["{\"choices\": []}\n\n"])),
        ),
        case(
            "truncated UTF-8",
            after_two("invalid-utf8"),
            broken(writes([&b"data: \"\xf0\x9f\x92\"\n\n"[..]])),
        ),
        case(
            "error in the stream",
            after_two("error-in-stream"),
            broken(writes([error("aborted")])),
        ),
        case(
            "out of memory in the stream",
            after_two("out-of-memory"),
            broken(writes([error("CUDA error: out of memory")])),
        ),
    ]
}

impl Case {
    fn of(self, request: Request) -> Self {
        Self { request, ..self }
    }

    fn with(mut self, change: impl Fn(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    fn stalls(self, stall: Duration) -> Self {
        self.with(|limits| limits.stall = stall)
    }

    fn at(self, endpoint: String) -> Self {
        Self { endpoint: Some(endpoint), ..self }
    }
}

/// Runs every case, all at once: none of them needs the CPU.
pub(super) async fn run() -> Result<Vec<CaseResult>> {
    let other = Mock::start(Routes::new())?;
    let mut cases = oddities();
    cases.extend(faults(&other.url("other")));
    let unused = unused_address()?;
    cases.push(case("connection refused", nothing("connect-refused"), raw([])).at(unused));
    let full = FullListener::start()?;
    if let Some(url) = full.as_ref().map(|full| full.url.clone()) {
        let timeout =
            case("no answer to a connection", nothing("connect-timeout"), raw([])).at(url);
        cases.push(timeout.with(|limits| limits.connect = Duration::from_millis(300)));
    }
    let invalid = "http://name.invalid:1".to_owned();
    let lookup = case("a name that does not exist", nothing("name-lookup"), raw([])).at(invalid);
    cases.push(lookup.with(|limits| limits.connect = Duration::from_secs(3)));

    let mut routes = Routes::new();
    let picky: Answer = Box::new(|asked| Arc::new(scripts::picky(&asked.path, &asked.body)));
    routes.insert("picky".into(), picky);
    let metrics = Arc::new(Script::whole(200, "", "text/plain", scripts::METRICS));
    routes.insert("metrics".into(), Box::new(move |_| Arc::clone(&metrics)));
    let mut ready = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        routes.insert(number.to_string(), case.answer);
        ready.push((case.name, case.expected, case.limits, case.request, case.endpoint));
    }
    let mock = Mock::start(routes)?;
    let mut running = JoinSet::new();
    for (number, (name, expected, limits, request, endpoint)) in ready.into_iter().enumerate() {
        let url = endpoint.unwrap_or_else(|| mock.url(&number.to_string()));
        let key = ApiKey::new("sk-selftest");
        let client = Client::new(Endpoint::parse(&url)?, key, limits)?;
        running.spawn(async move {
            let exchange = client.send(&request, Instant::now()).await;
            (number, CaseResult::of(name, expected, &exchange))
        });
    }
    let mut results = BTreeMap::new();
    while let Some(Ok((number, result))) = running.join_next().await {
        results.insert(number, result);
    }
    let mut results: Vec<CaseResult> = results.into_values().collect();
    let plain_as_tls = mock.url("").replace("http:", "https:");
    let over_tls = Client::new(Endpoint::parse(&plain_as_tls)?, None, limits())?;
    let exchange = over_tls.send(&request(1), Instant::now()).await;
    let name = "https where the server speaks http";
    results.push(CaseResult::of(name, nothing("tls"), &exchange));
    results.push(fields(&mock).await?);
    results.push(counters(&mock).await?);
    // No request, and so no key, may have followed the redirect.
    let followed = other.served().len();
    results.push(CaseResult {
        case: "requests at the other host".into(),
        expected: nothing("0"),
        told: nothing(&followed.to_string()),
        message: None,
    });
    Ok(results)
}

/// The probe of a server that refuses optional fields.
async fn fields(mock: &Mock) -> Result<CaseResult> {
    let client = Client::new(Endpoint::parse(&mock.url("picky/v1"))?, None, limits())?;
    let (told, message) = match probe(&client, Api::Chat, None).await {
        Ok(found) => {
            let refused: Vec<&str> = found.refused.iter().map(|(field, _)| field.key()).collect();
            (nothing(&format!("refuses {}", refused.join(", "))), None)
        }
        Err(error) => (nothing("no answer"), Some(error.to_string())),
    };
    let expected = nothing("refuses min_tokens, ignore_eos");
    Ok(CaseResult { case: "a server without some fields".into(), expected, told, message })
}

/// The server's own counters.
async fn counters(mock: &Mock) -> Result<CaseResult> {
    let client = Client::new(Endpoint::parse(&mock.url("metrics"))?, None, limits())?;
    let exchange = client.send(&Request::metrics(), Instant::now()).await;
    let values = Scrape::parse(&exchange.content).map_or(0, |scrape| scrape.values.len());
    Ok(CaseResult {
        case: "the server's own metrics".into(),
        expected: nothing("2 values"),
        told: nothing(&format!("{values} values")),
        message: exchange.fault.map(|fault| fault.to_string()),
    })
}

/// What an exchange is told as.
fn describe(exchange: &Exchange) -> Observation {
    let mut name = match &exchange.fault {
        Some(fault) => fault.name().to_owned(),
        None => "complete".into(),
    };
    if let Some(seconds) = exchange.fault.as_ref().and_then(Fault::retry_after_s) {
        name += &format!(" after {seconds} s");
    }
    for defect in &exchange.defects {
        name += &format!(", {}", defect.name());
    }
    let chunks = &exchange.timeline.chunks;
    Observation {
        name,
        text: format!("{}{}{}", exchange.reasoning, exchange.content, exchange.tool_arguments),
        tokens: exchange.completion_tokens(None).map(|(tokens, _)| tokens),
        first_token: chunks.iter().position(|chunk| chunk.class.is_token()),
    }
}

/// A listener that accepts nothing and whose queue is full, so that the system drops what comes.
struct FullListener {
    url: String,
    _listener: TcpListener,
    _queued: Vec<std::net::TcpStream>,
}

impl FullListener {
    /// `None` where the system queues without end, or refuses instead of dropping.
    fn start() -> Result<Option<Self>> {
        const MAX_QUEUED: usize = 8;
        let failed = |source| Error::Failed(format!("cannot listen on loopback: {source}"));
        let socket = TcpSocket::new_v4().map_err(failed)?;
        socket.bind(([127, 0, 0, 1], 0).into()).map_err(failed)?;
        let listener = socket.listen(1).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut queued = Vec::new();
        while queued.len() < MAX_QUEUED {
            let wait = Duration::from_millis(100);
            match std::net::TcpStream::connect_timeout(&address, wait) {
                Ok(stream) => queued.push(stream),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    let url = format!("http://{address}");
                    return Ok(Some(Self { url, _listener: listener, _queued: queued }));
                }
                Err(_) => break,
            }
        }
        Ok(None)
    }
}

/// The address of a port that nobody listens on.
fn unused_address() -> Result<String> {
    let mock = Mock::start(Routes::new())?;
    Ok(mock.url(""))
}
