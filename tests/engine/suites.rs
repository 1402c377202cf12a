//! Suites beyond the prompt categories: context depths, prompt formats, requests under a memory
//! limit, agreement with f32, traces; and budgets and resumed runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use candlemark::engine::{Engine, GenerationRequest};
use candlemark::error::Cause;
use candlemark::measure::{Sharing, text_of_length};
use candlemark::record::{Absence, AbsenceKind, Case, Record, StressOutcome};
use candlemark::settings::Setup;
use candlemark::suite::{Events, Plan, RunProgress, StressLimits};
use candlemark::{engine, suite, workload};

use crate::{BINARY, at, edit, job, measured, nano, skipped, synth, with, work};

fn value(case: &Case, name: &str) -> Option<f64> {
    case.blocks[0].values[name]
}

#[test]
fn a_depth_is_prefilled_untimed_and_gives_the_same_tokens() {
    let case = measured(&nano(), "context/512");
    assert_eq!((case.work.depth, case.work.new_tokens), (512, 16));
    assert_eq!(case.work.prompt_tokens, [64]);
    for name in ["ttft_s", "e2e_s", "cold_ttft_s"] {
        assert_eq!(value(&case, name), None);
        assert_eq!(case.blocks[0].notes[name], "the cache was filled untimed");
    }
    assert!(value(&case, "prefill_tok_s").unwrap() > 0.0);
    let mut engine = Engine::load(&nano(), &mut ()).unwrap();
    let config = engine.source.config.clone();
    let per_token = 2 * config.layers * config.kv_heads * config.head_dim * 4;
    let expected = (per_token * (512 + 64 + 16)) as f64;
    assert_eq!(value(&case, "kv_bytes_expected"), Some(expected));
    // The last token is never an input, and KV caches grow in steps.
    let held = value(&case, "kv_bytes_held").unwrap();
    assert!(held >= expected - per_token as f64 && held < 1.25 * expected, "{held} {expected}");

    let ids = text_of_length(&engine, 512 + 64).unwrap();
    let generation = nano().generation;
    let mut answer = |prompt: &[u32], cached_tokens: Option<usize>| {
        let request = GenerationRequest {
            prompts: &[prompt.to_vec()],
            new_tokens: 16,
            stop_tokens: &[],
            sampling: &generation,
            cached_tokens,
            injection: None,
        };
        engine::generate(engine.decoder.as_mut(), &request).unwrap().ids
    };
    let whole = answer(&ids, None);
    let twice = [answer(&ids[512..], Some(512)), answer(&ids[512..], Some(512))];
    assert_eq!(twice, [whole.clone(), whole.clone()], "going back loses nothing");
    assert_eq!(Some(candlemark::measure::hash_ids(&whole)), case.output_sha256);
}

#[test]
fn prompt_formats_differ() {
    let short = with(nano(), |generation| generation.gen_tokens = Some(2));
    let cases = work(&job(&short, &["api/completion", "api/chat", "api/chat-thinking"]));
    let formats: Vec<&str> =
        cases.iter().map(|case| case.labels["prompt_format"].as_str()).collect();
    assert_eq!(formats, ["raw", "chat", "chat_thinking"]);
    assert_ne!(cases[0].work.prompts_sha256, cases[1].work.prompts_sha256);
    assert_ne!(cases[1].work.prompts_sha256, cases[2].work.prompts_sha256);
}

