//! The tokenizer in GGUF metadata, read and written. Knows the meaning of the values, not how a
//! file stores them.

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::bpe::{
    BpeModel, CONTROL, NORMAL, Tokenizer, UNUSED, USER_DEFINED, added_token, qwen_tokenizer,
};
use super::chat::ChatTemplate;
use super::parse::tokenizers_error;
use crate::error::{Error, Result};

/// GGUF's name of byte-level BPE.
const MODEL: &str = "gpt2";
/// GGUF's name of the pre-tokenizer of Qwen2, Qwen2.5 and Qwen3.
const PRE_TOKENIZER: &str = "qwen2";
/// Names that llama.cpp's converter gives to the same pre-tokenizer where the tokens differ.
const SAME_PRE_TOKENIZER: [&str; 4] = ["deepseek-r1-qwen", "f2llmv2", "kormo", "megrez"];

/// The tokenizer of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`
    pub model: String,
    /// `tokenizer.ggml.pre`
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, one per token.
    pub token_types: Vec<u32>,
    /// `tokenizer.ggml.merges`: two tokens with a space between them, by rank.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.eos_token_id`, `eot_token_id` and `eom_token_id`.
    pub ends: Vec<u32>,
    /// `tokenizer.ggml.bos_token_id`, if `tokenizer.ggml.add_bos_token` is true.
    pub bos: Option<u32>,
    /// `tokenizer.chat_template`
    pub chat_template: Option<String>,
    /// Each NAME of `tokenizer.chat_template.NAME`: templates for other purposes.
    pub named_templates: Vec<String>,
}

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// When it is not Qwen's kind, or malformed.
    pub fn from_gguf(metadata: GgufTokenizer) -> Result<Self> {
        load(metadata)
    }

    /// This tokenizer for a GGUF file with that many embedding rows. Rows without a token get a
    /// name and the type "unused".
    ///
    /// # Errors
    /// When there are more tokens than rows, or the tokenizer is not Qwen's kind.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufTokenizer> {
        describe(self, rows)
    }
}

fn load(metadata: GgufTokenizer) -> Result<Tokenizer> {
    let GgufTokenizer {
        model,
        pre,
        tokens,
        token_types,
        merges,
        ends,
        bos,
        chat_template,
        mut named_templates,
    } = metadata;
    check_kind(&model, pre.as_deref())?;
    if tokens.len() != token_types.len() {
        let why = format!("{} types for {} tokens", token_types.len(), tokens.len());
        return Err(Error::invalid("tokenizer.ggml.token_type", why));
    }

    let mut vocab = Vocab::with_capacity(tokens.len());
    let mut adds: Vec<(u32, &str, u32)> = Vec::new();
    let mut seen: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for ((id, token), kind) in (0..).zip(&tokens).zip(token_types) {
        if token.is_empty() {
            return Err(Error::invalid("tokenizer.ggml.tokens", format!("token {id} is empty")));
        }
        if let Some(first) = seen.insert(token, id) {
            return Err(Error::invalid(
                "tokenizer.ggml.tokens",
                format!("tokens {first} and {id} are both `{token}`"),
            ));
        }
        match kind {
            NORMAL => {
                vocab.insert(token.clone(), id);
            }
            CONTROL | USER_DEFINED => adds.push((id, token, kind)),
            UNUSED => (), // Padding up to the rows of the embedding.
            _ => {
                let why = format!(
                    "token {id} has type {kind}; supported: 1 normal, 3 control, 4 user-defined, \
                     5 unused"
                );
                return Err(Error::invalid("tokenizer.ggml.token_type", why));
            }
        }
    }
    // A byte without a token would vanish from every text.
    if let Some(missing) =
        ByteLevel::alphabet().iter().filter(|c| !vocab.contains_key(&c.to_string())).min()
    {
        return Err(Error::invalid(
            "tokenizer.ggml.tokens",
            format!("no token for a single byte, `{missing}`"),
        ));
    }
    let merges = merge_pairs(&merges, &vocab)?;

    // The tokenizers crate gives added tokens ids after the vocabulary, unless they are in it.
    if !(vocab.len()..).zip(&adds).all(|(next, (id, ..))| next == *id as usize) {
        vocab.extend(adds.iter().map(|(id, token, _)| ((*token).into(), *id)));
    }
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .build()
        .map_err(tokenizers_error("build the tokenizer"))?;
    let mut inner = qwen_tokenizer(bpe)?;
    inner
        .add_tokens(adds.iter().map(|(_, token, kind)| added_token(token, *kind)))
        .map_err(tokenizers_error("add tokens"))?;
    let name = |id: &u32| tokens.get(*id as usize).cloned();
    let special = [("eos_token", ends.first()), ("bos_token", bos.as_ref())];
    let special = special.into_iter().filter_map(|(key, id)| Some((key.to_owned(), name(id?)?)));
    named_templates.sort();
    let source = match chat_template {
        Some(source) => Some(Ok(source)),
        None if named_templates.is_empty() => None,
        None => Some(Err(ChatTemplate::no_default(&named_templates))),
    };
    let template = source.map(|source| ChatTemplate {
        origin: "tokenizer.chat_template".into(),
        source,
        tokens: special.collect(),
    });
    Tokenizer::new(inner, template, &ends)?.with_prefix(Vec::from_iter(bos))
}

