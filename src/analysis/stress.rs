//! Requests under a memory limit: their outcomes and their memory.

use serde::Serialize;

use super::values::{CaseState, Reading, in_group, reading};
use crate::record::{Case, Record, StressOutcome, StressRequest};
use crate::workload::metric;

/// One kind of stress, `stress/*`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StressRow {
    pub(crate) id: String,
    /// The id without its first segment: `long`, `many`, ...
    pub(crate) name: String,
    pub(crate) state: CaseState,
    /// The memory limit, as the record has it.
    pub(crate) memory_limit: Option<String>,
    /// Requests by outcome.
    pub(crate) outcomes: RequestCounts,
    /// Share of requests that failed.
    pub(crate) error_rate: Reading,
    /// Share of requests for which there was no memory.
    pub(crate) oom_rate: Reading,
    /// Prompt tokens of the longest answered request.
    pub(crate) largest_answered: Option<usize>,
    /// Prompt tokens of the shortest request that was not answered.
    pub(crate) smallest_unanswered: Option<usize>,
    /// Slope of memory over requests, in bytes per request.
    pub(crate) mem_slope_bytes_per_request: Reading,
    /// Every request in order, one list per process.
    pub(crate) requests: Vec<Vec<StressRequest>>,
}

/// Requests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RequestCounts {
    /// Every token was generated.
    pub(crate) answered: usize,
    /// Refused before it began.
    pub(crate) refused: usize,
    /// Out of memory.
    pub(crate) out_of_memory: usize,
    /// Longer than a request may take.
    pub(crate) timed_out: usize,
    /// Anything else.
    pub(crate) failed: usize,
}

impl RequestCounts {
    /// All of them.
    pub(crate) fn total(&self) -> usize {
        self.answered + self.refused + self.out_of_memory + self.timed_out + self.failed
    }

    fn count<'a>(requests: impl Iterator<Item = &'a StressRequest>) -> Self {
        let mut outcomes = Self::default();
        for request in requests {
            *match request.outcome {
                StressOutcome::Answered => &mut outcomes.answered,
                StressOutcome::Refused => &mut outcomes.refused,
                StressOutcome::OutOfMemory => &mut outcomes.out_of_memory,
                StressOutcome::TimedOut => &mut outcomes.timed_out,
                StressOutcome::Failed => &mut outcomes.failed,
            } += 1;
        }
        outcomes
    }
}

/// The stress scenarios of a record.
pub(super) fn stress(record: &Record) -> Vec<StressRow> {
    in_group(record, "stress").map(|(case, name)| row(case, name)).collect()
}

fn row(case: &Case, name: &str) -> StressRow {
    let all = || case.blocks.iter().flat_map(|block| &block.requests);
    let tokens = |answered: bool| {
        all()
            .filter(move |request| (request.outcome == StressOutcome::Answered) == answered)
            .map(|request| request.prompt_tokens)
    };
    StressRow {
        id: case.id.clone(),
        name: name.into(),
        state: CaseState::of(case),
        memory_limit: case.labels.get("memory_limit").cloned(),
        outcomes: RequestCounts::count(all()),
        error_rate: reading(case, metric::ERROR_RATE),
        oom_rate: reading(case, metric::OOM_RATE),
        largest_answered: tokens(true).max(),
        smallest_unanswered: tokens(false).min(),
        mem_slope_bytes_per_request: reading(case, metric::MEM_SLOPE_BYTES_PER_REQUEST),
        requests: case.blocks.iter().map(|block| block.requests.clone()).collect(),
    }
}
