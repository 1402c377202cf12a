//! Literal results of each tool.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::inputs::results::{aiperf, guidellm, llama_test, vllm};

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
fn generation_after_a_prompt_of_ik_llama_cpp_has_a_depth() {
    // As its `-p 0 -n 0 -gp 4096,16` reports it, and its `-pg 64,16`.
    let after = json!({ "n_prompt": 4096, "test": "tg16@pp4096", "mla_attn": 3 });
    let both = json!({ "n_prompt": 64, "test": "pp64+tg16", "mla_attn": 3 });
    let record = read(&json!([llama_test(0, 16, &after), llama_test(0, 16, &both)]));
    let ids: Vec<&str> = record.scenarios.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(ids, ["tg16@d4096", "pp64+tg16"]);
    let Work { depth, prompt_tokens, .. } = &record.scenarios[0].work;
    assert_eq!((*depth, &prompt_tokens[..]), (4096, &[0][..]));
    near(record.scenarios[0].blocks[0].value("decode_tok_s"), 256.0);
    assert_eq!(record.settings.labels["mla_attn"], "3");
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
    let record = read(&guidellm());
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
    let export = aiperf();
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