fn check_kind(model: &str, pre: Option<&str>) -> Result<()> {
    let unsupported = |key: &str, value: &str, supported: &str| {
        Err(Error::UnsupportedModel(format!(
            "`{key}` is {value}; supported: {supported}, as in Qwen2, Qwen2.5 and Qwen3"
        )))
    };
    if model != MODEL {
        return unsupported("tokenizer.ggml.model", &format!("`{model}`"), "`gpt2`");
    }
    match pre {
        Some(pre) if pre == PRE_TOKENIZER || SAME_PRE_TOKENIZER.contains(&pre) => Ok(()),
        Some(pre) => unsupported("tokenizer.ggml.pre", &format!("`{pre}`"), "`qwen2`"),
        None => unsupported("tokenizer.ggml.pre", "missing", "`qwen2`"),
    }
}

/// The merges as pairs of tokens; each must give a token.
fn merge_pairs(merges: &[String], vocab: &Vocab) -> Result<Vec<(String, String)>> {
    let bad = |at: usize, why: String| {
        Error::invalid("tokenizer.ggml.merges", format!("merge {at} `{}` {why}", merges[at]))
    };
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Vec::with_capacity(merges.len());
    for (at, merge) in merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(bad(at, "is not two tokens with a space between them".into()));
        };
        for token in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                return Err(bad(at, format!("needs `{token}`, which is not a normal token")));
            }
        }
        if !seen.insert(merge) {
            return Err(bad(at, "is there twice".into()));
        }
        pairs.push((left.into(), right.into()));
    }
    Ok(pairs)
}

fn describe(tokenizer: &Tokenizer, rows: usize) -> Result<GgufTokenizer> {
    tokenizer.check_rows(rows)?;
    let model = tokenizer.bpe_model()?;
    check_qwen(tokenizer, &model)?;
    let mut tokens = tokenizer.tokens();
    tokens.resize(rows, (String::new(), UNUSED));
    for (id, (token, _)) in tokens.iter_mut().enumerate().filter(|(_, (token, _))| token.is_empty())
    {
        *token = format!("[PAD{id}]");
    }
    let (tokens, token_types) = tokens.into_iter().unzip();
    Ok(GgufTokenizer {
        model: MODEL.into(),
        pre: Some(PRE_TOKENIZER.into()),
        tokens,
        token_types,
        merges: model.merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect(),
        ends: tokenizer.end_tokens.clone(),
        bos: tokenizer.prefix.first().copied(),
        chat_template: tokenizer
            .template
            .as_ref()
            .and_then(|template| template.source.clone().ok()),
        named_templates: Vec::new(),
    })
}

