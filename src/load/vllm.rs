//! A level in the form of `vllm bench serve --save-result`, for tools that read it.

use serde_json::{Map, Value, json};

use crate::client::Api;
use crate::load::{Arrival, Latency, LevelResult, Operation, Pace};

/// The result of vLLM's client for a level. TTFT counts from the actual send, as there; what was
/// not measured has no field.
pub fn vllm_result(level: &LevelResult, model: &str, operation: Operation, started: &str) -> Value {
    let window = &level.whole;
    let (rate, burstiness, most) = match level.plan.pace {
        Pace::Closed { concurrency } => (json!("inf"), json!(1.0), json!(concurrency)),
        Pace::Open { rate, arrival } => {
            let burstiness = match arrival {
                Arrival::Constant => json!("inf"),
                Arrival::Poisson => json!(1.0),
                Arrival::Gamma { shape } => json!(shape),
            };
            (json!(rate), burstiness, Value::Null)
        }
        Pace::Trace { .. } => (json!("inf"), json!(1.0), Value::Null),
    };
    let backend = match operation {
        Operation::Generate { api: Api::Completions } => "openai",
        Operation::Generate { api: Api::Chat } => "openai-chat",
        Operation::Embed => "openai-embeddings",
        Operation::Rerank => "vllm-rerank",
    };
    let digits: String = started.chars().filter(char::is_ascii_digit).collect();
    let date = digits.get(..8).zip(digits.get(8..14));
    let tokens = level.prompt_tokens.zip(level.output_tokens).map(|(input, output)| input + output);
    let duration = window.to_s - window.from_s;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        fields.insert(name.into(), value);
    };
    set("date", json!(date.map(|(day, time)| format!("{day}-{time}"))));
    set("endpoint_type", json!(backend));
    set("backend", json!(backend));
    set("label", Value::Null);
    set("model_id", json!(model));
    set("tokenizer_id", Value::Null);
    set("num_prompts", json!(level.sent));
    set("request_rate", rate);
    set("burstiness", burstiness);
    set("max_concurrency", most);
    set("duration", json!(duration));
    set("completed", json!(level.complete));
    set("failed", json!(level.sent - level.complete));
    set("request_throughput", json!(window.requests_per_s));
    set("request_goodput", json!(level.goodput_per_s));
    for (name, value) in [
        ("total_input_tokens", level.prompt_tokens.map(|count| json!(count))),
        ("total_output_tokens", level.output_tokens.map(|count| json!(count))),
        ("output_throughput", window.output_tok_s.map(|rate| json!(rate))),
        (
            "total_token_throughput",
            tokens.filter(|_| duration > 0.0).map(|count| json!(count as f64 / duration)),
        ),
        ("max_concurrent_requests", Some(json!(level.most_in_flight))),
    ] {
        if let Some(value) = value {
            set(name, value);
        }
    }
    for (name, latency) in [
        ("ttft", &window.ttft_from_send),
        ("tpot", &window.tpot),
        ("itl", &level.chunk_gap),
        ("e2el", &window.e2e),
    ] {
        let Latency { mean, sd, p50, p90, p95, p99, .. } = *latency;
        for (of, value) in
            [("mean", mean), ("std", sd), ("median", p50), ("p90", p90), ("p95", p95), ("p99", p99)]
        {
            if let Some(seconds) = value {
                set(&format!("{of}_{name}_ms"), json!(1e3 * seconds));
            }
        }
    }
    fields.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::summary::Reservoir;
    use crate::load::{Plan, Row};
    use crate::record::Record;

    #[test]
    fn what_is_written_is_read_back_as_the_same_figures() {
        let plan = Plan { max_error_rate: 1.0, ..Plan::of_three(Pace::Closed { concurrency: 2 }) };
        let row = |from: f64, ttft: f64| Row {
            scheduled_s: from,
            sent_s: Some(from),
            first_s: Some(from + ttft),
            last_s: Some(from + ttft + 0.5),
            end_s: from + ttft + 0.5,
            prompt_tokens: Some(20),
            tokens: Some(11),
            chunks: 11,
            ..Row::default()
        };
        let mut rows = [row(0.0, 0.1), row(0.0, 0.2), row(0.6, 0.3), row(0.7, 0.1)];
        rows[3].fault = Some(("http-503", "busy".into()));
        let level = LevelResult::of(&plan, &rows, &Reservoir::new(1), 0, None);
        let chat = Operation::Generate { api: Api::Chat };
        let result = vllm_result(&level, "mini", chat, "2026-07-04T12:00:00Z");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{result}\n")).unwrap();
        let record = Record::load(file.path()).unwrap();
        let case = &record.scenarios[0];
        assert_eq!((case.id.as_str(), case.work.batch), ("rate-inf/c2", 2));
        assert_eq!((&case.work.prompt_tokens[..], case.work.new_tokens), (&[20][..], 11));
        let window = &level.whole;
        for (metric, expected) in [
            ("ttft_s", window.ttft_from_send.p50),
            ("tpot_s", window.tpot.p50),
            ("e2e_s", window.e2e.p50),
            ("decode_tok_s_aggregate", window.output_tok_s),
            ("error_rate", level.error_rate),
        ] {
            let (found, expected) = (case.blocks[0].value(metric).unwrap(), expected.unwrap());
            assert!((found / expected - 1.0).abs() < 1e-12, "{metric}: {found} {expected}");
        }
        assert_eq!(record.model.spec, "mini");
        assert_eq!(record.sessions[0].started, "2026-07-04T12:00:00Z");
    }
}
