//! Requests of the API: their fields, checked. What would change the answer and is not done here is
//! an error that names the field; other unknown fields are ignored, as vLLM does.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::serve::refusal::Refusal;
use crate::settings::Generation;
use crate::tokenizer::{Message, Role, Thinking};

/// An endpoint that takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Completions,
    Chat,
    Embeddings,
}

/// A checked request, before its text is tokenized.
#[derive(Debug)]
pub(super) struct ApiRequest {
    pub(super) model: Option<String>,
    pub(super) inputs: Vec<Input>,
    /// `None`: as many as the context has left.
    pub(super) max_tokens: Option<usize>,
    pub(super) min_tokens: usize,
    pub(super) ignore_eos: bool,
    pub(super) stop_tokens: Vec<u32>,
    pub(super) stop_strings: Vec<String>,
    pub(super) sampling: Generation,
    pub(super) options: Options,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) stream: bool,
    /// A last chunk with the usage.
    pub(super) include_usage: bool,
    /// The usage so far in every chunk.
    pub(super) continuous_usage: bool,
    pub(super) return_token_ids: bool,
    /// Where the time went, beside the usage.
    pub(super) timings: bool,
    /// Vectors as base64 of little-endian f32.
    pub(super) base64: bool,
}

/// One prompt.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    Ids(Vec<u32>),
    /// Text, with the tokenizer's first tokens or without.
    Text {
        text: String,
        with_prefix: bool,
    },
    Chat(Vec<Message>, Thinking),
}

/// OpenAI's default of completions.
const DEFAULT_MAX_TOKENS: usize = 16;

/// All are looked for after every token.
const MAX_STOP_STRINGS: usize = 64;

