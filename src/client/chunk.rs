//! One event of a stream, or one whole answer, of the OpenAI-compatible API.
//!
//! Knows nothing of time. A chunk may carry no token, one, or several: tokens are what `usage` says
//! and chunks are never counted as tokens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The token counts that a server reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, with those from the prefix cache.
    pub prompt_tokens: Option<u64>,
    /// Generated tokens, with those of reasoning.
    pub completion_tokens: Option<u64>,
    /// Tokens of the prompt that came from the prefix cache.
    pub cached_tokens: Option<u64>,
}

/// What a chunk carries, the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChunkClass {
    /// An error object.
    Error,
    /// Text of the answer.
    Content,
    /// Arguments of a tool call.
    Tool,
    /// Text of the reasoning.
    Reasoning,
    /// The reason why generation ended, without text.
    Finish,
    /// Token counts alone.
    Usage,
    /// The role alone.
    Role,
    /// None of these: an empty delta.
    Empty,
}

impl ChunkClass {
    /// Whether the chunk holds generated text: the first such chunk is the first token.
    pub fn is_token(self) -> bool {
        matches!(self, Self::Content | Self::Tool | Self::Reasoning)
    }
}

/// A parsed chunk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// Text of the answer.
    pub content: String,
    /// Text of the reasoning.
    pub reasoning: String,
    /// Arguments of tool calls, in pieces.
    pub tool_arguments: String,
    /// Whether it names the role.
    pub has_role: bool,
    /// `stop`, `length` or another reason why generation ended.
    pub finish_reason: Option<String>,
    /// Token counts.
    pub usage: Option<Usage>,
    /// Where the time went, by the server's names, as `timings`: those of candlemark and
    /// llama-server.
    pub timings: BTreeMap<String, f64>,
    /// The message of an error object.
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct RawChunk {
    choices: Option<Vec<RawChoice>>,
    usage: Option<RawUsage>,
    timings: Option<BTreeMap<String, Value>>,
    error: Option<Value>,
    object: Option<Value>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct RawChoice {
    text: Option<String>,
    delta: Option<RawDelta>,
    message: Option<RawDelta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct RawDelta {
    role: Option<String>,
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<RawToolCall>>,
}

#[derive(Deserialize)]
struct RawToolCall {
    function: Option<RawFunction>,
}

#[derive(Deserialize)]
struct RawFunction {
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct RawUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<RawPromptDetails>,
}

#[derive(Deserialize)]
struct RawPromptDetails {
    cached_tokens: Option<u64>,
}

impl Chunk {
    /// Parses the data of an event, or the body of an answer without a stream.
    ///
    /// # Errors
    /// When it is not JSON, or a field has another type than in the API.
    pub fn parse(data: &str) -> Result<Self, serde_json::Error> {
        let raw: RawChunk = serde_json::from_str(data)?;
        let timings = raw.timings.into_iter().flatten();
        let timings = timings.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
        let usage = raw.usage.map(Usage::from);
        let mut chunk = Chunk { usage, timings, ..Chunk::default() };
        chunk.error = match raw.error {
            Some(Value::Null) | None => {
                let is_error = raw.object.as_ref().and_then(Value::as_str) == Some("error");
                is_error.then(|| error_message(&raw.message.unwrap_or_default()))
            }
            Some(error) => Some(error_message(&error)),
        };
        for choice in raw.choices.into_iter().flatten() {
            chunk.content += &choice.text.unwrap_or_default();
            for delta in [choice.delta, choice.message].into_iter().flatten() {
                chunk.has_role |= delta.role.is_some();
                chunk.content += &delta.content.unwrap_or_default();
                // Servers that changed the name send the same text under both.
                let reasoning = delta.reasoning_content.filter(|text| !text.is_empty());
                chunk.reasoning += &reasoning.or(delta.reasoning).unwrap_or_default();
                for call in delta.tool_calls.into_iter().flatten() {
                    let arguments = call.function.and_then(|function| function.arguments);
                    chunk.tool_arguments += &arguments.unwrap_or_default();
                }
            }
            chunk.finish_reason = choice.finish_reason.or(chunk.finish_reason);
        }
        Ok(chunk)
    }

    /// What the chunk carries.
    pub fn class(&self) -> ChunkClass {
        if self.error.is_some() {
            ChunkClass::Error
        } else if !self.content.is_empty() {
            ChunkClass::Content
        } else if !self.tool_arguments.is_empty() {
            ChunkClass::Tool
        } else if !self.reasoning.is_empty() {
            ChunkClass::Reasoning
        } else if self.finish_reason.is_some() {
            ChunkClass::Finish
        } else if self.usage.is_some() {
            ChunkClass::Usage
        } else if self.has_role {
            ChunkClass::Role
        } else {
            ChunkClass::Empty
        }
    }

    /// Bytes of generated text.
    pub fn text_bytes(&self) -> usize {
        self.content.len() + self.reasoning.len() + self.tool_arguments.len()
    }
}

impl From<RawUsage> for Usage {
    fn from(raw: RawUsage) -> Self {
        Usage {
            prompt_tokens: raw.prompt_tokens,
            completion_tokens: raw.completion_tokens,
            cached_tokens: raw.prompt_tokens_details.and_then(|details| details.cached_tokens),
        }
    }
}

/// The message of an error: text, or an object with `message`.
fn error_message(error: &Value) -> String {
    let text = error.as_str().or_else(|| error.get("message")?.as_str());
    text.map_or_else(|| error.to_string(), Into::into)
}

/// The message in the body of a failed request: `{"error": {"message": …}}`, `{"message": …}`,
/// `{"detail": …}`, or the text itself.
pub(crate) fn body_message(body: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(body) else { return body.trim().to_owned() };
    let inner = ["error", "detail"].iter().find_map(|key| value.get(key));
    error_message(inner.unwrap_or(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_told_by_what_it_carries() {
        use ChunkClass::{Content, Empty, Finish, Reasoning, Role, Tool};
        let delta = |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
        let tool = |arguments: &str| {
            let function = format!(r#"{{"name":"f","arguments":"{arguments}"}}"#);
            delta(&format!(r#"{{"tool_calls":[{{"index":0,"function":{function}}}]}}"#))
        };
        for (data, class, bytes) in [
            (delta(r#"{"role":"assistant","content":""}"#), Role, 0),
            (delta(r#"{"role":"assistant","content":null}"#), Role, 0),
            (delta(r#"{"role":"assistant","content":"Hi"}"#), Content, 2),
            (delta(r#"{"content":"é"}"#), Content, 2),
            (delta(r#"{"content":""}"#), Empty, 0),
            (delta("{}"), Empty, 0),
            (delta(r#"{"reasoning_content":"so"}"#), Reasoning, 2),
            (delta(r#"{"reasoning":"so"}"#), Reasoning, 2),
            (delta(r#"{"reasoning":"so","reasoning_content":"so"}"#), Reasoning, 2),
            (tool(""), Empty, 0),
            (tool("{x"), Tool, 2),
            (r#"{"choices":[{"text":"ab","finish_reason":null}]}"#.into(), Content, 2),
            (r#"{"choices":[{"text":"","finish_reason":"length"}]}"#.into(), Finish, 0),
            (r#"{"choices":[{"message":{"content":"all"}}]}"#.into(), Content, 3),
            (r#"{"choices":[],"usage":{"prompt_tokens":3}}"#.into(), ChunkClass::Usage, 0),
            (r#"{"choices":[],"usage":null}"#.into(), Empty, 0),
            (r#"{"error":{"message":"no"}}"#.into(), ChunkClass::Error, 0),
            (r#"{"object":"error","message":"no","code":400}"#.into(), ChunkClass::Error, 0),
            (r#"{"error":null,"choices":[{"text":"a"}]}"#.into(), Content, 1),
            ("{}".into(), Empty, 0),
        ] {
            let chunk = Chunk::parse(&data).unwrap();
            assert_eq!((chunk.class(), chunk.text_bytes()), (class, bytes), "{data}");
        }
        for data in ["", "{", "[]", "3", r#"{"choices":"x"}"#, r#"{"usage":{"prompt_tokens":-1}}"#]
        {
            assert!(Chunk::parse(data).is_err(), "{data}");
        }
    }

    #[test]
    fn usage_comes_alone_or_with_the_last_content() {
        let usage = r#"{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,
            "prompt_tokens_details":{"cached_tokens":4}}"#;
        let expected =
            Usage { prompt_tokens: Some(7), completion_tokens: Some(5), cached_tokens: Some(4) };
        for choices in ["[]", r#"[{"delta":{"content":"x"},"finish_reason":"stop"}]"#] {
            let chunk = Chunk::parse(&format!(r#"{{"choices":{choices},"usage":{usage}}}"#));
            assert_eq!(chunk.unwrap().usage, Some(expected));
        }
    }

    #[test]
    fn the_message_of_a_failed_request_is_found() {
        for (body, message) in [
            (r#"{"error":{"message":"no such model","code":404}}"#, "no such model"),
            (r#"{"error":"busy"}"#, "busy"),
            (r#"{"object":"error","message":"too long"}"#, "too long"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"loc":["body","seed"]}]}"#, r#"[{"loc":["body","seed"]}]"#),
            ("<html>bad gateway</html>\n", "<html>bad gateway</html>"),
        ] {
            assert_eq!(body_message(body), message);
        }
    }
}
