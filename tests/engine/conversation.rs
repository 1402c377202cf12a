//! A KV cache that is continued: turns of a conversation, and requests after a shared prefix. What
//! is reused must be what a prefill of the whole text would have made.

use candlemark::engine::{Engine, GenerationRequest};
use candlemark::measure::{hash_ids, text_of_length};
use candlemark::model::{Logits, Step};
use candlemark::record::Case;
use candlemark::settings::Setup;
use candlemark::{engine, workload};

use crate::{job, measured, nano, with, work};

fn value(case: &Case, name: &str) -> Option<f64> {
    case.blocks[0].values[name]
}

fn quantized() -> Setup {
    Setup { quant: Some("q8_0".into()), ..nano() }
}

fn forward(engine: &mut Engine, tokens: &[u32]) -> Logits {
    engine.decoder.forward(&[Step { sequence: 0, tokens }]).unwrap()
}

/// The logits after tokens that are read from the start, in passes of 512.
fn whole(engine: &mut Engine, tokens: &[u32]) -> Logits {
    let last = (tokens.len() - 1) / 512 * 512;
    engine::prefill(engine.decoder.as_mut(), &tokens[..last]).unwrap();
    forward(engine, &tokens[last..])
}

#[test]
fn a_warm_prompt_has_the_logits_of_the_whole_text_bit_for_bit() {
    for setup in [nano(), quantized()] {
        let mut engine = Engine::load(&setup, &mut ()).unwrap();
        let text = text_of_length(&engine, 1024 + 64).unwrap();
        let (prefix, prompt) = text.split_at(1024);
        let other: Vec<u32> = prompt.iter().rev().copied().collect();
        let other_text = [prefix, &other].concat();
        let expected = [whole(&mut engine, &text), whole(&mut engine, &other_text)];
        assert_ne!(expected[0], expected[1]);

        engine::prefill(engine.decoder.as_mut(), prefix).unwrap();
        for (own, expected) in [(prompt, &expected[0]), (&other, &expected[1])].repeat(2) {
            engine.decoder.truncate(0, 1024).unwrap();
            assert_eq!(forward(&mut engine, own), *expected, "{:?}", setup.quant);
            forward(&mut engine, &[7]); // A token of an answer, which must not stay.
        }
    }
}

#[test]
fn a_shared_prefix_is_measured_cold_and_warm_with_the_same_answer() {
    let twice = with(nano(), |generation| (generation.warmups, generation.iters) = (1, 2));
    let cases = work(&job(&twice, &["prefix-1024/cold", "prefix-1024/warm"]));
    let [cold, warm] = cases.as_slice() else { panic!("{} cases", cases.len()) };
    assert_eq!((cold.work.depth, cold.work.prompt_tokens.as_slice()), (0, [1088].as_slice()));
    assert_eq!((warm.work.depth, warm.work.prompt_tokens.as_slice()), (1024, [64].as_slice()));
    assert!(warm.output_sha256.is_some());
    assert_eq!(cold.output_sha256, warm.output_sha256);
    for case in &cases {
        assert_eq!((case.absent.as_ref(), case.work.new_tokens), (None, 16));
        assert_eq!(case.blocks[0].samples["ttft_s"].len(), 2);
        let debug = "the build has debug assertions";
        assert!(case.validity.failed.iter().all(|why| why == debug), "{:?}", case.validity);
    }
    // Seventeen times the tokens: any machine tells them apart.
    assert!(value(warm, "ttft_s") < value(cold, "ttft_s"));
    assert!(value(cold, "cold_ttft_s").is_some());
    assert_eq!(value(warm, "cold_ttft_s"), None);
    assert_eq!(warm.blocks[0].notes["cold_ttft_s"], "the cache was filled untimed");
    assert_eq!(value(warm, "kv_bytes_expected"), value(cold, "kv_bytes_expected"));
}