/// Fields that would change the answer, with the values that would not, beside `null`, `false`, 0
/// and what is empty.
const UNSUPPORTED: [(&str, &[&str]); 38] = [
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("echo", &[]),
    ("suffix", &[]),
    ("logprobs", &[]),
    ("top_logprobs", &[]),
    ("prompt_logprobs", &[]),
    ("logit_bias", &[]),
    ("presence_penalty", &[]),
    ("frequency_penalty", &[]),
    ("min_p", &[]),
    ("use_beam_search", &[]),
    ("bad_words", &[]),
    ("allowed_token_ids", &[]),
    ("logits_processors", &[]),
    ("truncate_prompt_tokens", &[]),
    ("include_stop_str_in_output", &[]),
    ("skip_special_tokens", &["true"]),
    ("tools", &[]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &[]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("response_format", &[r#"{"type":"text"}"#]),
    ("structured_outputs", &[]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("documents", &[]),
    ("chat_template", &[]),
    ("continue_final_message", &[]),
    ("add_generation_prompt", &["true"]),
    ("audio", &[]),
    ("modalities", &[r#"["text"]"#]),
    ("prediction", &[]),
    ("prompt_embeds", &[]),
    ("dimensions", &[]),
    ("reasoning_effort", &[]),
];

/// The fields that have one type.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    model: Option<String>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    min_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    repetition_penalty: Option<f64>,
    seed: Option<i64>,
    ignore_eos: Option<bool>,
    stop_token_ids: Option<Vec<u32>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    chat_template_kwargs: Option<TemplateArguments>,
    add_special_tokens: Option<bool>,
    return_token_ids: Option<bool>,
    timings: Option<bool>,
    encoding_format: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TemplateArguments {
    enable_thinking: Option<bool>,
}

impl ApiRequest {
    /// Reads the body of a request; `defaults` are the sampling parameters that it may leave out.
    ///
    /// # Errors
    /// What is wrong with it, with status 400.
    pub(super) fn parse(
        endpoint: Endpoint,
        body: &[u8],
        defaults: &Generation,
    ) -> Result<Self, Refusal> {
        let invalid = |error: serde_json::Error| {
            Refusal::new(hyper::StatusCode::BAD_REQUEST, format!("the body is not valid: {error}"))
        };
        let object: Map<String, Value> = serde_json::from_slice(body).map_err(invalid)?;
        if let Some(field) = unsupported(&object) {
            return Err(Refusal::unsupported(field));
        }
        let fields = typed_fields(&object)?;
        let inputs = match endpoint {
            Endpoint::Completions => {
                inputs(&object, "prompt", fields.add_special_tokens.unwrap_or(true))?
            }
            Endpoint::Embeddings => inputs(&object, "input", true)?,
            Endpoint::Chat => {
                let arguments = fields.chat_template_kwargs.unwrap_or_default();
                let thinking = match arguments.enable_thinking.unwrap_or(true) {
                    true => Thinking::On,
                    false => Thinking::Off,
                };
                vec![Input::Chat(messages(&object)?, thinking)]
            }
        };
        let default = (endpoint != Endpoint::Chat).then_some(DEFAULT_MAX_TOKENS);
        let max_tokens = fields.max_completion_tokens.or(fields.max_tokens).or(default);
        if max_tokens == Some(0) {
            return Err(Refusal::of_field("max_tokens", "is 0; it must be at least 1"));
        }
        let min_tokens = fields.min_tokens.unwrap_or(0);
        if max_tokens.is_some_and(|most| min_tokens > most) {
            let why = format!("is {min_tokens}, more than `max_tokens`");
            return Err(Refusal::of_field("min_tokens", why));
        }
        let stream = fields.stream.unwrap_or(false);
        if fields.stream_options.is_some() && !stream {
            return Err(Refusal::of_field("stream_options", "needs `\"stream\": true`"));
        }
        let StreamOptions { include_usage, continuous_usage_stats } =
            fields.stream_options.unwrap_or_default();
        let base64 = match fields.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                return Err(Refusal::of_field(
                    "encoding_format",
                    "is neither `float` nor `base64`",
                ));
            }
        };
        let sampling = Generation {
            temperature: fields.temperature.unwrap_or(defaults.temperature),
            top_p: fields.top_p.or(defaults.top_p),
            repetition_penalty: fields.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            seed: fields.seed.map_or(defaults.seed, |seed| seed as u64),
            top_k: match fields.top_k {
                None => defaults.top_k,
                Some(k) => usize::try_from(k).ok().filter(|k| *k > 0), // -1 and 0: all tokens.
            },
            ..defaults.clone()
        };
        check_sampling(&sampling)?;
        Ok(Self {
            model: fields.model,
            inputs,
            max_tokens,
            min_tokens,
            ignore_eos: fields.ignore_eos.unwrap_or(false),
            stop_tokens: fields.stop_token_ids.unwrap_or_default(),
            stop_strings: stop_strings(object.get("stop"))?,
            sampling: Generation { deterministic: sampling.temperature == 0.0, ..sampling },
            options: Options {
                stream,
                include_usage: include_usage.unwrap_or(false),
                continuous_usage: continuous_usage_stats.unwrap_or(false),
                return_token_ids: fields.return_token_ids.unwrap_or(false),
                timings: fields.timings.unwrap_or(false),
                base64,
            },
        })
    }
}

/// The first field that asks for what is not done.
fn unsupported(object: &Map<String, Value>) -> Option<&'static str> {
    let is_neutral = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    };
    let asks = |&&(field, neutral): &&(&'static str, &[&str])| {
        let Some(value) = object.get(field) else { return false };
        let text = value.to_string();
        // A number of log-probabilities may be 0: those of the chosen tokens alone.
        let is_logprobs = field.ends_with("logprobs") && field != "top_logprobs";
        let is_off = is_neutral(value) && !(is_logprobs && value.is_number());
        // `true` and `1` are the defaults of some fields, and `false` and 0 are not.
        let is_default = neutral.contains(&text.as_str());
        match neutral {
            ["true"] => !value.is_null() && !is_default,
            ["1"] => !value.is_null() && !is_default,
            _ => !is_off && !is_default,
        }
    };
    UNSUPPORTED.iter().find(asks).map(|(field, _)| *field)
}

/// The fields of one type. An error names the field.
fn typed_fields(object: &Map<String, Value>) -> Result<Fields, Refusal> {
    serde_json::from_value(Value::Object(object.clone())).map_err(|error| {
        // serde does not say which field it is: read them one by one.
        let wrong = object.iter().find_map(|(name, value)| {
            let one = Map::from_iter([(name.clone(), value.clone())]);
            let error = serde_json::from_value::<Fields>(Value::Object(one)).err()?;
            let why = [("f64", "a number"), ("usize", "a whole number"), ("i64", "a whole number")]
                .iter()
                .fold(error.to_string(), |text, (rust, words)| {
                    text.replace(&format!("expected {rust}"), &format!("expected {words}"))
                });
            Some(Refusal::of_field(name.clone(), format!("cannot be read: {why}")))
        });
        let unnamed = || Refusal::new(hyper::StatusCode::BAD_REQUEST, error.to_string());
        wrong.unwrap_or_else(unnamed)
    })
}

/// One prompt as text or token ids, or a list of them.
fn inputs(
    object: &Map<String, Value>,
    field: &str,
    with_prefix: bool,
) -> Result<Vec<Input>, Refusal> {
    let wrong = || {
        Refusal::of_field(field, "must be a text, a list of token ids, or a list of either of them")
    };
    let ids = |values: &[Value]| -> Option<Vec<u32>> {
        values.iter().map(|value| u32::try_from(value.as_u64()?).ok()).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(Input::Text { text: text.clone(), with_prefix }),
        Value::Array(values) => ids(values).map(Input::Ids).ok_or_else(wrong),
        _ => Err(wrong()),
    };
    match object.get(field) {
        None | Some(Value::Null) => Err(Refusal::of_field(field, "is missing")),
        Some(Value::Array(values)) if values.is_empty() => {
            Err(Refusal::of_field(field, "is empty"))
        }
        Some(Value::Array(values)) if !values[0].is_number() => values.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// The conversation.
fn messages(object: &Map<String, Value>) -> Result<Vec<Message>, Refusal> {
    let wrong = |why: &str| Refusal::of_field("messages", why);
    let list = match object.get("messages") {
        None | Some(Value::Null) => return Err(wrong("is missing")),
        Some(list) => list.as_array().filter(|list| !list.is_empty()),
    };
    let list = list.ok_or_else(|| wrong("must be a list of at least one message"))?;
    let message = |message: &Value| {
        let role = match message["role"].as_str() {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool" | "function") => {
                return Err(wrong("has a tool's message; there are no tools"));
            }
            _ => return Err(wrong("has a message whose `role` is not system, user or assistant")),
        };
        if !matches!(&message["tool_calls"], Value::Null) {
            return Err(wrong("has `tool_calls`; there are no tools"));
        }
        match &message["content"] {
            Value::String(text) => Ok(Message::new(role, text)),
            Value::Array(parts) => {
                let texts: Option<Vec<&str>> = parts.iter().map(text_of).collect();
                let texts = texts.ok_or_else(|| wrong("has content that is not text"))?;
                Ok(Message::new(role, texts.concat()))
            }
            _ => Err(wrong("has a message without text in `content`")),
        }
    };
    list.iter().map(message).collect()
}

/// The text of a part of a message, if it is text.
fn text_of(part: &Value) -> Option<&str> {
    part["text"].as_str().filter(|_| part["type"] == "text")
}

/// One stop string, or a list of them.
fn stop_strings(value: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let wrong = |why| Refusal::of_field("stop", why);
    let one = |value: &Value| match value.as_str() {
        Some("") => Err(wrong("has an empty text")),
        Some(text) => Ok(text.to_owned()),
        None => Err(wrong("must be a text or a list of texts")),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() > MAX_STOP_STRINGS => {
            Err(Refusal::of_field("stop", format!("has more than {MAX_STOP_STRINGS} texts")))
        }
        Some(Value::Array(values)) => values.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn check_sampling(sampling: &Generation) -> Result<(), Refusal> {
    let &Generation { temperature, top_p, repetition_penalty, .. } = sampling;
    if !(0.0..=1000.0).contains(&temperature) {
        return Err(Refusal::of_field("temperature", "must be from 0 to 1000"));
    }
    if top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
        return Err(Refusal::of_field("top_p", "must be above 0 and at most 1"));
    }
    if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
        return Err(Refusal::of_field("repetition_penalty", "must be above 0"));
    }
    Ok(())
}
