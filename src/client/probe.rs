//! What a server offers, asked once before it is measured: its models, and the optional fields that
//! it takes.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::Client;
use super::fault::Fault;
use super::request::{ChatMessage, Generation, OptionalField, Prompt, Request};
use crate::error::{Error, Result};

/// What a server offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Its models, by name.
    pub models: Vec<String>,
    /// The model that was asked: the given one, or the only one.
    pub model: String,
    /// The API that generates.
    pub api: Api,
    /// Optional fields that it takes, or ignores without a word.
    pub accepted: Vec<OptionalField>,
    /// Optional fields that it refuses, with its message.
    pub refused: Vec<(OptionalField, String)>,
    /// Whether a stream says its token counts.
    pub has_usage: bool,
    /// The most tokens of a prompt and its answer; null if the server does not say it.
    pub context: Option<u64>,
}

/// An API that generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

/// Asks for the models, and for one token with every optional field; without those that the server
/// names in a refusal (400 or 422), until it answers.
///
/// # Errors
/// When the server cannot be reached, has not the model, has several and none is given, or refuses
/// the request for another reason.
pub async fn probe(client: &Client, api: Api, model: Option<&str>) -> Result<Capabilities> {
    let listed = models(client, model).await?;
    let models: Vec<String> = listed.iter().map(|(name, _)| name.clone()).collect();
    let model = choose(&models, model, client)?;
    let context = listed.iter().find(|(name, _)| *name == model).and_then(|(_, context)| *context);
    let mut accepted = OptionalField::ALL.to_vec();
    let mut refused = Vec::new();
    loop {
        let generation =
            Generation { accepted: accepted.clone(), ..Generation::exactly(&model, 1) };
        let request = match api {
            Api::Completions => Request::completion(&Prompt::Text("1, 2,".into()), &generation),
            Api::Chat => {
                let message = ChatMessage { role: "user", content: "1, 2,".into() };
                Request::chat(&[message], &generation)
            }
        };
        let exchange = client.send(&request, Instant::now()).await;
        let Some(fault) = exchange.fault else {
            let has_usage = exchange.usage.is_some();
            return Ok(Capabilities { models, model, api, accepted, refused, has_usage, context });
        };
        let refusal = match &fault {
            Fault::ClientError { status: 400 | 422, message } => {
                accepted.iter().position(|field| message.contains(field.key())).zip(Some(message))
            }
            _ => None,
        };
        let Some((at, message)) = refusal else {
            return Err(unanswered(client, request.path, &fault));
        };
        refused.push((accepted.remove(at), message.clone()));
    }
}

/// The name of the model that is asked: the given one, or the only one of the server.
///
/// # Errors
/// When the server cannot be reached, has not the model, or has several and none is given.
pub async fn served_model(client: &Client, model: Option<&str>) -> Result<String> {
    let models = models(client, model).await?.into_iter().map(|(name, _)| name);
    choose(&models.collect::<Vec<_>>(), model, client)
}

/// The server's models, each with its context where it is said.
async fn models(client: &Client, wanted: Option<&str>) -> Result<Vec<(String, Option<u64>)>> {
    let request = Request::models();
    let exchange = client.send(&request, Instant::now()).await;
    if let Some(fault) = exchange.fault {
        // `transformers serve` cannot list a folder that it serves.
        let cannot_list = exchange.status.is_some_and(|status| matches!(status, 404 | 405 | 500..));
        if wanted.is_some() && cannot_list {
            return Ok(Vec::new());
        }
        return Err(unanswered(client, request.path, &fault));
    }
    let body: Value = serde_json::from_str(&exchange.content).unwrap_or_default();
    let models = body.get("data").and_then(Value::as_array).into_iter().flatten();
    // vLLM, SGLang and candlemark; llama-server.
    let context = |model: &Value| {
        let found = ["/max_model_len", "/meta/n_ctx"].iter().find_map(|at| model.pointer(at));
        found.and_then(Value::as_u64)
    };
    let named =
        models.filter_map(|model| Some((model.get("id")?.as_str()?.into(), context(model))));
    Ok(named.collect())
}

fn choose(models: &[String], wanted: Option<&str>, client: &Client) -> Result<String> {
    match (wanted, models) {
        // A server that lists nothing may still have it.
        (Some(wanted), []) => Ok(wanted.into()),
        (Some(wanted), _) if models.iter().any(|model| model == wanted) => Ok(wanted.into()),
        (Some(wanted), _) => {
            Err(Error::unknown("model", wanted, models.iter().map(String::as_str)))
        }
        (None, [model]) => Ok(model.clone()),
        (None, []) => Err(Error::Usage(format!(
            "{} lists no model; name one with `--served-model-name`",
            client.endpoint()
        ))),
        (None, _) => Err(Error::Usage(format!(
            "{} has several models; name one with `--served-model-name`: {}",
            client.endpoint(),
            models.join(", ")
        ))),
    }
}

fn unanswered(client: &Client, path: &str, fault: &Fault) -> Error {
    Error::Usage(format!("{} does not answer `{path}`: {fault}", client.endpoint()))
}
