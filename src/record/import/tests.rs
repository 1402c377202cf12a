//! Literal results of each tool.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn read(document: &Value) -> Record {
    record(document, &document.to_string()).expect("a known format").unwrap()
}

fn refused(document: &Value) -> String {
    record(document, "").expect("a known format").unwrap_err()
}

fn near(found: Option<f64>, expected: f64) {
    let found = found.expect("a value");
    assert!((found / expected - 1.0).abs() < 1e-12, "{found} is not {expected}");
}

fn llama_test(prompt: u64, generated: u64, more: &Value) -> Value {
    let mut test = json!({
        "build_commit": "0a1b2c3d", "build_number": 11434, "cpu_info": "AMD EPYC", "gpu_info": "",
        "backends": "CPU", "model_filename": "/models/mini.gguf",
        "model_type": "qwen3 0.6B Q8_0", "model_size": 1000, "model_n_params": 900,
        "n_batch": 2048, "n_threads": 2, "type_k": "f16", "type_v": "f16",
        "n_prompt": prompt, "n_gen": generated, "n_depth": 0,
        "test_time": "2026-07-04T12:00:00Z", "avg_ns": 250000000, "avg_ts": 256.0,
        "samples_ns": [200000000, 400000000, 250000000], "samples_ts": [320.0, 160.0, 256.0],
    });
    for (name, value) in more.as_object().unwrap() {
        test[name] = value.clone();
    }
    test
}

#[test]
fn a_result_of_llama_bench_has_a_case_per_test() {
    let deep = json!({ "n_depth": 4096 });
    let tests = json!([
        llama_test(64, 0, &json!({})),
        llama_test(0, 16, &deep),
        llama_test(64, 16, &json!({}))
    ]);
    let record = read(&tests);
    let ids: Vec<&str> = record.scenarios.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(ids, ["pp64", "tg16@d4096", "pp64+tg16"]);
    let [prompt, generated, both] = &record.scenarios[..] else { panic!() };
    // The median of the samples, not the mean of llama-bench.
    near(prompt.blocks[0].value("prefill_tok_s"), 256.0);
    near(prompt.blocks[0].value("prefill_s"), 0.25);
    assert_eq!(prompt.blocks[0].samples["prefill_tok_s"], [320.0, 160.0, 256.0]);
    near(generated.blocks[0].value("decode_tok_s"), 256.0);
    assert_eq!((generated.work.depth, generated.work.new_tokens), (4096, 16));
    assert_eq!(both.blocks[0].value("decode_tok_s"), None);
    assert!(both.blocks[0].notes["decode_tok_s"].contains("together"));
    let memory = &prompt.blocks[0].notes["peak_rss_bytes"];
    assert_eq!(memory, "llama-bench does not report memory");
    assert_eq!((record.build.version.as_str(), record.settings.threads), ("b11434", 2));
    assert_eq!(record.build.commit.as_deref(), Some("0a1b2c3d"));
    assert_eq!((record.model.spec.as_str(), record.model.quant.as_str()), ("mini.gguf", "Q8_0"));
    assert_eq!(record.machine.class, "cpu-amd-epyc");
    assert_eq!(record.settings.labels["n_batch"], "2048");
}

#[test]
fn tests_with_other_settings_have_other_names_and_repeated_ones_are_blocks() {
    let threads = |count: u64| llama_test(0, 16, &json!({ "n_threads": count }));
    let record = read(&json!([threads(1), threads(2), threads(1)]));
    let blocks: Vec<(&str, usize)> =
        record.scenarios.iter().map(|case| (case.id.as_str(), case.blocks.len())).collect();
    assert_eq!(blocks, [("tg16/n_threads=1", 2), ("tg16/n_threads=2", 1)]);
    assert_eq!(record.settings.threads, 0);
    let other = llama_test(0, 16, &json!({ "model_filename": "other.gguf" }));
    let why = refused(&json!([threads(1), other]));
    assert!(why.contains("`model_filename` is \"/models/mini.gguf\" and \"other.gguf\""), "{why}");
}

