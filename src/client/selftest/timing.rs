//! The client's own error and lag, and how many streams it holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::scripts::request;
use crate::client::mock::{Answer, Mock, Routes, Script, Served};
use crate::client::{Client, Endpoint, Exchange, Limits, Outcome, TextPolicy};
use crate::error::Result;
use crate::stats::{median, quantile};

/// A distribution of times, in milliseconds. What too few values do not give is null.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latencies {
    /// The median.
    pub median: Option<f64>,
    /// The 99th percentile, of 100 values at least.
    pub p99: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

impl Latencies {
    fn of(values_ms: &[f64]) -> Self {
        Self {
            median: median(values_ms),
            p99: quantile(values_ms, 0.99),
            max: values_ms.iter().copied().reduce(f64::max),
        }
    }
}

/// Streams one after another.
#[derive(Debug, Clone, Serialize)]
pub struct Sequential {
    /// Requests sent.
    pub requests: u64,
    /// Complete answers.
    pub complete: u64,
    /// Measured TTFT less the mock's.
    pub ttft_error_ms: Latencies,
    /// Measured gap between tokens less the mock's, without its sign.
    pub itl_error_ms: Latencies,
    /// Set-up of new connections.
    pub set_up_ms: Latencies,
}

/// Requests at a fixed rate, whatever the answers do.
#[derive(Debug, Clone, Serialize)]
pub struct OpenLoop {
    /// Requests sent.
    pub requests: u64,
    /// Complete answers.
    pub complete: u64,
    /// Requests per second.
    pub rate: u64,
    /// How much later than scheduled they were sent.
    pub lag_ms: Latencies,
}

/// Many streams at once.
#[derive(Debug, Clone, Serialize)]
pub struct Streams {
    /// Streams.
    pub requests: u64,
    /// Complete answers with every token.
    pub complete: u64,
    /// The most that the mock had open at once.
    pub most_at_once: u64,
}

/// A mock with one route, and a client of it.
fn start(script: Script) -> Result<(Mock, Client)> {
    let script = Arc::new(script);
    let answer: Answer = Box::new(move |_| Arc::clone(&script));
    let routes = Routes::from([("stream".to_owned(), answer)]);
    let mock = Mock::start(routes)?;
    let endpoint = Endpoint::parse(&mock.url("stream"))?;
    let limits = Limits { text: TextPolicy::Drop, ..Limits::default() };
    let client = Client::new(endpoint, None, limits)?;
    Ok((mock, client))
}

fn is_complete(exchange: &Exchange, tokens: u64) -> bool {
    let counted = exchange.usage.and_then(|usage| usage.completion_tokens);
    let arrived = exchange.timeline.chunks.iter().filter(|chunk| chunk.class.is_token()).count();
    exchange.outcome() == Outcome::Complete && counted == Some(tokens) && arrived as u64 == tokens
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Streams one after another with a TTFT of 20 ms and gaps of 5 ms.
pub(super) async fn sequential(requests: u64) -> Result<Sequential> {
    const TOKENS: u64 = 10;
    let (time_to_first, gap) = (Duration::from_millis(20), Duration::from_millis(5));
    let (mock, client) = start(Script::generation(time_to_first, gap, TOKENS))?;
    let (mut ttft, mut itl, mut set_up, mut complete) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..requests {
        let exchange = client.send(&request(TOKENS), Instant::now()).await;
        complete += u64::from(is_complete(&exchange, TOKENS));
        if !exchange.timeline.is_reused {
            set_up.push(ms(exchange.timeline.set_up));
        }
        // The mock notes a request once it has written the last byte, which may be later than here.
        let deadline = Instant::now() + Duration::from_secs(5);
        let served = loop {
            let found = mock.served().into_iter().find(|served| served.request.id == exchange.id);
            if found.is_some() || Instant::now() > deadline {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        if let Some((first, gaps)) = served.and_then(|served| errors(&exchange, &served)) {
            ttft.push(first);
            itl.extend(gaps);
        }
    }
    Ok(Sequential {
        requests,
        complete,
        ttft_error_ms: Latencies::of(&ttft),
        itl_error_ms: Latencies::of(&itl),
        set_up_ms: Latencies::of(&set_up),
    })
}

/// The errors of TTFT and of each gap, in milliseconds.
fn errors(exchange: &Exchange, served: &Served) -> Option<(f64, Vec<f64>)> {
    let written = &served.tokens;
    let theirs = written.first()?.duration_since(served.request.arrived);
    let ttft = ms(exchange.timeline.ttft()?) - ms(theirs);
    let chunks = exchange.timeline.chunks.iter().filter(|chunk| chunk.class.is_token());
    let read: Vec<Instant> = chunks.map(|chunk| chunk.at).collect();
    let gaps = |instants: &[Instant]| -> Vec<f64> {
        instants.windows(2).map(|pair| ms(pair[1].duration_since(pair[0]))).collect()
    };
    let (ours, theirs) = (gaps(&read), gaps(written));
    let itl = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs()).collect();
    (read.len() == written.len()).then_some((ttft, itl))
}

/// Sends requests `apart_s` seconds after one another, whatever the answers do; the answers that
/// are complete, and the client lag of each request.
async fn send_at_intervals(
    client: &Client,
    tokens: u64,
    requests: u64,
    apart_s: f64,
) -> (u64, Vec<f64>) {
    let request = request(tokens);
    let mut running = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(20);
    for number in 0..requests {
        let scheduled = start + Duration::from_secs_f64(number as f64 * apart_s);
        sleep_until(scheduled.into()).await;
        let (client, request) = (client.clone(), request.clone());
        running.spawn(async move { client.send(&request, scheduled).await });
    }
    let (mut complete, mut lag) = (0, Vec::new());
    while let Some(Ok(exchange)) = running.join_next().await {
        complete += u64::from(is_complete(&exchange, tokens));
        lag.extend(exchange.timeline.lag().map(ms));
    }
    (complete, lag)
}

/// Requests at a fixed rate.
pub(super) async fn open_loop(requests: u64, rate: u64) -> Result<OpenLoop> {
    const TOKENS: u64 = 4;
    let script = Script::generation(Duration::from_millis(5), Duration::from_millis(2), TOKENS);
    let (_mock, client) = start(script)?;
    let (complete, lag) = send_at_intervals(&client, TOKENS, requests, 1.0 / rate as f64).await;
    Ok(OpenLoop { requests, complete, rate, lag_ms: Latencies::of(&lag) })
}

/// Streams that begin within half a second and last three.
pub(super) async fn streams(requests: u64) -> Result<Streams> {
    const TOKENS: u64 = 20;
    let (time_to_first, gap) = (Duration::from_secs(1), Duration::from_millis(100));
    let (mock, client) = start(Script::generation(time_to_first, gap, TOKENS))?;
    let (complete, _) = send_at_intervals(&client, TOKENS, requests, 0.5 / requests as f64).await;
    Ok(Streams { requests, complete, most_at_once: mock.most_open() as u64 })
}
