//! Scenarios on a server, over its OpenAI-compatible API: the metrics that a client can observe,
//! and the reason for each that it cannot. A block is a client process; the server runs on.

mod documents;
mod prompts;
mod sample;
mod shared;
mod template;
mod trial;
mod unseen;

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::client;
use crate::client::{
    Api, ApiKey, Capabilities, Client, Endpoint, Exchange, Fault, Limits, Request, Scrape,
};
use crate::error::{Error, Result};
use crate::record::Model;
use crate::settings::{Server, Setup};
use crate::workload::PromptFormat;

pub(crate) use documents::pipeline_case;
pub(crate) use sample::ServerSample;
pub(crate) use trial::ServerTrial;

use prompts::Salts;

/// A server that answers.
pub(crate) struct Connection {
    runtime: tokio::runtime::Runtime,
    client: Client,
    server: Server,
    /// What the server offers, for each API that was asked.
    offers: Vec<Capabilities>,
    /// Whether chat requests may name the template's options; `None` before it was asked.
    takes_template_options: Option<bool>,
    salts: Salts,
}

/// Asks a server what it is and which optional fields it takes.
///
/// # Errors
/// When the address is none, the server does not answer or has not the model, or the settings ask
/// for what a server is not asked.
pub(crate) fn describe_server(url: &str, model: Option<&str>, setup: &Setup) -> Result<Server> {
    check_settings(setup)?;
    let (runtime, client) = connect(url, setup)?;
    let found = runtime.block_on(async {
        let offer = probe(&client, api_of(setup.generation.prompt_format), model).await?;
        let identity = client::identify(&client, &offer.model).await;
        let refused = offer.refused.iter();
        Ok(Server {
            url: client.endpoint().to_string(),
            model: offer.model.clone(),
            software: identity.software,
            version: identity.version,
            context: identity.context,
            facts: identity.facts,
            accepted: offer.accepted.iter().map(|field| field.key().into()).collect(),
            refused: refused.map(|(field, why)| (field.key().into(), why.clone())).collect(),
            ..Server::default()
        })
    });
    runtime.shutdown_background(); // A name lookup that hangs is not waited for.
    found
}

/// The API for prompts of a format.
fn api_of(format: PromptFormat) -> Api {
    match format {
        PromptFormat::Raw => Api::Completions,
        PromptFormat::Chat | PromptFormat::ChatThinking => Api::Chat,
    }
}

/// Refuses settings that a request does not carry.
fn check_settings(setup: &Setup) -> Result<()> {
    let generation = &setup.generation;
    let refused = [
        (!generation.is_greedy(), "a temperature"),
        (generation.repetition_penalty != 1.0, "a repetition penalty"),
        (!generation.use_kv_cache, "a run without KV cache"),
    ];
    match refused.iter().find(|(is_set, _)| *is_set) {
        Some((_, what)) => Err(Error::Usage(format!(
            "{what} is not measured on a server, whose requests are greedy; leave it out with \
             `--url`"
        ))),
        None => Ok(()),
    }
}

fn connect(url: &str, setup: &Setup) -> Result<(tokio::runtime::Runtime, Client)> {
    let endpoint = Endpoint::parse(url)?;
    let key = ApiKey::find(setup.api_key_file.as_deref())?;
    Ok((client::runtime()?, Client::new(endpoint, key, Limits::default())?))
}

async fn probe(client: &Client, api: Api, model: Option<&str>) -> Result<Capabilities> {
    client::probe(client, api, model).await.map_err(|error| match error {
        error @ Error::Unknown { .. } => {
            Error::Usage(format!("{}: {}", client.endpoint(), error.chain()))
        }
        error => error,
    })
}

impl Connection {
    /// Connects to the server of a setup, and asks it again for its model.
    ///
    /// # Errors
    /// When the setup has no server, or it does not answer or has not the model.
    pub(crate) fn open(setup: &Setup) -> Result<Self> {
        let server = setup.server.clone();
        let server = server.ok_or_else(|| Error::Failed("the setup names no server".into()))?;
        let (runtime, client) = connect(&server.url, setup)?;
        let (offers, salts) = (Vec::new(), Salts::default());
        let takes_template_options = None;
        let mut open = Self { runtime, client, server, offers, takes_template_options, salts };
        open.offer(api_of(setup.generation.prompt_format))?;
        Ok(open)
    }

