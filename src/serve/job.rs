//! What the HTTP side asks of the engine's thread, and what it gets back.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::settings::Generation;

/// One prompt of a request.
pub(super) struct Job {
    /// Its place among the prompts of the request.
    pub(super) index: usize,
    /// At least one token id.
    pub(super) prompt: Vec<u32>,
    pub(super) task: Task,
    /// Closed when the client has gone.
    pub(super) events: UnboundedSender<Event>,
    pub(super) submitted: Instant,
    /// Its place among the running and waiting sequences, free again before its last
    /// event is sent, so that whoever reads that can send the next request at once.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// What to do with a prompt.
pub(super) enum Task {
    Generate(Parameters),
    /// The unit vector of the prompt's mean final hidden state.
    Embed,
}

/// How to continue a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parameters {
    /// Tokens to generate at most.
    pub(super) max_tokens: usize,
    /// Stop tokens have no probability, and stop strings end nothing, before so many tokens.
    pub(super) min_tokens: usize,
    /// Tokens that end the answer.
    pub(super) stop_tokens: Vec<u32>,
    /// Texts that end the answer and are no part of it.
    pub(super) stop_strings: Vec<String>,
    /// Temperature, top-k, top-p, repetition penalty and seed.
    pub(super) sampling: Generation,
}

/// What happened to a job.
#[derive(Debug)]
pub(super) enum Event {
    Delta(Delta),
    Vector {
        index: usize,
        values: Vec<f32>,
        timings: Timings,
    },
    /// The last event of the job.
    Failed(Failure),
}

/// More of an answer.
#[derive(Debug)]
pub(super) struct Delta {
    pub(super) index: usize,
    /// Complete characters; empty only in the last one.
    pub(super) text: String,
    /// The tokens since the delta before.
    pub(super) ids: Vec<u32>,
    /// In the last delta of a job.
    pub(super) end: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) finish: Finish,
    /// The stop string that was found.
    pub(super) stop_string: Option<String>,
    pub(super) timings: Timings,
}

/// Why an answer ended; the API's `finish_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Finish {
    /// At a stop token or a stop string.
    Stop,
    /// At the largest number of tokens.
    Length,
}

/// Why a job failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The engine cannot do this at all.
    Unsupported(String),
    /// The engine failed.
    Engine(String),
}

/// Where the time of a job went. The parts follow one another: their sum is the time from the
/// submission to the last token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Timings {
    /// From the submission to the first forward pass over the prompt.
    pub(super) queue: Duration,
    /// From there to the end of the last pass over the prompt. Includes passes of other sequences
    /// in between.
    pub(super) prefill: Duration,
    /// From there to the first token: sampling.
    pub(super) first_token: Option<Duration>,
    /// From the first to the last token; `None` with fewer than two.
    pub(super) decode: Option<Duration>,
    /// Ids to text and the search for stop strings, all tokens: part of `decode`, but for the last
    /// token's.
    pub(super) detokenize: Option<Duration>,
}
