//! One request and what came of it, and the goals that an answer may keep.

use std::str::FromStr;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::client::{Exchange, Outcome};

/// A request and its answer; times in seconds since the start of the level.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    /// Number of the conversation; without turns, of the request.
    pub conversation: u64,
    /// The turn of the conversation, from 0.
    pub turn: u64,
    /// When it was to be sent.
    pub scheduled_s: f64,
    /// When it was sent; null without a connection.
    pub sent_s: Option<f64>,
    /// The first token.
    pub first_s: Option<f64>,
    /// The last token; of embeddings and rerank the end.
    pub last_s: Option<f64>,
    /// The end of the answer, or the fault.
    pub end_s: f64,
    /// Set-up of the connection; null on one that was open.
    pub set_up_s: Option<f64>,
    /// Actual less scheduled send.
    pub lag_s: Option<f64>,
    /// The server's count.
    pub prompt_tokens: Option<u64>,
    /// Prompt tokens from the server's prefix cache, where it says so.
    pub cached_tokens: Option<u64>,
    /// Generated tokens, the server's count.
    pub tokens: Option<u64>,
    /// Texts of an embedding or rerank request.
    pub items: u64,
    /// Whether it was sent again, into a new connection.
    pub is_resent: bool,
    /// Chunks with tokens.
    pub chunks: u64,
    /// Whether the answer is JSON, where a schema was given.
    pub is_json: Option<bool>,
    /// Name and message.
    pub fault: Option<(&'static str, String)>,
    /// Tokens came, but no complete answer.
    pub is_incomplete: bool,
}

impl Row {
    /// Of an exchange in a level that began at `start`.
    pub(super) fn of(exchange: &Exchange, start: Instant) -> Self {
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
            is_resent: timeline.is_resent,
            lag_s: timeline.lag().map(|lag| lag.as_secs_f64()),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            tokens: exchange.completion_tokens(None).map(|(tokens, _)| tokens),
            chunks: chunks.count() as u64,
            fault: exchange.fault.as_ref().map(|fault| (fault.name(), fault.to_string())),
            is_incomplete: exchange.outcome() == Outcome::Incomplete,
            ..Self::default()
        }
    }

    /// Takes the body of a complete answer of embeddings or rerank, which must have so many items.
    pub(super) fn set_items(&mut self, body: &str, items: u64) {
        if !self.is_complete() {
            return;
        }
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let list = ["data", "results"].iter().find_map(|name| body[name].as_array());
        let found = list.map_or(0, Vec::len) as u64;
        let usage = ["/usage/prompt_tokens", "/usage/total_tokens"];
        self.prompt_tokens = usage.iter().find_map(|at| body.pointer(at)?.as_u64());
        self.last_s = Some(self.end_s);
        if found == items {
            self.items = items;
        } else {
            let message = format!("{found} of {items} items in the answer");
            self.fault = Some(("missing-items", message));
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.fault.is_none()
    }

    /// From the scheduled instant to the first token.
    pub(super) fn ttft_s(&self) -> Option<f64> {
        Some(self.first_s? - self.scheduled_s)
    }

    pub(super) fn ttft_from_send_s(&self) -> Option<f64> {
        Some(self.first_s? - self.sent_s?)
    }

    /// From the scheduled instant to the last token.
    pub(super) fn e2e_s(&self) -> Option<f64> {
        Some(self.last_s? - self.scheduled_s)
    }

    /// Time per token after the first.
    pub(super) fn tpot_s(&self) -> Option<f64> {
        let after_first = self.tokens?.checked_sub(1).filter(|count| *count > 0)?;
        Some((self.last_s? - self.first_s?) / after_first as f64)
    }
}

/// What an answer must keep to be good: `ttft=200ms`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goal {
    /// `ttft`, `tpot` or `e2e`.
    pub metric: &'static str,
    /// At most this time in seconds.
    pub at_most_s: f64,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const METRICS: [&str; 3] = ["ttft", "tpot", "e2e"];
        let (name, time) = text.split_once('=').unwrap_or((text, ""));
        let metric = METRICS.into_iter().find(|metric| *metric == name);
        let metric = metric.ok_or_else(|| format!("`{name}` is none of {}", METRICS.join(", ")))?;
        let time = crate::settings::duration(time).map_err(|error| format!("{metric}: {error}"))?;
        Ok(Self { metric, at_most_s: time.as_secs_f64() })
    }
}

impl Goal {
    pub(super) fn is_kept(&self, row: &Row) -> bool {
        let time = match self.metric {
            "ttft" => row.ttft_s(),
            "tpot" => row.tpot_s(),
            _ => row.e2e_s(),
        };
        // An answer of one token has no TPOT to miss.
        time.map_or(self.metric == "tpot", |time| time <= self.at_most_s)
    }
}
