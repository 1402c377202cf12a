//! `vllm bench serve --save-result`, with or without `--save-detailed` and `--append-result`.
//! SGLang writes other names and is not read.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::record::Case;
use crate::record::import::{Figure, Import, Level, Tool, add, count, figure, text, value};
use crate::workload::metric;

pub(super) const TOOL: Tool = Tool {
    name: "vllm bench serve",
    matches: |document| {
        let first = document.get(0).unwrap_or(document);
        ["model_id", "request_throughput", "num_prompts"].iter().all(|key| first.get(key).is_some())
    },
    read,
    leaves_open: "its results say nothing of the server: not its version, its flags, its machine or \
                  its memory; that they are as meant is for you to know",
};

const FIGURES: &[Figure] = &[
    figure(metric::TTFT_S, "/median_ttft_ms", 1e-3),
    figure(metric::TPOT_S, "/median_tpot_ms", 1e-3),
    figure(metric::E2E_S, "/median_e2el_ms", 1e-3),
    figure(metric::DECODE_TOK_S_AGGREGATE, "/output_throughput", 1.0),
];

/// Fields with a meaning of their own; other texts are those of `--metadata`.
const NO_LABELS: [&str; 7] = [
    "date",
    "endpoint_type",
    "model_id",
    "tokenizer_id",
    "request_rate",
    "ramp_up_strategy",
    "label",
];

fn read(document: &Value) -> Result<Import, String> {
    let runs = document.as_array().map_or(std::slice::from_ref(document), Vec::as_slice);
    let first = runs.first().ok_or("it is empty")?;
    let model = text(first, "/model_id").ok_or("it does not name its model (`model_id`)")?;
    let mut import = Import {
        started: text(first, "/date").and_then(|date| utc(&date)).unwrap_or_default(),
        ..Import::of_client(&model)
    };
    if let Some(fields) = first.as_object() {
        let labels = fields.iter().filter(|(name, _)| !NO_LABELS.contains(&name.as_str()));
        let texts = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.into())));
        import.labels = texts.collect();
    }
    for run in runs {
        if text(run, "/model_id").as_ref() != Some(&model) {
            return Err(format!("it has results of other models than {model}; give one file each"));
        }
        add(&mut import.cases, case(run))?;
    }
    Ok(import)
}

/// `20260704-120000`, which is local time, as if it were UTC.
fn utc(date: &str) -> Option<String> {
    let digits: String = date.chars().filter(char::is_ascii_digit).collect();
    let part = |from: usize, to: usize| digits.get(from..to);
    let day = format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?);
    Some(format!("{day}T{}:{}:{}Z", part(8, 10)?, part(10, 12)?, part(12, 14)?))
}

fn case(run: &Value) -> Case {
    let rate = run["request_rate"].as_f64();
    let most = count(run, "/max_concurrency").filter(|most| *most > 0);
    let requests = count(run, "/num_prompts").unwrap_or(1).max(1);
    let complete = count(run, "/completed").unwrap_or(0);
    let each = |pointer: &str| Some(value(run, pointer)? / complete as f64);
    let level = Level {
        id: format!(
            "rate-{}{}",
            rate.map_or("inf".into(), |rate| rate.to_string()),
            most.map_or(String::new(), |most| format!("/c{most}"))
        ),
        in_flight: if rate.is_some() { 1 } else { most.unwrap_or(requests) },
        prompt_tokens: each("/total_input_tokens"),
        output_tokens: each("/total_output_tokens"),
        complete,
        // Without the count, older results: what was to be sent and was not answered.
        failed: count(run, "/failed").unwrap_or(requests.saturating_sub(complete)),
    };
    level.case(TOOL.name, run, FIGURES, samples(run))
}

/// Values of each request, which `--save-detailed` keeps. A failed request has none.
fn samples(run: &Value) -> BTreeMap<String, Vec<f64>> {
    let list = |name: &str| run[name].as_array().map_or(&[][..], Vec::as_slice);
    let number = |name: &str, at: usize| list(name).get(at)?.as_f64().filter(|value| *value > 0.0);
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for at in 0..list("ttfts").len() {
        let is_failed = |error: &Value| error.as_str().is_some_and(|error| !error.is_empty());
        if list("errors").get(at).is_some_and(is_failed) {
            continue;
        }
        let ttft = number("ttfts", at);
        let e2e = number("latencies", at);
        let after_first = number("output_lens", at).map(|tokens| tokens - 1.0);
        let decode = ttft.zip(e2e).map(|(ttft, e2e)| e2e - ttft);
        let tpot = decode.zip(after_first.filter(|count| *count >= 1.0));
        let tpot = tpot.map(|(time, count)| time / count);
        for (metric, value) in
            [(metric::TTFT_S, ttft), (metric::E2E_S, e2e), (metric::TPOT_S, tpot)]
        {
            if let Some(value) = value.filter(|value| *value > 0.0) {
                samples.entry(metric.into()).or_default().push(value);
            }
        }
    }
    samples
}