fn vllm() -> Value {
    json!({
        "date": "20260704-120000", "endpoint_type": "vllm", "backend": "vllm", "label": null,
        "model_id": "mini", "tokenizer_id": "mini", "num_prompts": 4, "request_rate": "inf",
        "burstiness": 1.0, "max_concurrency": 2, "tp": "1", "duration": 2.0, "completed": 3,
        "failed": 1, "total_input_tokens": 30, "total_output_tokens": 33,
        "request_throughput": 1.5, "output_throughput": 16.5, "median_ttft_ms": 200.0,
        "median_tpot_ms": 40.0, "ttfts": [0.1, 0.2, 0.0, 0.3], "output_lens": [11, 11, 0, 11],
        "latencies": [0.5, 0.6, 0.0, 0.8], "errors": ["", "", "broken", ""],
    })
}

#[test]
fn a_result_of_vllm_is_one_level() {
    let record = read(&vllm());
    let case = &record.scenarios[0];
    assert_eq!((case.id.as_str(), case.work.batch), ("rate-inf/c2", 2));
    assert_eq!((&case.work.prompt_tokens[..], case.work.new_tokens), (&[10][..], 11));
    let block = &case.blocks[0];
    near(block.value("ttft_s"), 0.2);
    near(block.value("tpot_s"), 0.04);
    near(block.value("decode_tok_s"), 25.0);
    near(block.value("decode_tok_s_aggregate"), 16.5);
    near(block.value("error_rate"), 0.25);
    // Without a median in the summary, that of the requests. The failed one has no sample.
    near(block.value("e2e_s"), 0.6);
    assert_eq!(block.samples["ttft_s"], [0.1, 0.2, 0.3]);
    near(Some(block.samples["tpot_s"][2]), 0.05);
    assert!(case.validity.warnings[0].starts_with("1 of 4 requests failed"));
    assert!(block.notes["peak_rss_bytes"].starts_with("vllm bench serve does not report"));
    assert_eq!(record.settings.labels.get("tp").map(String::as_str), Some("1"));
    assert_eq!(record.sessions[0].started, "2026-07-04T12:00:00Z");

    let mut open = vllm();
    (open["request_rate"], open["max_concurrency"]) = (json!(2.5), Value::Null);
    let mut none = vllm();
    (none["completed"], none["failed"], none["max_concurrency"]) = (json!(0), json!(4), json!(8));
    let record = read(&json!([open, none]));
    let [open, none] = &record.scenarios[..] else { panic!() };
    assert_eq!((open.id.as_str(), open.work.batch), ("rate-2.5", 1));
    assert_eq!(
        none.absent.as_ref().unwrap().to_string(),
        "failed: none of 4 requests was answered"
    );
}

#[test]
fn a_report_of_guidellm_has_a_case_per_strategy() {
    let benchmark = |strategy: Value| {
        let of = |median: f64| json!({ "successful": { "median": median, "mean": median + 1.0 } });
        json!({
            "config": { "strategy": strategy, "backend": { "model": "mini" } },
            "start_time": 1783166400.5,
            "metrics": {
                "request_totals": { "successful": 3, "errored": 0, "incomplete": 1, "total": 4 },
                "time_to_first_token_ms": of(120.0), "inter_token_latency_ms": of(8.0),
                "time_per_output_token_ms": of(15.0), "request_latency": of(0.5),
                "output_tokens_per_second": of(60.0), "prompt_token_count": of(63.0),
                "output_token_count": of(15.0),
            },
            "requests": { "successful": [
                { "time_to_first_token_ms": 100.0, "inter_token_latency_ms": 8.0 },
                { "time_to_first_token_ms": 120.0, "inter_token_latency_ms": null },
            ] },
        })
    };
    let report = json!({
        "metadata": { "version": 2, "guidellm_version": "0.8.1", "platform": "Linux" },
        "benchmarks": [
            benchmark(json!({ "type_": "concurrent", "streams": 4 })),
            benchmark(json!({ "type_": "synchronous" })),
            benchmark(json!({ "type_": "poisson", "rate": 2.0 })),
        ],
    });
    let record = read(&report);
    let ids: Vec<(&str, usize)> =
        record.scenarios.iter().map(|case| (case.id.as_str(), case.work.batch)).collect();
    assert_eq!(ids, [("concurrency-4", 4), ("concurrency-1", 1), ("poisson-2", 1)]);
    let block = &record.scenarios[0].blocks[0];
    near(block.value("ttft_s"), 0.12);
    near(block.value("tpot_s"), 0.008);
    near(block.value("e2e_s"), 0.5);
    near(block.value("decode_tok_s_aggregate"), 61.0);
    assert_eq!(block.samples["ttft_s"], [0.1, 0.12]);
    assert_eq!(block.samples["tpot_s"], [0.008]);
    assert_eq!(record.scenarios[0].work.prompt_tokens, [64]);
    assert_eq!((record.build.version.as_str(), record.model.spec.as_str()), ("0.8.1", "mini"));
    assert_eq!(record.sessions[0].started, "2026-07-04T12:00:00Z");
}

