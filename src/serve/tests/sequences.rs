//! Sequences beside others get what they get alone.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use serde_json::json;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{alone, choices, engine, ids, options};
use crate::error::Result;
use crate::model::{Decoder, Footprint, Logits, Step};
use crate::serve::batch::{Batch, Joins};
use crate::serve::job::{Event, Job, Parameters, Task};
use crate::serve::metrics::Metrics;
use crate::serve::tests::client::post;
use crate::serve::{Options, Server};
use crate::settings::Generation;

fn prompt(length: usize, salt: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 31 + salt * 97) % 1000) as u32).collect()
}

/// Prompts that are read by decode kernels and by prefill kernels, in one pass and in several.
fn ragged() -> Vec<(Vec<u32>, usize)> {
    [(3, 30), (20, 4), (600, 12), (17, 25), (1, 40), (130, 7), (513, 9), (16, 16)]
        .into_iter()
        .enumerate()
        .map(|(salt, (length, new_tokens))| (prompt(length, salt), new_tokens))
        .collect()
}

/// Sends all at once, each on a connection of its own.
fn together(server: &Server, prompts: &[(Vec<u32>, usize)]) -> Vec<Vec<u32>> {
    thread::scope(|scope| {
        let one = |(prompt, new_tokens): &(Vec<u32>, usize)| {
            let body = json!({
                "prompt": prompt, "max_tokens": new_tokens, "ignore_eos": true,
                "return_token_ids": true,
            });
            scope.spawn(move || ids(&choices(&[post(server, "/v1/completions", &body).ok()])))
        };
        let threads: Vec<_> = prompts.iter().map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn concurrent_ragged_requests_get_the_tokens_that_they_get_alone() {
    let prompts = ragged();
    let expected = alone(&mut engine("native"), &prompts);
    let server = Server::start(engine("native"), Options { max_batch: 3, ..options() }).unwrap();
    for _ in 0..2 {
        assert_eq!(together(&server, &prompts), expected);
    }
}

#[test]
fn more_sequences_than_rows_of_a_decode_pass_get_the_tokens_that_they_get_alone() {
    let prompts: Vec<(Vec<u32>, usize)> = (0..20).map(|salt| (prompt(18, salt), 8)).collect();
    let expected = alone(&mut engine("native"), &prompts);
    let server = Server::start(engine("native"), Options { max_batch: 20, ..options() }).unwrap();
    assert_eq!(together(&server, &prompts), expected);
}

#[test]
fn an_engine_that_cannot_truncate_batches_statically() {
    // candle-transformers takes all sequences in every pass, at one position.
    let prompts: Vec<(Vec<u32>, usize)> = [(5, 9), (5, 3), (7, 4), (5, 6), (7, 8)]
        .into_iter()
        .enumerate()
        .map(|(salt, (length, new_tokens))| (prompt(length, salt), new_tokens))
        .collect();
    let expected = alone(&mut engine("candle"), &prompts);
    let server = Server::start(engine("candle"), options()).unwrap();
    assert_eq!(together(&server, &prompts), expected);
}

/// The native engine, with the logits of every row.
struct Recorded {
    inner: Box<dyn Decoder>,
    rows: Arc<Mutex<Vec<Vec<u32>>>>,
}

impl Decoder for Recorded {
    fn forward(&mut self, steps: &[Step<'_>]) -> Result<Logits> {
        let logits = self.inner.forward(steps)?;
        let bits = |row: &[f32]| row.iter().map(|logit| logit.to_bits()).collect();
        self.rows.lock().unwrap().extend(logits.rows().map(bits));
        Ok(logits)
    }

    fn reset(&mut self, sequences: usize) -> Result<()> {
        self.inner.reset(sequences)
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<()> {
        self.inner.truncate(sequence, length)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        self.inner.check_length(length)
    }

    fn footprint(&self) -> Footprint {
        self.inner.footprint()
    }
}

/// A job for the batch, without HTTP.
fn job(prompt: &[u32], max_tokens: usize) -> (Job, UnboundedReceiver<Event>) {
    let (events, received) = unbounded_channel();
    let parameters = Parameters {
        max_tokens,
        min_tokens: 0,
        stop_tokens: Vec::new(),
        stop_strings: Vec::new(),
        sampling: Generation::default(),
    };
    let job = Job {
        index: 0,
        prompt: prompt.into(),
        task: Task::Generate(parameters),
        events,
        submitted: Instant::now(),
        place: Arc::new(Semaphore::new(1)).try_acquire_owned().ok(),
    };
    (job, received)
}

/// The bits of the logits of all passes, sorted.
fn logits_of(prompts: &[(Vec<u32>, usize)], max_batch: usize) -> Vec<Vec<u32>> {
    let engine = engine("native");
    let rows = Arc::new(Mutex::new(Vec::new()));
    let mut recorded = Recorded { inner: engine.decoder, rows: Arc::clone(&rows) };
    let metrics = Metrics::default();
    let (sender, jobs) = mpsc::channel();
    let mut events = Vec::new();
    for (prompt, new_tokens) in prompts {
        let (job, received) = job(prompt, *new_tokens);
        metrics.waiting.add();
        sender.send(job).unwrap();
        events.push(received);
    }
    drop(sender);
    let batch = Batch::new(&mut recorded, &engine.tokenizer, &metrics, max_batch, None).unwrap();
    assert_eq!(batch.joins(), Joins::BetweenPasses);
    batch.run(&jobs).unwrap();
    let mut rows = std::mem::take(&mut *rows.lock().unwrap());
    rows.sort_unstable();
    rows
}

#[test]
fn the_logits_beside_others_are_those_alone_bit_for_bit() {
    let prompts = ragged();
    let together = logits_of(&prompts, prompts.len());
    let mut alone: Vec<Vec<u32>> =
        prompts.iter().flat_map(|prompt| logits_of(std::slice::from_ref(prompt), 1)).collect();
    alone.sort_unstable();
    assert!(together == alone, "{} rows, {} alone", together.len(), alone.len());
}
