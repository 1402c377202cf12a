//! A record in formats for other programs and shared tables. Unmeasured and invalid numbers are
//! omitted or `null` in all of them. `export/fields.md` describes every field. Knows nothing of
//! verdicts.

#[expect(non_camel_case_types, reason = "fields of `object!`")]
mod benchmark;
mod prometheus;
mod row;

pub use benchmark::benchmark_json;
pub use prometheus::prometheus;
pub(crate) use prometheus::{escape_label, family as prometheus_family, prometheus_name};
pub use row::row;

use crate::error::{Error, Result};
use crate::record::{Case, Model, Record};
use crate::stats;
use crate::workload::{Task, metric};

/// The scenario that represents a record: the one with this id, or else the best by these criteria,
/// in order: it has a decode rate, is valid, generates with batch 1, has the longest answers. A
/// record of single tokens has no decode rate, and one of batches has no batch of 1, but each still
/// has a scenario. `None` for a record without scenarios.
///
/// # Errors
/// When no scenario has the id.
fn representative_case<'a>(record: &'a Record, asked: Option<&str>) -> Result<Option<&'a Case>> {
    if let Some(id) = asked {
        let ids = record.scenarios.iter().map(|case| case.id.as_str());
        let unknown = || Error::unknown("scenario in the record", id, ids);
        return record.case(id).map(Some).ok_or_else(unknown);
    }
    let rank = |case: &&Case| {
        // Depths, pipelines and traces have other rates than plain generation.
        let plain = case.work.task == Task::Generate;
        let decoded = is_valid(case) && !case.values(decode_rate(case)).is_empty();
        let one = case.work.batch == 1;
        (decoded && plain, decoded && one, is_valid(case), plain, one, case.work.new_tokens)
    };
    // The first of equals: `max_by_key` alone would take the last.
    Ok(record.scenarios.iter().rev().max_by_key(rank))
}

/// Whether a scenario has valid numbers.
fn is_valid(case: &Case) -> bool {
    case.absent.is_none() && case.validity.ok()
}

/// The rate of generation after the first token, without prefill.
fn decode_rate(case: &Case) -> &'static str {
    if case.work.batch > 1 { metric::DECODE_TOK_S_AGGREGATE } else { metric::DECODE_TOK_S }
}

/// Every sample of a metric in all processes; for a baseline, which keeps no samples, the median of
/// each process.
fn samples(case: &Case, metric: &str) -> Vec<f64> {
    let samples = case.blocks.iter().filter_map(|block| block.samples.get(metric)).flatten();
    let samples: Vec<f64> = samples.copied().collect();
    if samples.is_empty() { case.values(metric) } else { samples }
}

/// The median of a metric over processes, in MiB.
fn mib(case: &Case, metric: &str) -> Option<f64> {
    stats::median(&case.values(metric)).map(|bytes| bytes / 1_048_576.0)
}

/// The CPU's name.
fn cpu(record: &Record) -> &str {
    let fields = &record.machine.fields;
    let name = fields.get("cpu_name").filter(|name| *name != "unknown");
    name.or_else(|| fields.get("cpu")).unwrap_or(&record.machine.class)
}

/// `cpu`, `cuda` or `metal`, without the device index.
fn device_type(record: &Record) -> &str {
    let device = record.settings.device.as_str();
    device.split_once(':').map_or(device, |(kind, _)| kind)
}

/// The origin of the weights: `synthetic`, `local` or `hf`. A name alone does not distinguish a
/// folder from a repository; weights from the hub have a commit.
fn source(model: &Model) -> &'static str {
    if model.spec.starts_with("synthetic:") {
        "synthetic"
    } else if model.commit.is_some() {
        "hf"
    } else {
        "local"
    }
}

#[cfg(test)]
mod tests;
