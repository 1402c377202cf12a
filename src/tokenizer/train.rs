//! Trains the tokenizer of the synthetic models: Qwen's kind, small, from our own texts. The same
//! texts give the same file, byte by byte, which a test checks.

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::gguf::{CONTROL, USER_DEFINED};
use super::{added, failed, qwen};
use crate::error::{Error, Result};

/// Qwen3's added tokens in the order of their ids.
const ADDED: &[(&str, u32)] = &[
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

/// One token for each byte.
const BYTES: usize = 256;

/// The `tokenizer.json` of a tokenizer with exactly `vocab_size` tokens, Qwen's added ones
/// included, that suits the texts. Their order does not matter.
///
/// # Errors
/// When `vocab_size` has no room for bytes and added tokens, or is more than the texts yield: a
/// merge must be seen twice.
pub fn train<T: AsRef<str> + Sync>(texts: &[T], vocab_size: usize) -> Result<String> {
    let smallest = BYTES + ADDED.len();
    if vocab_size < smallest {
        return Err(Error::Usage(format!(
            "a vocabulary of {vocab_size} is too small; {smallest} is the least"
        )));
    }
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - ADDED.len())
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer = qwen(BPE::default())?;
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts.iter().map(AsRef::as_ref))
        .map_err(failed("train the tokenizer"))?;
    tokenizer
        .add_tokens(ADDED.iter().map(|(token, kind)| added(token, *kind)))
        .map_err(failed("add tokens"))?;
    let most = tokenizer.get_vocab_size(true);
    if most < vocab_size {
        return Err(Error::Usage(format!(
            "the texts yield {most} tokens, not {vocab_size}; ask for at most {most}, or add texts"
        )));
    }
    tokenizer.to_string(false).map_err(failed("write the tokenizer"))
}
