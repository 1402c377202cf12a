//! Trains the small tokenizer of the synthetic models. The same texts give the same bytes, which a
//! test checks.

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::bpe::{CONTROL, USER_DEFINED, added_token, qwen_tokenizer};
use super::parse::tokenizers_error;
use crate::error::{Error, Result};

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

/// The initial alphabet.
const BYTE_TOKENS: usize = 256;

/// Trains a tokenizer with exactly `vocab_size` tokens, Qwen's added tokens included, and returns
/// its `tokenizer.json`. The order of the texts does not matter.
///
/// # Errors
/// When `vocab_size` is too small for bytes and added tokens, or larger than the texts yield: a
/// pair must occur twice to be merged.
pub fn train<T: AsRef<str> + Sync>(texts: &[T], vocab_size: usize) -> Result<String> {
    let smallest = BYTE_TOKENS + ADDED_TOKENS.len();
    if vocab_size < smallest {
        return Err(Error::Usage(format!(
            "a vocabulary of {vocab_size} is too small; the minimum is {smallest}"
        )));
    }
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - ADDED_TOKENS.len())
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer = qwen_tokenizer(BPE::default())?;
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts.iter().map(AsRef::as_ref))
        .map_err(tokenizers_error("train the tokenizer"))?;
    tokenizer
        .add_tokens(ADDED_TOKENS.iter().map(|(token, kind)| added_token(token, *kind)))
        .map_err(tokenizers_error("add tokens"))?;
    let max = tokenizer.get_vocab_size(true);
    if max < vocab_size {
        return Err(Error::Usage(format!(
            "the texts yield {max} tokens, not {vocab_size}; ask for at most {max}, or add texts"
        )));
    }
    tokenizer.to_string(false).map_err(tokenizers_error("write the tokenizer"))
}
