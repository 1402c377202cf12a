//! The tokenizer as GGUF metadata describes it, read and written. Knows the meaning of the values,
//! not how a file stores them.

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{Rules, Template, Tokenizer, added, failed, invalid, qwen};
use crate::error::{Error, Result};

/// Values of `tokenizer.ggml.token_type` (llama.cpp's `llama_token_type`).
pub(super) const NORMAL: u32 = 1;
pub(super) const CONTROL: u32 = 3;
pub(super) const USER_DEFINED: u32 = 4;
pub(super) const UNUSED: u32 = 5;

/// Byte-level BPE.
const MODEL: &str = "gpt2";
/// Qwen's word pattern, from Qwen2 up to Qwen3.
const PRE: &str = "qwen2";
/// What llama.cpp's converter calls the same pattern where a model's own tokens differ.
const SAME_PRE: [&str; 4] = ["deepseek-r1-qwen", "f2llmv2", "kormo", "megrez"];

/// The tokenizer keys of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`
    pub model: String,
    /// `tokenizer.ggml.pre`
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, in the order of their ids.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, one a token.
    pub token_types: Vec<u32>,
    /// `tokenizer.ggml.merges`: two tokens with a space between them, the most important merge
    /// first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.eos_token_id`, and those that end a turn or a message.
    pub ends: Vec<u32>,
    /// `tokenizer.ggml.bos_token_id`, if `tokenizer.ggml.add_bos_token` says that texts begin with
    /// it.
    pub bos: Option<u32>,
    /// `tokenizer.chat_template`, the template for conversations.
    pub chat_template: Option<String>,
    /// Names of the templates for other purposes: NAME of each `tokenizer.chat_template.NAME`.
    pub named_templates: Vec<String>,
}

pub(super) fn load(vocabulary: GgufVocabulary) -> Result<Tokenizer> {
    let GgufVocabulary {
        model,
        pre,
        tokens,
        token_types,
        merges,
        ends,
        bos,
        chat_template,
        mut named_templates,
    } = vocabulary;
    check_kind(&model, pre.as_deref())?;
    if tokens.len() != token_types.len() {
        let why = format!("{} types for {} tokens", token_types.len(), tokens.len());
        return Err(invalid("tokenizer.ggml.token_type", why));
    }

    let mut vocab = Vocab::with_capacity(tokens.len());
    let mut adds: Vec<(u32, &str, u32)> = Vec::new();
    let mut seen: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for ((id, token), kind) in (0..).zip(&tokens).zip(token_types) {
        if token.is_empty() {
            return Err(invalid("tokenizer.ggml.tokens", format!("token {id} is empty")));
        }
        if let Some(first) = seen.insert(token, id) {
            return Err(invalid(
                "tokenizer.ggml.tokens",
                format!("tokens {first} and {id} are both `{token}`"),
            ));
        }
        match kind {
            NORMAL => {
                vocab.insert(token.clone(), id);
            }
            CONTROL | USER_DEFINED => adds.push((id, token, kind)),
            UNUSED => (), // Padding up to the model's rows: no text means it.
            _ => {
                let why = format!(
                    "token {id} has type {kind}; known are 1 normal, 3 control, 4 user-defined, 5 unused"
                );
                return Err(invalid("tokenizer.ggml.token_type", why));
            }
        }
    }
    // A byte without a token would vanish from every text, without a word.
    if let Some(missing) =
        ByteLevel::alphabet().iter().filter(|c| !vocab.contains_key(&c.to_string())).min()
    {
        return Err(invalid(
            "tokenizer.ggml.tokens",
            format!("no token for a single byte, `{missing}`"),
        ));
    }
    let merges = pairs(&merges, &vocab)?;

    // The crate numbers added tokens from the end of the vocabulary on, unless it finds them in
    // there.
    if !(vocab.len()..).zip(&adds).all(|(next, (id, ..))| next == *id as usize) {
        vocab.extend(adds.iter().map(|(id, token, _)| ((*token).into(), *id)));
    }
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .build()
        .map_err(failed("build the tokenizer"))?;
    let mut inner = qwen(bpe)?;
    inner
        .add_tokens(adds.iter().map(|(_, token, kind)| added(token, *kind)))
        .map_err(failed("add tokens"))?;
    let name = |id: &u32| tokens.get(*id as usize).cloned();
    let special = [("eos_token", ends.first()), ("bos_token", bos.as_ref())];
    let special = special.into_iter().filter_map(|(key, id)| Some((key.to_owned(), name(id?)?)));
    named_templates.sort();
    let source = match chat_template {
        Some(source) => Some(Ok(source)),
        None if named_templates.is_empty() => None,
        None => Some(Err(Template::no_default(&named_templates))),
    };
    let template = source.map(|source| Template {
        origin: "tokenizer.chat_template".into(),
        source,
        tokens: special.collect(),
    });
    Tokenizer::new(inner, template, &ends)?.with_prefix(Vec::from_iter(bos))
}

fn check_kind(model: &str, pre: Option<&str>) -> Result<()> {
    let unsupported = |key: &str, value: &str, known: &str| {
        Err(Error::UnsupportedModel(format!(
            "`{key}` is {value}; known is {known}, as in Qwen2, Qwen2.5 and Qwen3"
        )))
    };
    if model != MODEL {
        return unsupported("tokenizer.ggml.model", &format!("`{model}`"), "`gpt2`");
    }
    match pre {
        Some(pre) if pre == PRE || SAME_PRE.contains(&pre) => Ok(()),
        Some(pre) => unsupported("tokenizer.ggml.pre", &format!("`{pre}`"), "`qwen2`"),
        None => unsupported("tokenizer.ggml.pre", "missing", "`qwen2`"),
    }
}

