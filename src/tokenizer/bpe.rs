//! The byte-level BPE tokenizer: encoding, decoding, end tokens, hash.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::byte_level::byte_of_char;
use super::chat::{ChatTemplate, Message, Thinking};
use super::panics::catch_panic;
use super::parse::{parse, tokenizers_error};
use crate::error::{Error, Result};
use crate::files::hex;

/// Token types (llama.cpp's `llama_token_type`).
pub(super) const NORMAL: u32 = 1;
pub(super) const CONTROL: u32 = 3;
pub(super) const USER_DEFINED: u32 = 4;
pub(super) const UNUSED: u32 = 5;

/// The regular expression of Qwen's pre-tokenizer, as in its `tokenizer.json`.
const QWEN_PRE_TOKENIZER: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Qwen's end tokens, end tokens of every tokenizer that has them, as in llama.cpp: a chat model
/// may generate either.
const QWEN_END_TOKENS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// A byte-level BPE tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) template: Option<ChatTemplate>,
    pub(super) end_tokens: Vec<u32>,
    /// The tokens before every raw prompt.
    pub(super) prefix: Vec<u32>,
    pub(super) vocab_size: usize,
}

impl Tokenizer {
    /// The `tokenizer.json` of the tiny tokenizer for synthetic models; [`train`](super::train)
    /// makes it from `fixtures/corpus`.
    pub(crate) const TINY_JSON: &[u8] = include_bytes!("../../fixtures/tiny/tokenizer.json");
    /// Its `tokenizer_config.json`.
    pub(crate) const TINY_CONFIG: &[u8] =
        include_bytes!("../../fixtures/tiny/tokenizer_config.json");
    /// The chat template that it has here, for files that other programs read.
    pub(crate) const TINY_CHAT_TEMPLATE: &str = super::chat::QWEN3;