    /// The model as a record describes it: what the server says of it.
    pub(crate) fn model(&self) -> Model {
        Model {
            spec: self.server.model.clone(),
            context: self.server.context.unwrap_or_default(),
            ..Model::default()
        }
    }

    /// What the server offers on an API; it is asked once.
    fn offer(&mut self, api: Api) -> Result<Capabilities> {
        if let Some(known) = self.offers.iter().find(|offer| offer.api == api) {
            return Ok(known.clone());
        }
        let found = probe(&self.client, api, Some(&self.server.model));
        let offer = self.runtime.block_on(found)?;
        self.offers.push(offer.clone());
        Ok(offer)
    }

    /// Sends requests at once, each on a connection of its own; the answers in their order.
    ///
    /// # Errors
    /// When one of them has no complete answer.
    fn send(&self, requests: Vec<Request>) -> Result<Vec<Exchange>> {
        let exchanges = self.exchange(requests);
        let count = exchanges.len();
        let fault = |(number, exchange): (usize, &Exchange)| {
            Some(failure(exchange.fault.as_ref()?, number + 1, count))
        };
        match exchanges.iter().enumerate().find_map(fault) {
            Some(error) => Err(error),
            None => Ok(exchanges),
        }
    }

    /// As [`Connection::send`], but an answer that is not complete is one, too.
    fn exchange(&self, requests: Vec<Request>) -> Vec<Exchange> {
        let mut exchanges = self.runtime.block_on(async {
            let mut running = JoinSet::new();
            for (number, request) in requests.into_iter().enumerate() {
                let client = self.client.clone();
                running.spawn(async move { (number, client.send(&request, Instant::now()).await) });
            }
            running.join_all().await
        });
        exchanges.sort_by_key(|(number, _)| *number);
        exchanges.into_iter().map(|(_, exchange)| exchange).collect()
    }

    /// The server's own metrics now, if it shows any.
    pub(crate) fn scrape(&self) -> Option<Scrape> {
        let exchange = self.runtime.block_on(self.client.send(&Request::metrics(), Instant::now()));
        exchange.fault.is_none().then(|| Scrape::parse(&exchange.content))?
    }

    /// What the server's own metrics counted since then, by name; empty if it shows none.
    fn counters_since(&self, before: Option<&Scrape>) -> BTreeMap<String, f64> {
        let after = before.and_then(|before| Some(self.scrape()?.since(before)));
        let named = serde_json::to_value(after.unwrap_or_default()).unwrap_or_default();
        let named = named.as_object().into_iter().flatten();
        named.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
    }
}

/// The error of a request without a complete answer. A prompt that is too long for the server is
/// unsupported, as it is for an engine.
fn failure(fault: &Fault, number: usize, count: usize) -> Error {
    if let Fault::ClientError { status: 400 | 422, message } = fault
        && message.to_lowercase().contains("context")
    {
        return Error::Unsupported(message.clone());
    }
    Error::Failed(format!("request {number} of {count}: {}: {fault}", fault.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_beyond_the_context_is_unsupported_and_any_other_fault_is_named() {
        let refused = |message: &str| {
            let fault = Fault::ClientError { status: 400, message: message.into() };
            failure(&fault, 2, 4).to_string()
        };
        let too_long = "This model's maximum Context length is 512 tokens.";
        assert_eq!(refused(too_long), format!("unsupported: {too_long}"));
        assert_eq!(refused("no"), "request 2 of 4: http-4xx: status 400: no");
    }

    #[test]
    fn sampling_is_refused() {
        let mut setup = Setup::default();
        check_settings(&setup).unwrap();
        (setup.generation.temperature, setup.generation.deterministic) = (0.7, false);
        let error = check_settings(&setup).unwrap_err().to_string();
        assert!(error.starts_with("a temperature is not measured on a server"), "{error}");
    }
}
