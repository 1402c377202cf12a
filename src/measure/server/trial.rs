//! A scenario on a server: reference answers, warm-ups and samples, then a case.

use super::prompts::hash_texts;
use super::sample::median_timings;
use super::shared::{Prompts, Salt};
use super::template::{RequestTemplate, prompt_tokens};
use super::unseen::set_unseen;
use super::{Connection, ServerSample};
use crate::client::{Exchange, Scrape};
use crate::error::{Error, Result, counted};
use crate::measure::block_of;
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Generation;
use crate::workload::{Input, Scenario, metric};

/// How often a batch is sent until every answer has text.
const BATCH_TRIES: usize = 16;

/// A scenario on a server.
pub(crate) struct ServerTrial {
    scenario: Scenario,
    generation: Generation,
    template: RequestTemplate,
    prompts: Prompts,
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
        let new_tokens = scenario.length(generation.gen_tokens);
        let template = RequestTemplate::new(connection, scenario, generation)?;
        if let Some(prompt_tokens) = exact_length(scenario) {
            check_context(connection, prompt_tokens, new_tokens)?;
        }
        let prompts = Prompts::new(scenario, connection, |connection, text| {
            template.count(connection, text)
        })?;
        let ask = |text: &str| template.request(text, new_tokens);
        let mut references = Vec::new();
        for text in prompts.texts(connection, Salt::None, ask)? {
            references.append(&mut connection.send(vec![ask(&text)])?);
        }
        if prompts.have_prefix() {
            // The first request meets it cold.
            let texts = prompts.texts(connection, Salt::Fresh, ask)?;
            connection.send(texts.iter().map(|text| template.request(text, 1)).collect())?;
        }
        Ok(Self {
            scenario: scenario.clone(),
            generation: generation.clone(),
            cold: Vec::new(),
            retaken: 0,
            comes_at_once: false,
            template,
            prompts,
            new_tokens,
            references,
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
            let ask = |text: &str| self.template.request(text, tokens);
            let texts = self.prompts.texts(connection, Salt::Fresh, ask)?;
            let requests = texts.iter().map(|text| ask(text)).collect();
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
                prompts_sha256: hash_texts(self.prompts.all()),
                stop: if self.template.is_exact() { "length" } else { "natural" }.into(),
                ..Work::default()
            },
            labels: format.map(|format| ("prompt_format".into(), format)).into_iter().collect(),
            output_sha256: Some(hash_texts(self.references.iter().flat_map(|answer| {
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
        set_unseen(&mut block);
        block.server = connection.counters_since(before);
        block.server.extend(median_timings(samples.iter().flat_map(|sample| &sample.timings)));
        self.prompts.store_hit_rate(samples, &mut block);
        block
    }

    fn validity(&self, samples: &[ServerSample]) -> Validity {
        let mut validity = Validity::default();
        if samples.is_empty() {
            validity.fail("no sample was taken");
        }
        let wanted = self.new_tokens as u64;
        let lengths = samples.iter().filter_map(|sample| sample.tokens.as_ref()).flatten();
        if let Some(other) =
            lengths.copied().find(|tokens| self.template.is_exact() && *tokens != wanted)
        {
            validity.fail(format!(
                "an answer has {other} tokens instead of {wanted}: the server ends it early; \
                 measure with `--natural-stop`"
            ));
        }
        self.prompts.check_hits(samples, &mut validity);
        if self.retaken > 0 {
            let samples = counted(self.retaken, "sample");
            let warning =
                format!("{samples} taken again: an answer had no text, or all in one chunk");
            validity.warnings.push(warning);
        }
        let defects = samples.iter().flat_map(|sample| &sample.defects).cloned().collect();
        validity.merge(Validity { failed: Vec::new(), warnings: defects });
        if let Some(wanted) = exact_length(&self.scenario)
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

/// Refuses scenarios that only an engine in this process can run.
fn check_input(scenario: &Scenario) -> Result<()> {
    let why = match scenario.input {
        _ if scenario.extended => "a server's RoPE scaling is set where it is started",
        Input::Category { .. }
        | Input::Length { .. }
        | Input::Turn { .. }
        | Input::SharedPrefix { .. } => return Ok(()),
        Input::Depth { .. } => "a client cannot fill a server's KV cache untimed",
        Input::Documents(_) => "a pipeline is no single request; measure it with `candlemark run`",
        Input::Requests(_) => "a server's memory cannot be limited by its client",
        Input::Texts => "a server does not give the logits of a text",
        Input::Traced => "a server's kernels cannot be traced by its client",
    };
    Err(Error::Unsupported(why.into()))
}

/// The tokens of a prompt that is cut to a length, what it shares with others among them.
fn exact_length(scenario: &Scenario) -> Option<usize> {
    match scenario.input {
        Input::Length { prompt_tokens } => Some(prompt_tokens),
        Input::SharedPrefix { prefix, read } => Some(prefix + read),
        _ => None,
    }
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