    /// The tiny tokenizer, for synthetic models and tests.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn tiny() -> Result<Self> {
        let path = Path::new("fixtures/tiny/tokenizer.json");
        Self::new(parse(Self::TINY_JSON, path)?, None, &[])
    }

    /// The highest token id plus 1, added tokens included.
    #[cfg(test)]
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Token ids of a text. Special tokens in the text are recognized; none is added.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = catch_panic(|| self.inner.encode_fast(text, false))
            .unwrap_or_else(|panic| Err(panic.into()))
            .map_err(tokenizers_error("tokenize a text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a raw prompt: the [`prefix`](Self::prefix), then the text.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(crate) fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok([&self.prefix[..], &self.encode(text)?].concat())
    }

    /// The text of token ids, special tokens included. Invalid UTF-8 becomes U+FFFD; ids without a
    /// token, which models with padding rows may generate, become nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The ids that end generation, the chat's own first. Empty if the tokenizer names none.
    pub(crate) fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Whether a token is a control token, such as an end of text, which is no part of an answer.
    #[cfg(feature = "server")]
    pub(crate) fn is_control(&self, id: u32) -> bool {
        let token = self.inner.id_to_token(id);
        token.is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// The ids before every raw prompt (BOS); none for Qwen's models. A chat template writes its
    /// own.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Renders the chat template: the prompt for the next answer in a conversation.
    ///
    /// # Errors
    /// When there is no chat template, or it rejects the conversation.
    pub fn chat(&self, messages: &[Message], thinking: Thinking) -> Result<String> {
        let Some(template) = &self.template else {
            return Err(Error::UnsupportedModel(
                "this tokenizer has no chat template; put a `chat_template.jinja` beside its \
                 `tokenizer.json`"
                    .into(),
            ));
        };
        template.chat(messages, thinking)
    }

    /// Checks that a model's embedding has enough rows for this tokenizer. Models often have more.
    ///
    /// # Errors
    /// When there are more tokens than rows.
    pub(crate) fn check_rows(&self, rows: usize) -> Result<()> {
        if self.vocab_size <= rows {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "the tokenizer has {} tokens and the model {rows} embedding rows; use the tokenizer \
             that belongs to the model",
            self.vocab_size
        )))
    }

    /// SHA-256 of what [`encode`](Self::encode) depends on: normalizer, pre-tokenizer, tokens with
    /// ids and types, merges. The same for a folder and a GGUF file; without the chat template.
    ///
    /// # Errors
    /// When the tokenizer is not a BPE one.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.pipeline_json()?);
        for (id, (token, kind)) in self.tokens().iter().enumerate() {
            hash.update(format!("\n{id} {kind} {token}"));
        }
        for (left, right) in &self.bpe_model()?.merges {
            hash.update(format!("\n{left} {right}"));
        }
        for id in &self.prefix {
            hash.update(format!("\nprefix {id}"));
        }
        Ok(hex(&hash.finalize()))
    }

    pub(super) fn new(
        mut inner: tokenizers::Tokenizer,
        template: Option<ChatTemplate>,
        end_tokens: &[u32],
    ) -> Result<Self> {
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(Error::UnsupportedModel(
                "a tokenizer without a byte-level decoder; candlemark supports Qwen models, whose \
                 tokenizers have one"
                    .into(),
            ));
        }
        // A file may set both; they would change the length of a prompt.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(tokenizers_error("turn truncation off"))?;
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let mut ends = Vec::new();
        for id in end_tokens
            .iter()
            .copied()
            .chain(QWEN_END_TOKENS.iter().filter_map(|name| inner.token_to_id(name)))
        {
            if id as usize >= vocab_size {
                return Err(Error::Failed(format!(
                    "end token {id} is not one of the {vocab_size} tokens"
                )));
            }
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let template = template.or_else(|| ChatTemplate::built_in(&inner));
        Ok(Self { inner, template, end_tokens: ends, prefix: Vec::new(), vocab_size })
    }

    /// Sets the ids before raw prompts; if empty, those that the post-processor puts before a text.
    /// Those that it puts after a text are ignored: they would end it.
    pub(super) fn with_prefix(self, prefix: Vec<u32>) -> Result<Self> {
        if let Some(id) = prefix.iter().find(|id| **id as usize >= self.vocab_size) {
            return Err(Error::Failed(format!(
                "the first token {id} is not one of the {} tokens",
                self.vocab_size
            )));
        }
        if !prefix.is_empty() {
            return Ok(Self { prefix, ..self });
        }
        let text = self.encode("a")?;
        let all = catch_panic(|| self.inner.encode_fast("a", true))
            .unwrap_or_else(|panic| Err(panic.into()))
            .map_err(tokenizers_error("tokenize a text"))?;
        let at = all.get_ids().windows(text.len().max(1)).position(|ids| ids == text);
        Ok(Self { prefix: all.get_ids()[..at.unwrap_or(0)].to_vec(), ..self })
    }

    /// The bytes of a token; none if there is no such token.
    pub(super) fn token_bytes(&self, id: u32) -> Vec<u8> {
        let token = self.inner.id_to_token(id).unwrap_or_default();
        // An added token may be ordinary text: then its own bytes count, as in the tokenizers
        // crate.
        token.chars().map(byte_of_char).collect::<Option<_>>().unwrap_or_else(|| token.into_bytes())
    }

    /// Every id's token and type; ids without a token have an empty, unused one.
    pub(super) fn tokens(&self) -> Vec<(String, u32)> {
        let mut tokens = vec![(String::new(), UNUSED); self.vocab_size];
        for (token, id) in self.inner.get_vocab(false) {
            tokens[id as usize] = (token, NORMAL);
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            let kind = if token.special { CONTROL } else { USER_DEFINED };
            tokens[id as usize] = (token.content, kind);
        }
        tokens
    }

    /// Normalizer and pre-tokenizer as JSON.
    pub(super) fn pipeline_json(&self) -> Result<String> {
        let parts = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        serde_json::to_string(&parts)
            .map_err(|err| Error::Failed(format!("cannot describe the tokenizer: {err}")))
    }

    /// The BPE model's merges and options. The tokenizers crate exposes them only as JSON.
    pub(super) fn bpe_model(&self) -> Result<BpeModel> {
        serde_json::to_value(self.inner.get_model()).and_then(serde_json::from_value).map_err(
            |err| {
                Error::UnsupportedModel(format!(
                    "a tokenizer that is not byte-pair encoding: {err}"
                ))
            },
        )
    }
}

/// Merges and options of a BPE model; an empty prefix or suffix counts as none.
#[derive(Deserialize)]
pub(super) struct BpeModel {
    pub(super) merges: Vec<(String, String)>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

/// Qwen's tokenizer around a BPE model, without added tokens.
pub(super) fn qwen_tokenizer(model: BPE) -> Result<tokenizers::Tokenizer> {
    let split = Split::new(
        SplitPattern::Regex(QWEN_PRE_TOKENIZER.into()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(tokenizers_error("compile the pre-tokenizer"))?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(NFC)).map_err(tokenizers_error("set the normalizer"))?;
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes));
    Ok(tokenizer)
}

/// An added token: it is found in a text before normalization and BPE.
pub(super) fn added_token(token: &str, kind: u32) -> AddedToken {
    AddedToken::from(token, kind == CONTROL).normalized(false)
}
