//! Exports of literal numbers; whole documents are golden files of the command line's tests.

use serde_json::Value;

use super::*;
use crate::compare::tests::record;
use crate::record::{Absence, AbsenceKind};

const ONE: &[&[f64]] = &[&[50.0, 52.0]];

fn lines(record: &Record) -> Vec<Value> {
    llama_bench(record).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn benchmark(record: &Record, scenario: Option<&str>) -> Value {
    serde_json::from_str(&benchmark_json(record, scenario).unwrap()).unwrap()
}

#[test]
fn the_longest_valid_answer_of_batch_1_represents_a_record() {
    let rates: &[(&str, &[&[f64]])] = &[("decode_tok_s", ONE)];
    let ids = ["first/b1", "equal/b1", "batched/b4", "deep/b1", "invalid/b1", "failed/b1"];
    let rows: Vec<(&str, &[_])> = ids.iter().map(|id| (*id, rates)).collect();
    let mut record = record(&rows);
    let cases = &mut record.scenarios;
    for case in &mut cases[2..] {
        case.work.new_tokens = 512;
    }
    cases[3].work.task = Task::Depth;
    cases[4].validity.failed.push("impossible".into());
    cases[5].absent = Some(Absence::new(AbsenceKind::Failed, "out of memory"));
    assert_eq!(representative_case(&record, None).unwrap().unwrap().id, "first/b1");
    assert_eq!(representative_case(&record, Some("deep/b1")).unwrap().unwrap().id, "deep/b1");
    let error = representative_case(&record, Some("frist/b1")).unwrap_err().to_string();
    assert!(error.contains("did you mean `first/b1`?"), "{error}");
    record.scenarios.clear();
    assert_eq!(representative_case(&record, None).unwrap(), None);
    let nothing = benchmark(&record, None);
    assert_eq!(nothing["results"]["tokens_per_sec"], Value::Null);
    assert_eq!(nothing["results"]["why"], "the record has no scenario");
    assert_eq!(lines(&record), Vec::<Value>::new());
}

/// Records without a valid generation scenario of batch 1 still have a row and an object.
#[test]
fn a_record_without_a_plain_answer_has_its_best_scenario() {
    let mut record = record(&[
        ("failed/b1", &[("decode_tok_s", ONE)]),
        ("one-token/b1", &[("ttft_s", ONE)]),
        ("one-token/b4", &[("ttft_s", ONE)]),
    ]);
    record.scenarios[0].absent = Some(Absence::new(AbsenceKind::Failed, "out of memory"));
    for case in &mut record.scenarios[1..] {
        case.work.new_tokens = 1;
    }
    let one = benchmark(&record, None);
    assert_eq!(one["generation"]["scenario"], "one-token/b1");
    assert_eq!(one["generation"]["gen_tokens"], 1);
    assert_eq!(one["results"]["tokens_per_sec"], Value::Null);
    assert_eq!(one["results"]["why"], "`decode_tok_s` was not measured");
    assert_eq!(one["results"]["valid"], true);
    let text = row(&record, None).unwrap();
    assert!(text.ends_with("one-token/b1) | 62.000 | on | 1 | N/A | N/A |\n"), "{text}");
    record.scenarios.remove(1);
    assert_eq!(benchmark(&record, None)["generation"]["scenario"], "one-token/b4");
    record.scenarios.truncate(1);
    let failed = benchmark(&record, None);
    assert_eq!(failed["results"]["why"], "failed: out of memory");
    assert_eq!(failed["results"]["valid"], Value::Null);
    assert!(row(&record, None).unwrap().contains("failed/b1) | 62.000 | on |"));
}

#[test]
fn a_record_of_batches_has_the_batch_rate() {
    let record = record(&[("code/b4", &[("decode_tok_s_aggregate", ONE)])]);
    assert_eq!(benchmark(&record, None)["results"]["metric"], "decode_tok_s_aggregate");
    assert!(row(&record, None).unwrap().contains("| 51.00 |"));
}

/// The keys without which the script refuses a line, before and after `load_mode` replaced
/// `use_mmap`; <https://github.com/ggml-org/llama.cpp/blob/master/scripts/compare-llama-bench.py>.
#[test]
fn both_scripts_of_llama_cpp_find_their_keys() {
    const BOTH: &str = "cpu_info gpu_info backends n_gpu_layers tensor_buft_overrides \
        model_filename model_type n_batch n_ubatch embeddings cpu_mask cpu_strict poll n_threads \
        type_k type_v no_kv_offload split_mode main_gpu tensor_split flash_attn n_prompt n_gen \
        n_depth build_commit test_time avg_ts";
    let record = record(&[("code/b1", &[("decode_tok_s", ONE)])]);
    let test = &lines(&record)[0];
    let keys = BOTH.split_whitespace().chain(["use_mmap"]); // As of before.
    for key in keys.chain(["n_cpu_moe", "load_mode", "fit_target", "fit_min_ctx"]) {
        assert!(!test[key].is_null(), "{key}: null is equal to nothing");
    }
    for (key, value) in [("n_cpu_moe", 0), ("fit_target", 0), ("fit_min_ctx", 0)] {
        assert_eq!(test[key], value, "{key} is llama-bench's default");
    }
    assert_eq!(test["load_mode"], "none");
}

#[test]
fn a_rate_excludes_prefill() {
    let mut record =
        record(&[("code/b1", &[("decode_tok_s", ONE), ("prefill_tok_s", &[&[900.0; 2]])])]);
    let samples = [[40.0, 60.0], [50.0, 54.0]];
    for (block, samples) in record.scenarios[0].blocks.iter_mut().zip(samples) {
        block.samples.insert("decode_tok_s".into(), samples.into());
    }
    let results = benchmark(&record, None)["results"].clone();
    assert_eq!(
        results["tokens_per_sec"],
        serde_json::json!({"mean": 51.0, "min": 40.0, "max": 60.0})
    );
    assert_eq!((&results["iters"], &results["processes"]), (&4.into(), &2.into()));
    assert_eq!(results["vram_peak_mib"], Value::Null, "not measured is not zero");
    assert!(row(&record, None).unwrap().contains("| 51.00 |"));
}

#[test]
fn a_batch_has_the_rate_of_the_whole_batch() {
    let record = record(&[("code/b4", &[("decode_tok_s_aggregate", ONE), ("decode_tok_s", ONE)])]);
    let results = benchmark(&record, Some("code/b4"))["results"].clone();
    assert_eq!(results["metric"], "decode_tok_s_aggregate");
    assert_eq!(results["tokens_per_sec"]["mean"], 51.0);
    assert_eq!(lines(&record), Vec::<Value>::new(), "llama-bench has one sequence");
}

#[test]
fn steps_after_the_first_token_are_a_test_at_the_prompts_depth() {
    let mut record = record(&[(
        "context/b1",
        &[("decode_tok_s", &[&[10.0, 20.0]]), ("prefill_tok_s", &[&[160.0, 160.0]])],
    )]);
    (record.scenarios[0].work.task, record.scenarios[0].work.depth) = (Task::Depth, 512);
    record.scenarios[0].blocks[1].values.insert("prefill_tok_s".into(), None);
    let tests = lines(&record);
    let shape =
        |test: &Value| ["n_prompt", "n_gen", "n_depth"].map(|name| test[name].as_u64().unwrap());
    assert_eq!(tests.iter().map(shape).collect::<Vec<_>>(), [[16, 0, 512], [0, 15, 528]]);
    assert_eq!(
        tests[0]["samples_ns"],
        serde_json::json!([100_000_000]),
        "16 tokens at 160 a second"
    );
    assert_eq!(tests[0]["stddev_ns"], Value::Null, "one sample has no spread");
    assert_eq!(tests[1]["samples_ns"], serde_json::json!([1_500_000_000, 750_000_000]));
    assert_eq!((&tests[1]["avg_ts"], &tests[1]["avg_ns"]), (&15.0.into(), &1_125_000_000.into()));
}

#[test]
fn answers_of_unknown_or_unequal_length_have_no_generation_test() {
    let mut record = record(&[("code/b1", &[("decode_tok_s", ONE)])]);
    record.scenarios[0].work.stop = "natural".into();
    assert_eq!(lines(&record).len(), 0, "a baseline of natural stops keeps no lengths");
    record.scenarios[0].blocks[0].steps_s = vec![vec![0.02; 9], vec![0.02; 9]];
    assert_eq!(lines(&record)[0]["n_gen"], 9);
    record.scenarios[0].blocks[1].steps_s = vec![vec![0.02; 8]];
    assert_eq!(lines(&record).len(), 0);
}

#[test]
fn labels_that_change_the_numbers_are_part_of_the_model_type() {
    let mut record = record(&[("code/b1", &[("decode_tok_s", ONE)])]);
    let label = |record: &Record| lines(record)[0]["model_type"].as_str().unwrap().to_owned();
    let plain = label(&record);
    record.scenarios[0].labels = [("prompt_format", "chat"), ("rope_scaling", "yarn, factor 4")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    assert_eq!(label(&record), format!("{plain}, rope_scaling yarn, factor 4"));
    record.injected = Some("decode:0.25".into());
    assert!(label(&record).ends_with("SLOWED DOWN ON PURPOSE (decode:0.25)"));
    assert!(row(&record, None).unwrap().contains("SLOWED DOWN ON PURPOSE: decode:0.25"));
    assert!(prometheus(&record).contains("injected=\"decode:0.25\"}"));
    assert_eq!(benchmark(&record, None)["injected"], "decode:0.25");
}

#[test]
fn a_gpu_and_a_missing_commit_are_reported() {
    let mut record =
        record(&[("code/b1", &[("decode_tok_s", ONE), ("peak_device_bytes", &[&[2e9; 2]])])]);
    record.settings.device = "cuda:1".into();
    record.settings.generation.use_kv_cache = false;
    record.build.commit = None;
    (record.model.layers, record.model.spec) = (28, "./model.gguf".into());
    let test = &lines(&record)[0];
    assert_eq!(test["build_commit"], "unknown");
    assert_eq!((&test["gpu_info"], &test["n_gpu_layers"]), (&"cuda:1".into(), &28.into()));
    assert_eq!(test["type_k"], "none");
    let benchmark = benchmark(&record, None);
    assert_eq!(benchmark["device"], serde_json::json!({"type": "cuda", "name": null}));
    assert_eq!(benchmark["model"]["source"], "local");
    assert_eq!(benchmark["results"]["vram_peak_mib"], 2e9 / 1_048_576.0);
    assert!(row(&record, None).unwrap().ends_with("| off | 16 | 51.00 | 1,907 |\n"));
}

#[test]
fn the_source_of_weights_follows_from_the_record() {
    let commit = Some("0123456789abcdef0123456789abcdef01234567".to_owned());
    for (spec, commit, expected) in [
        ("synthetic:mini", None, "synthetic"),
        ("Qwen/Qwen3-0.6B", commit.clone(), "hf"),
        ("Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf", commit, "hf"),
        ("dir/model.gguf", None, "local"),
        ("models/qwen", None, "local"),
        ("/models/qwen", None, "local"),
    ] {
        let model = Model { spec: spec.into(), commit, ..Model::default() };
        assert_eq!(source(&model), expected, "{spec}");
    }
}

#[test]
fn a_series_exists_once_and_only_if_measured() {
    let rates: &[(&str, &[&[f64]])] = &[("decode_tok_s", ONE)];
    let ids = ["a/b1", "a/b1", "b/b1", "c/b1", "d/b1", "e/b1"];
    let mut record = record(&ids.map(|id| (id, rates)));
    record.scenarios[2].validity.failed.push("impossible".into());
    let absent = |kind| Some(Absence::new(kind, "failed: as it says"));
    record.scenarios[3].absent = absent(AbsenceKind::Unsupported);
    record.scenarios[4].absent = absent(AbsenceKind::SkippedTime);
    record.scenarios[5].absent = absent(AbsenceKind::NotMeasuredYet);
    record.scenarios[0].blocks[0].values.insert("ttft_s".into(), None);
    let text = prometheus(&record);
    let samples = |name: &str| -> Vec<&str> {
        let lines = text.lines().filter(|line| line.starts_with(&format!("candlemark_{name}{{")));
        lines.map(|line| line.rsplit_once(' ').unwrap().1).collect()
    };
    assert_eq!(samples("decode_tokens_per_second"), ["51"]);
    assert_eq!(samples("ttft_seconds"), Vec::<&str>::new());
    assert_eq!(samples("scenario_valid"), ["1", "0"], "an absent scenario is neither");
    let absent = samples("scenario_absent").concat();
    let expected = ["0000", "0000", "0001", "0010", "0100"].concat();
    assert_eq!(absent, expected, "failed, pending, skipped, unsupported");
    assert_eq!(text.matches("# TYPE candlemark_decode_tokens_per_second gauge").count(), 1);
}
