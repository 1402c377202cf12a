//! Parses `tokenizer.json`; refuses components that are not those of byte-level BPE.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::panics::catch_panic;
use crate::error::{Error, Result};

/// The components of a `tokenizer.json`.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: ModelJson,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
}

/// The components that byte-level BPE needs. The tokenizers crate has others that panic, allocate
/// or loop on parameters that it does not check.
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

/// Parses a `tokenizer.json`.
pub(super) fn parse(json: &[u8], path: &Path) -> Result<tokenizers::Tokenizer> {
    let components: TokenizerJson =
        serde_json::from_slice(json).map_err(|err| Error::invalid(path, err.to_string()))?;
    check_component("normalizer", &components.normalizer, NORMALIZERS, path)?;
    check_component("pre-tokenizer", &components.pre_tokenizer, PRE_TOKENIZERS, path)?;
    check_component("post-processor", &components.post_processor, POST_PROCESSORS, path)?;
    check_supported("model", components.model.kind.as_deref().unwrap_or("BPE"), &["BPE"], path)?;
    if components.model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(Error::invalid(path, "its `dropout` is not 0: tokenization would be random"));
    }
    catch_panic(|| tokenizers::Tokenizer::from_bytes(json))
        .unwrap_or_else(|panic| Err(panic.into()))
        .map_err(|err| Error::invalid(path, err.to_string()))
}

/// Checks a component and those inside it.
fn check_component(what: &str, component: &Value, known: &[&str], path: &Path) -> Result<()> {
    if component.is_null() {
        return Ok(());
    }
    let name = component.get("type").and_then(Value::as_str).unwrap_or_default();
    check_supported(what, name, known, path)?;
    let pattern = component.get("pattern").and_then(Value::as_object);
    if pattern.is_some_and(|pattern| pattern.values().any(|text| text == "")) {
        return Err(Error::invalid(path, format!("the pattern of its {what} `{name}` is empty")));
    }
    let lists =
        ["normalizers", "pretokenizers", "processors"].iter().filter_map(|key| component.get(key));
    lists
        .filter_map(Value::as_array)
        .flatten()
        .try_for_each(|component| check_component(what, component, known, path))
}

fn check_supported(what: &str, name: &str, known: &[&str], path: &Path) -> Result<()> {
    if known.contains(&name) {
        return Ok(());
    }
    Err(Error::UnsupportedModel(format!(
        "`{}` has the {what} `{name}`; supported for byte-level BPE: {}",
        path.display(),
        known.join(", ")
    )))
}

/// Wraps an error of the tokenizers crate.
pub(super) fn tokenizers_error(doing: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |err| Error::Failed(format!("cannot {doing}: {err}"))
}
