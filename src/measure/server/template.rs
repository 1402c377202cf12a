//! How a server is asked for an answer: the API, the optional fields that it takes, and the chat
//! template.

use super::{Connection, api_of};
use crate::client::{
    Api, Capabilities, ChatMessage, Exchange, Generation as Answering, OptionalField, Prompt,
    Request,
};
use crate::error::{Error, Result};
use crate::settings::Generation;
use crate::workload::{PromptFormat, Scenario};

/// Makes the requests of a scenario.
pub(super) struct RequestTemplate {
    offer: Capabilities,
    natural_stop: bool,
    seed: u64,
    /// The value of `enable_thinking` for the chat template, where the server takes it.
    thinking: Option<bool>,
    /// Whether the server splits the time of an answer if it is asked to: candlemark's own does.
    asks_for_timings: bool,
}

impl RequestTemplate {
    /// Asks the server, once, what it takes.
    ///
    /// # Errors
    /// When the server does not have the API of the scenario's prompt format
    /// ([`Error::Unsupported`], but for that of the settings).
    pub(super) fn new(
        connection: &mut Connection,
        scenario: &Scenario,
        generation: &Generation,
    ) -> Result<Self> {
        let format = scenario.format.unwrap_or(generation.prompt_format);
        let is_default = api_of(format) == api_of(generation.prompt_format);
        let offer = connection.offer(api_of(format)).map_err(|error| match error {
            // The settings' own API was asked before; another may be missing.
            error if is_default => error,
            error => Error::Unsupported(error.chain()),
        })?;
        Ok(Self {
            natural_stop: generation.natural_stop,
            seed: generation.seed,
            thinking: thinking(connection, &offer, format)?,
            asks_for_timings: connection.server.software.as_deref() == Some("candlemark"),
            offer,
        })
    }

    /// The model's name on the server.
    pub(super) fn model(&self) -> &str {
        &self.offer.model
    }

    /// Whether answers have an exact length.
    pub(super) fn is_exact(&self) -> bool {
        let takes = |field| self.offer.accepted.contains(&field);
        !self.natural_stop && (takes(OptionalField::IgnoreEos) || takes(OptionalField::MinTokens))
    }

    /// The request for an answer of this many tokens.
    pub(super) fn request(&self, text: &str, tokens: usize) -> Request {
        let answering = Answering {
            seed: self.seed,
            accepted: self.offer.accepted.clone(),
            min_tokens: self.is_exact().then_some(tokens as u64),
            ..Answering::exactly(&self.offer.model, tokens as u64)
        };
        let request = match self.offer.api {
            Api::Completions => Request::completion(&Prompt::Text(text.into()), &answering),
            Api::Chat => {
                let message = ChatMessage { role: "user", content: text.into() };
                Request::chat(&[message], &answering)
            }
        };
        let request = match self.thinking {
            Some(thinking) => request.with_field(TEMPLATE_OPTIONS, template_options(thinking)),
            None => request,
        };
        if self.asks_for_timings { request.with_field("timings", true.into()) } else { request }
    }

    /// The tokens of a prompt, as the server counts them.
    ///
    /// # Errors
    /// When the server does not say ([`Error::Unsupported`]) or does not answer.
    pub(super) fn count(&self, connection: &Connection, text: &str) -> Result<usize> {
        let answers = connection.send(vec![self.request(text, 1)])?;
        let tokens = answers.first().and_then(prompt_tokens);
        tokens.ok_or_else(|| {
            Error::Unsupported(
                "the server does not report `usage`, without which no prompt can be cut to a \
                 length"
                    .into(),
            )
        })
    }
}

/// The field of a chat request with the template's options.
const TEMPLATE_OPTIONS: &str = "chat_template_kwargs";

fn template_options(thinking: bool) -> serde_json::Value {
    serde_json::json!({ "enable_thinking": thinking })
}

/// The template's `enable_thinking`, if the server takes such an option: it is asked once, for one
/// token.
fn thinking(
    connection: &mut Connection,
    offer: &Capabilities,
    format: PromptFormat,
) -> Result<Option<bool>> {
    if offer.api == Api::Completions {
        return Ok(None);
    }
    let takes_options = match connection.takes_template_options {
        Some(known) => known,
        None => {
            let answering = Answering {
                accepted: offer.accepted.clone(),
                ..Answering::exactly(&offer.model, 1)
            };
            let message = ChatMessage { role: "user", content: "1, 2,".into() };
            let request = Request::chat(&[message], &answering);
            let request = request.with_field(TEMPLATE_OPTIONS, template_options(false));
            *connection.takes_template_options.insert(connection.send(vec![request]).is_ok())
        }
    };
    match format {
        PromptFormat::ChatThinking if !takes_options => Err(Error::Unsupported(format!(
            "the server refuses `{TEMPLATE_OPTIONS}`, which turn thinking on and off"
        ))),
        format => Ok(takes_options.then_some(format == PromptFormat::ChatThinking)),
    }
}

/// The tokens of a request's prompt, as the server counts them.
pub(super) fn prompt_tokens(exchange: &Exchange) -> Option<usize> {
    exchange.usage?.prompt_tokens.map(|tokens| tokens as usize)
}
