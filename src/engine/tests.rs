//! The generation loop and injections, with a decoder that counts.

use super::injection::Stage;
use super::*;
use crate::error::Error;
use crate::kernel::KvDtype;
use crate::model::{Footprint, Logits, Step};
use crate::settings::Generation;

/// Its next token is the last one plus 1.
struct Counting {
    tokens: Vec<Vec<u32>>,
    passes: Vec<usize>,
}

impl Counting {
    fn new() -> Self {
        Self { tokens: Vec::new(), passes: Vec::new() }
    }
}

impl Decoder for Counting {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        self.passes.push(steps.iter().map(|step| step.tokens.len()).sum());
        let mut values = Vec::new();
        for step in steps {
            self.tokens[step.sequence].extend(step.tokens);
            let next = (step.tokens.last().unwrap() + 1) % 100;
            values.extend((0..100).map(|id| if id == next { 1.0 } else { 0.5 }));
        }
        Ok(Logits { vocab: 100, values })
    }
    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.tokens = vec![Vec::new(); sequences];
        Ok(())
    }
    fn check_length(&self, length: usize) -> Result<()> {
        if length > 2000 { Err(Error::Unsupported("too long".into())) } else { Ok(()) }
    }
    fn footprint(&self) -> Footprint {
        Footprint {
            types: Vec::new(),
            weight_bytes: 0,
            step_bytes: 0,
            kv_dtype: KvDtype::F32,
            dequantized: Vec::new(),
        }
    }
}

fn request<'a>(
    prompts: &'a [Vec<u32>],
    new_tokens: usize,
    stop_tokens: &'a [u32],
    sampling: &'a Generation,
) -> GenerationRequest<'a> {
    let (cached_tokens, injection) = (None, None);
    GenerationRequest { prompts, new_tokens, stop_tokens, sampling, cached_tokens, injection }
}

#[test]
fn ragged_sequences_each_get_their_tokens_and_times() {
    let prompts = [vec![1, 2, 3], vec![10], vec![7; 5]];
    let mut decoder = Counting::new();
    let output =
        generate(&mut decoder, &request(&prompts, 3, &[], &Generation::default())).unwrap();
    assert_eq!(output.ids, [[4, 5, 6], [11, 12, 13], [8, 9, 10]]);
    assert_eq!(output.steps.len(), 2);
    assert_eq!(decoder.passes, [9, 3, 3], "prompts together, then one row per sequence");
    assert_eq!(decoder.tokens[1], [10, 11, 12], "the last token is not decoded");
    let sum: Duration = output.steps.iter().sum();
    let ttft = *output.ttft.iter().max().unwrap();
    assert_eq!(ttft + sum, output.total, "TTFT and steps add up to the total");
    assert!(output.is_finite && output.prefill <= ttft);
}

#[test]
fn a_stop_token_ends_its_sequence_alone() {
    let prompts = [vec![1], vec![50]];
    let output =
        generate(&mut Counting::new(), &request(&prompts, 4, &[3], &Generation::default()))
            .unwrap();
    assert_eq!(output.ids, [vec![2, 3], vec![51, 52, 53, 54]]);
}

#[test]
fn long_prompts_are_prefilled_in_chunks_in_order() {
    let prompts = [vec![1; 700], vec![2; 400], vec![3; 100]];
    let mut decoder = Counting::new();
    let output =
        generate(&mut decoder, &request(&prompts, 1, &[], &Generation::default())).unwrap();
    assert_eq!(decoder.passes, [512, 512, 176]);
    assert!(output.ttft[0] < output.ttft[1] && output.ttft[1] < output.ttft[2]);
    assert_eq!(output.ids, [[2], [3], [4]]);
}

#[test]
fn without_a_kv_cache_every_step_recomputes_everything() {
    let prompts = [vec![1, 2]];
    let sampling = Generation { use_kv_cache: false, ..Generation::default() };
    let mut decoder = Counting::new();
    let output = generate(&mut decoder, &request(&prompts, 3, &[], &sampling)).unwrap();
    assert_eq!(output.ids, [[3, 4, 5]]);
    assert_eq!(decoder.passes, [2, 3, 4]);
}

#[test]
fn sampling_is_reproducible_with_its_seed() {
    let prompts = [vec![1], vec![1]];
    let hot = |seed, deterministic| Generation {
        seed,
        deterministic,
        temperature: 5.0,
        ..Generation::default()
    };
    let ids = |sampling: &Generation| {
        generate(&mut Counting::new(), &request(&prompts, 20, &[], sampling)).unwrap().ids
    };
    assert_eq!(ids(&hot(1, false)), ids(&hot(1, false)));
    assert_ne!(ids(&hot(1, false)), ids(&hot(2, false)));
    let one = ids(&hot(1, false));
    assert_ne!(one[0], one[1], "sequences have seeds of their own");
    assert_eq!(ids(&hot(1, true))[0][..3], [2, 3, 4], "deterministic is greedy");
    let top_1 = Generation { top_k: Some(1), ..hot(1, false) };
    assert_eq!(ids(&top_1)[0][..3], [2, 3, 4]);
}

#[test]
fn a_repetition_penalty_avoids_tokens_of_the_prompt() {
    let prompts = [vec![2, 1]];
    let sampling = Generation { repetition_penalty: 1e9, ..Generation::default() };
    let output = generate(&mut Counting::new(), &request(&prompts, 1, &[], &sampling)).unwrap();
    assert_ne!(output.ids, [[2]], "the most likely token was in the prompt");
}

#[test]
fn invalid_requests_are_refused_before_anything_runs() {
    let cold = Generation::default();
    for (prompts, new_tokens, sampling, expected) in [
        (vec![], 1, &cold, "the prompt is empty"),
        (vec![vec![1], vec![]], 1, &cold, "the prompt is empty"),
        (vec![vec![1]], 0, &cold, "at least 1"),
        (vec![vec![1; 1999]], 2, &cold, "a prompt of 1999 tokens and 2 new ones: too long"),
        (vec![vec![1]], 1, &Generation { top_p: Some(1.5), ..cold.clone() }, "0 < top_p <= 1"),
    ] {
        let mut decoder = Counting::new();
        let error =
            generate(&mut decoder, &request(&prompts, new_tokens, &[], sampling)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(decoder.passes.is_empty());
    }
}

#[test]
fn an_injection_is_a_stage_and_a_percentage() {
    assert_eq!(
        Injection::parse("decode:25%").unwrap(),
        Injection { stage: Stage::Decode, share: 0.25 }
    );
    assert_eq!(
        Injection::parse("prefill:7.5%").unwrap(),
        Injection { stage: Stage::Prefill, share: 0.075 }
    );
    let memory = Injection::parse("memory:20%").unwrap();
    assert_eq!(memory.ballast(1000, 900), vec![1; 300]);
    assert!(Injection::parse("ttft:20%").unwrap().ballast(1000, 900).is_empty());
    for wrong in ["decode", "decode:25", "decode:0%", "decode:100%", "sleep:10%", "decode:x%"] {
        assert!(Injection::parse(wrong).is_err(), "{wrong}");
    }
}
