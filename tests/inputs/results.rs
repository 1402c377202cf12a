//! Results of other tools, as they write them, with the fields that are read.

use serde_json::{Value, json};

/// A test of llama-bench with this prompt and these generated tokens, and other fields.
pub fn llama_test(prompt: u64, generated: u64, more: &Value) -> Value {
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

/// A result of vLLM's client with one failed request.
pub fn vllm() -> Value {
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

/// A report of guidellm with three strategies.
pub fn guidellm() -> Value {
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
    json!({
        "metadata": { "version": 2, "guidellm_version": "0.8.1", "platform": "Linux" },
        "benchmarks": [
            benchmark(json!({ "type_": "concurrent", "streams": 4 })),
            benchmark(json!({ "type_": "synchronous" })),
            benchmark(json!({ "type_": "poisson", "rate": 2.0 })),
        ],
    })
}

/// An export of aiperf.
pub fn aiperf() -> Value {
    json!({
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
    })
}

/// The texts of one result of each tool, by file name; llama-bench's as JSON and as JSON lines.
pub fn all() -> Vec<(&'static str, String)> {
    let tests = [llama_test(64, 0, &json!({})), llama_test(0, 16, &json!({ "n_depth": 4096 }))];
    vec![
        ("llama-bench.json", json!(tests).to_string()),
        ("llama-bench.jsonl", tests.map(|test| test.to_string() + "\n").concat()),
        ("vllm.json", vllm().to_string()),
        ("guidellm.json", guidellm().to_string()),
        ("aiperf.json", aiperf().to_string()),
    ]
}
