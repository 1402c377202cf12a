//! Utilization, power, memory, and the shares of peak bandwidth and peak arithmetic that decode and
//! prefill reach.

use serde::Serialize;

use super::values::{CaseState, Reading, max, over_valid, reading, valid_median};
use crate::record::{Case, Record};
use crate::stats;
use crate::workload::Task;

/// Resources of every scenario, and over all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Resources {
    /// In the order of the record.
    pub(crate) rows: Vec<ResourceRow>,
    /// CPU utilization: median over the valid scenarios that generate.
    pub(crate) cpu_utilization: Reading,
    /// GPU utilization, likewise.
    pub(crate) gpu_utilization: Reading,
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

/// Resources of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ResourceRow {
    pub(crate) id: String,
    pub(crate) state: CaseState,
    /// CPU utilization.
    pub(crate) cpu_utilization: Reading,
    /// GPU utilization.
    pub(crate) gpu_utilization: Reading,
    pub(crate) power_w: Reading,
    pub(crate) energy_j_per_token: Reading,
    /// Peak memory of the process.
    pub(crate) peak_rss_bytes: Reading,
    /// Peak memory of the device.
    pub(crate) peak_device_bytes: Reading,
    /// Share of the measured read bandwidth that decode reaches.
    pub(crate) roofline_fraction: Reading,
    /// Share of the measured arithmetic peak that prefill reaches.
    pub(crate) prefill_flop_fraction: Reading,
}

impl Resources {
    /// The resources of a record.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            rows: record.scenarios.iter().map(row).collect(),
            cpu_utilization: typical(record, "cpu_utilisation", generates),
            gpu_utilization: typical(record, "gpu_utilisation", generates),
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

fn row(case: &Case) -> ResourceRow {
    ResourceRow {
        id: case.id.clone(),
        state: CaseState::of(case),
        cpu_utilization: reading(case, "cpu_utilisation"),
        gpu_utilization: reading(case, "gpu_utilisation"),
        power_w: reading(case, "power_w"),
        energy_j_per_token: reading(case, "energy_j_per_token"),
        peak_rss_bytes: reading(case, "peak_rss_bytes"),
        peak_device_bytes: reading(case, "peak_device_bytes"),
        roofline_fraction: reading(case, "roofline_fraction"),
        prefill_flop_fraction: reading(case, "prefill_flop_fraction"),
    }
}
