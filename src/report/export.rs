//! A record in the forms that other programs and shared tables read. A number that was not
//! measured, or that cannot be true, is left out or `null` in all of them. Every field is described
//! in `export/fields.md`. Knows nothing of verdicts, and nothing of who reads the form.

mod benchmark;
mod llama_bench;
mod prometheus;
mod row;

pub use benchmark::benchmark_json;
pub use llama_bench::llama_bench;
pub(crate) use prometheus::exposed;
pub use prometheus::prometheus;
pub use row::row;

use crate::error::{Error, Result};
use crate::record::{Case, Model, Record};
use crate::stats;
use crate::workload::Task;

/// The scenario that stands for a whole record: the one of this id, or the first of the best, from
/// the most to the least: one with a decode rate, a valid one, a plain answer of batch 1, and the
/// longest answers. A record of one token a sequence has no decode rate, and one of batches alone
/// has no batch of 1: they have a scenario all the same. `None` of a record without any.
///
/// # Errors
/// When no scenario has the id.
fn chosen<'a>(record: &'a Record, asked: Option<&str>) -> Result<Option<&'a Case>> {
    if let Some(id) = asked {
        let ids = record.scenarios.iter().map(|case| case.id.as_str());
        let unknown = || Error::unknown("scenario in the record", id, ids);
        return record.case(id).map(Some).ok_or_else(unknown);
    }
    let worth = |case: &&Case| {
        // A depth, a pipeline or a trace has other rates than a plain answer.
        let plain = case.work.task == Task::Generate;
        let decoded = believed(case) && !case.values(decode_rate(case)).is_empty();
        let one = case.work.batch == 1;
        (decoded && plain, decoded && one, believed(case), plain, one, case.work.new_tokens)
    };
    // The first of equals: max_by_key alone would take the last.
    Ok(record.scenarios.iter().rev().max_by_key(worth))
}

/// Whether there are numbers, and they can be true.
fn believed(case: &Case) -> bool {
    case.absent.is_none() && case.validity.ok()
}

/// The rate of generating after the first token, which no prefill is mixed into.
fn decode_rate(case: &Case) -> &'static str {
    if case.work.batch > 1 { "decode_tok_s_aggregate" } else { "decode_tok_s" }
}

/// Every sample of a metric in all processes; of a baseline, which keeps none, the centre of each
/// process.
fn samples(case: &Case, metric: &str) -> Vec<f64> {
    let samples = case.blocks.iter().filter_map(|block| block.samples.get(metric)).flatten();
    let samples: Vec<f64> = samples.copied().collect();
    if samples.is_empty() { case.values(metric) } else { samples }
}

/// The middle of a metric over processes, in MiB.
fn mib(case: &Case, metric: &str) -> Option<f64> {
    stats::median(&case.values(metric)).map(|bytes| bytes / 1_048_576.0)
}

/// The CPU as it names itself.
fn cpu(record: &Record) -> &str {
    let fields = &record.machine.fields;
    let name = fields.get("cpu_name").filter(|name| *name != "unknown");
    name.or_else(|| fields.get("cpu")).unwrap_or(&record.machine.class)
}

/// `cpu`, `cuda` or `metal`, without the number of the device.
fn device_type(record: &Record) -> &str {
    let device = record.settings.device.as_str();
    device.split_once(':').map_or(device, |(kind, _)| kind)
}

/// Where the weights came from: `synthetic`, `local` or `hf`. A name alone does not tell a folder
/// from a repository; what came from the hub has the commit there.
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
