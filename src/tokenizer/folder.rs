//! The tokenizer of a Hugging Face model folder. Only `tokenizer.json` is required.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bpe::Tokenizer;
use super::chat::ChatTemplate;
use super::parse::parse;
use crate::error::{Error, Result};

impl Tokenizer {
    /// The tokenizer of a model folder. The vocabulary is that of `tokenizer.json`; the chat
    /// template that of `chat_template.jinja`, `tokenizer_config.json` or `chat_template.json`,
    /// else a built-in one; the end tokens are those of `generation_config.json`, `config.json` and
    /// `tokenizer_config.json`, and Qwen's.
    ///
    /// # Errors
    /// When a file cannot be read, is malformed, or names a token that the vocabulary lacks; when
    /// the tokenizer is not byte-level BPE.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let json = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let inner = parse(&json, &path)?;

        // The order of transformers, the tokenizer last.
        let mut ends = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let config: GenerationConfig = read_json(&dir.join(file))?;
            match config.eos_token_id {
                None => {}
                Some(Ids::One(id)) => ends.push(id),
                Some(Ids::Many(ids)) => ends.extend(ids),
            }
        }
        let path = dir.join("tokenizer_config.json");
        let config: TokenizerConfig = read_json(&path)?;
        let special = |key: &str| {
            let id = |name| {
                let why = || format!("its `{key}` `{name}` is not in `tokenizer.json`");
                inner.token_to_id(name).ok_or_else(|| Error::invalid(&path, why()))
            };
            config.token(key).map(id).transpose()
        };
        ends.extend(special("eos_token")?);
        let prefix = match config.add_bos_token {
            Some(true) => vec![special("bos_token")?.ok_or_else(|| {
                let why = "`add_bos_token` is true, but there is no `bos_token`";
                Error::invalid(&path, why)
            })?],
            _ => Vec::new(),
        };
        let template = template(dir, &config)?.map(|(origin, source)| ChatTemplate {
            origin: origin.display().to_string(),
            source,
            tokens: config.tokens(),
        });
        Tokenizer::new(inner, template, &ends)?.with_prefix(prefix)
    }
}

/// A template, or why it cannot be used.
type TemplateText = std::result::Result<String, String>;

/// The file of the chat template, and the template. As in transformers, a separate file goes before
/// the configuration.
fn template(dir: &Path, config: &TokenizerConfig) -> Result<Option<(PathBuf, TemplateText)>> {
    let path = dir.join("chat_template.jinja");
    if let Some(source) = read(&path)? {
        return Ok(Some((path, Ok(source))));
    }
    if let Some(templates) = &config.chat_template {
        return Ok(Some((dir.join("tokenizer_config.json"), default_template(templates))));
    }
    let path = dir.join("chat_template.json");
    let Some(text) = read(&path)? else { return Ok(None) };
    let source = match serde_json::from_str::<TokenizerConfig>(&text) {
        Ok(TokenizerConfig { chat_template: Some(templates), .. }) => default_template(&templates),
        Ok(_) => Err("it has no `chat_template`".into()),
        Err(err) => Err(err.to_string()),
    };
    Ok(Some((path, source)))
}

/// Some models have several templates; the one for chats is called `default`.
fn default_template(templates: &Value) -> TemplateText {
    if let Value::String(source) = templates {
        return Ok(source.clone());
    }
    let several: Vec<NamedTemplate> = Vec::deserialize(templates)
        .map_err(|_| "`chat_template` is neither a text nor a list of named ones")?;
    let names: Vec<&str> = several.iter().map(|template| template.name.as_str()).collect();
    match several.iter().find(|template| template.name == "default") {
        Some(template) => Ok(template.template.clone()),
        None => Err(ChatTemplate::no_default(&names)),
    }
}

