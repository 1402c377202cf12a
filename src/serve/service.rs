//! What the server does with a request: its routes, its key, its limits, its places.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::serve::body::{EVENTS, METRICS, check_json, json_response, read, refused, response};
use crate::serve::job::{Job, Parameters, Task};
use crate::serve::metrics::Metrics;
use crate::serve::refusal::Refusal;
use crate::serve::reply::{Answer, Reply};
use crate::serve::request::{ApiRequest, Endpoint, Input};
use crate::serve::stream::{Answering, ENGINE_STOPPED};
use crate::settings::Generation;
use crate::tokenizer::Tokenizer;

/// What every request needs.
pub(super) struct Service {
    pub(super) model: String,
    /// SHA-256 of the key that requests must have.
    pub(super) api_key: Option<[u8; 32]>,
    pub(super) created: i64,
    pub(super) defaults: Generation,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Longest sequence in tokens.
    pub(super) context: usize,
    /// Rows of the embedding: token ids are below.
    pub(super) vocab: usize,
    pub(super) max_body: usize,
    /// Sequences that run and wait at most.
    pub(super) max_sequences: usize,
    /// As many places.
    pub(super) places: Arc<Semaphore>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) next_id: AtomicU64,
    /// Whether the server ends: new requests are refused.
    pub(super) is_ending: AtomicBool,
}

/// Tokens of a text that is embedded: its activations are in memory at once.
const MAX_EMBEDDED_TOKENS: usize = 8192;

/// A checked request with its places in the engine.
struct Prepared {
    reply: Reply,
    /// One per prompt.
    places: Vec<OwnedSemaphorePermit>,
    /// One per prompt.
    tasks: Vec<Task>,
}

