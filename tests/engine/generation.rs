//! Prompts and sampling.

use candlemark::engine;
use candlemark::engine::{Engine, GenerationRequest};
use candlemark::record::{Absence, AbsenceKind, Case};
use candlemark::settings::{Generation, Setup};
use candlemark::workload::PromptFormat;

use crate::{at, edit, job, measured, nano, output_of, setup, synth, with, work};

#[test]
fn an_empty_prompt_is_refused() {
    let mut engine = Engine::load(&nano(), &mut ()).unwrap();
    let prompts = [engine.encode("", PromptFormat::Raw).unwrap()];
    assert!(prompts[0].is_empty());
    let sampling = Generation::default();
    let request = GenerationRequest {
        prompts: &prompts,
        new_tokens: 4,
        stop_tokens: &[],
        sampling: &sampling,
        cached_tokens: None,
        injection: None,
    };
    let error = engine::generate(engine.decoder.as_mut(), &request).unwrap_err();
    assert_eq!(error.to_string(), "the prompt is empty: there is no token to continue");
}

#[test]
fn a_prompt_beyond_the_context_fails_only_its_scenario() {
    let folder = tempfile::tempdir().unwrap();
    synth(folder.path(), &["-o", "model"]);
    let model = folder.path().join("model");
    edit(&model.join("config.json"), "40960", "64");
    for engine in ["native", "candle"] {
        let setup = Setup { engine: engine.into(), ..at(&model) };
        let cases = work(&job(&setup, &["long/b1", "short/b1"]));
        assert_eq!(cases.len(), 2);
        let Absence { kind, why } = cases[0].absent.as_ref().unwrap();
        assert_eq!(*kind, AbsenceKind::Unsupported, "{why}");
        assert!(why.ends_with(" is beyond the model's context of 64"), "{why}");
        assert!(cases[0].blocks.is_empty());
        assert_eq!(cases[1].absent, None);
    }
}

#[test]
fn a_length_or_a_depth_beyond_the_context_is_unsupported() {
    let folder = tempfile::tempdir().unwrap();
    synth(folder.path(), &["-o", "model"]);
    let model = folder.path().join("model");
    edit(&model.join("config.json"), "40960", "600");
    let cases = work(&job(&at(&model), &["grid/S5", "context/1024"]));
    for (case, tokens) in cases.iter().zip([1024 + 128, 1024 + 64 + 16]) {
        let why = format!("a sequence of {tokens} tokens is beyond the model's context of 600");
        let expected = Absence::new(AbsenceKind::Unsupported, why);
        assert_eq!(case.absent.as_ref(), Some(&expected), "{}", case.id);
    }
}

#[test]
fn sampling_repeats_with_its_seed() {
    let mut engine = Engine::load(&nano(), &mut ()).unwrap();
    let prompts = [engine.encode("Once upon a time", PromptFormat::Raw).unwrap()];
    let mut ids = |seed, temperature| {
        let sampling =
            Generation { seed, temperature, deterministic: false, ..Generation::default() };
        let (new_tokens, sampling) = (8, &sampling);
        let request = GenerationRequest {
            prompts: &prompts,
            new_tokens,
            stop_tokens: &[],
            sampling,
            cached_tokens: None,
            injection: None,
        };
        engine::generate(engine.decoder.as_mut(), &request).unwrap().ids
    };
    assert_eq!(ids(1, 1.5), ids(1, 1.5));
    assert_ne!(ids(1, 1.5), ids(2, 1.5));
    assert_ne!(ids(1, 1.5), ids(1, 0.0));
    assert_eq!(ids(1, 0.0), ids(2, 0.0), "greedy draws nothing");
}

#[test]
fn sampled_output_has_no_hash() {
    let hot = with(nano(), |generation| {
        (generation.temperature, generation.deterministic) = (1.5, false);
    });
    assert_eq!(measured(&hot, "short/b1").output_sha256, None);
    let nonsense = with(nano(), |generation| generation.top_p = Some(2.0));
    let absent = work(&job(&nonsense, &["short/b1"])).remove(0).absent.unwrap();
    assert_eq!(absent.kind, AbsenceKind::Failed);
    assert!(absent.why.contains("0 < top_p <= 1"), "{absent}");
}

#[test]
fn the_generation_settings_are_stored_in_the_case() {
    let plain = measured(&nano(), "short/b1");
    let format = |format| with(nano(), |generation| generation.prompt_format = format);
    let chat = measured(&format(PromptFormat::Chat), "short/b1");
    let thinking = measured(&format(PromptFormat::ChatThinking), "short/b1");
    let tokens = |case: &Case| case.work.prompt_tokens[0];
    assert!(tokens(&plain) < tokens(&thinking) && tokens(&thinking) < tokens(&chat));
    assert_ne!(chat.work.prompts_sha256, thinking.work.prompts_sha256);

    let natural = with(nano(), |generation| generation.natural_stop = true);
    assert_eq!(measured(&natural, "short/b1").work.stop, "natural");
}

#[test]
fn the_output_is_the_same_without_a_kv_cache() {
    for cached in [nano(), setup("synthetic:nano-qwen2")] {
        let output = output_of(&cached);
        let uncached = with(cached, |generation| generation.use_kv_cache = false);
        assert_eq!(output_of(&uncached), output);
        assert_eq!(output_of(&Setup { engine: "candle".into(), ..uncached }), output);
    }
}