#[test]
fn agreement_is_with_the_same_weights_in_f32() {
    let by = |setup: &Setup| work(&job(setup, &["quality/text"])).remove(0);
    let definition = by(&nano());
    assert_eq!(definition.absent, None);
    let why = "the model is the f32 reference itself";
    for name in ["top1_agreement", "kl_nats", "perplexity_f32"] {
        assert_eq!(value(&definition, name), None, "{name}");
        assert_eq!(definition.blocks[0].notes[name], why);
    }
    let quantized = by(&Setup { quant: Some("q8_0".into()), ..nano() });
    let agreement = value(&quantized, "top1_agreement").unwrap();
    assert!((0.9..=1.0).contains(&agreement), "{agreement}");
    let kl = value(&quantized, "kl_nats").unwrap();
    assert!(kl > 0.0 && kl < 1e-4, "{kl}");
    assert_eq!(value(&quantized, "perplexity_f32"), value(&definition, "perplexity"));
    let candle = by(&Setup { engine: "candle".into(), ..nano() });
    assert!(value(&candle, "kl_nats").unwrap() < 1e-9, "another engine, the same numbers");
    assert_eq!(value(&candle, "top1_agreement"), Some(1.0));
}

#[test]
fn quality_uses_the_text_of_the_user_if_given() {
    let mut job = job(&nano(), &["quality/text"]);
    job.text = Some("The lamp turns once in ten seconds. ".repeat(20));
    let case = work(&job).remove(0);
    assert_eq!(case.labels["text"], "of the user");
    assert!(value(&case, "perplexity").unwrap() > 1.0);
    job.text = Some(String::new());
    let absent = work(&job).remove(0).absent.unwrap();
    let why = "a text of 0 tokens is too short; give 2 or more";
    assert_eq!(absent, Absence::new(AbsenceKind::Failed, why));
}

#[test]
fn kernels_are_traced_in_a_process_of_their_own() {
    let quantized = Setup { quant: Some("q8_0".into()), ..nano() };
    let case = work(&job(&quantized, &["profile/answer"])).remove(0);
    assert_eq!(case.absent, None);
    let share = value(&case, "kernel_share").unwrap();
    assert!(share > 0.0 && share <= 1.0, "{share}");
    // One embedding; a layer has two norms, three regions of products, turns, and attention; the
    // last norm and the output follow.
    let layers = Engine::load(&nano(), &mut ()).unwrap().source.config.layers as f64;
    assert_eq!(value(&case, "kernels_per_step"), Some(1.0 + 7.0 * layers + 2.0));
    assert!(value(&case, "pack_s").unwrap() > 0.0, "{:?}", case.blocks[0].notes);
    assert!(value(&case, "region_overhead_s").unwrap() > 0.0);
}

/// Collects the ids of the scenarios that were started.
#[derive(Default)]
struct StartedScenarios(Vec<String>);

impl Events for StartedScenarios {
    fn start(&mut self, ids: &[String], _: RunProgress) {
        self.0.extend(ids.iter().cloned());
    }
}

fn plan(setup: &Setup, words: &[&str], folder: &Path) -> Plan {
    let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
    Plan {
        binary: PathBuf::from(BINARY),
        path: Some(folder.join("record.json")),
        stress: StressLimits { many: 4, ..StressLimits::default() },
        ..Plan::new(setup.clone(), workload::select(&words).unwrap()).unwrap()
    }
}

fn run(plan: &Plan) -> (Record, Vec<String>) {
    let mut heard = StartedScenarios::default();
    let record = suite::run(plan, &mut (), &mut heard).unwrap();
    assert_eq!(
        Record::load(plan.path.as_deref().unwrap()).unwrap(),
        record,
        "what is returned is what is kept"
    );
    (record, heard.0)
}