/// A GGUF file only names the pre-tokenizer, so normalizer and pre-tokenizer must be exactly
/// Qwen's.
fn check_qwen(tokenizer: &Tokenizer, model: &BpeModel) -> Result<()> {
    let qwen = Tokenizer::new(qwen_tokenizer(BPE::default())?, None, &[])?;
    let unsupported = |what: &str| {
        Err(Error::UnsupportedModel(format!(
            "writing a GGUF file with this tokenizer: {what}; supported: Qwen's"
        )))
    };
    if tokenizer.pipeline_json()? != qwen.pipeline_json()? {
        return unsupported("its normalizer or pre-tokenizer is not Qwen's");
    }
    let is_set = |affix: &Option<String>| affix.as_deref().is_some_and(|affix| !affix.is_empty());
    if is_set(&model.continuing_subword_prefix) || is_set(&model.end_of_word_suffix) {
        return unsupported("its tokens have a prefix or a suffix");
    }
    if tokenizer.prefix.len() > 1 {
        return unsupported("it begins prompts with several tokens");
    }
    if model.byte_fallback || model.ignore_merges {
        return unsupported("it sets `byte_fallback` or `ignore_merges`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of loading a changed tokenizer.
    fn error(change: impl FnOnce(&mut GgufTokenizer)) -> String {
        let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3072).unwrap();
        change(&mut vocabulary);
        Tokenizer::from_gguf(vocabulary).unwrap_err().to_string()
    }

    #[test]
    fn other_kinds_of_tokenizer_are_refused() {
        let rest = "as in Qwen2, Qwen2.5 and Qwen3";
        for (message, expected) in [
            (
                error(|v| v.model = "llama".into()),
                "`tokenizer.ggml.model` is `llama`; supported: `gpt2`",
            ),
            (
                error(|v| v.pre = Some("llama-bpe".into())),
                "`tokenizer.ggml.pre` is `llama-bpe`; supported: `qwen2`",
            ),
            (error(|v| v.pre = None), "`tokenizer.ggml.pre` is missing; supported: `qwen2`"),
        ] {
            assert_eq!(message, format!("unsupported model: {expected}, {rest}"));
        }
    }

    #[test]
    fn names_of_the_same_pre_tokenizer_load_the_same() {
        let with = |pre: &str| {
            let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3072).unwrap();
            vocabulary.pre = Some(pre.into());
            Tokenizer::from_gguf(vocabulary).unwrap().sha256().unwrap()
        };
        for pre in ["deepseek-r1-qwen", "f2llmv2", "kormo", "megrez"] {
            assert_eq!(with(pre), with("qwen2"), "{pre}");
        }
    }

    #[test]
    fn a_raw_prompt_begins_with_the_bos_token_of_the_file() {
        let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3072).unwrap();
        assert_eq!(vocabulary.bos, None);
        vocabulary.bos = Some(3070);
        let tokenizer = Tokenizer::from_gguf(vocabulary.clone()).unwrap();
        assert_eq!(tokenizer.prefix(), [3070]);
        assert_eq!(tokenizer.to_gguf(3072).unwrap(), vocabulary);
        assert!(error(|v| v.bos = Some(3072)).contains("the first token 3072 is not one of the"));
    }

    #[test]
    fn a_malformed_tokenizer_is_an_error_that_names_the_place() {
        for (message, expected) in [
            (
                error(|v| v.token_types.truncate(3071)),
                "token_type` is not valid: 3071 types for 3072 tokens",
            ),
            (error(|v| v.tokens[300].clear()), "tokens` is not valid: token 300 is empty"),
            (
                error(|v| v.tokens[400] = v.tokens[300].clone()),
                "tokens` is not valid: tokens 300 and 400 are both `",
            ),
            (
                error(|v| v.token_types[7] = 6),
                "token_type` is not valid: token 7 has type 6; supported: 1 normal, ",
            ),
            (
                error(|v| v.token_types[0] = 5),
                "tokens` is not valid: no token for a single byte, `!`",
            ),
            (
                error(|v| v.merges[2] = "ab".into()),
                "merge 2 `ab` is not two tokens with a space between them",
            ),
            (
                error(|v| v.merges[2] = "a ".into()),
                "merge 2 `a ` needs ``, which is not a normal token",
            ),
            (
                error(|v| v.merges[2] = "a b c".into()),
                "merge 2 `a b c` needs `b c`, which is not a normal token",
            ),
            (
                error(|v| v.merges[2] = "q Z".into()),
                "merge 2 `q Z` needs `qZ`, which is not a normal token",
            ),
            (error(|v| v.merges[2] = v.merges[1].clone()), "` is there twice"),
            (error(|v| v.ends = vec![3072]), "end token 3072 is not one of the 3072 tokens"),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_template_is_compiled_for_a_chat_only() {
        let chat = |template: &str| {
            let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3072).unwrap();
            vocabulary.chat_template = Some(template.into());
            Tokenizer::from_gguf(vocabulary).unwrap().chat(&[], crate::tokenizer::Thinking::On)
        };
        assert_eq!(chat("{{ eos_token }}{{ bos_token }}").unwrap(), "<|im_end|>");
        let message = chat("{% if").unwrap_err().to_string();
        let expected = "the chat template of `tokenizer.chat_template`, line 1: syntax error";
        assert!(message.starts_with(expected), "{message}");

        let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3072).unwrap();
        vocabulary.named_templates = ["tool_use", "rag"].map(String::from).to_vec();
        vocabulary.chat_template = None;
        let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
        let message = tokenizer.chat(&[], crate::tokenizer::Thinking::On).unwrap_err().to_string();
        let expected = r#"none of its templates is called `default`: ["rag", "tool_use"]"#;
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn added_tokens_keep_ids_with_gaps() {
        let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3080).unwrap();
        vocabulary.tokens.swap(3071, 3079); // `</think>` after the padding.
        vocabulary.token_types.swap(3071, 3079);
        let tokenizer = Tokenizer::from_gguf(vocabulary.clone()).unwrap();
        assert_eq!(tokenizer.encode("<think>a</think>[PAD3071]").unwrap()[..3], [3070, 64, 3079]);
        assert_eq!(tokenizer.vocab_size(), 3080);
        assert_eq!(tokenizer.decode(&[3071, 3079]), "</think>");
    }

    #[test]
    fn only_qwens_tokenizer_can_be_written() {
        for (old, new, expected) in [
            (
                r#""normalizer":{"type":"NFC"}"#,
                r#""normalizer":{"type":"NFKC"}"#,
                "its normalizer or pre-tokenizer is not Qwen's",
            ),
            (
                r#""end_of_word_suffix":null"#,
                r#""end_of_word_suffix":"_""#,
                "its tokens have a prefix or a suffix",
            ),
            (
                r#""ignore_merges":false"#,
                r#""ignore_merges":true"#,
                "it sets `byte_fallback` or `ignore_merges`",
            ),
        ] {
            let json = std::str::from_utf8(Tokenizer::TINY_JSON).unwrap();
            assert!(json.contains(old));
            let inner =
                crate::tokenizer::parse::parse(json.replace(old, new).as_bytes(), "x".as_ref())
                    .unwrap();
            let err = Tokenizer::new(inner, None, &[]).unwrap().to_gguf(3072).unwrap_err();
            let start = "unsupported model: writing a GGUF file with this tokenizer";
            assert_eq!(err.to_string(), format!("{start}: {expected}; supported: Qwen's"));
        }
    }
}
