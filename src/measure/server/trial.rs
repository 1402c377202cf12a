//! A scenario on a server: reference answers, warm-ups and samples, then a case.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::prompts::text_of_length;
use super::{Connection, ServerSample, api_of};
use crate::client::{
    Api, Capabilities, ChatMessage, Exchange, Generation as Answering, OptionalField, Prompt,
    Request, Scrape,
};
use crate::error::{Error, Result, counted};
use crate::files::hex;
use crate::measure::block_of;
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Generation;
use crate::stats;
use crate::workload::{Input, PromptFormat, Scenario, TEXT_HASH, metric};

/// A share of a prompt that came from a prefix cache, above which a sample is warned of. Below it
/// is what precedes the salt: the chat template and a begin-of-text token.
const CACHED_SHARE: f64 = 0.1;

/// How often a batch is sent until every answer has text.
const BATCH_TRIES: usize = 16;

/// A scenario on a server.
pub(crate) struct ServerTrial {
    scenario: Scenario,
    generation: Generation,
    offer: Capabilities,
    /// The value of `enable_thinking` for the chat template, where the server takes it.
    thinking: Option<bool>,
    /// Whether the server splits the time of an answer if it is asked to: candlemark's own does.
    asks_for_timings: bool,
    prompts: Vec<String>,
    new_tokens: usize,
    references: Vec<Exchange>,
    cold: Vec<ServerSample>,
    /// Batches that were sent again.
    retaken: usize,
    /// Whether the server sends answers in one chunk.
    comes_at_once: bool,
}

impl ServerTrial {
    /// Prepares the prompts, and asks for the reference answers: those of the prompts without salt,
    /// one after another, untimed. They tell whether two servers give the same output, and the
    /// number of tokens of the prompts.
    ///
    /// # Errors
    /// When a client cannot measure the scenario, the sequences are longer than the server's
    /// context ([`Error::Unsupported`]), or a request has no complete answer.
    pub(crate) fn new(
        connection: &mut Connection,
        scenario: &Scenario,
        generation: &Generation,
    ) -> Result<Self> {
        check_input(scenario)?;
        let format = scenario.format.unwrap_or(generation.prompt_format);
        let is_default = api_of(format) == api_of(generation.prompt_format);
        let offer = connection.offer(api_of(format)).map_err(|error| match error {
            // The settings' own API was asked before; another may be missing.
            error if is_default => error,
            error => Error::Unsupported(error.chain()),
        })?;
        let mut trial = Self {
            scenario: scenario.clone(),
            new_tokens: scenario.length(generation.gen_tokens),
            generation: generation.clone(),
            thinking: thinking(connection, &offer, format)?,
            offer,
            asks_for_timings: connection.server.software.as_deref() == Some("candlemark"),
            prompts: scenario.prompts(),
            references: Vec::new(),
            cold: Vec::new(),
            retaken: 0,
            comes_at_once: false,
        };
        if let Input::Length { prompt_tokens } = scenario.input {
            check_context(connection, prompt_tokens, trial.new_tokens)?;
            let count = |text: &str| trial.count(connection, text);
            trial.prompts = vec![text_of_length(prompt_tokens, count)?];
        }
        for prompt in &trial.prompts {
            let mut answers = connection.send(vec![trial.request(prompt, trial.new_tokens)])?;
            trial.references.append(&mut answers);
        }
        Ok(trial)
    }

    /// Whether answers have an exact length.
    fn is_exact(&self) -> bool {
        let takes = |field| self.offer.accepted.contains(&field);
        !self.generation.natural_stop
            && (takes(OptionalField::IgnoreEos) || takes(OptionalField::MinTokens))
    }

