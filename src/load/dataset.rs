//! Conversations in the form of ShareGPT: a JSON array of
//! `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}`.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;

/// What a person writes, and the length of the answer that it got.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exchanged {
    pub(super) text: String,
    /// Bytes of the answer.
    pub(super) answer_bytes: usize,
}

/// Conversations, each with at least one question that was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pub(super) conversations: Vec<Vec<Exchanged>>,
}

#[derive(Deserialize)]
struct RawConversation {
    #[serde(alias = "conversation", default)]
    conversations: Vec<RawMessage>,
}

#[derive(Deserialize)]
struct RawMessage {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: String,
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or has no conversation.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&files::read(path)?).map_err(|why| Error::invalid(path, why))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let raw: Vec<RawConversation> = serde_json::from_str(text).map_err(|why| {
            format!(
                "{why}; a dataset is an array of {{\"conversations\": [{{\"from\": \"human\", \
                 \"value\": text}}, {{\"from\": \"gpt\", \"value\": text}}]}}"
            )
        })?;
        let conversations = raw.iter().map(|one| exchanged(&one.conversations));
        let conversations: Vec<_> = conversations.filter(|one| !one.is_empty()).collect();
        if conversations.is_empty() {
            return Err("it has no conversation with a question and an answer".into());
        }
        Ok(Self { conversations })
    }
}

/// Questions with the answers that follow them; other messages are left out.
fn exchanged(messages: &[RawMessage]) -> Vec<Exchanged> {
    let is_question = |message: &RawMessage| ["human", "user"].contains(&message.from.as_str());
    let is_answer = |message: &RawMessage| ["gpt", "assistant"].contains(&message.from.as_str());
    let pairs = messages.windows(2).filter(|pair| is_question(&pair[0]) && is_answer(&pair[1]));
    let pairs = pairs.filter(|pair| !pair[0].value.is_empty() && !pair[1].value.is_empty());
    pairs
        .map(|pair| Exchanged { text: pair[0].value.clone(), answer_bytes: pair[1].value.len() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_with_answers_are_read() {
        let text = r#"[
            {"id": "a", "conversations": [
                {"from": "system", "value": "be brief"},
                {"from": "human", "value": "one?"}, {"from": "gpt", "value": "1234"},
                {"from": "human", "value": "two?"}, {"from": "gpt", "value": "12"},
                {"from": "human", "value": "unanswered"}]},
            {"id": "b", "conversations": [{"from": "gpt", "value": "hello"}]},
            {"conversations": [{"role": "user", "content": "x"},
                {"role": "assistant", "content": "yz"}]}]"#;
        let dataset = Dataset::parse(text).unwrap();
        let texts: Vec<Vec<(&str, usize)>> = dataset
            .conversations
            .iter()
            .map(|one| one.iter().map(|turn| (turn.text.as_str(), turn.answer_bytes)).collect())
            .collect();
        assert_eq!(texts, [vec![("one?", 4), ("two?", 2)], vec![("x", 2)]]);
        for text in ["{}", "[]", "[{}]", "[3]"] {
            assert!(Dataset::parse(text).is_err(), "{text}");
        }
    }
}