impl Service {
    /// The response to a request, whatever it is.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let endpoint = match request.uri().path() {
            "/v1/completions" => Endpoint::Completions,
            "/v1/chat/completions" => Endpoint::Chat,
            "/v1/embeddings" => Endpoint::Embeddings,
            _ => return self.information(&request),
        };
        let answer = self.inference(endpoint, request).await;
        answer.unwrap_or_else(|refusal| {
            self.metrics.end(refusal.outcome());
            refused(&refusal)
        })
    }

    /// What needs no model.
    fn information(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if !matches!(path, "/health" | "/metrics" | "/v1/models" | "/version") {
            let message = format!(
                "there is no `{path}`; see `/v1/models`, `/health`, `/metrics` and `/version`"
            );
            return refused(&Refusal::new(StatusCode::NOT_FOUND, message));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refused(&wrong_method(path, "GET"));
        }
        match path {
            "/health" if self.is_ending.load(Ordering::Relaxed) => refused(&ending()),
            "/health" => json_response(StatusCode::OK, &json!({ "status": "ok" })),
            "/version" => {
                let version = env!("CARGO_PKG_VERSION");
                json_response(StatusCode::OK, &json!({ "version": version }))
            }
            "/metrics" => response(StatusCode::OK, METRICS, self.metrics.text().into()),
            _ => match self.check_key(request.headers()) {
                Err(refusal) => refused(&refusal),
                Ok(()) => json_response(StatusCode::OK, &self.models()),
            },
        }
    }

    /// The list of the one model.
    fn models(&self) -> Value {
        let model = json!({
            "id": self.model, "object": "model", "created": self.created,
            "owned_by": "candlemark", "max_model_len": self.context,
        });
        json!({ "object": "list", "data": [model] })
    }

    async fn inference(
        self: &Arc<Self>,
        endpoint: Endpoint,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        if request.method() != Method::POST {
            return Err(wrong_method(request.uri().path(), "POST"));
        }
        self.check_key(request.headers())?;
        if self.is_ending.load(Ordering::Relaxed) {
            return Err(ending());
        }
        check_json(request.headers())?;
        let reading = read(request.into_body(), self.max_body);
        let body = self.metrics.unless_cancelled(reading).await?;
        let service = Arc::clone(self);
        // Not on the thread that answers all requests.
        let prepared = tokio::task::spawn_blocking(move || service.prepare(endpoint, &body));
        let failed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "tokenization failed");
        let prepared = self.metrics.unless_cancelled(prepared).await;
        let Prepared { reply, places, tasks } = prepared.map_err(failed)??;
        self.metrics.add_tokenization(reply.tokenize.unwrap_or_default());
        let (sender, events) = unbounded_channel();
        let submitted = Instant::now();
        let prompts = reply.prompts.iter().cloned();
        for (((index, prompt), task), place) in prompts.enumerate().zip(tasks).zip(places) {
            let events = sender.clone();
            let job = Job { index, prompt, task, events, submitted, place: Some(place) };
            self.metrics.waiting.add();
            let stopped = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ENGINE_STOPPED);
            self.jobs.send(job).map_err(stopped)?;
        }
        drop(sender);
        let streams = reply.options.stream;
        let answering = Answering::new(reply, events, Arc::clone(&self.metrics));
        if streams {
            return Ok(response(StatusCode::OK, EVENTS, Body::new(answering.into_stream())));
        }
        // It counts its own outcome, so a failure is no error of this function.
        Ok(match answering.whole().await {
            Ok(whole) => json_response(StatusCode::OK, &whole),
            Err(refusal) => refused(&refusal),
        })
    }

    /// Whether the request has the key.
    fn check_key(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(expected) = &self.api_key else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = given.and_then(|value| value.strip_prefix("Bearer "));
        // Of hashes, a comparison that ends early tells nothing about the key.
        if key.is_some_and(|key| Sha256::digest(key.trim())[..] == expected[..]) {
            return Ok(());
        }
        let message = "this server needs its API key: send `Authorization: Bearer KEY`";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key"))
    }

    /// Checks a request, takes its places and tokenizes its prompts.
    fn prepare(&self, endpoint: Endpoint, body: &[u8]) -> Result<Prepared, Refusal> {
        let request = ApiRequest::parse(endpoint, body, &self.defaults)?;
        if request.model.as_ref().is_some_and(|model| *model != self.model) {
            let message = format!(
                "the model `{}` does not exist; this server has `{}`",
                crate::error::shortened(request.model.as_deref().unwrap_or_default()),
                self.model
            );
            let refusal = Refusal::new(StatusCode::NOT_FOUND, message).with_code("model_not_found");
            return Err(Refusal { param: Some("model".into()), ..refusal });
        }
        let count = request.inputs.len();
        if count > self.max_sequences {
            let most = self.max_sequences;
            let field = if endpoint == Endpoint::Embeddings { "input" } else { "prompt" };
            let why = format!("has {count} prompts; at most {most} run and wait here");
            return Err(Refusal::of_field(field, why));
        }
        let mut places =
            Arc::clone(&self.places).try_acquire_many_owned(count as u32).map_err(|_| {
                let most = self.max_sequences;
                let message = format!("{most} sequences run and wait already; try again later");
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, message)
            })?;
        let begin = Instant::now();
        let is_text = request.inputs.iter().any(|input| !matches!(input, Input::Ids(_)));
        let (mut prompts, mut tasks) = (Vec::new(), Vec::new());
        for input in &request.inputs {
            let ids = self.ids(input)?;
            let task = match endpoint {
                Endpoint::Embeddings => self.embedding(&ids)?,
                _ => Task::Generate(self.parameters(&request, ids.len())?),
            };
            prompts.push(ids);
            tasks.push(task);
        }
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let prefix = match endpoint {
            Endpoint::Completions => "cmpl",
            Endpoint::Chat => "chatcmpl",
            Endpoint::Embeddings => "embd",
        };
        let reply = Reply {
            endpoint,
            id: format!("{prefix}-{number}"),
            created: Timestamp::now().as_second(),
            model: self.model.clone(),
            options: request.options,
            answers: prompts.iter().map(|_| Answer::default()).collect(),
            prompts,
            tokenize: is_text.then(|| begin.elapsed()),
        };
        let places = (0..count).filter_map(|_| places.split(1)).collect();
        Ok(Prepared { reply, places, tasks })
    }

    /// The token ids of a prompt.
    fn ids(&self, input: &Input) -> Result<Vec<u32>, Refusal> {
        let ids = match input {
            Input::Ids(ids) => Ok(ids.clone()),
            Input::Text { text, with_prefix: true } => self.tokenizer.encode_prompt(text),
            Input::Text { text, with_prefix: false } => self.tokenizer.encode(text),
            Input::Chat(messages, thinking) => self
                .tokenizer
                .chat(messages, *thinking)
                .and_then(|text| self.tokenizer.encode(&text)),
        };
        let ids = ids.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.chain()))?;
        if ids.is_empty() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "a prompt has no tokens"));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            let message = format!("token id {id} is beyond the vocabulary of {}", self.vocab);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        Ok(ids)
    }

    fn parameters(&self, request: &ApiRequest, prompt: usize) -> Result<Parameters, Refusal> {
        let left = self.context.saturating_sub(prompt);
        let max_tokens = request.max_tokens.unwrap_or(left);
        if max_tokens > left || left == 0 {
            return Err(self.too_long(prompt, &format!(" and {max_tokens} new ones")));
        }
        let mut stop_tokens = request.stop_tokens.clone();
        if !request.ignore_eos {
            stop_tokens.extend(self.tokenizer.end_tokens());
        }
        Ok(Parameters {
            max_tokens,
            min_tokens: request.min_tokens,
            stop_tokens,
            stop_strings: request.stop_strings.clone(),
            sampling: request.sampling.clone(),
        })
    }

    fn embedding(&self, ids: &[u32]) -> Result<Task, Refusal> {
        match ids.len() > self.context.min(MAX_EMBEDDED_TOKENS) {
            true if ids.len() > self.context => Err(self.too_long(ids.len(), "")),
            true => {
                let why =
                    format!("has {} tokens; at most {MAX_EMBEDDED_TOKENS} are embedded", ids.len());
                Err(Refusal::of_field("input", why))
            }
            false => Ok(Task::Embed),
        }
    }

    fn too_long(&self, prompt: usize, new_tokens: &str) -> Refusal {
        let message = format!(
            "this model's maximum context length is {} tokens, and the request has a prompt of \
             {prompt}{new_tokens}; shorten it or lower `max_tokens`",
            self.context
        );
        Refusal::new(StatusCode::BAD_REQUEST, message).with_code("context_length_exceeded")
    }
}

fn ending() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending")
}

fn wrong_method(path: &str, method: &str) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("`{path}` takes {method} only"))
}
