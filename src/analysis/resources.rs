//! The share of peak bandwidth that decode reaches, and which scenarios count for what.

use super::values::{Reading, over_valid, valid_median};
use crate::record::{Case, Record};
use crate::stats;
use crate::workload::{Task, metric};

/// Share of the measured read bandwidth that decode reaches: median over the valid scenarios of
/// batch 1.
pub(super) fn roofline(record: &Record) -> Reading {
    let cases = record.scenarios.iter().filter(|case| is_single_sequence(case));
    over_valid(cases, metric::ROOFLINE_FRACTION, stats::median)
}

/// Number of scenarios in the overall roofline fraction.
pub(super) fn count_with_roofline(record: &Record) -> usize {
    let cases = record.scenarios.iter().filter(|case| is_single_sequence(case));
    cases.filter_map(|case| valid_median(case, metric::ROOFLINE_FRACTION)).count()
}

fn is_single_sequence(case: &Case) -> bool {
    generates(case) && case.work.batch == 1
}

fn generates(case: &Case) -> bool {
    matches!(case.work.task, Task::Generate | Task::Depth)
}

/// Whether the memory of a scenario is that of serving a model: stress fills memory on purpose,
/// quality and traces hold more than the model.
pub(super) fn serves(case: &Case) -> bool {
    !matches!(case.work.task, Task::Stress | Task::Quality | Task::Profile)
}
