//! Requests of the OpenAI-compatible API, serialized once and sent as often as wanted.

use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// An optional field of a request that not every server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionalField {
    /// The seed of sampling.
    Seed,
    /// Generate to `max_tokens`, past the end of text.
    IgnoreEos,
    /// The least number of tokens.
    MinTokens,
    /// Ask for `usage` in a stream.
    StreamOptions,
}

impl OptionalField {
    /// All optional fields.
    pub const ALL: [Self; 4] = [Self::Seed, Self::IgnoreEos, Self::MinTokens, Self::StreamOptions];

    /// The key in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::IgnoreEos => "ignore_eos",
            Self::MinTokens => "min_tokens",
            Self::StreamOptions => "stream_options",
        }
    }
}

/// Whether the answer comes in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Server-sent events as tokens are generated.
    Stream,
    /// One JSON document at the end.
    Whole,
}

/// The prompt of a completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text, which the server tokenizes.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// How an answer is generated: greedily, with a bounded length.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The model's name on the server.
    pub model: String,
    /// The most tokens to generate.
    pub max_tokens: u64,
    /// The least tokens to generate; end of text is ignored until then. `None`: the model ends.
    pub min_tokens: Option<u64>,
    /// The seed.
    pub seed: u64,
    /// Whether the answer comes in pieces.
    pub delivery: Delivery,
    /// The JSON schema of the answer.
    pub schema: Option<Value>,
    /// The optional fields that the server takes.
    pub accepted: Vec<OptionalField>,
}

impl Generation {
    /// Exactly `tokens` tokens in a stream, with every optional field.
    pub fn exactly(model: &str, tokens: u64) -> Self {
        Self {
            model: model.into(),
            max_tokens: tokens,
            min_tokens: Some(tokens),
            seed: 0,
            delivery: Delivery::Stream,
            schema: None,
            accepted: OptionalField::ALL.to_vec(),
        }
    }

    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| fields.insert(key.into(), value);
        set("model", self.model.as_str().into());
        set("max_tokens", self.max_tokens.into());
        set("temperature", 0.into());
        set("stream", (self.delivery == Delivery::Stream).into());
        for field in &self.accepted {
            let value: Value = match (field, self.min_tokens) {
                (OptionalField::Seed, _) => self.seed.into(),
                (OptionalField::IgnoreEos, Some(_)) => true.into(),
                (OptionalField::MinTokens, Some(tokens)) => tokens.into(),
                (OptionalField::StreamOptions, _) if self.delivery == Delivery::Stream => {
                    json!({ "include_usage": true })
                }
                _ => continue,
            };
            set(field.key(), value);
        }
        if let Some(schema) = &self.schema {
            let schema = json!({ "name": "answer", "schema": schema, "strict": true });
            set("response_format", json!({ "type": "json_schema", "json_schema": schema }));
        }
        fields
    }
}

/// What an answer is parsed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// Chunks as server-sent events.
    Stream,
    /// A generated answer as one JSON document.
    Whole,
    /// Another JSON document.
    Json,
    /// Plain text.
    Text,
}

impl AnswerKind {
    /// The content type that is asked for, and with which the answer's begins.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Stream => "text/event-stream",
            Self::Whole | Self::Json => "application/json",
            Self::Text => "text/plain",
        }
    }
}

/// A request that can be sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path after the endpoint's prefix.
    pub(crate) path: &'static str,
    /// JSON; none for GET.
    pub(crate) body: Option<Bytes>,
    pub(crate) answer: AnswerKind,
    pub(crate) max_tokens: Option<u64>,
}

impl Request {
    /// `/v1/completions`.
    pub fn completion(prompt: &Prompt, generation: &Generation) -> Self {
        Self::generate("/v1/completions", "prompt", json!(prompt), generation)
    }

    /// `/v1/chat/completions`, without tools.
    pub fn chat(messages: &[ChatMessage], generation: &Generation) -> Self {
        Self::generate("/v1/chat/completions", "messages", json!(messages), generation)
    }

    fn generate(path: &'static str, key: &str, input: Value, generation: &Generation) -> Self {
        let mut fields = generation.fields();
        fields.insert(key.into(), input);
        let answer = match generation.delivery {
            Delivery::Stream => AnswerKind::Stream,
            Delivery::Whole => AnswerKind::Whole,
        };
        let max_tokens = Some(generation.max_tokens);
        Self { answer, max_tokens, ..Self::post(path, &fields.into()) }
    }

    /// A request with a JSON body that is answered with another JSON document.
    fn post(path: &'static str, body: &Value) -> Self {
        Self { body: Some(body.to_string().into()), ..Self::json(path) }
    }

    /// `/v1/embeddings` of several texts.
    pub fn embeddings(model: &str, texts: &[String]) -> Self {
        let body = json!({ "model": model, "input": texts, "encoding_format": "float" });
        Self::post("/v1/embeddings", &body)
    }

    /// `/v1/rerank` of documents for a query.
    pub fn rerank(model: &str, query: &str, documents: &[String]) -> Self {
        let body = json!({ "model": model, "query": query, "documents": documents });
        Self::post("/v1/rerank", &body)
    }

    /// `/v1/models`.
    pub fn models() -> Self {
        Self::json("/v1/models")
    }

    /// Another JSON document.
    pub(crate) fn json(path: &'static str) -> Self {
        Self { path, body: None, answer: AnswerKind::Json, max_tokens: None }
    }

    /// Sets one more field of the body.
    #[must_use]
    pub fn with_field(mut self, key: &str, value: Value) -> Self {
        let body = self.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
        if let Some(Value::Object(mut fields)) = body {
            fields.insert(key.into(), value);
            self.body = Some(Value::from(fields).to_string().into());
        }
        self
    }

    /// `/metrics`, Prometheus' text.
    pub fn metrics() -> Self {
        Self { answer: AnswerKind::Text, ..Self::json("/metrics") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(request: &Request) -> Value {
        serde_json::from_slice(request.body.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_body_has_the_fields_that_the_server_takes() {
        let mut generation = Generation::exactly("m", 8);
        let all = body(&Request::completion(&Prompt::Text("hi".into()), &generation));
        let expected = json!({
            "model": "m", "prompt": "hi", "max_tokens": 8, "min_tokens": 8, "ignore_eos": true,
            "seed": 0, "temperature": 0, "stream": true,
            "stream_options": { "include_usage": true },
        });
        assert_eq!(all, expected);

        generation.accepted = vec![OptionalField::StreamOptions];
        generation.delivery = Delivery::Whole;
        generation.schema = Some(json!({ "type": "object" }));
        let message = ChatMessage { role: "user", content: "hi".into() };
        let expected = json!({
            "model": "m", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 8,
            "temperature": 0, "stream": false,
            "response_format": { "type": "json_schema", "json_schema": {
                "name": "answer", "schema": { "type": "object" }, "strict": true } },
        });
        assert_eq!(body(&Request::chat(&[message], &generation)), expected);

        generation = Generation { min_tokens: None, ..Generation::exactly("m", 8) };
        let open = body(&Request::completion(&Prompt::Ids(vec![3, 4]), &generation));
        assert_eq!(open["prompt"], json!([3, 4]));
        let more = Request::completion(&Prompt::Ids(vec![3]), &generation);
        assert_eq!(body(&more.with_field("timings", true.into()))["timings"], true);
        assert!(open.get("ignore_eos").is_none() && open.get("min_tokens").is_none(), "{open}");
    }
}
