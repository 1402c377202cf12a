//! One row for a shared table of results.

use crate::error::Result;
use crate::record::Record;
use crate::report::export::{cpu, decode_rate, mib, representative_case, samples, source};
use crate::report::text::{escape_markdown, number};
use crate::stats;
use crate::workload::metric;

/// The row of the shared results table, with its header: of the given scenario, or else of the
/// valid one of batch 1 with the longest answers, if there is one. The rate is the mean of the
/// decode rate's samples; invalid rates are struck out, and `N/A` means not measured.
///
/// # Errors
/// When the record has no such scenario.
pub fn row(record: &Record, scenario: Option<&str>) -> Result<String> {
    let header = "| Device | Source | Model size (M params) | KV cache | gen_tokens | mean tok/s | \
                  peak VRAM MiB |\n|---|---|---:|---|---:|---:|---:|\n";
    let Some(case) = representative_case(record, scenario)? else {
        return Ok(format!("{header}| the record has no scenario | | | | | | |\n"));
    };
    let device = record.settings.device.as_str();
    let device = if device == "cpu" { format!("cpu ({})", cpu(record)) } else { device.to_owned() };
    let vram = match (mib(case, metric::PEAK_DEVICE_BYTES), mib(case, metric::PEAK_RSS_BYTES)) {
        (Some(vram), _) => number(vram),
        (None, Some(ram)) if record.settings.device == "cpu" => {
            format!("N/A (CPU; {} MiB of RAM)", number(ram))
        }
        (None, _) => "N/A".into(),
    };
    let rate = stats::mean(&samples(case, decode_rate(case)));
    let rate = rate.map_or("N/A".into(), |mean| format!("{mean:.2}"));
    let rate = if case.validity.ok() { rate } else { format!("~~{rate}~~ INVALID") };
    let slowed = record.injected.as_ref();
    let slowed = slowed.map_or(String::new(), |how| format!(", SLOWED DOWN ON PURPOSE: {how}"));
    let kv_cache = if record.settings.generation.use_kv_cache { "on" } else { "off" };
    let cells = [
        device,
        format!("{} ({}, {}{slowed})", source(&record.model), record.model.spec, case.id),
        format!("{:.3}", record.model.parameters as f64 / 1e6),
        kv_cache.to_owned(),
        case.work.new_tokens.to_string(),
        rate,
        vram,
    ];
    Ok(format!("{header}| {} |\n", cells.map(|text| escape_markdown(&text)).join(" | ")))
}
