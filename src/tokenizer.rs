//! Text to token ids and back: byte-level BPE from a folder, from GGUF metadata or from the binary
//! itself, together with the chat template and the end tokens. Of a model it knows no more than how
//! many embedding rows it has.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::{Error, Result};

mod chat;
mod folder;
mod gguf;
mod quiet;
mod stream;
#[cfg(test)]
mod tests;
mod train;

pub use chat::{Message, Role, Thinking};
pub use gguf::GgufVocabulary;
pub use stream::Stream;
pub use train::train;

use chat::Template;

/// The tokenizer of the synthetic models, made by [`train`] from `fixtures/corpus`.
const TINY: &[u8] = include_bytes!("../fixtures/tiny/tokenizer.json");
const TINY_CONFIG: &[u8] = include_bytes!("../fixtures/tiny/tokenizer_config.json");

/// How Qwen cuts text into words before BPE; the pattern of its `tokenizer.json`.
const QWEN_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Qwen's end tokens. They count for every tokenizer that has them, as in llama.cpp: a chat model
/// may end with either.
const QWEN_ENDS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// A byte-level BPE tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    template: Option<Template>,
    end_tokens: Vec<u32>,
    /// Before every raw prompt.
    prefix: Vec<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    /// The bytes of the tiny tokenizer's `tokenizer.json`.
    pub const TINY_JSON: &[u8] = TINY;
    /// The bytes of its `tokenizer_config.json`.
    pub const TINY_CONFIG: &[u8] = TINY_CONFIG;

    /// The tokenizer of a model folder: `tokenizer.json`; the chat template of
    /// `chat_template.jinja`, else of `tokenizer_config.json` or `chat_template.json`, else a
    /// built-in one; the end tokens that `generation_config.json` and `tokenizer_config.json`
    /// name, and Qwen's.
    ///
    /// # Errors
    /// When a file cannot be read, is malformed, or names a token that the vocabulary lacks; when
    /// the tokenizer is not a byte-level one.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        folder::load(dir)
    }

    /// The small tokenizer inside the binary, for synthetic models and tests.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn tiny() -> Result<Self> {
        Self::new(parse(TINY, Path::new("fixtures/tiny/tokenizer.json"))?, None, &[])
    }

    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// When it is of a kind other than Qwen's, or malformed.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self> {
        gguf::load(vocabulary)
    }

    /// What a GGUF file says of this tokenizer, for a model with that many embedding rows. Rows
    /// without a token get a name and the type "unused".
    ///
    /// # Errors
    /// When there are more tokens than rows, or the tokenizer is not of Qwen's kind.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufVocabulary> {
        gguf::describe(self, rows)
    }

    /// The highest token id and one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The ids of the text's tokens. Special tokens that are written out in it are recognised; none
    /// is added.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = quiet::catch(|| self.inner.encode_fast(text, false))
            .unwrap_or_else(|panic| Err(panic.into()))
            .map_err(failed("tokenize a text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a raw prompt: the text's, after the token that the model's files want before it.
    /// Qwen's want none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok([&self.prefix[..], &self.encode(text)?].concat())
    }

    /// The text of the ids, special tokens included. Bytes that are not UTF-8 become U+FFFD; an id
    /// without a token, which a model with padding rows may choose, becomes nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Turns ids into text as they come.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The ids that end an answer, the chat's own first. Empty if the tokenizer names none.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The ids that a raw prompt begins with; a chat template writes its own. None for Qwen's
    /// models.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The prompt that asks for the next answer in a conversation.
    ///
    /// # Errors
    /// When there is no chat template, or it refuses the conversation.
    pub fn chat(&self, messages: &[Message], thinking: Thinking) -> Result<String> {
        let Some(template) = &self.template else {
            return Err(Error::UnsupportedModel(
                "this tokenizer has no chat template; put a `chat_template.jinja` beside its `tokenizer.json`".into(),
            ));
        };
        template.chat(messages, thinking)
    }

    /// Checks that a model with `rows` embedding rows can be used with this tokenizer. Models often
    /// have more rows than tokens, never fewer.
    ///
    /// # Errors
    /// When there are more tokens than rows.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        if self.vocab_size <= rows {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "the tokenizer has {} tokens and the model {rows} embedding rows; use the tokenizer that belongs to the model",
            self.vocab_size
        )))
    }

    /// Identifies what [`encode`](Self::encode) does: word pattern, tokens with their ids and
    /// kinds, merges. The same whether the tokenizer came from a folder or a GGUF file; the
    /// chat template has no part in it.
    ///
    /// # Errors
    /// When the tokenizer is not a BPE one.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.pipeline()?);
        for (id, (token, kind)) in self.tokens().iter().enumerate() {
            hash.update(format!("\n{id} {kind} {token}"));
        }
        for (left, right) in &self.rules()?.merges {
            hash.update(format!("\n{left} {right}"));
        }
        for id in &self.prefix {
            hash.update(format!("\nprefix {id}"));
        }
        Ok(crate::files::hex(&hash.finalize()))
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        template: Option<Template>,
        end_tokens: &[u32],
    ) -> Result<Self> {
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(Error::UnsupportedModel(
                "a tokenizer without a byte-level decoder; candlemark runs Qwen models, whose tokenizers have one".into(),
            ));
        }
        // A file may ask for both; a benchmark's prompt has the length that it has.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed("turn truncation off"))?;
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let mut ends = Vec::new();
        for id in end_tokens
            .iter()
            .copied()
            .chain(QWEN_ENDS.iter().filter_map(|name| inner.token_to_id(name)))
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
        let template = template.or_else(|| Template::built_in(&inner));
        Ok(Self { inner, template, end_tokens: ends, prefix: Vec::new(), vocab_size })
    }

    /// With the ids that raw prompts begin with; where none are named, those that the
    /// post-processor puts before a text. What it puts behind one would end it, and is left
    /// out.
    fn with_prefix(self, prefix: Vec<u32>) -> Result<Self> {
        if let Some(id) = prefix.iter().find(|id| **id as usize >= self.vocab_size) {
            return Err(Error::Failed(format!(
                "the first token {id} is not one of the {} tokens",
                self.vocab_size
            )));
        }
        if !prefix.is_empty() {
            return Ok(Self { prefix, ..self });
        }
        let plain = self.encode("a")?;
        let all = quiet::catch(|| self.inner.encode_fast("a", true))
            .unwrap_or_else(|panic| Err(panic.into()))
            .map_err(failed("tokenize a text"))?;
        let at = all.get_ids().windows(plain.len().max(1)).position(|ids| ids == plain);
        Ok(Self { prefix: all.get_ids()[..at.unwrap_or(0)].to_vec(), ..self })
    }

    /// The bytes that a token stands for; none if there is no such token.
    fn token_bytes(&self, id: u32) -> Vec<u8> {
        let token = self.inner.id_to_token(id).unwrap_or_default();
        // An added token may be plain text: then its own bytes count, as in the tokenizers crate.
        token.chars().map(stream::byte).collect::<Option<_>>().unwrap_or_else(|| token.into_bytes())
    }

    /// Every id's token and kind; ids without a token have an empty one of kind unused.
    fn tokens(&self) -> Vec<(String, u32)> {
        let mut tokens = vec![(String::new(), gguf::UNUSED); self.vocab_size];
        for (token, id) in self.inner.get_vocab(false) {
            tokens[id as usize] = (token, gguf::NORMAL);
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            let kind = if token.special { gguf::CONTROL } else { gguf::USER_DEFINED };
            tokens[id as usize] = (token.content, kind);
        }
        tokens
    }

    /// Normalizer and pre-tokenizer as JSON.
    fn pipeline(&self) -> Result<String> {
        let parts = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        serde_json::to_string(&parts)
            .map_err(|err| Error::Failed(format!("cannot describe the tokenizer: {err}")))
    }

    /// The BPE model's merges and options. The tokenizers crate shows them in no other way than as
    /// JSON.
    fn rules(&self) -> Result<Rules> {
        serde_json::to_value(self.inner.get_model()).and_then(serde_json::from_value).map_err(
            |err| {
                Error::UnsupportedModel(format!(
                    "a tokenizer that is not byte-pair encoding: {err}"
                ))
            },
        )
    }
}