#[test]
fn an_out_of_memory_request_is_a_result_and_the_run_continues() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(&nano(), &["stress/long", "stress/many"], folder.path());
    plan.stress.room_bytes = 12 << 20;
    let (record, _) = run(&plan);
    let long = record.case("stress/long").unwrap();
    assert_eq!(long.absent, None);
    let requests = &long.blocks[0].requests;
    let last = requests.last().unwrap();
    if cfg!(target_os = "linux") {
        assert_eq!(last.outcome, StressOutcome::OutOfMemory, "{requests:?}");
        // The allocation of the cache fails, or the worker is killed and cannot report its memory.
        let why = last.why.as_ref().unwrap();
        let told = why.contains("no memory for a KV cache of");
        assert!(told || why.contains("memory allocation of"), "{last:?}");
        assert_eq!((last.seconds, last.rss_bytes.is_some()), (None, told), "not measured is not 0");
        assert!(long.labels["memory_limit"].starts_with("12 MiB of data"));
    } else {
        skipped("no request was too large: memory is limited on Linux alone");
    }
    assert_eq!(value(long, "oom_rate"), Some(1.0 / requests.len() as f64));
    let many = record.case("stress/many").unwrap();
    let outcomes: Vec<StressOutcome> = many.blocks[0].requests.iter().map(|r| r.outcome).collect();
    assert_eq!(outcomes, [StressOutcome::Answered; 4]);
    assert_eq!((value(many, "error_rate"), many.work.items), (Some(0.0), 4));
    assert!(value(many, "mem_slope_bytes_per_request").is_some());
}

#[test]
fn a_request_beyond_the_context_is_refused_and_a_slow_one_times_out() {
    let folder = tempfile::tempdir().unwrap();
    synth(folder.path(), &["-o", "model"]);
    let model = folder.path().join("model");
    edit(&model.join("config.json"), "40960", "1500");
    let (record, _) = run(&plan(&at(&model), &["stress/long"], folder.path()));
    let requests = &record.case("stress/long").unwrap().blocks[0].requests;
    let outcomes: Vec<StressOutcome> = requests.iter().map(|request| request.outcome).collect();
    assert_eq!(outcomes, [StressOutcome::Answered, StressOutcome::Refused]);
    assert!(requests[1].why.as_ref().unwrap().contains("context of 1500"), "{requests:?}");

    let mut late = plan(&nano(), &["stress/many"], folder.path());
    late.stress = StressLimits { many: 2, request: Duration::ZERO, ..StressLimits::default() };
    let (record, _) = run(&late);
    let case = record.case("stress/many").unwrap();
    assert_eq!(value(case, "error_rate"), Some(1.0), "{:?}", case.blocks[0].requests);
    assert_eq!(value(case, "oom_rate"), Some(0.0));
    let all = case.blocks[0].requests.iter().map(|request| request.outcome);
    assert_eq!(all.collect::<Vec<_>>(), [StressOutcome::TimedOut; 2]);
}

#[test]
fn a_resumed_run_measures_the_missing_scenarios_and_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = plan(&nano(), &["short/b1", "short/b4", "profile"], folder.path());
    first.budget = Some(Duration::from_nanos(1));
    let (cut, started) = run(&first);
    assert_eq!(started.len(), 1, "the first is begun, because what it takes is not known yet");
    let skipped = cut.scenarios.iter().filter(|case| case.is_skipped());
    assert_eq!(skipped.count(), 2, "{:?}", cut.scenarios);
    let absent = cut.scenarios.iter().find_map(|case| case.absent.as_ref()).unwrap();
    let why = "the time budget of 1ns was used up";
    assert_eq!(*absent, Absence::new(AbsenceKind::SkippedTime, why));
    let unasked = |record: &Record, id: &str| record.not_selected.iter().any(|one| one == id);
    assert!(unasked(&cut, "short/b8") && !unasked(&cut, "short/b4"), "{:?}", cut.not_selected);

    let rest = Plan { resume: Some(cut.clone()), budget: None, ..first };
    let (whole, more) = run(&rest);
    assert_eq!(more.len(), 2);
    assert!(!more.contains(&started[0]), "{started:?} {more:?}");
    assert_eq!(whole.case(&started[0]), cut.case(&started[0]), "nothing measured is lost");
    assert!(whole.scenarios.iter().all(|case| case.absent.is_none() && case.blocks.len() == 1));
    let again = Plan { resume: Some(whole.clone()), ..rest };
    assert_eq!(run(&again).1, [""; 0]);

    let scenarios = workload::select(&["short/b8".into()]).unwrap();
    let (more, started) = run(&Plan { scenarios, resume: Some(whole), ..again });
    assert_eq!(started, ["short/b8"]);
    assert_eq!(more.scenarios.len(), 4, "what the first part was asked for is kept");
    assert!(!unasked(&more, "short/b8") && unasked(&more, "short/b16"));
}