/// The greedy answers of all turns, each from a prefill of the whole conversation so far, and the
/// tokens before the last message.
fn answers_from_the_start(setup: &Setup) -> (Vec<Vec<u32>>, Vec<u32>) {
    let mut engine = Engine::load(setup, &mut ()).unwrap();
    let (mut text, mut answers, mut before) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=4 {
        let scenario = workload::scenario(&format!("conversation/turn-{turn}")).unwrap();
        before = text.clone();
        text.extend(engine.tokenizer.encode(&scenario.prompts()[0]).unwrap());
        let prompts = [text.clone()];
        let request = GenerationRequest::new(&prompts, 32, &setup.generation);
        let answer = engine::generate(engine.decoder.as_mut(), &request).unwrap().ids.remove(0);
        text.extend(&answer);
        answers.push(answer);
    }
    (answers, before)
}

#[test]
fn a_turn_continues_the_conversation_and_answers_as_if_all_were_read_again() {
    let (answers, before) = answers_from_the_start(&nano());
    let once = with(nano(), |generation| (generation.warmups, generation.iters) = (1, 2));
    let ids: Vec<String> = (1..=4).map(|turn| format!("conversation/turn-{turn}")).collect();
    let cases = work(&job(&once, &ids.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut depth = 0;
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(case.absent, None, "{}", case.id);
        assert_eq!(case.work.depth, depth, "{}: what was said before is not read again", case.id);
        assert_eq!(case.output_sha256, Some(hash_ids(std::slice::from_ref(answer))), "{}", case.id);
        assert_eq!(case.labels["prompt_format"], "raw");
        let [new] = case.work.prompt_tokens[..] else { panic!("{:?}", case.work) };
        let samples = &case.blocks[0].samples;
        for (rate, time) in samples["prefill_tok_s"].iter().zip(&samples["prefill_s"]) {
            assert_eq!((rate * time).round() as usize, new, "{}: the new tokens alone", case.id);
        }
        depth += new + 32;
    }
    assert_eq!(depth - 32 - cases[3].work.prompt_tokens[0], before.len());
    let hashes: Vec<&String> = cases.iter().map(|case| &case.work.prompts_sha256).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]), "{hashes:?}");
}

/// Σ p (ln p − ln q) of two rows of logits.
fn kl_nats(p: &[f32], q: &[f32]) -> f64 {
    let ln = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        row.iter().map(|x| f64::from(x - most) - sum.ln()).collect()
    };
    ln(p).iter().zip(ln(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn prefill_after_decode_is_within_the_rounding_of_other_kernels() {
    // Single tokens meet other kernels than many, so that their keys differ in the last bits.
    for (setup, bound) in [(nano(), 1e-9), (quantized(), 1e-4)] {
        let mut engine = Engine::load(&setup, &mut ()).unwrap();
        let text = text_of_length(&engine, 200).unwrap();
        let expected = whole(&mut engine, &text);
        engine::prefill(engine.decoder.as_mut(), &text[..100]).unwrap();
        for token in text[100..132].chunks(1) {
            forward(&mut engine, token);
        }
        let continued = forward(&mut engine, &text[132..]);
        let kl = kl_nats(&expected.values, &continued.values);
        assert!(kl.abs() < bound, "{:?}: {kl}", setup.quant);
    }
}

#[test]
fn engines_that_cannot_continue_say_so() {
    let candle = Setup { engine: "candle".into(), ..nano() };
    assert!(value(&measured(&candle, "conversation/turn-1"), "ttft_s").is_some());
    let none = with(nano(), |generation| generation.use_kv_cache = false);
    let ids = ["conversation/turn-2", "prefix-1024/warm"];
    for (setup, why) in [(&candle, "cannot truncate a sequence"), (&none, "need a KV cache")] {
        for case in work(&job(setup, &ids)) {
            assert!(case.is_unsupported(), "{}: {:?}", case.id, case.absent);
            assert!(case.absent.as_ref().unwrap().why.contains(why), "{:?}", case.absent);
        }
    }
}
