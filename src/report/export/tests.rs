//! Exports of literal numbers; whole documents are golden files of the command line's tests.

use serde_json::Value;

use super::*;
use crate::compare::tests::record;
use crate::record::{Absence, AbsenceKind};

const ONE: &[&[f64]] = &[&[50.0, 52.0]];

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
}

#[test]
fn an_injected_slowdown_is_in_every_export() {
    let mut record = record(&[("code/b1", &[("decode_tok_s", ONE)])]);
    record.injected = Some("decode:0.25".into());
    assert!(row(&record, None).unwrap().contains("SLOWED DOWN ON PURPOSE: decode:0.25"));
    assert!(prometheus(&record).contains("injected=\"decode:0.25\"}"));
    assert_eq!(benchmark(&record, None)["injected"], "decode:0.25");
}

#[test]
fn a_gpu_is_reported() {
    let mut record =
        record(&[("code/b1", &[("decode_tok_s", ONE), ("peak_device_bytes", &[&[2e9; 2]])])]);
    record.settings.device = "cuda:1".into();
    record.settings.generation.use_kv_cache = false;
    record.model.spec = "./model.gguf".into();
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
