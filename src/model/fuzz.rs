//! Mutated inputs for the parsers of files, which must return an error and never panic. The same on
//! every run.

use crate::stats::Random;
use crate::tokenizer::GgufTokenizer;

#[path = "../../tests/mutated/mutator.rs"]
mod mutator;
pub(super) use mutator::Mutator;

/// Mutates a valid input and passes each mutation to `attempt`; `CANDLEMARK_TEST_INPUTS` of them.
pub(super) fn try_mutations(
    valid: &[u8],
    mutate: fn(&mut Mutator, &[u8]) -> Vec<u8>,
    mut attempt: impl FnMut(&[u8]),
) {
    let inputs = std::env::var("CANDLEMARK_TEST_INPUTS")
        .map_or(20_000, |count| count.parse().expect("a number of inputs"));
    let mut mutator = Mutator::new(Random::new(0x9e37_79b9_7f4a_7c15));
    for _ in 0..inputs {
        attempt(&mutate(&mut mutator, valid));
    }
}

/// The metadata of a tokenizer with three tokens.
pub(super) fn tokenizer() -> GgufTokenizer {
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some("qwen2".into()),
        tokens: ["a", "b", "ab"].map(String::from).to_vec(),
        token_types: vec![1, 1, 3],
        merges: vec!["a b".into()],
        ends: vec![2],
        bos: None,
        chat_template: Some("{{ messages }}".into()),
        named_templates: Vec::new(),
    }
}
