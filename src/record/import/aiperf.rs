//! aiperf's `profile_export_aiperf.json`: one level of load, without the values of each request.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::record::import::{
    Figure, Import, Level, NOT_REPORTED, Tool, count, figure, text, value,
};
use crate::workload::metric;

pub(super) const TOOL: Tool = Tool {
    name: "aiperf",
    matches: |document| {
        document.get("aiperf_version").is_some() && document.get("input_config").is_some()
    },
    read,
    leaves_open: "its export says nothing of the server but the model's name: not its version, its \
                  flags, its machine or its memory; that they are as meant is for you to know",
};

/// Times are in ms: `check_units` refuses others. Its inter-token latency is our TPOT.
const FIGURES: &[Figure] = &[
    figure(metric::TTFT_S, "/time_to_first_token/p50", 1e-3),
    figure(metric::TPOT_S, "/inter_token_latency/p50", 1e-3),
    figure(metric::E2E_S, "/request_latency/p50", 1e-3),
    figure(metric::DECODE_TOK_S_AGGREGATE, "/output_token_throughput/avg", 1.0),
];

fn read(document: &Value) -> Result<Import, String> {
    for name in ["time_to_first_token", "inter_token_latency", "request_latency"] {
        match text(document, &format!("/{name}/unit")) {
            Some(unit) if unit != "ms" => return Err(format!("`{name}` is in {unit}, not in ms")),
            _ => {}
        }
    }
    let config = &document["input_config"];
    let model = ["/models/items/0/name", "/models/0", "/models", "/endpoint/model_names/0"];
    let model = model.iter().find_map(|pointer| text(config, pointer));
    let mut case = level(document).case(TOOL.name, document, FIGURES, BTreeMap::new());
    if document["was_cancelled"] == true || document["is_complete"] == false {
        let why = text(document, "/incomplete_reason").unwrap_or_default();
        case.validity.failed.push(format!("the run is not complete {why}").trim_end().into());
    }
    Ok(Import {
        started: text(document, "/start_time").and_then(|time| utc(&time)).unwrap_or_default(),
        version: text(document, "/aiperf_version").unwrap_or_default(),
        cases: vec![case],
        ..Import::of_client(&model.unwrap_or(NOT_REPORTED.into()))
    })
}

/// `2026-07-04T12:00:00.123456`, which is local time, as if it were UTC.
fn utc(time: &str) -> Option<String> {
    let seconds = time.get(..19)?;
    format!("{seconds}Z").parse::<jiff::Timestamp>().ok().map(|time| time.to_string())
}

/// The level of the last phase, the one that is measured.
fn level(document: &Value) -> Level {
    let config = &document["input_config"];
    let phase = config["phases"].as_array().and_then(|phases| phases.last());
    let phase = phase.or(config.get("loadgen")).unwrap_or(&Value::Null);
    let concurrency = count(phase, "/concurrency");
    let rate = value(phase, "/rate").or_else(|| value(phase, "/request_rate"));
    let (id, in_flight) = match (rate, concurrency) {
        (Some(rate), _) => (format!("rate-{rate}"), 1),
        (None, Some(concurrency)) => (format!("concurrency-{concurrency}"), concurrency),
        (None, None) => (text(phase, "/type").unwrap_or("load".into()), 1),
    };
    Level {
        id,
        in_flight,
        prompt_tokens: value(document, "/input_sequence_length/avg"),
        output_tokens: value(document, "/output_sequence_length/avg"),
        complete: count(document, "/request_count/avg").unwrap_or(0),
        failed: count(document, "/error_request_count/avg").unwrap_or(0),
    }
}