#[derive(Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    chat_template: Option<Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl TokenizerConfig {
    /// A special token: a string, or an object with its content.
    fn token(&self, name: &str) -> Option<&str> {
        let token = self.rest.get(name)?;
        token.as_str().or_else(|| token.get("content")?.as_str())
    }

    /// The special tokens by their names in templates, as in transformers.
    fn tokens(&self) -> Vec<(String, String)> {
        let names = self.rest.keys().filter(|name| name.ends_with("_token"));
        names.filter_map(|name| Some((name.clone(), self.token(name)?.into()))).collect()
    }
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// Parses a file; the default if there is no such file.
fn read_json<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    match read(path)? {
        Some(text) => {
            serde_json::from_str(&text).map_err(|err| Error::invalid(path, err.to_string()))
        }
        None => Ok(T::default()),
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{Message, Role, Thinking};

    /// The tiny tokenizer in a folder with these files.
    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Tokenizer>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), Tokenizer::TINY_JSON).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let tokenizer = Tokenizer::from_folder(dir.path());
        (dir, tokenizer)
    }

    #[test]
    fn end_tokens_come_from_every_file_that_names_one() {
        let tiny = Tokenizer::tiny().unwrap();
        let [end, text, think] = ["<|im_end|>", "<|endoftext|>", "</think>"]
            .map(|name| tiny.inner.token_to_id(name).unwrap());
        let (one, many) = (
            format!(r#"{{"eos_token_id": {text}}}"#),
            format!(r#"{{"eos_token_id": [{think}, {text}]}}"#),
        );
        for (files, expected) in [
            (vec![], vec![end, text]),
            (vec![("generation_config.json", one.as_str())], vec![text, end]),
            (vec![("generation_config.json", many.as_str())], vec![think, text, end]),
            (vec![("config.json", one.as_str())], vec![text, end]),
            (vec![("config.json", many.as_str())], vec![think, text, end]),
            (
                vec![("generation_config.json", one.as_str()), ("config.json", many.as_str())],
                vec![text, think, end],
            ),
            (vec![("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#)], vec![text, end]),
            (
                vec![("tokenizer_config.json", r#"{"eos_token": {"content": "</think>"}}"#)],
                vec![think, end, text],
            ),
            (vec![("tokenizer_config.json", r#"{"eos_token": null}"#)], vec![end, text]),
        ] {
            assert_eq!(folder(&files).1.unwrap().end_tokens(), expected, "{files:?}");
        }
    }

    #[test]
    fn a_template_file_goes_before_the_configuration() {
        let config = (
            "tokenizer_config.json",
            r#"{"chat_template": "from config: {{ messages[0].content }}"}"#,
        );
        let several = (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "default", "template": "of several"}]}"#,
        );
        let hello = [Message::new(Role::User, "hello")];
        for (files, expected) in [
            (vec![config], "from config: hello"),
            (vec![config, ("chat_template.jinja", "from file")], "from file"),
            (vec![several], "of several"),
            (
                vec![("chat_template.json", r#"{"chat_template": "json {{ messages[0].role }}"}"#)],
                "json user",
            ),
            (vec![several, ("chat_template.json", "{}")], "of several"),
            (
                vec![
                    ("tokenizer_config.json", r#"{"bos_token": null, "eos_token": "<|im_end|>"}"#),
                    ("chat_template.jinja", "[{{ bos_token }}{{ eos_token }}{{ pad_token }}]"),
                ],
                "[<|im_end|>]",
            ),
            (vec![], "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"),
        ] {
            assert_eq!(folder(&files).1.unwrap().chat(&hello, Thinking::On).unwrap(), expected);
        }
    }

    #[test]
    fn a_malformed_folder_is_an_error_that_names_the_file() {
        for (name, text, expected) in [
            ("tokenizer.json", "{", "tokenizer.json` is not valid: EOF while parsing"),
            (
                "generation_config.json",
                "[",
                "generation_config.json` is not valid: EOF while parsing",
            ),
            (
                "generation_config.json",
                r#"{"eos_token_id": 99999}"#,
                "end token 99999 is not one of the",
            ),
            (
                "tokenizer_config.json",
                r#"{"eos_token": "</s>"}"#,
                "its `eos_token` `</s>` is not in `tokenizer.json`",
            ),
            (
                "tokenizer_config.json",
                r#"{"add_bos_token": true, "bos_token": null}"#,
                "`add_bos_token` is true, but there is no `bos_token`",
            ),
            (
                "tokenizer_config.json",
                r#"{"add_bos_token": true, "bos_token": "<s>"}"#,
                "its `bos_token` `<s>` is not in `tokenizer.json`",
            ),
        ] {
            let message = folder(&[(name, text)]).1.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let err = Tokenizer::from_folder(Path::new("nowhere")).unwrap_err();
        assert_eq!(err.to_string(), "cannot read `nowhere/tokenizer.json`");
    }

    #[test]
    fn an_unusable_template_is_an_error_only_for_chats() {
        for (name, text, expected) in [
            ("chat_template.jinja", "a\n{% if %}", "chat_template.jinja`, line 2: syntax error"),
            ("chat_template.json", "{}", "chat_template.json`: it has no `chat_template`"),
            ("chat_template.json", "{", "chat_template.json`: EOF while parsing"),
            ("tokenizer_config.json", r#"{"chat_template": 7}"#, "is neither a text nor a list of"),
            (
                "tokenizer_config.json",
                r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#,
                r#"none of its templates is called `default`: ["rag"]; raw prompts"#,
            ),
        ] {
            let tokenizer = folder(&[(name, text)]).1.unwrap();
            assert!(!tokenizer.encode("hello").unwrap().is_empty());
            let hello = [Message::new(Role::User, "hello")];
            let message = tokenizer.chat(&hello, Thinking::On).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_raw_prompt_begins_with_the_bos_token_if_the_folder_asks_for_it() {
        let config = |add: bool| {
            format!(r#"{{"add_bos_token": {add}, "bos_token": {{"content": "<|im_start|>"}}}}"#)
        };
        let tokenizer = |add| folder(&[("tokenizer_config.json", &config(add))]).1.unwrap();
        let (with, without) = (tokenizer(true), tokenizer(false));
        let plain = without.encode("hello").unwrap();
        assert_eq!(without.encode_prompt("hello").unwrap(), plain);
        assert_eq!(with.encode("hello").unwrap(), plain);
        assert_eq!(with.encode_prompt("hello").unwrap(), [&[3047][..], &plain].concat());
        assert_ne!(with.sha256().unwrap(), without.sha256().unwrap());
        assert_eq!(without.sha256().unwrap(), Tokenizer::tiny().unwrap().sha256().unwrap());
        assert_eq!(with.to_gguf(3072).unwrap().bos, Some(3047));
    }
}
