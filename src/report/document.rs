//! A record for other programs: CSV, JSON, and the one-line row for a table that people share.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::Machine;
use crate::record::Record;
use crate::report::text::cell;
use crate::report::text::number;
use crate::stats;

/// The record as it is stored.
pub fn json(record: &Record) -> String {
    record.to_json()
}

/// Where something was measured, as name and value.
pub(super) fn machine(machine: &Machine) -> [(&'static str, String); 5] {
    let list = |fields: &BTreeMap<String, String>| {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        fields.join(", ")
    };
    let rate = |value: Option<f64>, unit: &str| {
        value.map_or("not measured".into(), |value| format!("{} {unit}", number(value / 1e9)))
    };
    [
        ("machine class", machine.class.clone()),
        ("machine", list(&machine.fields)),
        ("host", list(&machine.facts)),
        ("memory read rate", rate(machine.rates.read_bytes_per_s, "GB/s")),
        ("f32 rate", rate(machine.rates.f32_flop_per_s, "GFLOP/s")),
    ]
}

fn on(switch: bool) -> &'static str {
    if switch { "on" } else { "off" }
}

fn mib(bytes: f64) -> String {
    number(bytes / 1_048_576.0)
}

/// One line per scenario, metric and block, values in the unit of the metric's name.
pub fn csv(record: &Record) -> String {
    let mut text = String::from("scenario,metric,block,session,value,valid,note\n");
    for case in &record.scenarios {
        for (at, block) in case.blocks.iter().enumerate() {
            for (metric, value) in &block.values {
                let value = value.map_or(String::new(), |value| value.to_string());
                let note = block.notes.get(metric).map_or("", String::as_str);
                let fields = [
                    &case.id,
                    metric,
                    &at.to_string(),
                    &block.session,
                    &value,
                    &case.validity.ok().to_string(),
                    note,
                ];
                let fields: Vec<String> = fields.into_iter().map(quoted).collect();
                text += &(fields.join(",") + "\n");
            }
        }
        if let Some(why) = &case.absent {
            let _ = writeln!(text, "{},,,,,,{}", quoted(&case.id), quoted(why));
        }
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.into()
    }
}

/// The row of the shared results table: one line, of the batch-1 scenario with the longest answers.
pub fn row(record: &Record) -> String {
    let header = "| Device | Source | Model size (M params) | KV cache | gen_tokens | mean tok/s | peak VRAM MiB |\n\
                  |---|---|---:|---|---:|---:|---:|\n";
    let single = record.scenarios.iter().filter(|case| case.work.batch == 1 && case.validity.ok());
    let decoded = single.filter(|case| !case.values("decode_tok_s").is_empty());
    // The first of equals: max_by_key alone would take the last.
    let Some(case) = decoded.rev().max_by_key(|case| case.work.new_tokens) else {
        return format!("{header}| no valid scenario with batch 1 | | | | | | |\n");
    };
    let samples =
        case.blocks.iter().filter_map(|block| block.samples.get("decode_tok_s")).flatten();
    let samples: Vec<f64> = samples.copied().collect();
    let values = if samples.is_empty() { case.values("decode_tok_s") } else { samples };
    let fields = &record.machine.fields;
    let cpu = fields.get("cpu_model").or_else(|| fields.get("cpu"));
    let cpu = cpu.unwrap_or(&record.machine.class);
    let device = record.settings.device.as_str();
    let device = if device == "cpu" { format!("cpu ({cpu})") } else { device.to_owned() };
    let vram = match stats::median(&case.values("peak_device_bytes")) {
        Some(bytes) => mib(bytes),
        None => match stats::median(&case.values("peak_rss_bytes")) {
            Some(bytes) => format!("N/A (CPU; {} MiB of RAM)", mib(bytes)),
            None => "N/A".into(),
        },
    };
    let cells = [
        device,
        format!("{} ({}, {})", source(&record.model.spec), record.model.spec, case.id),
        format!("{:.3}", record.model.parameters as f64 / 1e6),
        on(record.settings.generation.use_kv_cache).to_owned(),
        case.work.new_tokens.to_string(),
        stats::mean(&values).map_or("N/A".into(), |mean| format!("{mean:.2}")),
        vram,
    ];
    format!("{header}| {} |\n", cells.map(|text| cell(&text)).join(" | "))
}

fn source(spec: &str) -> &'static str {
    if spec.starts_with("synthetic:") {
        "synthetic"
    } else if spec.ends_with(".gguf") && spec.matches('/').count() != 1
        || spec.starts_with(['/', '.', '~'])
    {
        "local"
    } else {
        "hf"
    }
}
