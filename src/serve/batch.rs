//! Continuous batching: the engine's thread. Sequences join and leave between forward passes, and
//! each gets the tokens that it would get alone.
//!
//! The CPU engine computes the rows of a sequence bit for bit the same beside any others, as long
//! as a pass is of the same kind: up to [`DECODE_MAX_ROWS`] rows are multiplied by the decode
//! kernels, more by those of prefill. So a prompt is cut as it would be alone, pieces of different
//! kinds never share a pass, and no pass asks for the logits of more than [`DECODE_MAX_ROWS`] rows.
//!
//! A sequence keeps one place of the engine's KV cache, which is truncated to nothing when it
//! leaves. An engine that cannot truncate batches statically instead: sequences whose prompts have
//! equal lengths start together, and the next ones wait until all of them have ended.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::engine::{Injection, PREFILL_CHUNK};
use crate::error::{Error, Result};
use crate::kernel::DECODE_MAX_ROWS;
use crate::measure::unit_vector;
use crate::model::{Decoder, Step};
use crate::serve::job::{Event, Failure, Job, Task, Timings};
use crate::serve::metrics::Metrics;
use crate::serve::sequence::Sequence;
use crate::tokenizer::Tokenizer;

/// When a sequence may join others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joins {
    /// Continuous batching.
    BetweenPasses,
    /// Static batching: when there are none, together with others of equal prompt length.
    WhenEmpty,
}

/// The sequences that run, and the jobs that wait.
pub(super) struct Batch<'a> {
    decoder: &'a mut dyn Decoder,
    tokenizer: &'a Tokenizer,
    metrics: &'a Metrics,
    injection: Option<Injection>,
    joins: Joins,
    max_batch: usize,
    /// Tokens per prefill pass.
    chunk: usize,
    waiting: VecDeque<Job>,
    /// The sequence in each place of the KV cache.
    places: Vec<Option<Sequence<'a>>>,
    /// Sequences that have joined so far.
    joined: u64,
}

impl<'a> Batch<'a> {
    /// An empty batch of at most `max_batch` sequences.
    ///
    /// # Errors
    /// When the decoder fails.
    pub(super) fn new(
        decoder: &'a mut dyn Decoder,
        tokenizer: &'a Tokenizer,
        metrics: &'a Metrics,
        max_batch: usize,
        injection: Option<Injection>,
    ) -> Result<Self> {
        let joins = match decoder.reset(max_batch).and_then(|()| decoder.truncate(0, 0)) {
            Ok(()) => Joins::BetweenPasses,
            Err(Error::Unsupported(_)) => Joins::WhenEmpty,
            Err(error) => return Err(error),
        };
        let chunk = decoder.prefill_chunk().unwrap_or(PREFILL_CHUNK);
        let places = match joins {
            Joins::BetweenPasses => (0..max_batch).map(|_| None).collect(),
            Joins::WhenEmpty => Vec::new(),
        };
        let (waiting, joined) = (VecDeque::new(), 0);
        Ok(Self {
            decoder,
            tokenizer,
            metrics,
            injection,
            joins,
            max_batch,
            chunk,
            waiting,
            places,
            joined,
        })
    }

    /// When a sequence may join others.
    #[cfg(test)]
    pub(super) fn joins(&self) -> Joins {
        self.joins
    }

