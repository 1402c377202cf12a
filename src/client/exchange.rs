//! One request and its answer, with the instant of everything that came.
//!
//! Bytes are stamped when they are read from the socket; parsing comes after. Nothing is sent
//! twice: a retry would hide the failure that is to be measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::chunk::{Chunk, ChunkClass, Usage};
use super::fault::{Defect, Fault};
use super::limits::TextPolicy;

/// An event of a stream that held JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkArrival {
    /// When the bytes that completed it were read.
    pub at: Instant,
    /// What it carried.
    pub class: ChunkClass,
    /// Bytes of generated text in it.
    pub text_bytes: usize,
}

/// The instants of an exchange, by the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// When the request was to be sent. Latencies of open-loop load count from here.
    pub scheduled: Instant,
    /// Just before the first byte of the request; `None` without a connection.
    pub sent: Option<Instant>,
    /// How long the connection took; zero if an idle one was used.
    pub set_up: Duration,
    /// Whether an idle connection was used.
    pub is_reused: bool,
    /// Whether it was sent again on a new connection, because the server had closed the one that
    /// was kept; the set-up then holds the first attempt, too.
    pub is_resent: bool,
    /// The first bytes of the answer, of any kind.
    pub first_byte: Option<Instant>,
    /// The first chunk with text, reasoning or tool arguments.
    pub first_token: Option<Instant>,
    /// The first chunk with text or tool arguments.
    pub first_answer_token: Option<Instant>,
    /// The last chunk with text, reasoning or tool arguments.
    pub last_token: Option<Instant>,
    /// Every event with JSON.
    pub chunks: Vec<ChunkArrival>,
    /// The last byte of the answer, or the instant of the fault.
    pub end: Instant,
}

impl Timeline {
    pub(super) fn new(scheduled: Instant) -> Self {
        Self {
            scheduled,
            sent: None,
            set_up: Duration::ZERO,
            is_reused: false,
            is_resent: false,
            first_byte: None,
            first_token: None,
            first_answer_token: None,
            last_token: None,
            chunks: Vec::new(),
            end: scheduled,
        }
    }

    /// Client lag: how much later than scheduled the request was sent, the set-up of the connection
    /// apart.
    pub fn lag(&self) -> Option<Duration> {
        Some(self.sent?.saturating_duration_since(self.scheduled).saturating_sub(self.set_up))
    }

    /// Time to the first token, from the actual send.
    pub fn ttft(&self) -> Option<Duration> {
        Some(self.first_token?.saturating_duration_since(self.sent?))
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A complete answer.
    Complete,
    /// A part of an answer.
    Incomplete,
    /// No token.
    Failed,
}

/// A request's answer, complete or not.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The value of the header `x-request-id`.
    pub id: String,
    /// What came when.
    pub timeline: Timeline,
    /// The HTTP status, if an answer began.
    pub status: Option<u16>,
    /// Why the answer is not complete.
    pub fault: Option<Fault>,
    /// What is wrong with an answer that counts.
    pub defects: Vec<Defect>,
    /// Text of the answer; of other requests the body. Empty if it is dropped.
    pub content: String,
    /// Text of the reasoning; empty if it is dropped.
    pub reasoning: String,
    /// Arguments of tool calls; empty if they are dropped.
    pub tool_arguments: String,
    /// Bytes of generated text, of all three kinds.
    pub text_bytes: usize,
    /// The server's token counts.
    pub usage: Option<Usage>,
    /// Where the time went, as the server says.
    pub timings: BTreeMap<String, f64>,
    /// `stop`, `length` or another reason why generation ended.
    pub finish_reason: Option<String>,
}

/// Where token counts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CountSource {
    /// The server's `usage`.
    Usage,
    /// The tokens of the text that was received.
    Estimated,
}

