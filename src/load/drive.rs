//! Sends the requests of a level and keeps a row of each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use crate::client::{Capabilities, Client, Exchange, Outcome, Request, Scrape};
use crate::error::Result;
use crate::load::summary::{LevelResult, Reservoir, Row};
use crate::load::{MAX_REQUESTS, Pace, Plan, Prompts};
use crate::stats;

/// Time between two calls of [`Events::progress`].
const PROGRESS: Duration = Duration::from_secs(2);

/// How long requests in flight may still take after a signal.
const DRAIN: Duration = Duration::from_secs(10);

/// The state of a level while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Requests sent.
    pub sent: u64,
    /// Requests without an end.
    pub in_flight: usize,
    /// Complete answers.
    pub complete: u64,
    /// Requests that ended otherwise.
    pub failed: u64,
    /// Complete answers per second since the last call.
    pub rate: f64,
    /// Median TTFT in seconds of those that ended since the last call.
    pub ttft_s: Option<f64>,
}

/// Receives the progress of a level.
pub trait Events {
    /// Called every two seconds.
    fn progress(&mut self, progress: Progress);
}

/// Runs a level: warm-ups, then the requests of the plan. `stop` ends it early; what there is until
/// then is in the result.
///
/// # Errors
/// When a warm-up gets no complete answer.
pub async fn run(
    (client, server): (&Client, &Capabilities),
    (prompts, tokens): (&Prompts, u64),
    plan: &Plan,
    stop: &AtomicBool,
    events: &mut dyn Events,
) -> Result<LevelResult> {
    // Numbers of warm-ups are beyond those of the level, so that they draw other salts.
    for number in 0..plan.warmups {
        let request = prompts.request(server, tokens, MAX_REQUESTS + number);
        if let Some(fault) = client.send(&request, Instant::now()).await.fault {
            return Err(crate::Error::Failed(format!("a warm-up request failed: {fault}")));
        }
    }
    let before = scrape(client).await;
    let mut level = Level::begin(plan);
    let request = |number| prompts.request(server, tokens, number);
    level.drive(client, &request, stop, events).await;
    let metrics = match (before, scrape(client).await) {
        (Some(before), Some(after)) => Some(after.since(&before)),
        _ => None,
    };
    Ok(LevelResult::of(plan, &level.rows, &level.gaps, level.unfinished, metrics))
}

async fn scrape(client: &Client) -> Option<Scrape> {
    let exchange = client.send(&Request::metrics(), Instant::now()).await;
    exchange.fault.is_none().then(|| Scrape::parse(&exchange.content))?
}

struct Level<'a> {
    plan: &'a Plan,
    start: Instant,
    instants: Box<dyn Iterator<Item = f64>>,
    /// The next instant of an open loop.
    next: Option<f64>,
    sent: u64,
    /// Complete answers among the rows.
    complete: u64,
    rows: Vec<Row>,
    gaps: Reservoir,
    /// Requests in flight that were given up after a signal.
    unfinished: usize,
}

impl<'a> Level<'a> {
    fn begin(plan: &'a Plan) -> Self {
        let mut instants: Box<dyn Iterator<Item = f64>> = match plan.pace {
            Pace::Closed { .. } => Box::new(std::iter::empty()),
            Pace::Open { rate, arrival } => Box::new(arrival.instants(rate, plan.seed)),
        };
        let next = instants.next();
        let (rows, gaps) = (Vec::new(), Reservoir::new(plan.seed));
        // A moment for the runtime, so that the first request is not late.
        let start = Instant::now() + Duration::from_millis(5);
        Self { plan, start, instants, next, sent: 0, complete: 0, rows, gaps, unfinished: 0 }
    }

    /// When the next request is due; `None` once nothing more is sent, or while all places of a
    /// closed loop are taken.
    fn due(&self, in_flight: usize) -> Option<Instant> {
        if self.sent >= self.plan.requests.unwrap_or(MAX_REQUESTS).min(MAX_REQUESTS) {
            return None;
        }
        let at = match self.plan.pace {
            Pace::Open { .. } => self.start + Duration::from_secs_f64(self.next?),
            Pace::Closed { concurrency } if in_flight < concurrency => {
                // Over the ramp, the places are opened one after another.
                let place = (self.sent as f64 / concurrency as f64).min(1.0);
                let opened = self.start + Duration::from_secs_f64(self.plan.ramp_s * place);
                opened.max(Instant::now())
            }
            Pace::Closed { .. } => return None,
        };
        let end = self.plan.duration_s.map(|time| self.start + Duration::from_secs_f64(time));
        (end.is_none_or(|end| at < end)).then_some(at)
    }