    /// Runs jobs until their senders are gone and all have ended.
    ///
    /// # Errors
    /// When the KV cache cannot be used any more; the jobs that are left are told.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) -> Result<()> {
        loop {
            if self.waiting.is_empty() && self.places.iter().all(Option::is_none) {
                match jobs.recv() {
                    Ok(job) => self.waiting.push_back(job),
                    Err(_) => return Ok(()),
                }
            }
            self.waiting.extend(jobs.try_iter());
            if let Err(error) = self.step() {
                let why = error.chain();
                self.fail(&(0..self.places.len()).collect::<Vec<_>>(), &error);
                for job in self.waiting.drain(..) {
                    let _ = job.events.send(Event::Failed(Failure::Engine(why.clone())));
                }
                return Err(error);
            }
        }
    }

    /// At most one prefill pass, so that running sequences wait for no more, then one token of each
    /// running sequence.
    fn step(&mut self) -> Result<()> {
        self.drop_cancelled();
        self.clear_ended()?;
        self.admit()?;
        self.prefill();
        self.clear_ended()?;
        self.decode();
        self.clear_ended()
    }

    /// Ends what nobody waits for.
    fn drop_cancelled(&mut self) {
        let metrics = self.metrics;
        self.waiting.retain(|job| {
            let is_wanted = !job.events.is_closed();
            if !is_wanted {
                metrics.waiting.remove();
            }
            is_wanted
        });
        for sequence in self.places.iter_mut().flatten() {
            if sequence.job.events.is_closed() {
                sequence.is_ended = true;
            }
        }
    }

    /// Frees the places of sequences that have ended; in static batches, when all have.
    fn clear_ended(&mut self) -> Result<()> {
        match self.joins {
            Joins::BetweenPasses => {
                for (place, slot) in self.places.iter_mut().enumerate() {
                    if slot.take_if(|sequence| sequence.is_ended).is_some() {
                        self.metrics.running.remove();
                        self.decoder.truncate(place, 0)?;
                    }
                }
            }
            Joins::WhenEmpty if self.places.iter().flatten().all(|one| one.is_ended) => {
                self.places.iter().for_each(|_| self.metrics.running.remove());
                self.places.clear();
            }
            Joins::WhenEmpty => {}
        }
        Ok(())
    }

    /// Gives free places to waiting jobs, in the order of their arrival.
    fn admit(&mut self) -> Result<()> {
        match self.joins {
            Joins::BetweenPasses => {
                while let Some(free) = self.places.iter().position(Option::is_none) {
                    let Some(job) = self.waiting.pop_front() else { break };
                    self.places[free] = self.join(job);
                }
            }
            Joins::WhenEmpty if self.places.is_empty() => self.admit_together()?,
            Joins::WhenEmpty => {}
        }
        Ok(())
    }

    /// Fills an empty static batch with the first job and those that can run beside it.
    fn admit_together(&mut self) -> Result<()> {
        let Some(first) = self.waiting.front() else { return Ok(()) };
        let length = first.prompt.len();
        let is_alike =
            |job: &Job| matches!(job.task, Task::Generate(_)) && job.prompt.len() == length;
        let alike = self.waiting.iter().filter(|job| is_alike(job)).count();
        let mut count = alike.min(self.max_batch);
        if !is_alike(first) {
            count = 1;
        }
        match self.decoder.reset(count) {
            Err(Error::Unsupported(_)) if count > 1 => {
                count = 1;
                self.decoder.reset(1)?;
            }
            done => done?,
        }
        let mut left = VecDeque::new();
        for job in std::mem::take(&mut self.waiting) {
            if self.places.len() < count && (count == 1 || is_alike(&job)) {
                let sequence = self.join(job);
                self.places.extend(sequence.map(Some));
            } else {
                left.push_back(job);
            }
        }
        self.waiting = left;
        // Every pass has to have all rows.
        if !self.places.is_empty() && self.places.len() < count {
            self.decoder.reset(self.places.len())?;
        }
        Ok(())
    }

    /// The sequence of a job, unless it is beyond the engine's own limits.
    fn join(&mut self, job: Job) -> Option<Sequence<'a>> {
        self.metrics.waiting.remove();
        let new_tokens = match &job.task {
            Task::Generate(parameters) => parameters.max_tokens,
            Task::Embed => 0,
        };
        let checked = self.decoder.check_length(job.prompt.len() + new_tokens);
        let number = self.joined;
        let events = job.events.clone();
        match checked.and_then(|()| Sequence::new(job, number, self.tokenizer)) {
            Ok(sequence) => {
                self.joined += 1;
                self.metrics.running.add();
                Some(sequence)
            }
            Err(error) => {
                let _ = events.send(Event::Failed(failure(&error)));
                None
            }
        }
    }

    /// One pass over prompts, those of the longest waiting sequences first.
    fn prefill(&mut self) {
        let mut pending: Vec<(u64, usize)> = Vec::new();
        for (place, sequence) in self.places.iter().enumerate() {
            if let Some(sequence) = sequence.as_ref().filter(|one| !one.is_prefilled()) {
                pending.push((sequence.number, place));
            }
        }
        pending.sort_unstable();
        let mut places: Vec<usize> = pending.iter().map(|(_, place)| *place).collect();
        let embeds = |sequence: &Sequence<'_>| matches!(sequence.job.task, Task::Embed);
        match places.first() {
            None => return,
            Some(&first) if embeds(self.at(first)) => return self.embed(first),
            Some(_) => {}
        }
        if self.joins == Joins::BetweenPasses {
            let generating = places.iter().take_while(|place| !embeds(self.at(**place)));
            let rows: Vec<usize> =
                generating.map(|place| self.at(*place).next_piece(self.chunk).len()).collect();
            places.truncate(pieces_of_a_pass(&rows, self.chunk));
        }
        let start = Instant::now();
        let steps: Vec<Step<'_>> = places
            .iter()
            .map(|&sequence| Step {
                sequence,
                tokens: at(&self.places, sequence).next_piece(self.chunk),
            })
            .collect();
        let lengths: Vec<usize> = steps.iter().map(|step| step.tokens.len()).collect();
        let logits = self.decoder.forward(&steps);
        self.metrics.add_pass();
        let mut logits = match logits {
            Ok(logits) => logits,
            Err(error) => return self.fail(&places, &error),
        };
        Injection::after_pass(self.injection, self.decoder, start.elapsed());
        let end = Instant::now();
        let vocab = logits.vocab;
        for ((&place, length), row) in
            places.iter().zip(lengths).zip(logits.values.chunks_exact_mut(vocab))
        {
            let sequence = at_mut(&mut self.places, place);
            sequence.add_prefill(length, start, end);
            if sequence.is_prefilled() && !sequence.is_ended {
                self.metrics.add_prompt(sequence.job.prompt.len());
                match sequence.first_id(row) {
                    Ok(id) => sequence.push(id, Instant::now(), self.metrics),
                    Err(error) => sequence.fail(failure(&error)),
                }
            }
        }
    }

    /// The vector of a whole prompt, in a pass of its own.
    fn embed(&mut self, place: usize) {
        let start = Instant::now();
        let sequence = at_mut(&mut self.places, place);
        let step = Step { sequence: place, tokens: &sequence.job.prompt };
        let vectors = self.decoder.embed(&[step]);
        self.metrics.add_pass();
        let unit = |mut vectors: Vec<Vec<f32>>| unit_vector(vectors.swap_remove(0));
        let vector = vectors.and_then(|vectors| unit(vectors).map_err(Error::Failed));
        match vector {
            Ok(values) => {
                self.metrics.add_prompt(sequence.job.prompt.len());
                let timings = Timings {
                    queue: start - sequence.job.submitted,
                    prefill: start.elapsed(),
                    ..Timings::default()
                };
                self.metrics.add_timings(&timings);
                let index = sequence.job.index;
                sequence.job.place = None;
                let _ = sequence.job.events.send(Event::Vector { index, values, timings });
                sequence.is_ended = true;
            }
            Err(error) => sequence.fail(failure(&error)),
        }
    }

    /// One token of every sequence whose prompt has been read.
    fn decode(&mut self) {
        let running: Vec<usize> = (0..self.places.len())
            .filter(|&place| self.places[place].as_ref().is_some_and(Sequence::is_prefilled))
            .collect();
        // A static batch has all its rows in every pass; those that have ended are ignored.
        let rows = match self.joins {
            Joins::BetweenPasses => DECODE_MAX_ROWS,
            Joins::WhenEmpty => running.len().max(1),
        };
        for places in running.chunks(rows) {
            if let Err(error) = self.decode_pass(places) {
                self.fail(places, &error);
            }
        }
    }

    fn decode_pass(&mut self, places: &[usize]) -> Result<()> {
        let start = Instant::now();
        let steps: Vec<Step<'_>> = places
            .iter()
            .map(|&sequence| Step { sequence, tokens: at(&self.places, sequence).last_id() })
            .collect();
        let takes_argmax = places.iter().all(|&place| at(&self.places, place).takes_argmax());
        let ids: Vec<Result<u32>> = if takes_argmax {
            self.decoder.greedy(&steps)?.into_iter().map(Ok).collect()
        } else {
            let mut logits = self.decoder.forward(&steps)?;
            let vocab = logits.vocab;
            let rows = places.iter().zip(logits.values.chunks_exact_mut(vocab));
            rows.map(|(&place, row)| at_mut(&mut self.places, place).next_id(row)).collect()
        };
        self.metrics.add_pass();
        Injection::after_step(self.injection, self.decoder, start.elapsed());
        let now = Instant::now();
        for (&place, id) in places.iter().zip(ids) {
            let sequence = at_mut(&mut self.places, place);
            match id {
                _ if sequence.is_ended => {}
                Ok(id) => sequence.push(id, now, self.metrics),
                Err(error) => sequence.fail(failure(&error)),
            }
        }
        Ok(())
    }

    /// Ends the sequences of a pass that failed.
    fn fail(&mut self, places: &[usize], error: &Error) {
        for &place in places {
            if let Some(sequence) = self.places[place].as_mut().filter(|one| !one.is_ended) {
                sequence.fail(failure(error));
            }
        }
    }

    fn at(&self, place: usize) -> &Sequence<'a> {
        at(&self.places, place)
    }
}

/// How many pieces of prompts, of so many tokens each, one pass takes: those at the front that are
/// of one kind and fit.
fn pieces_of_a_pass(tokens: &[usize], chunk: usize) -> usize {
    let is_decode = |tokens: usize| tokens <= DECODE_MAX_ROWS;
    let first = tokens.first().copied().unwrap_or(0);
    let most = if is_decode(first) { DECODE_MAX_ROWS } else { chunk };
    let mut sum = 0;
    let fits = |tokens: &&usize| {
        sum += **tokens;
        is_decode(**tokens) == is_decode(first) && sum <= most
    };
    tokens.iter().take(DECODE_MAX_ROWS).take_while(fits).count().max(1)
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Unsupported(why) => Failure::Unsupported(why.clone()),
        error => Failure::Engine(error.chain()),
    }
}

const PLACED: &str = "passes have only places with a sequence";

fn at<'s, 'a>(places: &'s [Option<Sequence<'a>>], place: usize) -> &'s Sequence<'a> {
    places[place].as_ref().expect(PLACED)
}

fn at_mut<'s, 'a>(places: &'s mut [Option<Sequence<'a>>], place: usize) -> &'s mut Sequence<'a> {
    places[place].as_mut().expect(PLACED)
}
