//! Document pipelines on a tiny model.

use std::sync::LazyLock;

use candlemark::record::{AbsenceKind, Case};
use candlemark::settings::Setup;
use candlemark::workload::Task;

use crate::{at, edit, job, measured, nano, synth, with, work};

const ALL: [&str; 6] = [
    "pipelines/classification",
    "pipelines/summarisation",
    "pipelines/extraction",
    "pipelines/code",
    "pipelines/embedding",
    "pipelines/rag",
];

/// One pass of every pipeline.
static ONCE: LazyLock<Vec<Case>> = LazyLock::new(|| work(&job(&nano(), &ALL)));

fn once(id: &str) -> &'static Case {
    ONCE.iter().find(|case| case.id == id).unwrap()
}

fn value(case: &Case, name: &str) -> f64 {
    case.blocks[0].values[name].unwrap()
}

#[test]
fn every_pipeline_gives_a_case() {
    for (case, (items, texts, new_tokens)) in ONCE.iter().zip([
        (24, 24, 4),
        (12, 12, 24),
        (12, 12, 16),
        (12, 12, 32),
        (36, 36, 0),
        (8, 36 + 8, 24),
    ]) {
        assert_eq!(case.absent, None, "{}", case.id);
        assert_eq!(case.validity.failed, ["the build has debug assertions"], "{}", case.id);
        let work = &case.work;
        assert_eq!((work.task, work.items, work.new_tokens), (Task::Items, items, new_tokens));
        assert_eq!((work.prompt_tokens.len(), work.stop.as_str()), (texts, "length"));
        assert!(case.output_sha256.is_some(), "{}", case.id);
        let [block] = case.blocks.as_slice() else { panic!("{} blocks", case.blocks.len()) };
        assert_eq!(block.samples["items_per_min"].len(), 1);
        assert_eq!(block.values["error_rate"], Some(0.0));
        assert_eq!(block.values["peak_device_bytes"], None, "not measured is not 0");
        assert!(block.notes.contains_key("peak_device_bytes") && block.cold.is_empty());
        for name in ["items_per_min", "e2e_s", "load_s", "peak_rss_bytes"] {
            assert!(value(case, name) > 0.0, "{name} of {}", case.id);
        }
    }
    assert_eq!(ONCE.len(), ALL.len());
    let (classified, embedded) = (once("pipelines/classification"), once("pipelines/embedding"));
    let rate = value(classified, "items_per_min") * value(classified, "e2e_s");
    assert!((rate / (24.0 * 60.0) - 1.0).abs() < 1e-9, "24 documents in one pass");
    assert_eq!(value(embedded, "chunks_per_min"), value(embedded, "items_per_min"));
    assert_eq!(embedded.blocks[0].notes["energy_j_per_token"], "nothing was generated");
    for case in ONCE.iter() {
        let block = &case.blocks[0];
        assert!(
            block.values.contains_key("cpu_utilisation"),
            "the meter is read around {}",
            case.id
        );
        assert!(block.notes.contains_key("power_w"));
    }
}

#[test]
fn the_parts_of_retrieval_add_up() {
    let twice = with(nano(), |generation| (generation.warmups, generation.iters) = (1, 2));
    let case = measured(&twice, "pipelines/rag");
    let first = once("pipelines/rag");
    assert_eq!((&case.output_sha256, &case.work), (&first.output_sha256, &first.work));
    let block = &case.blocks[0];
    let parts = ["embed_s", "search_s", "assemble_s", "answer_s"].map(|name| &block.samples[name]);
    for (i, whole) in block.samples["e2e_s"].iter().enumerate() {
        let sum: f64 = parts.iter().map(|part| part[i]).sum();
        assert!((sum - whole).abs() < 1e-6, "{sum} and {whole}");
        assert!(parts.iter().all(|part| part[i] > 0.0));
    }
    assert_eq!(block.samples["e2e_s"].len(), 2 * 8, "every question of both passes");
    assert_eq!(block.samples["index_s"].len(), 1);
    assert!(value(&case, "chunks_per_min") * value(&case, "index_s") >= 36.0 * 60.0);
    assert_eq!(block.cold["items_per_min"].len(), 1);
    for name in ["e2e_simple_s", "e2e_complex_s"] {
        assert_eq!(block.samples[name].len(), 8, "{name}: half of the questions, twice");
    }
}

#[test]
fn output_is_deterministic_and_depends_on_the_model() {
    let id = "pipelines/classification";
    let first = once(id);
    let again = with(nano(), |generation| (generation.warmups, generation.iters) = (5, 5));
    let again = measured(&again, id);
    assert_eq!(first.output_sha256, again.output_sha256);
    assert_eq!(first.work, again.work);
    let block = &again.blocks[0];
    assert_eq!(block.samples["items_per_min"].len(), 3, "three passes, not five");
    assert_eq!(block.cold["items_per_min"].len(), 1, "one warm-up, not five");
    let other = measured(&with(nano(), |generation| generation.seed = 7), id);
    assert_ne!(first.output_sha256, other.output_sha256);
    assert_eq!(first.work, other.work);
    let sampled = with(nano(), |generation| {
        (generation.temperature, generation.deterministic) = (1.5, false);
    });
    assert_eq!(measured(&sampled, id).output_sha256, None);
}

#[test]
fn embeddings_are_deterministic() {
    let id = "pipelines/embedding";
    assert_eq!(measured(&nano(), id).output_sha256, once(id).output_sha256);
}

#[test]
fn candle_reports_what_it_does_not_support() {
    let candle = Setup { engine: "candle".into(), ..nano() };
    for case in work(&job(&candle, &["pipelines/embedding", "pipelines/rag", "pipelines/code"])) {
        assert!(case.is_unsupported(), "{}: {:?}", case.id, case.absent);
        assert!(case.blocks.is_empty(), "never a zero");
    }
}

#[test]
fn documents_that_do_not_fit_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    synth(folder.path(), &["-o", "model"]);
    let model = folder.path().join("model");
    edit(&model.join("config.json"), "40960", "70");
    let cases = work(&job(&at(&model), &["pipelines/classification", "pipelines/summarisation"]));
    let [some, none] = cases.as_slice() else { panic!("{} answers", cases.len()) };
    let rate = value(some, "error_rate");
    assert!(rate > 0.0 && rate < 1.0, "{rate}");
    let why = &some.validity.failed[0];
    assert!(why.contains("of 24 items failed; the first: unsupported: a sequence of "), "{why}");
    let absent = none.absent.as_ref().unwrap();
    assert_eq!(absent.kind, AbsenceKind::Unsupported);
    assert!(absent.why.starts_with("a sequence of "), "{absent}");
}
