//! The share of peak bandwidth that decode reaches, and which scenarios count for what.

use super::values::valid_median;
use crate::record::{Case, Record};
use crate::workload::{Task, metric};

/// Shares of the measured read bandwidth that decode reaches in the valid scenarios of batch 1.
pub(super) fn roofline_fractions(record: &Record) -> Vec<f64> {
    let single = record.scenarios.iter().filter(|case| {
        matches!(case.work.task, Task::Generate | Task::Depth) && case.work.batch == 1
    });
    single.filter_map(|case| valid_median(case, metric::ROOFLINE_FRACTION)).collect()
}

/// Whether the memory of a scenario is that of serving a model: stress fills memory on purpose,
/// quality and traces hold more than the model.
pub(super) fn serves(case: &Case) -> bool {
    !matches!(case.work.task, Task::Stress | Task::Quality | Task::Profile)
}
