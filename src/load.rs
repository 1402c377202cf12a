//! Load on a server: many requests at once or at a rate, and what came of them.
//!
//! A closed loop keeps a number of requests in flight: the next is sent when one ends. An open loop
//! sends at instants that are drawn before it starts, whatever the answers do, and its latencies
//! count from those instants: a server that stalls does not hide the queue that it causes
//! (coordinated omission, Tene 2013).

mod dataset;
mod drive;
mod lengths;
mod prompts;
mod row;
mod schedule;
mod summary;
mod trace;
mod vllm;

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::client::Api;

pub use dataset::Dataset;
pub use drive::{Events, Progress, run};
pub use lengths::Lengths;
pub use prompts::{BYTES_PER_TOKEN, Prompts, Source};
pub use row::{Goal, Row};
pub use schedule::Arrival;
pub use summary::{Cold, Latency, LevelResult, Turn, Window};
pub use trace::Trace;
pub use vllm::vllm_result;

/// The most requests of one level: their rows take about 300 bytes each.
pub const MAX_REQUESTS: u64 = 1_000_000;

/// What a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Operation {
    /// Generated text.
    Generate {
        /// The API that generates.
        api: Api,
    },
    /// The embeddings of texts.
    Embed,
    /// The order of documents for a query.
    Rerank,
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "completions" => Self::Generate { api: Api::Completions },
            "chat" => Self::Generate { api: Api::Chat },
            "embeddings" => Self::Embed,
            "rerank" => Self::Rerank,
            _ => return Err("write completions, chat, embeddings or rerank".into()),
        })
    }
}

/// How requests follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Pace {
    /// The next request is sent when one ends.
    Closed {
        /// Requests in flight; of conversations, those that are not over.
        concurrency: usize,
    },
    /// Requests are sent at drawn instants.
    Open {
        /// Requests per second.
        rate: f64,
        /// The distribution of the time between them.
        arrival: Arrival,
    },
    /// Requests are sent at the instants of a trace.
    Trace {
        /// How many times as fast.
        speed: f64,
    },
}

/// What is sent at one level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// How requests follow one another.
    pub pace: Pace,
    /// Ends sending after this number of requests.
    pub requests: Option<u64>,
    /// Ends sending after this time in seconds.
    pub duration_s: Option<f64>,
    /// Requests before the level, one after another, that do not count.
    pub warmups: u64,
    /// Time in seconds over which a closed loop starts its requests in flight.
    pub ramp_s: f64,
    /// Time in seconds between an answer and the next turn of its conversation.
    pub think_time_s: f64,
    /// Whether answers follow a JSON schema.
    pub has_schema: bool,
    /// Seed of arrivals, of the order of prompts and of sampling.
    pub seed: u64,
    /// What an answer must keep to be good.
    pub goals: Vec<Goal>,
    /// Above this client lag (p99, or the largest of few), the level is INVALID.
    #[serde(rename = "max_lag_s", serialize_with = "seconds")]
    pub max_lag: Duration,
    /// Above this share of requests without a complete answer, the level failed.
    pub max_error_rate: f64,
}

#[cfg(test)]
impl Plan {
    /// Three requests without goals.
    fn of_three(pace: Pace) -> Self {
        Self {
            pace,
            requests: Some(3),
            duration_s: None,
            warmups: 0,
            ramp_s: 0.0,
            think_time_s: 0.0,
            has_schema: false,
            seed: 1,
            goals: Vec::new(),
            max_lag: Duration::from_millis(10),
            max_error_rate: 0.0,
        }
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
