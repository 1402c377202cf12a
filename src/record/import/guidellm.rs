//! guidellm's JSON report (`benchmarks.json`): one case per strategy.

use serde_json::Value;

use crate::record::import::{
    Figure, Import, Level, NOT_REPORTED, Tool, add, count, figure, request_samples, text, value,
};
use crate::workload::metric;

pub(super) const TOOL: Tool = Tool {
    name: "guidellm",
    matches: |document| {
        let first = document.pointer("/benchmarks/0");
        first.is_some_and(|one| one.pointer("/metrics/time_to_first_token_ms").is_some())
    },
    read,
    leaves_open: "its reports say nothing of the server but the model's name: not its version, its \
                  flags, its machine or its memory; that they are as meant is for you to know",
};

/// Its inter-token latency is our TPOT: the time after the first token by the tokens after it. Its
/// own time per output token counts the first.
const FIGURES: &[Figure] = &[
    figure(metric::TTFT_S, "/metrics/time_to_first_token_ms/successful/median", 1e-3),
    figure(metric::TPOT_S, "/metrics/inter_token_latency_ms/successful/median", 1e-3),
    figure(metric::E2E_S, "/metrics/request_latency/successful/median", 1.0),
    figure(
        metric::DECODE_TOK_S_AGGREGATE,
        "/metrics/output_tokens_per_second/successful/mean",
        1.0,
    ),
];

/// The same of one request.
const REQUEST: &[Figure] = &[
    figure(metric::TTFT_S, "/time_to_first_token_ms", 1e-3),
    figure(metric::TPOT_S, "/inter_token_latency_ms", 1e-3),
    figure(metric::E2E_S, "/request_latency", 1.0),
];

/// Where versions of it keep the model's name.
const MODEL: [&str; 6] = [
    "/benchmarks/0/config/backend/model",
    "/benchmarks/0/config/backend/info/model",
    "/config/spec/backend/model",
    "/args/model",
    "/benchmarks/0/worker/backend_model",
    "/args/backend_kwargs/model",
];

fn read(document: &Value) -> Result<Import, String> {
    let model = MODEL.iter().find_map(|pointer| text(document, pointer));
    let model = model.filter(|model| !model.is_empty()).unwrap_or(NOT_REPORTED.into());
    let benchmarks = document["benchmarks"].as_array().ok_or("it has no `benchmarks`")?;
    let mut import = Import {
        started: value(document, "/benchmarks/0/start_time").and_then(utc).unwrap_or_default(),
        version: text(document, "/metadata/guidellm_version").unwrap_or_default(),
        ..Import::of_client(&model)
    };
    if let Some(platform) = text(document, "/metadata/platform") {
        import.machine.facts.insert("platform of the client".into(), platform);
    }
    for benchmark in benchmarks {
        let level = level(benchmark)?;
        let requests = benchmark.pointer("/requests/successful").and_then(Value::as_array);
        let samples = request_samples(requests.map_or(&[], Vec::as_slice), REQUEST);
        add(&mut import.cases, level.case(TOOL.name, benchmark, FIGURES, samples))?;
    }
    Ok(import)
}

fn utc(seconds: f64) -> Option<String> {
    jiff::Timestamp::from_second(seconds as i64).ok().map(|time| time.to_string())
}

fn level(benchmark: &Value) -> Result<Level, String> {
    let strategy =
        benchmark.pointer("/config/strategy").or_else(|| benchmark.pointer("/scheduler/strategy"));
    let strategy = strategy.ok_or("a benchmark has no strategy")?;
    let kind = text(strategy, "/type_").ok_or("a strategy has no `type_`")?;
    let streams = count(strategy, "/streams").or_else(|| count(strategy, "/max_concurrency"));
    let rate = value(strategy, "/rate");
    let complete = count(benchmark, "/metrics/request_totals/successful").unwrap_or(0);
    let (id, in_flight) = match (kind.as_str(), streams, rate) {
        ("synchronous", ..) => ("concurrency-1".into(), 1),
        ("concurrent", Some(streams), _) => (format!("concurrency-{streams}"), streams),
        // As many as the client can hold.
        ("throughput", Some(most), _) => (format!("throughput-{most}"), most),
        ("throughput", None, _) => ("throughput".into(), complete.max(1)),
        (kind, _, Some(rate)) => (format!("{kind}-{rate}"), 1),
        (kind, ..) => (kind.to_owned(), 1),
    };
    let mean = |name: &str| value(benchmark, &format!("/metrics/{name}/successful/mean"));
    Ok(Level {
        id,
        in_flight,
        prompt_tokens: mean("prompt_token_count"),
        output_tokens: mean("output_token_count"),
        complete,
        failed: count(benchmark, "/metrics/request_totals/errored").unwrap_or(0),
    })
}
