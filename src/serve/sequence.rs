//! One sequence of the batch: from its prompt to the end of its answer.

use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::engine::Sampler;
use crate::error::{Error, Result};
use crate::model::argmax;
use crate::serve::job::{Delta, End, Event, Failure, Finish, Job, Parameters, Task, Timings};
use crate::serve::metrics::Metrics;
use crate::serve::text::{Search, TextStream};
use crate::tokenizer::Tokenizer;

pub(super) struct Sequence<'a> {
    pub(super) job: Job,
    /// Its place in the order of joining.
    pub(super) number: u64,
    /// Whether it has ended and waits to be removed.
    pub(super) is_ended: bool,
    /// `None` for plain greedy decoding.
    sampler: Option<Sampler>,
    text: Option<TextStream<'a>>,
    /// Prompt tokens in the KV cache.
    prefilled: usize,
    /// Generated tokens.
    ids: Vec<u32>,
    /// How many of them have been sent.
    sent: usize,
    times: Times,
}

#[derive(Default)]
struct Times {
    /// The first pass over the prompt, and the end of the last.
    prefill: Option<Range<Instant>>,
    /// The first and the last token.
    tokens: Option<Range<Instant>>,
    detokenize: Duration,
}

impl<'a> Sequence<'a> {
    /// A sequence of which nothing is in the KV cache.
    ///
    /// # Errors
    /// When a sampling parameter is out of its range.
    pub(super) fn new(job: Job, number: u64, tokenizer: &'a Tokenizer) -> Result<Self> {
        let (mut sampler, mut text) = (None, None);
        if let Task::Generate(parameters) = &job.task {
            sampler = Sampler::for_batch(&parameters.sampling, 1)?.and_then(|mut one| one.pop());
            text = Some(TextStream::new(tokenizer, parameters.stop_strings.clone()));
        }
        let (is_ended, prefilled, ids, sent) = (false, 0, Vec::new(), 0);
        let times = Times::default();
        Ok(Self { job, number, is_ended, sampler, text, prefilled, ids, sent, times })
    }

    pub(super) fn is_prefilled(&self) -> bool {
        self.prefilled == self.job.prompt.len()
    }

    /// The prompt tokens of the next pass.
    pub(super) fn next_piece(&self, chunk: usize) -> &[u32] {
        let left = &self.job.prompt[self.prefilled..];
        &left[..left.len().min(chunk)]
    }

    /// Notes a pass over so many tokens of the prompt.
    pub(super) fn add_prefill(&mut self, tokens: usize, start: Instant, end: Instant) {
        self.prefilled += tokens;
        self.times.prefill.get_or_insert(start..end).end = end;
    }

    /// The newest token, which the next decode step takes.
    pub(super) fn last_id(&self) -> &[u32] {
        let ids = if self.ids.is_empty() { &self.job.prompt } else { &self.ids };
        &ids[ids.len() - 1..]
    }

    /// Whether the next token is the argmax of unchanged logits.
    pub(super) fn takes_argmax(&self) -> bool {
        self.sampler.is_none() && !self.is_below_minimum()
    }

    fn is_below_minimum(&self) -> bool {
        self.parameters().is_some_and(|parameters| self.ids.len() < parameters.min_tokens)
    }

    fn parameters(&self) -> Option<&Parameters> {
        match &self.job.task {
            Task::Generate(parameters) => Some(parameters),
            Task::Embed => None,
        }
    }

    /// The first token, of the logits after the prompt.
    ///
    /// # Errors
    /// As [`Self::next_id`]; also when a logit is not finite.
    pub(super) fn first_id(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(Error::Failed("a logit of the first token is not finite".into()));
        }
        self.next_id(logits)
    }

    /// Samples a token. Stop tokens lose their logits below the smallest number of tokens.
    ///
    /// # Errors
    /// When the sampler fails.
    pub(super) fn next_id(&mut self, logits: &mut [f32]) -> Result<u32> {
        if let Some(parameters) = self.parameters().filter(|_| self.is_below_minimum()) {
            for &id in &parameters.stop_tokens {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        match &mut self.sampler {
            None => Ok(argmax(logits)),
            Some(sampler) => sampler.sample(logits, &[&self.job.prompt[..], &self.ids].concat()),
        }
    }

    /// Adds a token that was on the host at `now`, and sends what can be sent.
    pub(super) fn push(&mut self, id: u32, now: Instant, metrics: &Metrics) {
        self.ids.push(id);
        self.times.tokens.get_or_insert(now..now).end = now;
        metrics.add_token();
        let begin = Instant::now();
        let Task::Generate(parameters) = &self.job.task else { return };
        let Some(stream) = &mut self.text else { return };
        let search = match self.ids.len() > parameters.min_tokens {
            true => Search::Stops,
            false => Search::Off,
        };
        let is_stop_token = parameters.stop_tokens.contains(&id);
        let is_last = self.ids.len() >= parameters.max_tokens;
        let (mut text, mut stop_string) = (String::new(), None);
        if !is_stop_token {
            (text, stop_string) = stream.push(id, search);
        }
        let finish = if is_stop_token || stop_string.is_some() {
            Some(Finish::Stop)
        } else {
            is_last.then_some(Finish::Length)
        };
        if finish.is_some() && stop_string.is_none() {
            text += &self.text.take().map(TextStream::finish).unwrap_or_default();
        }
        self.times.detokenize += begin.elapsed();
        let index = self.job.index;
        let end = finish.map(|finish| {
            let timings = self.timings();
            metrics.add_timings(&timings);
            End { finish, stop_string, timings }
        });
        self.is_ended = end.is_some();
        if self.is_ended {
            self.job.place = None;
        }
        if self.is_ended || !text.is_empty() {
            let ids = self.ids[mem::replace(&mut self.sent, self.ids.len())..].to_vec();
            let sent = self.job.events.send(Event::Delta(Delta { index, text, ids, end }));
            self.is_ended |= sent.is_err();
        }
    }

    /// Ends the sequence with a failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.is_ended = true;
        self.job.place = None;
        let _ = self.job.events.send(Event::Failed(failure));
    }

    fn timings(&self) -> Timings {
        let submitted = self.job.submitted;
        let prefill = self.times.prefill.clone().unwrap_or(submitted..submitted);
        let tokens = self.times.tokens.as_ref();
        Timings {
            queue: prefill.start - submitted,
            prefill: prefill.end - prefill.start,
            first_token: tokens.map(|tokens| tokens.start - prefill.end),
            decode: tokens.filter(|_| self.ids.len() > 1).map(|tokens| tokens.end - tokens.start),
            detokenize: Some(self.times.detokenize),
        }
    }
}