/// What [`Tokenizer::rules`] reads; an empty prefix or suffix is none.
#[derive(Deserialize)]
struct Rules {
    merges: Vec<(String, String)>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    byte_fallback: bool,
    ignore_merges: bool,
}

/// The parts of a `tokenizer.json` that decide what it runs.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: OutlineModel,
}

#[derive(Deserialize)]
struct OutlineModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
}

/// What byte-level BPE is made of. The tokenizers crate has more, some of which panics, allocates
/// or loops on parameters that it doesn't check.
const NORMALIZERS: &[&str] = &[
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Prepend",
    "Replace",
    "Sequence",
    "Strip",
    "StripAccents",
];
const PRE_TOKENIZERS: &[&str] =
    &["ByteLevel", "Digits", "Punctuation", "Sequence", "Split", "Whitespace", "WhitespaceSplit"];
const POST_PROCESSORS: &[&str] = &["ByteLevel", "Sequence", "TemplateProcessing"];

/// The text of a `tokenizer.json` as a tokenizer.
fn parse(json: &[u8], path: &Path) -> Result<tokenizers::Tokenizer> {
    let outline: Outline =
        serde_json::from_slice(json).map_err(|err| invalid(path, err.to_string()))?;
    check_part("normalizer", &outline.normalizer, NORMALIZERS, path)?;
    check_part("pre-tokenizer", &outline.pre_tokenizer, PRE_TOKENIZERS, path)?;
    check_part("post-processor", &outline.post_processor, POST_PROCESSORS, path)?;
    check_name("model", outline.model.kind.as_deref().unwrap_or("BPE"), &["BPE"], path)?;
    if outline.model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(invalid(path, "its `dropout` is not 0: the same text would differ each time"));
    }
    quiet::catch(|| tokenizers::Tokenizer::from_bytes(json))
        .unwrap_or_else(|panic| Err(panic.into()))
        .map_err(|err| invalid(path, err.to_string()))
}