    /// Whether more will be sent when places are free.
    fn is_sending(&self, stop: &AtomicBool) -> bool {
        !stop.load(Ordering::Relaxed) && self.due(0).is_some()
    }

    async fn drive(
        &mut self,
        client: &Client,
        request: &dyn Fn(u64) -> Request,
        stop: &AtomicBool,
        events: &mut dyn Events,
    ) {
        let mut running: JoinSet<Exchange> = JoinSet::new();
        let (mut said, mut said_rows) = (self.start, 0);
        let mut give_up = None;
        loop {
            let is_sending = self.is_sending(stop);
            if !is_sending && running.is_empty() {
                return;
            }
            if stop.load(Ordering::Relaxed) {
                let until = *give_up.get_or_insert_with(|| Instant::now() + DRAIN);
                if Instant::now() >= until {
                    self.unfinished = running.len();
                    return;
                }
            }
            let due = self.due(running.len()).filter(|_| is_sending);
            if let Some(at) = due.filter(|at| *at <= Instant::now()) {
                let scheduled = match self.plan.pace {
                    Pace::Open { .. } => at,
                    Pace::Closed { .. } => Instant::now(),
                };
                self.next = self.instants.next();
                let (client, request) = (client.clone(), request(self.sent));
                self.sent += 1;
                running.spawn(async move { client.send(&request, scheduled).await });
                continue;
            }
            let wake = due.unwrap_or(said + PROGRESS).min(said + PROGRESS);
            match timeout_at(wake.into(), running.join_next()).await {
                Ok(Some(Ok(exchange))) => self.take(&exchange),
                // Nothing is in flight.
                Ok(None) => sleep_until(wake.into()).await,
                Ok(Some(Err(_))) | Err(_) => {}
            }
            if said.elapsed() >= PROGRESS {
                let new = &self.rows[said_rows..];
                events.progress(self.progress(new, running.len(), said.elapsed()));
                (said, said_rows) = (Instant::now(), self.rows.len());
            }
        }
    }

    fn take(&mut self, exchange: &Exchange) {
        let tokens = exchange.timeline.chunks.iter().filter(|chunk| chunk.class.is_token());
        let mut last: Option<Instant> = None;
        for at in tokens.map(|chunk| chunk.at) {
            if let Some(last) = last {
                self.gaps.add(at.saturating_duration_since(last).as_secs_f64());
            }
            last = Some(at);
        }
        let row = Row::of(exchange, self.start);
        self.complete += u64::from(row.is_complete());
        self.rows.push(row);
    }

    fn progress(&self, new: &[Row], in_flight: usize, apart: Duration) -> Progress {
        let complete = new.iter().filter(|row| row.is_complete()).count();
        let ttft: Vec<f64> = new.iter().filter_map(Row::ttft_s).collect();
        Progress {
            sent: self.sent,
            in_flight,
            complete: self.complete,
            failed: self.rows.len() as u64 - self.complete,
            rate: complete as f64 / apart.as_secs_f64(),
            ttft_s: stats::median(&ttft),
        }
    }
}

impl Row {
    fn of(exchange: &Exchange, start: Instant) -> Self {
        let timeline = &exchange.timeline;
        let at = |instant: Instant| instant.saturating_duration_since(start).as_secs_f64();
        let usage = exchange.usage.unwrap_or_default();
        let chunks = timeline.chunks.iter().filter(|chunk| chunk.class.is_token());
        Self {
            scheduled_s: at(timeline.scheduled),
            sent_s: timeline.sent.map(at),
            first_s: timeline.first_token.map(at),
            last_s: timeline.last_token.map(at),
            end_s: at(timeline.end),
            set_up_s: (!timeline.is_reused).then_some(timeline.set_up.as_secs_f64()),
            lag_s: timeline.lag().map(|lag| lag.as_secs_f64()),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            tokens: exchange.completion_tokens(None).map(|(tokens, _)| tokens),
            chunks: chunks.count() as u64,
            fault: exchange.fault.as_ref().map(|fault| (fault.name(), fault.to_string())),
            is_incomplete: exchange.outcome() == Outcome::Incomplete,
        }
    }
}
