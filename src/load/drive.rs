//! Sends the requests of a level and keeps a row of each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use serde_json::Value;

use crate::client::{Client, Exchange, Request, Scrape};
use crate::error::Result;
use crate::load::prompts::{Conversation, Source};
use crate::load::summary::{Cold, LevelResult, Reservoir};
use crate::load::{MAX_REQUESTS, Operation, Pace, Plan, Prompts, Row};
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

    /// Called when a request ends.
    fn ended(&mut self, row: &Row);
}

/// Runs a level: warm-ups, with a shared prefix one request that fills the cache, then the requests
/// of the plan. `stop` ends it early; what there is until then is in the result.
///
/// # Errors
/// When a request before the level gets no complete answer.
pub async fn run(
    client: &Client,
    prompts: &Prompts,
    plan: &Plan,
    stop: &AtomicBool,
    events: &mut dyn Events,
) -> Result<LevelResult> {
    // Numbers of warm-ups are beyond those of the level, so that they draw other salts.
    for number in 0..plan.warmups {
        alone(client, prompts, MAX_REQUESTS + number).await?;
    }
    let before = scrape(client).await;
    let cold = match prompts.shared_prefix {
        0 => None,
        _ => Some(Cold::of(&alone(client, prompts, COLD).await?)),
    };
    let mut level = Level::begin(plan, prompts);
    level.drive(client, stop, events).await;
    let metrics = match (before, scrape(client).await) {
        (Some(before), Some(after)) => Some(after.since(&before)),
        _ => None,
    };
    let mut result = LevelResult::of(plan, &level.rows, &level.gaps, level.unfinished, metrics);
    result.cold = cold;
    Ok(result)
}

/// The number of the request that meets a shared prefix first: no other of the level has it.
const COLD: u64 = MAX_REQUESTS - 1;

/// Sends a request while no other is in flight.
async fn alone(client: &Client, prompts: &Prompts, number: u64) -> Result<Row> {
    let start = Instant::now();
    let request = prompts.request(&mut Conversation::new(number));
    let exchange = client.send(&request, start).await;
    match exchange.fault {
        Some(fault) => {
            Err(crate::Error::Failed(format!("a request before the level failed: {fault}")))
        }
        None => Ok(Row::of(&exchange, start)),
    }
}

async fn scrape(client: &Client) -> Option<Scrape> {
    let exchange = client.send(&Request::metrics(), Instant::now()).await;
    exchange.fault.is_none().then(|| Scrape::parse(&exchange.content))?
}

struct Level<'a> {
    plan: &'a Plan,
    prompts: &'a Prompts,
    start: Instant,
    instants: Box<dyn Iterator<Item = f64>>,
    /// The next instant of an open loop.
    next: Option<f64>,
    sent: u64,
    /// Conversations that began.
    begun: u64,
    /// Conversations between two turns, and when the next one is due.
    thinking: Vec<(Instant, Conversation)>,
    /// Complete answers among the rows.
    complete: u64,
    rows: Vec<Row>,
    gaps: Reservoir,
    /// Requests in flight that were given up after a signal.
    unfinished: usize,
}

impl<'a> Level<'a> {
    fn begin(plan: &'a Plan, prompts: &'a Prompts) -> Self {
        let mut instants: Box<dyn Iterator<Item = f64>> = match (plan.pace, &prompts.source) {
            (Pace::Open { rate, arrival }, _) => Box::new(arrival.instants(rate, plan.seed)),
            (Pace::Trace { speed }, Source::Trace(trace)) => {
                Box::new(trace.instants(speed).into_iter())
            }
            _ => Box::new(std::iter::empty()),
        };
        let next = instants.next();
        Self {
            plan,
            prompts,
            // A moment for the runtime, so that the first request is not late.
            start: Instant::now() + Duration::from_millis(5),
            instants,
            next,
            sent: 0,
            begun: 0,
            thinking: Vec::new(),
            complete: 0,
            rows: Vec::new(),
            gaps: Reservoir::new(plan.seed),
            unfinished: 0,
        }
    }

    /// Whether nothing is sent any more at this instant.
    fn is_over(&self, at: Instant) -> bool {
        let end = self.plan.duration_s.map(|time| self.start + Duration::from_secs_f64(time));
        self.sent >= self.plan.requests.unwrap_or(MAX_REQUESTS).min(MAX_REQUESTS)
            || end.is_some_and(|end| at >= end)
    }

