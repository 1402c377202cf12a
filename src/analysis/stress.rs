//! Requests under a memory limit: their outcomes and their memory.

use serde::Serialize;

use super::values::{in_group, row, short_name};
use crate::record::{Case, Record, StressOutcome, StressRequest};

row! {
    /// One kind of stress, `stress/*`.
    StressRow(case) {
        name: String = short_name(case).into(),
        /// The memory limit, as the record has it.
        memory_limit: Option<String> = case.labels.get("memory_limit").cloned(),
        /// Requests by outcome.
        outcomes: RequestCounts = RequestCounts::of(case),
        /// Prompt tokens of the longest answered request.
        largest_answered: Option<usize> = prompt_lengths(case, true).max(),
        /// Prompt tokens of the shortest request that was not answered.
        smallest_unanswered: Option<usize> = prompt_lengths(case, false).min(),
        /// Every request in order, one list per process.
        requests: Vec<Vec<StressRequest>> =
            case.blocks.iter().map(|block| block.requests.clone()).collect(),
    }
    spreads {}
    readings { mem_slope_bytes_per_request }
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

    fn of(case: &Case) -> Self {
        let mut outcomes = Self::default();
        for request in case.blocks.iter().flat_map(|block| &block.requests) {
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

fn prompt_lengths(case: &Case, answered: bool) -> impl Iterator<Item = usize> {
    let requests = case.blocks.iter().flat_map(|block| &block.requests);
    let wanted =
        requests.filter(move |request| (request.outcome == StressOutcome::Answered) == answered);
    wanted.map(|request| request.prompt_tokens)
}

/// The stress scenarios of a record.
pub(super) fn stress(record: &Record) -> Vec<StressRow> {
    in_group(record, "stress").map(StressRow::of).collect()
}
