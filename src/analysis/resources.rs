//! What scenarios take of the machine: utilisation, power, memory, how much of the read bandwidth
//! decoding reaches, and how much of the arithmetic prefill.

use serde::Serialize;

use super::values::{Reading, State, largest, over_all, reading, sound};
use crate::record::{Case, Record};
use crate::stats;
use crate::workload::Task;

/// Resources of every scenario, and over all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resources {
    /// In the order of the record.
    pub rows: Vec<ResourceRow>,
    /// Share of the CPUs: median over the valid scenarios that generate.
    pub cpu_utilisation: Reading,
    /// Share of the GPU, likewise.
    pub gpu_utilisation: Reading,
    /// Watts, likewise.
    pub power_w: Reading,
    /// Joules per token, likewise.
    pub energy_j_per_token: Reading,
    /// Bytes of this process: largest over the valid scenarios but stress, quality and traces.
    pub peak_rss_bytes: Reading,
    /// Bytes on the device, likewise.
    pub peak_device_bytes: Reading,
    /// Share of the measured read bandwidth that decoding reaches: median over the valid scenarios
    /// of one sequence.
    pub roofline_fraction: Reading,
    /// Share of the measured arithmetic peak that prefill reaches: median over the valid scenarios
    /// that generate.
    pub prefill_flop_fraction: Reading,
}

/// Resources of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceRow {
    /// The scenario.
    pub id: String,
    /// Whether its numbers can be true.
    pub state: State,
    /// Share of the CPUs.
    pub cpu_utilisation: Reading,
    /// Share of the GPU.
    pub gpu_utilisation: Reading,
    /// Watts.
    pub power_w: Reading,
    /// Joules per token.
    pub energy_j_per_token: Reading,
    /// High-water mark of this process.
    pub peak_rss_bytes: Reading,
    /// High-water mark on the device.
    pub peak_device_bytes: Reading,
    /// Share of the measured read bandwidth that decoding reaches.
    pub roofline_fraction: Reading,
    /// Share of the measured arithmetic peak that prefill reaches.
    pub prefill_flop_fraction: Reading,
}

impl Resources {
    /// The resources of a record.
    pub fn of(record: &Record) -> Self {
        Self {
            rows: record.scenarios.iter().map(row).collect(),
            cpu_utilisation: typical(record, "cpu_utilisation", generates),
            gpu_utilisation: typical(record, "gpu_utilisation", generates),
            power_w: typical(record, "power_w", generates),
            energy_j_per_token: typical(record, "energy_j_per_token", generates),
            peak_rss_bytes: over(record, "peak_rss_bytes", serves, largest),
            peak_device_bytes: over(record, "peak_device_bytes", serves, largest),
            roofline_fraction: typical(record, "roofline_fraction", alone),
            prefill_flop_fraction: typical(record, "prefill_flop_fraction", generates),
        }
    }
}

/// How many scenarios the overall share of bandwidth rests on.
pub(super) fn with_roofline(record: &Record) -> usize {
    let cases = record.scenarios.iter().filter(|case| alone(case));
    cases.filter_map(|case| sound(case, "roofline_fraction")).count()
}

fn alone(case: &Case) -> bool {
    generates(case) && case.work.batch == 1
}

fn generates(case: &Case) -> bool {
    matches!(case.work.task, Task::Generate | Task::Depth)
}

/// Whether the memory of a scenario is that of serving a model: stress fills it on purpose, quality
/// and traces hold more than the model.
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
    over_all(record.scenarios.iter().filter(|case| which(case)), metric, centre)
}

fn row(case: &Case) -> ResourceRow {
    ResourceRow {
        id: case.id.clone(),
        state: State::of(case),
        cpu_utilisation: reading(case, "cpu_utilisation"),
        gpu_utilisation: reading(case, "gpu_utilisation"),
        power_w: reading(case, "power_w"),
        energy_j_per_token: reading(case, "energy_j_per_token"),
        peak_rss_bytes: reading(case, "peak_rss_bytes"),
        peak_device_bytes: reading(case, "peak_device_bytes"),
        roofline_fraction: reading(case, "roofline_fraction"),
        prefill_flop_fraction: reading(case, "prefill_flop_fraction"),
    }
}
