//! A worker: one line per scenario, measured or not.

use std::path::Path;

use assert_cmd::Command;
use candlemark::record::{AbsenceKind, Case, Rates};
use candlemark::settings::Setup;
use candlemark::suite;
use candlemark::suite::Job;

use crate::{BINARY, job, measured, nano, output_of, refused, setup, with, work};

#[test]
fn a_worker_answers_each_scenario_in_turn() {
    let ids = ["short/b4", "prompts/code-2", "short/b1"];
    let twice = with(nano(), |generation| (generation.warmups, generation.iters) = (1, 2));
    let cases = work(&job(&twice, &ids));
    assert_eq!(cases.iter().map(|case| case.id.as_str()).collect::<Vec<_>>(), ids);
    for (case, batch) in cases.iter().zip([4, 1, 1]) {
        assert_eq!(case.absent, None);
        assert_eq!((case.work.batch, case.work.new_tokens), (batch, 4));
        assert_eq!(case.work.prompt_tokens.len(), batch);
        assert_eq!(case.work.stop, "length");
        let [block] = case.blocks.as_slice() else { panic!("{} blocks", case.blocks.len()) };
        assert_eq!(block.session, "20260704T120000Z-0123456");
        assert_eq!(block.samples["ttft_s"].len(), 2);
        assert_eq!(block.cold["ttft_s"].len(), 1);
        assert_eq!(block.steps_s.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(block.ttft_seq_s.iter().map(Vec::len).collect::<Vec<_>>(), [batch, batch]);
        let value = |name: &str| block.values[name].unwrap();
        for name in ["ttft_s", "prefill_s", "prefill_tok_s", "decode_tok_s", "load_s"] {
            assert!(value(name) > 0.0, "{name} is {}", value(name));
        }
        assert!(value("prefill_s") < value("e2e_s") && value("ttft_s") < value("e2e_s"));
        let aggregate = value("decode_tok_s") * batch as f64;
        assert!((value("decode_tok_s_aggregate") / aggregate - 1.0).abs() < 1e-9);
        assert_eq!(block.values["peak_device_bytes"], None, "not measured is not 0");
        assert!(block.notes.contains_key("peak_device_bytes"));
    }
    assert_eq!(cases[2].output_sha256, measured(&nano(), "short/b1").output_sha256);
}

#[test]
fn candle_agrees_or_reports_unsupported_scenarios() {
    // nano-qwen2 has untied embeddings, so its output varies more from token to token.
    for native in [nano(), setup("synthetic:nano-qwen2")] {
        let candle = Setup { engine: "candle".into(), ..native.clone() };
        let cases = work(&job(&candle, &["short/b1", "short/b4", "short/b1"]));
        let [first, batch, last] = cases.as_slice() else { panic!("{} answers", cases.len()) };
        assert_eq!(first.output_sha256, Some(output_of(&native)));
        assert_eq!(last.output_sha256, first.output_sha256);
        let absent = batch.absent.as_ref().unwrap();
        assert!(batch.is_unsupported(), "{absent}");
        let says = "candle-transformers does not support ragged batches";
        assert!(absent.why.starts_with(says), "{absent}");
        assert!(batch.blocks.is_empty() && batch.output_sha256.is_none(), "never a zero");
    }
}

#[test]
fn prefill_is_compared_with_the_largest_peak() {
    let with = |f32, int8| {
        let rates = Rates { f32_flop_per_s: Some(f32), int8_op_per_s: int8, ..Rates::default() };
        work(&Job { rates, ..job(&nano(), &["short/b1"]) }).remove(0)
    };
    let share = |case: &Case| case.blocks[0].values["prefill_flop_fraction"].unwrap();
    let impossible =
        |case: &Case| case.validity.failed.iter().any(|why| why.contains("prefill did"));
    let sound = with(1.0, Some(1e18));
    assert!(share(&sound) > 0.0 && share(&sound) < 1e-3 && !impossible(&sound), "{sound:?}");
    // A rate above the known peak: the peak is measured again.
    let exceeded = with(1.0, None);
    assert!(share(&exceeded) < 1.0 && !impossible(&exceeded), "{exceeded:?}");
    let unknown = work(&job(&nano(), &["short/b1"])).remove(0);
    assert_eq!(unknown.blocks[0].values["prefill_flop_fraction"], None);
    let why = "the arithmetic peak was not measured";
    assert_eq!(unknown.blocks[0].notes["prefill_flop_fraction"], why);
}

#[test]
fn a_wrong_injection_is_an_error() {
    for wrong in ["decode", "decode:50", "sleep:10%"] {
        let job = Job { injection: Some(wrong.into()), ..job(&nano(), &["short/b1"]) };
        let absent = work(&job).remove(0).absent.unwrap();
        assert_eq!(absent.kind, AbsenceKind::Failed);
        let says = format!("injection `{wrong}` is not of the form `decode:25%`");
        assert!(absent.why.starts_with(&says), "{absent}");
    }
}

#[test]
fn an_invalid_job_is_an_error() {
    for job in ["", "{}", "not json"] {
        let mut command = Command::new(BINARY);
        let output = command.env(suite::WORKER, "1").write_stdin(job).output().unwrap();
        refused(&output, 5, &["request on standard input"]);
    }
}

#[test]
fn the_stderr_of_a_dying_worker_reaches_its_parent() {
    let job = job(&setup("nowhere.gguf"), &["short/b1"]);
    let error = suite::run_job(Path::new(BINARY), &job, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("exit status: 2 and printed `no model `nowhere.gguf`"), "{error}");
}