impl Exchange {
    pub(super) fn new(id: String, scheduled: Instant) -> Self {
        Self {
            id,
            timeline: Timeline::new(scheduled),
            status: None,
            fault: None,
            defects: Vec::new(),
            content: String::new(),
            reasoning: String::new(),
            tool_arguments: String::new(),
            text_bytes: 0,
            usage: None,
            timings: BTreeMap::new(),
            finish_reason: None,
        }
    }

    /// How the exchange ended.
    pub fn outcome(&self) -> Outcome {
        match (&self.fault, self.timeline.first_token) {
            (None, _) => Outcome::Complete,
            (Some(_), Some(_)) => Outcome::Incomplete,
            (Some(_), None) => Outcome::Failed,
        }
    }

    /// Generated tokens: the server's count, otherwise that of `count` for the received text, which
    /// is marked as estimated. `None` if there is neither.
    pub fn completion_tokens(
        &self,
        count: Option<&dyn Fn(&str) -> u64>,
    ) -> Option<(u64, CountSource)> {
        let is_wrong = self.defects.iter().any(|defect| matches!(defect, Defect::WrongUsage(_)));
        let usage = self.usage.filter(|_| !is_wrong).and_then(|usage| usage.completion_tokens);
        if let Some(tokens) = usage {
            return Some((tokens, CountSource::Usage));
        }
        let texts = [&self.reasoning, &self.content, &self.tool_arguments];
        let is_kept = texts.iter().map(|text| text.len()).sum::<usize>() == self.text_bytes;
        let count = count.filter(|_| is_kept)?;
        let tokens = texts.iter().filter(|text| !text.is_empty()).map(|text| count(text)).sum();
        Some((tokens, CountSource::Estimated))
    }

    /// Takes a chunk that came at `at`.
    pub(super) fn take(
        &mut self,
        chunk: Chunk,
        at: Instant,
        text: TextPolicy,
    ) -> Result<(), Fault> {
        let (class, text_bytes) = (chunk.class(), chunk.text_bytes());
        self.timeline.chunks.push(ChunkArrival { at, class, text_bytes });
        if class.is_token() {
            self.timeline.first_token.get_or_insert(at);
            self.timeline.last_token = Some(at);
        }
        if !chunk.content.is_empty() || !chunk.tool_arguments.is_empty() {
            self.timeline.first_answer_token.get_or_insert(at);
        }
        self.take_text(chunk, text)
    }

    /// Takes what a chunk says, without its instant.
    pub(super) fn take_text(&mut self, chunk: Chunk, text: TextPolicy) -> Result<(), Fault> {
        self.text_bytes += chunk.text_bytes();
        if text == TextPolicy::Keep {
            self.content += &chunk.content;
            self.reasoning += &chunk.reasoning;
            self.tool_arguments += &chunk.tool_arguments;
        }
        self.usage = chunk.usage.or(self.usage);
        self.timings.extend(chunk.timings);
        self.finish_reason = chunk.finish_reason.or(self.finish_reason.take());
        chunk.error.map_or(Ok(()), |message| Err(Fault::of_stream(message)))
    }

    /// Compares the usage with the text and with the request.
    pub(super) fn check_usage(&mut self, max_tokens: Option<u64>) {
        let Some(Usage { prompt_tokens, completion_tokens, cached_tokens }) = self.usage else {
            return self.defects.push(Defect::MissingUsage);
        };
        let Some(completion) = completion_tokens else {
            return self.defects.push(Defect::MissingUsage);
        };
        let wrong = if completion == 0 && self.text_bytes > 0 {
            format!("no completion tokens, but {} bytes of text", self.text_bytes)
        } else if let Some(max) = max_tokens.filter(|max| completion > *max) {
            format!("{completion} completion tokens of at most {max}")
        } else if let Some((cached, prompt)) =
            cached_tokens.zip(prompt_tokens).filter(|(cached, prompt)| cached > prompt)
        {
            format!("{cached} cached tokens of a prompt of {prompt}")
        } else {
            return;
        };
        self.defects.push(Defect::WrongUsage(wrong));
    }
}
