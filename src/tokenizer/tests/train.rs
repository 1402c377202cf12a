//! Trains the small tokenizer of the synthetic models.

use sha2::{Digest as _, Sha256};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;
use crate::tokenizer::bpe::{CONTROL, USER_DEFINED, added_token, qwen_tokenizer};

/// Qwen3's added tokens in the order of their ids.
const ADDED_TOKENS: &[(&str, u32)] = &[
    ("<|endoftext|>", CONTROL),
    ("<|im_start|>", CONTROL),
    ("<|im_end|>", CONTROL),
    ("<|object_ref_start|>", CONTROL),
    ("<|object_ref_end|>", CONTROL),
    ("<|box_start|>", CONTROL),
    ("<|box_end|>", CONTROL),
    ("<|quad_start|>", CONTROL),
    ("<|quad_end|>", CONTROL),
    ("<|vision_start|>", CONTROL),
    ("<|vision_end|>", CONTROL),
    ("<|vision_pad|>", CONTROL),
    ("<|image_pad|>", CONTROL),
    ("<|video_pad|>", CONTROL),
    ("<tool_call>", USER_DEFINED),
    ("</tool_call>", USER_DEFINED),
    ("<|fim_prefix|>", USER_DEFINED),
    ("<|fim_middle|>", USER_DEFINED),
    ("<|fim_suffix|>", USER_DEFINED),
    ("<|fim_pad|>", USER_DEFINED),
    ("<|repo_name|>", USER_DEFINED),
    ("<|file_sep|>", USER_DEFINED),
    ("<tool_response>", USER_DEFINED),
    ("</tool_response>", USER_DEFINED),
    ("<think>", USER_DEFINED),
    ("</think>", USER_DEFINED),
];

/// The tokens of the tiny tokenizer, the added ones included.
const VOCABULARY: usize = 3072;

/// `tokenizer.json` with [`VOCABULARY`] tokens, Qwen's added tokens included.
fn train(texts: &[String]) -> String {
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY - ADDED_TOKENS.len())
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer = qwen_tokenizer(BPE::default()).unwrap();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter()).unwrap();
    let added = ADDED_TOKENS.iter().map(|(token, kind)| added_token(token, *kind));
    tokenizer.add_tokens(added).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), VOCABULARY, "the texts yield that many");
    tokenizer.to_string(false).unwrap()
}

/// Reproduces `fixtures/tiny/tokenizer.json` and the hash that records store.
#[test]
fn training_gives_the_same_file_whatever_the_order_of_texts() {
    let mut texts = texts("corpus");
    let json = train(&texts);
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny/tokenizer.json");
        fs::write(path, &json).unwrap();
    }
    assert!(json.as_bytes() == Tokenizer::TINY_JSON, "they differ; BLESS=1 writes the file");
    texts.reverse();
    assert!(train(&texts) == json, "the order of the texts matters");
    let sha256 = crate::files::hex(&Sha256::digest(Tokenizer::TINY_JSON));
    assert_eq!(sha256, "531a968cac7a6bf2322fa8f6ad7c8609fa4c2f5940b55b3a1b9c778c5baab5e2");
    assert_eq!(
        Tokenizer::tiny().unwrap().sha256().unwrap(),
        "0a88c57255b56edd499fa581ffd273fb3f61587b04e8efd1bdf190b3760632a1"
    );
}