    /// When the next conversation is due to begin; `None` once no more do, or while all places of a
    /// closed loop are taken.
    fn next_begin(&self, places_taken: usize) -> Option<Instant> {
        let at = match self.plan.pace {
            Pace::Open { .. } | Pace::Trace { .. } => {
                self.start + Duration::from_secs_f64(self.next?)
            }
            Pace::Closed { concurrency } if places_taken < concurrency => {
                // Over the ramp, the places are opened one after another.
                let place = (self.begun as f64 / concurrency as f64).min(1.0);
                let opened = self.start + Duration::from_secs_f64(self.plan.ramp_s * place);
                opened.max(Instant::now())
            }
            Pace::Closed { .. } => return None,
        };
        (!self.is_over(at)).then_some(at)
    }

    /// When the next turn of a conversation is due, and its place among those that wait.
    fn next_turn(&self) -> Option<(Instant, usize)> {
        let turns = self.thinking.iter().enumerate().map(|(place, (at, _))| (*at, place));
        turns.min().filter(|(at, _)| !self.is_over(*at))
    }

    /// Takes what is due first: its conversation, and when it was due.
    fn take_due(&mut self, places_taken: usize) -> Option<(Conversation, Instant)> {
        let (begin, turn) = (self.next_begin(places_taken), self.next_turn());
        let now = Instant::now();
        let begin = begin.filter(|at| *at <= now);
        let turn = turn.filter(|(at, _)| *at <= now);
        match (begin, turn) {
            (begin, Some((at, place))) if begin.is_none_or(|begin| at <= begin) => {
                Some((self.thinking.swap_remove(place).1, at))
            }
            (Some(at), _) => {
                let conversation = Conversation::new(self.begun);
                self.begun += 1;
                self.next = self.instants.next();
                let is_closed = matches!(self.plan.pace, Pace::Closed { .. });
                Some((conversation, if is_closed { Instant::now() } else { at }))
            }
            (None, _) => None,
        }
    }

    async fn drive(&mut self, client: &Client, stop: &AtomicBool, events: &mut dyn Events) {
        let mut running: JoinSet<(Exchange, Conversation)> = JoinSet::new();
        let (mut said, mut said_rows) = (self.start, 0);
        let mut give_up = None;
        loop {
            let is_stopped = stop.load(Ordering::Relaxed);
            let places_taken = running.len() + self.thinking.len();
            let turn = self.next_turn().map(|(at, _)| at);
            let due = self.next_begin(places_taken).into_iter().chain(turn).min();
            let due = due.filter(|_| !is_stopped);
            if running.is_empty() && due.is_none() {
                return;
            }
            if is_stopped {
                let until = *give_up.get_or_insert_with(|| Instant::now() + DRAIN);
                if Instant::now() >= until {
                    self.unfinished = running.len();
                    return;
                }
            }
            let ready = due.filter(|at| *at <= Instant::now());
            if let Some((mut conversation, at)) = ready.and_then(|_| self.take_due(places_taken)) {
                let (client, request) = (client.clone(), self.prompts.request(&mut conversation));
                self.sent += 1;
                running.spawn(async move { (client.send(&request, at).await, conversation) });
                continue;
            }
            let wake = due.unwrap_or(said + PROGRESS).min(said + PROGRESS);
            match timeout_at(wake.into(), running.join_next()).await {
                Ok(Some(Ok((exchange, conversation)))) => self.take(exchange, conversation, events),
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

    fn take(&mut self, exchange: Exchange, conversation: Conversation, events: &mut dyn Events) {
        let tokens = exchange.timeline.chunks.iter().filter(|chunk| chunk.class.is_token());
        let mut last: Option<Instant> = None;
        for at in tokens.map(|chunk| chunk.at) {
            if let Some(last) = last {
                self.gaps.add(at.saturating_duration_since(last).as_secs_f64());
            }
            last = Some(at);
        }
        let mut row = Row::of(&exchange, self.start);
        (row.conversation, row.turn) = (conversation.number, conversation.turn);
        if self.plan.has_schema && row.is_complete() {
            row.is_json = Some(serde_json::from_str::<Value>(&exchange.content).is_ok());
        }
        if !matches!(self.prompts.operation, Operation::Generate { .. }) {
            row.set_items(&exchange.content, self.prompts.items);
        }
        if row.is_complete() {
            self.complete += 1;
            let next = conversation.next(&exchange.content, self.prompts.turns);
            let think = Duration::from_secs_f64(self.plan.think_time_s);
            self.thinking.extend(next.map(|next| (exchange.timeline.end + think, next)));
        }
        events.ended(&row);
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