    fn request(&self, text: &str, tokens: usize) -> Request {
        let answering = Answering {
            seed: self.generation.seed,
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
    fn count(&self, connection: &Connection, text: &str) -> Result<usize> {
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

    /// Runs a batch that is no sample.
    ///
    /// # Errors
    /// When a request has no complete answer.
    pub(crate) fn warm_up(&mut self, connection: &mut Connection) -> Result<()> {
        let tokens = self.generation.warmup_tokens.unwrap_or(self.new_tokens);
        let sample = self.run(connection, tokens)?;
        self.cold.push(sample);
        Ok(())
    }

    /// One measured batch: every prompt of the scenario at once, salted anew.
    ///
    /// # Errors
    /// When a request has no complete answer.
    pub(crate) fn sample(&mut self, connection: &mut Connection) -> Result<ServerSample> {
        self.run(connection, self.new_tokens)
    }

    /// Sends a batch. One of which an answer has no text, or all of it in one chunk, is sent again
    /// with other salts: tokens may be parts of characters, above all with random weights.
    fn run(&mut self, connection: &mut Connection, tokens: usize) -> Result<ServerSample> {
        let mut last = None;
        for _ in 0..BATCH_TRIES {
            let salted = self.prompts.iter().map(|prompt| connection.salts.salted(prompt));
            let requests = salted.map(|text| self.request(&text, tokens)).collect();
            match ServerSample::of(&connection.send(requests)?) {
                Some(sample) if !sample.comes_at_once || self.comes_at_once => return Ok(sample),
                sample => last = sample.or(last),
            }
            self.retaken += 1;
        }
        // The server's way, not chance: it is not asked so often again.
        self.comes_at_once = true;
        last.ok_or_else(|| {
            Error::Failed(format!(
                "in {BATCH_TRIES} batches one after another an answer had no text, so that its \
                 first token is unknown"
            ))
        })
    }

    /// Ends the trial: a case with the samples of this process as its one block. `before` is what
    /// the server's metrics were before the samples.
    pub(crate) fn into_case(
        self,
        connection: &Connection,
        session: &str,
        samples: &[ServerSample],
        before: Option<&Scrape>,
    ) -> Case {
        let format = self.scenario.format.map(|format| format.name().to_owned());
        Case {
            id: self.scenario.id.clone(),
            work: Work {
                task: self.scenario.task(),
                batch: self.scenario.batch,
                prompt_tokens: self.references.iter().filter_map(prompt_tokens).collect(),
                new_tokens: self.new_tokens,
                prompts_sha256: hash(self.prompts.iter().map(String::as_str)),
                stop: if self.is_exact() { "length" } else { "natural" }.into(),
                ..Work::default()
            },
            labels: format.map(|format| ("prompt_format".into(), format)).into_iter().collect(),
            output_sha256: Some(hash(self.references.iter().flat_map(|answer| {
                [&answer.reasoning, &answer.content, &answer.tool_arguments].map(String::as_str)
            }))),
            validity: self.validity(samples),
            blocks: vec![self.block(connection, session, samples, before)],
            ..Case::default()
        }
    }

    fn block(
        &self,
        connection: &Connection,
        session: &str,
        samples: &[ServerSample],
        before: Option<&Scrape>,
    ) -> Block {
        let mut block = block_of(session, samples, &self.cold, |sample| &sample.values);
        block.steps_s = samples.iter().flat_map(|sample| sample.steps_s.clone()).collect();
        block.ttft_seq_s = samples.iter().map(|sample| sample.ttft_seq_s.clone()).collect();
        let has_usage = samples.iter().all(|sample| sample.tokens.is_some());
        let is_uneven = samples.iter().any(|sample| sample.has_uneven_chunks);
        let no_decode = match () {
            () if self.new_tokens < 2 => "nothing is decoded after the first token",
            () if !has_usage => "the server does not report `usage`, and chunks are not tokens",
            () if self.comes_at_once => "the server sends an answer in one chunk",
            () => "an answer had fewer than two tokens",
        };
        let no_steps = match () {
            () if is_uneven => "the server's chunks are not one token each",
            () => no_decode,
        };
        for (names, reason) in [(DECODING, no_decode), (STEPS, no_steps)] {
            for name in names {
                if block.value(name).is_none() {
                    block.set_missing(name, reason);
                }
            }
        }
        for (names, reason) in UNSEEN {
            names.iter().for_each(|name| block.set_missing(name, reason));
        }
        let after = before.and_then(|before| Some(connection.scrape()?.since(before)));
        let named = serde_json::to_value(after.unwrap_or_default()).unwrap_or_default();
        let named = named.as_object().into_iter().flatten();
        block.server =
            named.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
        let mut timings: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
        for (name, value) in samples.iter().flat_map(|sample| &sample.timings).flatten() {
            timings.entry(name).or_default().push(*value);
        }
        let medians = timings
            .into_iter()
            .filter_map(|(name, all)| Some((name.clone(), stats::median(&all)?)));
        block.server.extend(medians);
        block
    }

    fn validity(&self, samples: &[ServerSample]) -> Validity {
        let mut validity = Validity::default();
        if samples.is_empty() {
            validity.fail("no sample was taken");
        }
        let wanted = self.new_tokens as u64;
        let lengths = samples.iter().filter_map(|sample| sample.tokens.as_ref()).flatten();
        if let Some(other) = lengths.copied().find(|tokens| self.is_exact() && *tokens != wanted) {
            validity.fail(format!(
                "an answer has {other} tokens instead of {wanted}: the server ends it early; \
                 measure with `--natural-stop`"
            ));
        }
        let cached = samples.iter().map(|sample| sample.cached_share).fold(0.0, f64::max);
        if cached > CACHED_SHARE {
            validity.warnings.push(format!(
                "the server took up to {:.0} % of a prompt from its prefix cache",
                100.0 * cached
            ));
        }
        if self.retaken > 0 {
            let samples = counted(self.retaken, "sample");
            let warning =
                format!("{samples} taken again: an answer had no text, or all in one chunk");
            validity.warnings.push(warning);
        }
        let defects = samples.iter().flat_map(|sample| &sample.defects).cloned().collect();
        validity.merge(Validity { failed: Vec::new(), warnings: defects });
        if let Input::Length { prompt_tokens: wanted } = self.scenario.input
            && let Some(found) = self.references.first().and_then(prompt_tokens)
            && found != wanted
        {
            let warning = format!("the prompt has {found} tokens instead of {wanted}");
            validity.warnings.push(warning);
        }
        if cfg!(debug_assertions) {
            validity.warnings.push("the client's build has debug assertions".into());
        }
        validity
    }
}

/// Metrics of decoding.
const DECODING: &[&str] = &[metric::DECODE_TOK_S, metric::DECODE_TOK_S_AGGREGATE, metric::TPOT_S];

/// Metrics of single tokens.
const STEPS: &[&str] = &[metric::STEP_CV, metric::STALLS];

/// What a client cannot observe, and why.
const UNSEEN: [(&[&str], &str); 5] = [
    (
        &[metric::PREFILL_S, metric::PREFILL_TOK_S],
        "a client cannot tell prefill from the queue before and the sampling after it",
    ),
    (&[metric::TOKENIZE_S], "the server tokenizes"),
    (&[metric::LOAD_S, metric::COLD_TTFT_S], "the server ran before"),
    (
        &[
            metric::PEAK_RSS_BYTES,
            metric::RSS_AFTER_LOAD_BYTES,
            metric::PEAK_DELTA_BYTES,
            metric::PEAK_DEVICE_BYTES,
            metric::KV_BYTES_EXPECTED,
            metric::KV_BYTES_HELD,
        ],
        "a client does not see a server's memory",
    ),
    (
        &[
            metric::ROOFLINE_FRACTION,
            metric::PREFILL_FLOP_FRACTION,
            metric::CPU_UTILIZATION,
            metric::GPU_UTILIZATION,
            metric::POWER_W,
            metric::ENERGY_J_PER_TOKEN,
        ],
        "a client does not see a server's hardware",
    ),
];

/// Refuses scenarios that only an engine in this process can run.
fn check_input(scenario: &Scenario) -> Result<()> {
    let why = match scenario.input {
        _ if scenario.extended => "a server's RoPE scaling is set where it is started",
        Input::Category { .. } | Input::Length { .. } => return Ok(()),
        Input::Depth { .. } => "a client cannot fill a server's KV cache untimed",
        Input::Documents(_) => "document pipelines are measured in process only",
        Input::Requests(_) => "a server's memory cannot be limited by its client",
        Input::Texts => "a server does not give the logits of a text",
        Input::Traced => "a server's kernels cannot be traced by its client",
    };
    Err(Error::Unsupported(why.into()))
}

/// Refuses sequences that are longer than the server's context, where that is known.
fn check_context(connection: &Connection, prompt: usize, new: usize) -> Result<()> {
    match connection.server.context {
        Some(context) if prompt + new > context => Err(Error::Unsupported(format!(
            "a prompt of {prompt} tokens and {new} new ones exceed the server's context of {context}"
        ))),
        _ => Ok(()),
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

fn prompt_tokens(exchange: &Exchange) -> Option<usize> {
    exchange.usage?.prompt_tokens.map(|tokens| tokens as usize)
}

/// SHA-256 of texts: of each its length in bytes as little-endian u64, then its bytes. The prefix
/// tells it from a hash of token ids.
fn hash<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    TEXT_HASH.to_owned() + &hex(&hash.finalize())
}