#[test]
fn with_a_budget_scenarios_keep_the_requested_order() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["short/b4", "short/b1", "api/chat", "code/b1"];
    let mut plan = plan(&nano(), &words, folder.path());
    (plan.budget, plan.sharing) = (Some(Duration::from_secs(3600)), Sharing::Shared);
    let (record, started) = run(&plan);
    assert_eq!(started, words);
    let is_shared = |id: &str| record.case(id).unwrap().blocks[0].has_shared_peak();
    assert!(is_shared("short/b1") && is_shared("short/b4"));
    assert!(!is_shared("code/b1"), "a group of one shares with none");
}

/// Stops after the first process.
#[derive(Default)]
struct StopAfterFirst(usize);

impl Events for StopAfterFirst {
    fn start(&mut self, _: &[String], _: RunProgress) {
        self.0 += 1;
    }

    fn measured(&mut self, _: &Case) {}

    fn stopped(&self) -> bool {
        self.0 == 1
    }
}

#[test]
fn a_stopped_run_starts_no_process_and_writes_only_to_its_file() {
    let here = tempfile::tempdir().unwrap();
    let plan = Plan { path: None, ..plan(&nano(), &["quick"], here.path()) };
    let mut events = StopAfterFirst::default();
    let error = suite::run(&plan, &mut (), &mut events).unwrap_err();
    assert!(matches!(error, candlemark::Error::Interrupted), "{error}");
    assert_eq!(events.0, 1);
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0);
}

#[test]
#[cfg(unix)]
fn a_run_that_cannot_begin_is_one_error_without_failed_scenarios() {
    use std::os::unix::fs::PermissionsExt as _;
    let here = tempfile::tempdir().unwrap();
    let binary = here.path().join("worker");
    let end_with = |status: i32| {
        std::fs::write(&binary, format!("#!/bin/sh\necho 'error: no way' >&2\nexit {status}\n"))
            .unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        let plan = plan(&nano(), &["short/b1", "short/b4"], here.path());
        let mut heard = StartedScenarios::default();
        let outcome = suite::run(&Plan { binary: binary.clone(), ..plan }, &mut (), &mut heard);
        (outcome, heard.0.len())
    };
    for (status, cause) in [(2, Cause::Usage), (5, Cause::Failed)] {
        let (outcome, started) = end_with(status);
        let error = outcome.unwrap_err();
        assert_eq!((error.cause(), error.to_string().as_str()), (cause, "no way"));
        assert_eq!(started, 1);
        assert!(!here.path().join("record.json").exists());
    }
    // A broken worker does not imply that the next one fails.
    let (outcome, started) = end_with(101);
    assert!(outcome.unwrap().scenarios.iter().all(|case| case.absent.is_some()));
    assert_eq!(started, 2);
}

#[test]
fn a_missing_device_is_reported_before_the_model_is_hashed() {
    let here = tempfile::tempdir().unwrap();
    if cfg!(feature = "cuda") {
        return skipped("this build has the device whose absence is tested");
    }
    // The model does not exist either, but it is opened later.
    let setup = Setup { device: "cuda".into(), ..crate::setup("nowhere.gguf") };
    let plan = plan(&setup, &["short/b1", "short/b4"], here.path());
    let mut heard = StartedScenarios::default();
    let error = suite::run(&plan, &mut (), &mut heard).unwrap_err();
    assert!(error.to_string().starts_with("no device `cuda` ("), "{error}");
    assert_eq!((error.cause(), heard.0.len()), (Cause::Usage, 0));
}