#[test]
fn an_export_of_aiperf_is_one_level() {
    let export = json!({
        "schema_version": "1.4", "aiperf_version": "0.13.0",
        "input_config": { "models": { "items": [{ "name": "mini" }] },
            "phases": [{ "name": "warmup", "type": "concurrency", "concurrency": 1 },
                { "name": "profiling", "type": "concurrency", "concurrency": 4 }] },
        "start_time": "2026-07-04T12:00:00.250000", "was_cancelled": false,
        "request_count": { "unit": "requests", "avg": 8.0 },
        "time_to_first_token": { "unit": "ms", "avg": 130.0, "p50": 120.0 },
        "inter_token_latency": { "unit": "ms", "avg": 9.0, "p50": 8.0 },
        "request_latency": { "unit": "ms", "avg": 600.0, "p50": 500.0 },
        "output_token_throughput": { "unit": "tokens/sec", "avg": 61.0 },
        "input_sequence_length": { "unit": "tokens", "avg": 64.0 },
        "output_sequence_length": { "unit": "tokens", "avg": 16.0 },
    });
    let record = read(&export);
    let case = &record.scenarios[0];
    assert_eq!((case.id.as_str(), case.work.batch), ("concurrency-4", 4));
    near(case.blocks[0].value("ttft_s"), 0.12);
    near(case.blocks[0].value("decode_tok_s"), 125.0);
    assert_eq!((record.model.spec.as_str(), record.build.version.as_str()), ("mini", "0.13.0"));
    assert_eq!(record.sessions[0].started, "2026-07-04T12:00:00Z");
    let mut seconds = export.clone();
    seconds["request_latency"]["unit"] = json!("sec");
    assert!(refused(&seconds).starts_with("`request_latency` is in sec, not in ms"));
    let mut cancelled = export;
    cancelled["was_cancelled"] = json!(true);
    assert!(!read(&cancelled).scenarios[0].validity.ok());
}

#[test]
fn what_is_no_result_is_refused_with_the_formats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Record::load(&path).unwrap_err().to_string()
    };
    let why = refused(r#"{ "throughput": 3 }"#);
    assert!(why.contains("it is no record") && why.contains("guidellm"), "{why}");
    assert!(refused(r#"{ "schema": 99 }"#).contains("has record schema 99"));
    assert!(refused("not a record").contains("a record is what"));
    // JSON lines.
    let test = |threads: u64| llama_test(0, 16, &json!({ "n_threads": threads })).to_string();
    std::fs::write(&path, format!("{}\n{}\n", test(1), test(2))).unwrap();
    assert_eq!(Record::load(Path::new(&path)).unwrap().scenarios.len(), 2);
    std::fs::write(&path, test(1)).unwrap();
    assert_eq!(Record::load(&path).unwrap().scenarios[0].id, "tg16");
}
