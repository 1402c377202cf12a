//! The loops around a model, with a model that only counts.

use super::*;
use crate::model::Footprint;

/// Counts up from the last token: enough to test every loop around a model, in no time.
struct Counting {
    shown: Vec<Vec<u32>>,
    passes: Vec<usize>,
}

impl Counting {
    fn new() -> Self {
        Self { shown: Vec::new(), passes: Vec::new() }
    }
}

impl Decoder for Counting {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        self.passes.push(steps.iter().map(|step| step.tokens.len()).sum());
        let mut values = Vec::new();
        for step in steps {
            self.shown[step.sequence].extend(step.tokens);
            let next = (step.tokens.last().unwrap() + 1) % 100;
            values.extend((0..100).map(|id| if id == next { 1.0 } else { 0.5 }));
        }
        Ok(Logits { vocab: 100, values })
    }
    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.shown = vec![Vec::new(); sequences];
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
            kv_type_bytes: 4,
            expanded: Vec::new(),
        }
    }
}

fn request<'a>(
    prompts: &'a [Vec<u32>],
    new_tokens: usize,
    stops: &'a [u32],
    sampling: &'a Generation,
) -> Request<'a> {
    Request { prompts, new_tokens, stops, sampling, kept: None, injection: None }
}

#[test]
fn ragged_sequences_each_get_their_tokens_and_times() {
    let prompts = [vec![1, 2, 3], vec![10], vec![7; 5]];
    let mut decoder = Counting::new();
    let made = generate(&mut decoder, &request(&prompts, 3, &[], &Generation::default())).unwrap();
    assert_eq!(made.ids, [[4, 5, 6], [11, 12, 13], [8, 9, 10]]);
    assert_eq!(made.steps.len(), 2);
    assert_eq!(decoder.passes, [9, 3, 3], "prompts together, then a row a sequence");
    assert_eq!(decoder.shown[1], [10, 11, 12], "the last token is never shown");
    let sum: Duration = made.steps.iter().sum();
    assert_eq!(made.all_first() + sum, made.total, "steps and first token make up the whole");
    assert!(made.finite && made.prefill <= made.all_first());
}

#[test]
fn a_stop_token_ends_its_sequence_alone() {
    let prompts = [vec![1], vec![50]];
    let made = generate(&mut Counting::new(), &request(&prompts, 4, &[3], &Generation::default()))
        .unwrap();
    assert_eq!(made.ids, [vec![2, 3], vec![51, 52, 53, 54]]);
}

#[test]
fn long_prompts_are_read_in_passes_and_first_tokens_come_in_turn() {
    let prompts = [vec![1; 700], vec![2; 400], vec![3; 100]];
    let mut decoder = Counting::new();
    let made = generate(&mut decoder, &request(&prompts, 1, &[], &Generation::default())).unwrap();
    assert_eq!(decoder.passes, [512, 512, 176]);
    assert!(made.first[0] < made.first[1] && made.first[1] < made.first[2]);
    assert_eq!(made.ids, [[2], [3], [4]]);
}

#[test]
fn without_a_cache_every_step_reads_everything() {
    let prompts = [vec![1, 2]];
    let sampling = Generation { use_kv_cache: false, ..Generation::default() };
    let mut decoder = Counting::new();
    let made = generate(&mut decoder, &request(&prompts, 3, &[], &sampling)).unwrap();
    assert_eq!(made.ids, [[3, 4, 5]]);
    assert_eq!(decoder.passes, [2, 3, 4]);
}

#[test]
fn sampling_repeats_with_its_seed_and_varies_without() {
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
fn a_repetition_penalty_turns_away_from_what_was_seen() {
    let prompts = [vec![2, 1]];
    let sampling = Generation { repetition_penalty: 1e9, ..Generation::default() };
    let made = generate(&mut Counting::new(), &request(&prompts, 1, &[], &sampling)).unwrap();
    assert_ne!(made.ids, [[2]], "the likeliest token was in the prompt");
}

#[test]
fn nonsense_is_refused_before_anything_runs() {
    let cold = Generation::default();
    for (prompts, new_tokens, sampling, says) in [
        (vec![], 1, &cold, "the prompt is empty"),
        (vec![vec![1], vec![]], 1, &cold, "the prompt is empty"),
        (vec![vec![1]], 0, &cold, "at least 1"),
        (vec![vec![1; 1999]], 2, &cold, "a prompt of 1999 tokens and 2 new ones: too long"),
        (vec![vec![1]], 1, &Generation { top_p: Some(1.5), ..cold.clone() }, "0 < top_p <= 1"),
    ] {
        let mut decoder = Counting::new();
        let error =
            generate(&mut decoder, &request(&prompts, new_tokens, &[], sampling)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(decoder.passes.is_empty());
    }
}

#[test]
fn an_injection_is_a_stage_and_a_share() {
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