/// The merges as pairs of tokens, each checked to make a token of two.
fn pairs(merges: &[String], vocab: &Vocab) -> Result<Vec<(String, String)>> {
    let bad = |at: usize, why: String| {
        invalid("tokenizer.ggml.merges", format!("merge {at} `{}` {why}", merges[at]))
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
            return Err(bad(at, "stands there twice".into()));
        }
        pairs.push((left.into(), right.into()));
    }
    Ok(pairs)
}

pub(super) fn describe(tokenizer: &Tokenizer, rows: usize) -> Result<GgufVocabulary> {
    tokenizer.check_rows(rows)?;
    let rules = tokenizer.rules()?;
    check_qwen(tokenizer, &rules)?;
    let mut tokens = tokenizer.tokens();
    tokens.resize(rows, (String::new(), UNUSED));
    for (id, (token, _)) in tokens.iter_mut().enumerate().filter(|(_, (token, _))| token.is_empty())
    {
        *token = format!("[PAD{id}]");
    }
    let (tokens, token_types) = tokens.into_iter().unzip();
    Ok(GgufVocabulary {
        model: MODEL.into(),
        pre: Some(PRE.into()),
        tokens,
        token_types,
        merges: rules.merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect(),
        ends: tokenizer.end_tokens.clone(),
        bos: tokenizer.prefix.first().copied(),
        chat_template: tokenizer
            .template
            .as_ref()
            .and_then(|template| template.source.clone().ok()),
        named_templates: Vec::new(),
    })
}

/// A GGUF file names its pipeline instead of describing it, so it must be exactly the one of that
/// name.
fn check_qwen(tokenizer: &Tokenizer, rules: &Rules) -> Result<()> {
    let plain = Tokenizer::new(qwen(BPE::default())?, None, &[])?;
    let unsupported = |what: &str| {
        Err(Error::UnsupportedModel(format!(
            "writing a GGUF file with this tokenizer: {what}; only Qwen's can be written"
        )))
    };
    if tokenizer.pipeline()? != plain.pipeline()? {
        return unsupported("its normalizer or pre-tokenizer is not Qwen's");
    }
    let is_set = |affix: &Option<String>| affix.as_deref().is_some_and(|affix| !affix.is_empty());
    if is_set(&rules.continuing_subword_prefix) || is_set(&rules.end_of_word_suffix) {
        return unsupported("its tokens have a prefix or a suffix");
    }
    if tokenizer.prefix.len() > 1 {
        return unsupported("it begins prompts with several tokens");
    }
    if rules.byte_fallback || rules.ignore_merges {
        return unsupported("it sets `byte_fallback` or `ignore_merges`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What loading says after one change to a good vocabulary.
    fn error(change: impl FnOnce(&mut GgufVocabulary)) -> String {
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
                "`tokenizer.ggml.model` is `llama`; known is `gpt2`",
            ),
            (
                error(|v| v.pre = Some("llama-bpe".into())),
                "`tokenizer.ggml.pre` is `llama-bpe`; known is `qwen2`",
            ),
            (error(|v| v.pre = None), "`tokenizer.ggml.pre` is missing; known is `qwen2`"),
        ] {
            assert_eq!(message, format!("unsupported model: {expected}, {rest}"));
        }
    }

    #[test]
    fn names_of_the_same_word_pattern_are_one() {
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
    fn a_text_begins_with_the_token_that_the_file_names() {
        let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3072).unwrap();
        assert_eq!(vocabulary.bos, None);
        vocabulary.bos = Some(3070);
        let tokenizer = Tokenizer::from_gguf(vocabulary.clone()).unwrap();
        assert_eq!(tokenizer.prefix(), [3070]);
        assert_eq!(tokenizer.to_gguf(3072).unwrap(), vocabulary);
        assert!(error(|v| v.bos = Some(3072)).contains("the first token 3072 is not one of the"));
    }

    #[test]
    fn a_malformed_vocabulary_is_an_error_that_names_the_place() {
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
                "token_type` is not valid: token 7 has type 6; known are 1 normal, ",
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
            (error(|v| v.merges[2] = v.merges[1].clone()), "` stands there twice"),
            (error(|v| v.ends = vec![3072]), "end token 3072 is not one of the 3072 tokens"),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_template_is_read_when_a_chat_is_asked_for() {
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
    fn added_tokens_keep_ids_that_leave_gaps() {
        let mut vocabulary = Tokenizer::tiny().unwrap().to_gguf(3080).unwrap();
        vocabulary.tokens.swap(3071, 3079); // `</think>` after the padding, as in no real file.
        vocabulary.token_types.swap(3071, 3079);
        let tokenizer = Tokenizer::from_gguf(vocabulary.clone()).unwrap();
        assert_eq!(tokenizer.encode("<think>a</think>[PAD3071]").unwrap()[..3], [3070, 64, 3079]);
        assert_eq!(tokenizer.vocab_size(), 3080);
        assert_eq!(tokenizer.decode(&[3071, 3079]), "</think>");
    }

    #[test]
    fn only_qwens_tokenizer_is_written() {
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
            let json = std::str::from_utf8(crate::tokenizer::TINY).unwrap();
            assert!(json.contains(old));
            let inner =
                crate::tokenizer::parse(json.replace(old, new).as_bytes(), "x".as_ref()).unwrap();
            let err = Tokenizer::new(inner, None, &[]).unwrap().to_gguf(3072).unwrap_err();
            let start = "unsupported model: writing a GGUF file with this tokenizer";
            assert_eq!(err.to_string(), format!("{start}: {expected}; only Qwen's can be written"));
        }
    }
}
