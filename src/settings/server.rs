//! A server that is measured in place of an engine, as it describes itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of the engine in records of servers.
pub(crate) const SERVER_ENGINE: &str = "server";

/// A server that was measured over its OpenAI-compatible API. What it does not say is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    /// The base of its API, without secrets.
    pub url: String,
    /// The model's name on it.
    pub model: String,
    /// Its program: `vllm`, `sglang`, `llama.cpp`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// The version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The most tokens of a prompt and its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// What else it says of the model: size, vocabulary, parallel slots.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// Optional fields of a request that it takes, or ignores without a word: `ignore_eos`, `seed`,
    /// …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<String>,
    /// Optional fields that it refuses, with its message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// What is fresh in every block.
    #[serde(default)]
    pub blocks: ServerBlocks,
}

/// What is fresh in every block of a server's record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerBlocks {
    /// The client: blocks are windows of time on a server that runs on.
    #[default]
    Windows,
    /// The server: it was started for every block.
    Restarts,
}

impl Server {
    /// What servers must share to be compared: program, version, model, its facts, and the user's
    /// labels. The address is none of it.
    pub(crate) fn class_fields(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let unknown = || "unknown".to_owned();
        let mut fields = self.facts.clone();
        fields.insert("server".into(), self.software.clone().unwrap_or_else(unknown));
        fields.insert("version".into(), self.version.clone().unwrap_or_else(unknown));
        fields.insert("model".into(), self.model.clone());
        let context = self.context.map_or_else(unknown, |context| context.to_string());
        fields.insert("context".into(), context);
        fields.extend(labels.iter().map(|(name, value)| (format!("label {name}"), value.clone())));
        fields
    }

    /// `vllm 0.32.0`, as far as known.
    pub(crate) fn program(&self) -> String {
        let software = self.software.as_deref().unwrap_or("an unknown server");
        match &self.version {
            Some(version) => format!("{software} {version}"),
            None => software.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_the_servers_wherever_it_listens() {
        let server = Server {
            url: "http://one:8000".into(),
            model: "mini".into(),
            software: Some("vllm".into()),
            version: Some("0.32.0".into()),
            context: Some(2048),
            ..Server::default()
        };
        let none = BTreeMap::new();
        let moved = Server { url: "http://other:1".into(), ..server.clone() };
        assert_eq!(server.class_fields(&none), moved.class_fields(&none));
        let newer = Server { version: Some("0.33.0".into()), ..server.clone() };
        assert_ne!(server.class_fields(&none), newer.class_fields(&none));
        let labels = [("tensor_parallel".to_owned(), "2".to_owned())].into();
        assert_eq!(server.class_fields(&labels)["label tensor_parallel"], "2");
        assert_eq!(
            (server.program(), Server::default().program()),
            ("vllm 0.32.0".into(), "an unknown server".into())
        );
    }
}
