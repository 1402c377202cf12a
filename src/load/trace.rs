//! A trace of requests in the form of Mooncake (Qin et al. 2024): JSON lines with `timestamp` in
//! ms, `input_length`, `output_length`, and `hash_ids`, one id for each block of 512 prompt tokens.
//! Requests whose first ids are equal share the text of these blocks, so that a prefix cache can
//! answer them.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;

/// Prompt tokens of a block.
pub(super) const BLOCK_TOKENS: u64 = 512;

/// A request of a trace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct TraceRequest {
    /// Milliseconds since some instant.
    pub(super) timestamp: f64,
    /// Prompt tokens.
    pub(super) input_length: u64,
    /// Tokens to generate.
    pub(super) output_length: u64,
    /// Ids of the blocks of the prompt; the last block may be shorter.
    #[serde(default)]
    pub(super) hash_ids: Vec<u64>,
}

/// The requests of a trace in the order of time, the first at 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub(super) requests: Vec<TraceRequest>,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, has no request, or a line is none.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&files::read(path)?).map_err(|why| Error::invalid(path, why))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mut requests = Vec::new();
        for (at, line) in lines {
            let at = at + 1;
            let request: TraceRequest = serde_json::from_str(line).map_err(|why| {
                format!(
                    "line {at} is no request of a trace ({why}); write {{\"timestamp\": ms, \
                     \"input_length\": tokens, \"output_length\": tokens, \"hash_ids\": [id, …]}}"
                )
            })?;
            if !(request.timestamp.is_finite() && request.timestamp >= 0.0) {
                return Err(format!("line {at} has the timestamp {}", request.timestamp));
            }
            requests.push(request);
        }
        requests.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
        let first = requests.first().ok_or("it has no request")?.timestamp;
        for request in &mut requests {
            request.timestamp -= first;
            request.input_length = request.input_length.max(1);
            request.output_length = request.output_length.max(1);
        }
        Ok(Self { requests })
    }

    /// Takes out the requests that do not fit a context of so many tokens; their number.
    pub fn keep_within(&mut self, context: u64) -> u64 {
        let before = self.requests.len();
        let length =
            |request: &TraceRequest| request.input_length.saturating_add(request.output_length);
        self.requests.retain(|request| length(request) <= context);
        (before - self.requests.len()) as u64
    }

    /// The number of requests.
    pub fn count(&self) -> u64 {
        self.requests.len() as u64
    }

    /// The instants of the requests in seconds, `speed` times as fast as they were.
    pub(super) fn instants(&self, speed: f64) -> Vec<f64> {
        self.requests.iter().map(|request| request.timestamp / 1e3 / speed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_in_the_order_of_time() {
        let text = r#"
            {"timestamp": 3000, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}

            {"timestamp": 1000, "input_length": 512, "output_length": 0, "hash_ids": [1]}
            {"timestamp": 2000.5, "input_length": 30, "output_length": 5}"#;
        let mut trace = Trace::parse(text).unwrap();
        assert_eq!(trace.instants(2.0), [0.0, 0.50025, 1.0]);
        assert_eq!((trace.requests[0].hash_ids.as_slice(), trace.count()), (&[1][..], 3));
        assert_eq!(trace.requests[0].output_length, 1, "a request generates a token at least");
        assert_eq!(trace.keep_within(719), 1);
        assert_eq!(trace.count(), 2);
    }

    #[test]
    fn a_wrong_trace_is_explained() {
        for (text, expected) in [
            ("", "has no request"),
            ("{}", "line 1 is no request of a trace"),
            ("\n{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}", "line 2 has the"),
        ] {
            let why = Trace::parse(text).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}