/// Checks a part and those inside it.
fn check_part(what: &str, part: &Value, known: &[&str], path: &Path) -> Result<()> {
    if part.is_null() {
        return Ok(());
    }
    let name = part.get("type").and_then(Value::as_str).unwrap_or_default();
    check_name(what, name, known, path)?;
    let pattern = part.get("pattern").and_then(Value::as_object);
    if pattern.is_some_and(|pattern| pattern.values().any(|text| text == "")) {
        return Err(invalid(path, format!("the pattern of its {what} `{name}` is empty")));
    }
    let lists =
        ["normalizers", "pretokenizers", "processors"].iter().filter_map(|key| part.get(key));
    lists
        .filter_map(Value::as_array)
        .flatten()
        .try_for_each(|part| check_part(what, part, known, path))
}

fn check_name(what: &str, name: &str, known: &[&str], path: &Path) -> Result<()> {
    if known.contains(&name) {
        return Ok(());
    }
    Err(Error::UnsupportedModel(format!(
        "`{}` has the {what} `{name}`; byte-level BPE, as Qwen's, has {}",
        path.display(),
        known.join(", ")
    )))
}

/// A BPE model with everything that surrounds it in Qwen's tokenizer, but for the added tokens.
fn qwen(model: BPE) -> Result<tokenizers::Tokenizer> {
    let words =
        Split::new(SplitPattern::Regex(QWEN_WORDS.into()), SplitDelimiterBehavior::Isolated, false)
            .map_err(failed("compile the word pattern"))?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(NFC)).map_err(failed("set the normalizer"))?;
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes));
    Ok(tokenizer)
}

/// A token that is found in a text before anything else is done to it.
fn added(token: &str, kind: u32) -> AddedToken {
    AddedToken::from(token, kind == gguf::CONTROL).normalized(false)
}

fn invalid(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
    Error::Invalid { path: path.into(), why: why.into() }
}

/// Wraps an error of the tokenizers crate.
fn failed(doing: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |err| Error::Failed(format!("cannot {doing}: {err}"))
}
