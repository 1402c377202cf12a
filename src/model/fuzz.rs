//! Changed inputs for the readers of files, which may refuse and never panic. The same on every
//! run.

use crate::stats::Random;
use crate::tokenizer::GgufVocabulary;

#[path = "../../tests/mutated/mutator.rs"]
mod mutator;
pub(super) use mutator::Mutator;

/// Changes a good input in many ways, and tries each. `CANDLEMARK_TEST_INPUTS` says how many.
pub(super) fn each(
    good: &[u8],
    change: fn(&mut Mutator, &[u8]) -> Vec<u8>,
    mut attempt: impl FnMut(&[u8]),
) {
    let inputs = std::env::var("CANDLEMARK_TEST_INPUTS")
        .map_or(20_000, |count| count.parse().expect("a number of inputs"));
    let mut mutator = Mutator::new(Random::new(0x9e37_79b9_7f4a_7c15));
    for _ in 0..inputs {
        attempt(&change(&mut mutator, good));
    }
}

/// A small vocabulary, which is no tokenizer.
pub(super) fn vocabulary() -> GgufVocabulary {
    GgufVocabulary {
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
