//! Changed inputs for the readers of files, which may refuse and never panic. The same on every run.

use crate::stats::Random;
use crate::tokenizer::GgufVocabulary;

/// How many inputs a test tries; 20 000 if it is not set.
const INPUTS: &str = "CANDLEMARK_TEST_INPUTS";

/// Numbers at the edges of what sizes and offsets can be.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    31,
    255,
    1 << 16,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 40,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes a good input in many ways, and tries each.
pub(super) fn each(good: &[u8], mut attempt: impl FnMut(&[u8])) {
    let inputs = std::env::var(INPUTS).map_or(20_000, |count| count.parse().expect("a number"));
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    for _ in 0..inputs {
        let mut input = good.to_vec();
        for _ in 0..=random.below(3) {
            change(&mut input, &mut random);
        }
        attempt(&input);
    }
}

fn change(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len().max(1)).min(input.len());
    let number = NUMBERS[random.below(NUMBERS.len())];
    match random.below(8) {
        0 => input.truncate(at),
        1 if at < input.len() => input[at] ^= 1 << random.below(8),
        2 if at < input.len() => input[at] = random.bits() as u8,
        3 => {
            let bytes = number.to_le_bytes();
            for (to, from) in
                input[at..].iter_mut().zip(bytes).take(if at.is_multiple_of(2) { 8 } else { 4 })
            {
                *to = from;
            }
        }
        4 => {
            let count = random.below(16).min(input.len() - at);
            input.drain(at..at + count);
        }
        5 => {
            let end = input.len().min(at + 64);
            let part = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, part);
        }
        _ => {
            // The digits of a number, if there are some after that place, for those of another.
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            let Some(from) = input[at..].iter().position(is_digit) else { return };
            let from = at + from;
            let count = input[from..].iter().take_while(|byte| is_digit(byte)).count();
            let digits = number.to_string().into_bytes();
            input.splice(from..from + count, digits);
        }
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
    }
}
