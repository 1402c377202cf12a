//! Utilization, power, memory, and the shares of peak bandwidth and peak arithmetic that decode and
//! prefill reach.

use serde::Serialize;

use super::values::{Reading, max, over_valid, row, valid_median};
use crate::record::{Case, Record};
use crate::stats;
use crate::workload::Task;

/// Resources of every scenario, and over all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Resources {
    /// In the order of the record.
    pub(crate) rows: Vec<ResourceRow>,
    /// CPU utilization: median over the valid scenarios that generate.
    pub(crate) cpu_utilisation: Reading,
    /// GPU utilization, likewise.
    pub(crate) gpu_utilisation: Reading,
    /// Watts, likewise.
    pub(crate) power_w: Reading,
    /// Joules per token, likewise.
    pub(crate) energy_j_per_token: Reading,
    /// Peak memory of the process: maximum over the valid scenarios without stress, quality and
    /// traces.
    pub(crate) peak_rss_bytes: Reading,
    /// Peak memory of the device, likewise.
    pub(crate) peak_device_bytes: Reading,
    /// Share of the measured read bandwidth that decode reaches: median over the valid scenarios of
    /// batch 1.
    pub(crate) roofline_fraction: Reading,
    /// Share of the measured arithmetic peak that prefill reaches: median over the valid scenarios
    /// that generate.
    pub(crate) prefill_flop_fraction: Reading,
}

row! {
    /// Resources of one scenario.
    ResourceRow(case) {}
    spreads {}
    readings {
        cpu_utilisation, gpu_utilisation, power_w, energy_j_per_token, peak_rss_bytes,
        peak_device_bytes, roofline_fraction, prefill_flop_fraction,
    }
}

impl Resources {
    /// The resources of a record.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            rows: record.scenarios.iter().map(ResourceRow::of).collect(),
            cpu_utilisation: typical(record, "cpu_utilisation", generates),
            gpu_utilisation: typical(record, "gpu_utilisation", generates),
            power_w: typical(record, "power_w", generates),
            energy_j_per_token: typical(record, "energy_j_per_token", generates),
            peak_rss_bytes: over(record, "peak_rss_bytes", serves, max),
            peak_device_bytes: over(record, "peak_device_bytes", serves, max),
            roofline_fraction: typical(record, "roofline_fraction", is_single_sequence),
            prefill_flop_fraction: typical(record, "prefill_flop_fraction", generates),
        }
    }
}

/// Number of scenarios in the overall roofline fraction.
pub(super) fn count_with_roofline(record: &Record) -> usize {
    let cases = record.scenarios.iter().filter(|case| is_single_sequence(case));
    cases.filter_map(|case| valid_median(case, "roofline_fraction")).count()
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

fn typical(record: &Record, metric: &str, which: fn(&Case) -> bool) -> Reading {
    over(record, metric, which, stats::median)
}

fn over(
    record: &Record,
    metric: &str,
    which: fn(&Case) -> bool,
    centre: fn(&[f64]) -> Option<f64>,
) -> Reading {
    over_valid(record.scenarios.iter().filter(|case| which(case)), metric, centre)
}
