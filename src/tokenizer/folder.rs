//! The files of a Hugging Face model folder that concern text. Only `tokenizer.json` must be there.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Tokenizer;
use super::invalid;
use super::parse;
use crate::error::Error;
use crate::error::Result;

pub(super) fn load(dir: &Path) -> Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    let json = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let inner = parse(&json, &path)?;

    // transformers asks the files in this order, the tokenizer last.
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
    let id = |key: &str, name: Named| {
        let (Named::Text(name) | Named::Token { content: name }) = name;
        inner.token_to_id(&name).ok_or_else(|| {
            invalid(&path, format!("its `{key}` `{name}` is not in `tokenizer.json`"))
        })
    };
    ends.extend(config.eos_token.map(|name| id("eos_token", name)).transpose()?);
    let bos = match config.bos_token {
        Some(name) if config.add_bos_token == Some(true) => Some(id("bos_token", name)?),
        None if config.add_bos_token == Some(true) => {
            return Err(invalid(&path, "`add_bos_token` is true, and there is no `bos_token`"));
        }
        _ => None,
    };

    let file = dir.join("chat_template.jinja");
    let template = match (read(&file)?, config.chat_template) {
        (Some(source), _) => Some((file.display().to_string(), source)),
        (None, Some(templates)) => {
            Some((path.display().to_string(), default_template(templates, &path)?))
        }
        (None, None) => None,
    };
    Tokenizer::new(inner, template, &ends)?.beginning_with(bos)
}

/// Some models have several templates; the one for conversations is called `default`.
fn default_template(templates: Templates, path: &Path) -> Result<String> {
    match templates {
        Templates::One(source) => Ok(source),
        Templates::Many(all) => all
            .into_iter()
            .find(|template| template.name == "default")
            .map(|template| template.template)
            .ok_or_else(|| invalid(path, "none of its chat templates is called `default`")),
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
    eos_token: Option<Named>,
    bos_token: Option<Named>,
    add_bos_token: Option<bool>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Token { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Many(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The value in a file; the default if there is no such file.
fn read_json<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    match read(path)? {
        Some(text) => serde_json::from_str(&text).map_err(|err| invalid(path, err.to_string())),
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
    use crate::tokenizer::Message;
    use crate::tokenizer::Role;
    use crate::tokenizer::TINY;
    use crate::tokenizer::Thinking;

    /// The tiny tokenizer in a folder of its own, with these files beside it.
    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Tokenizer>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), TINY).unwrap();
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
    fn a_text_begins_with_a_token_only_if_the_folder_says_so() {
        let id = Tokenizer::tiny().unwrap().inner.token_to_id("<|endoftext|>");
        for (text, expected) in [
            (r#"{"bos_token": "<|endoftext|>"}"#, None),
            (r#"{"bos_token": "<|endoftext|>", "add_bos_token": false}"#, None),
            (r#"{"bos_token": "<|endoftext|>", "add_bos_token": true}"#, id),
            (r#"{"bos_token": null, "add_bos_token": false}"#, None),
        ] {
            let (_dir, tokenizer) = folder(&[("tokenizer_config.json", text)]);
            assert_eq!(tokenizer.unwrap().bos(), expected, "{text}");
        }
        let (_dir, error) = folder(&[("tokenizer_config.json", r#"{"add_bos_token": true}"#)]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`add_bos_token` is true, and there is no `bos_token`"), "{error}");
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
                r#"{"chat_template": []}"#,
                "none of its chat templates is called `default`",
            ),
            ("chat_template.jinja", "a\n{% if %}", "chat_template.jinja`, line 2: "),
        ] {
            let message = folder(&[(name, text)]).1.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let err = Tokenizer::from_folder(Path::new("nowhere")).unwrap_err();
        assert_eq!(err.to_string(), "cannot read `nowhere/tokenizer.json`");
    }
}
