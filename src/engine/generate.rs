//! The generation loop: chunked prefill, then decode steps of the whole batch, with the time of
//! each.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::injection::Injection;
use super::sampler::Sampler;
use crate::error::{Error, Result};
use crate::model::{Decoder, Logits, Step};
use crate::settings::Generation;

/// Tokens per prefill pass: enough for efficient GEMMs, few enough to bound the memory of
/// activations.
pub(crate) const PREFILL_CHUNK: usize = 512;

/// What to generate.
pub struct GenerationRequest<'a> {
    /// Token ids of each sequence.
    pub prompts: &'a [Vec<u32>],
    /// Tokens to generate per sequence.
    pub new_tokens: usize,
    /// Tokens that end a sequence early; none for an exact length.
    pub stop_tokens: &'a [u32],
    /// Sampler, KV cache and seed.
    pub sampling: &'a Generation,
    /// The tokens of each sequence that stay in the KV cache before the prompt; `None` resets it.
    pub cached_tokens: Option<usize>,
    /// A deliberate slowdown, for tests of the gate.
    pub injection: Option<Injection>,
}

impl<'a> GenerationRequest<'a> {
    /// Exactly `new_tokens` tokens after each prompt, from an empty KV cache.
    pub fn new(prompts: &'a [Vec<u32>], new_tokens: usize, sampling: &'a Generation) -> Self {
        let (stop_tokens, cached_tokens, injection) = (&[], None, None);
        Self { prompts, new_tokens, stop_tokens, sampling, cached_tokens, injection }
    }
}

/// What was generated, with monotonic times. Tokenization is not included.
#[derive(Debug, Clone)]
pub struct GenerationOutput {
    /// Token ids per sequence.
    pub ids: Vec<Vec<u32>>,
    /// TTFT per sequence: from the start until its first token is on the host.
    pub ttft: Vec<Duration>,
    /// Forward passes over prompts, without sampling.
    pub prefill: Duration,
    /// Each decode step of the batch, forward pass and sampling.
    pub steps: Vec<Duration>,
    /// From the start until the last token is on the host.
    pub total: Duration,
    /// Whether all logits of the first tokens are finite.
    pub is_finite: bool,
}

/// Generates tokens for a batch of prompts.
///
/// Prefill takes the prompts in order, in chunks of at most 512 tokens, so first tokens come one
/// after the other. Then all sequences decode together until each has its tokens or has stopped.
///
/// # Errors
/// When a prompt is empty, a sequence would outgrow the context, the sampler's settings are
/// invalid, or the decoder fails.
pub fn generate(
    decoder: &mut dyn Decoder,
    request: &GenerationRequest<'_>,
) -> Result<GenerationOutput> {
    if request.prompts.is_empty() || request.prompts.iter().any(Vec::is_empty) {
        return Err(Error::Failed("the prompt is empty: there is no token to continue".into()));
    }
    if request.new_tokens == 0 {
        return Err(Error::Failed("no token to generate: ask for at least 1".into()));
    }
    for prompt in request.prompts {
        let cached = request.cached_tokens.unwrap_or(0);
        decoder.check_length(cached + prompt.len() + request.new_tokens).map_err(|error| {
            let (prompt, new) = (prompt.len(), request.new_tokens);
            match error {
                Error::Unsupported(why) => Error::Unsupported(format!(
                    "a prompt of {prompt} tokens and {new} new ones: {why}"
                )),
                error => error,
            }
        })?;
    }
    let mut batch = Batch {
        samplers: Sampler::for_batch(request.sampling, request.prompts.len())?,
        request,
        ids: vec![Vec::new(); request.prompts.len()],
    };
    match request.cached_tokens {
        Some(length) => (0..request.prompts.len())
            .try_for_each(|sequence| decoder.truncate(sequence, length))?,
        None => decoder.reset(request.prompts.len())?,
    }
    let start = Instant::now();
    let Prefill { ttft, duration: prefill, logits } = batch.prefill(decoder, start)?;
    let mut steps = Vec::with_capacity(request.new_tokens - 1);
    let mut before = ttft.iter().max().copied().unwrap_or_default();
    loop {
        let active: Vec<usize> =
            (0..batch.ids.len()).filter(|&sequence| !batch.is_finished(sequence)).collect();
        if active.is_empty() {
            break;
        }
        batch.decode_step(decoder, &active)?;
        Injection::after_step(request.injection, decoder, start.elapsed() - before);
        let now = start.elapsed();
        steps.push(now - before);
        before = now;
    }
    let is_finite = logits.iter().all(Logits::is_finite);
    Ok(GenerationOutput { ids: batch.ids, ttft, prefill, steps, total: before, is_finite })
}

/// Resets a decoder and fills the KV cache of its only sequence with tokens.
///
/// # Errors
/// When there are more tokens than the context has, or the decoder fails.
pub fn prefill(decoder: &mut dyn Decoder, tokens: &[u32]) -> Result<()> {
    decoder.check_length(tokens.len())?;
    decoder.reset(1)?;
    for tokens in tokens.chunks(decoder.prefill_chunk().unwrap_or(PREFILL_CHUNK)) {
        decoder.forward(&[Step { sequence: 0, tokens }])?;
    }
    Ok(())
}

/// The sequences of a request.
struct Batch<'a> {
    request: &'a GenerationRequest<'a>,
    /// One per sequence; `None` for plain greedy decoding.
    samplers: Option<Vec<Sampler>>,
    ids: Vec<Vec<u32>>,
}

struct Prefill {
    ttft: Vec<Duration>,
    duration: Duration,
    logits: Vec<Logits>,
}

impl Batch<'_> {
    fn is_finished(&self, sequence: usize) -> bool {
        let ids = &self.ids[sequence];
        ids.len() >= self.request.new_tokens
            || ids.last().is_some_and(|id| self.request.stop_tokens.contains(id))
    }

    fn prefill(&mut self, decoder: &mut dyn Decoder, start: Instant) -> Result<Prefill> {
        let prompts = self.request.prompts;
        let (mut ttft, mut duration, mut logits) =
            (vec![Duration::ZERO; prompts.len()], Duration::ZERO, Vec::new());
        for chunk in prefill_chunks(prompts, decoder.prefill_chunk().unwrap_or(PREFILL_CHUNK)) {
            let begin = Instant::now();
            let steps: Vec<Step<'_>> = chunk
                .iter()
                .map(|(sequence, range)| Step {
                    sequence: *sequence,
                    tokens: &prompts[*sequence][range.clone()],
                })
                .collect();
            let rows = decoder.forward(&steps)?;
            Injection::after_pass(self.request.injection, decoder, begin.elapsed());
            duration += begin.elapsed();
            let greedy = rows.argmax();
            for (row, (sequence, range)) in chunk.iter().enumerate() {
                if range.end == prompts[*sequence].len() {
                    let id = self.sample(*sequence, &rows, row, &greedy)?;
                    self.ids[*sequence].push(id);
                    ttft[*sequence] = start.elapsed();
                }
            }
            logits.push(rows);
        }
        Ok(Prefill { ttft, duration, logits })
    }

    /// Generates one token for each active sequence.
    fn decode_step(&mut self, decoder: &mut dyn Decoder, active: &[usize]) -> Result<()> {
        let whole: Vec<Vec<u32>>;
        let tokens: Vec<&[u32]> = if self.request.sampling.use_kv_cache {
            active.iter().map(|&sequence| last(&self.ids[sequence])).collect()
        } else {
            // Without a KV cache, every step recomputes the whole sequences.
            decoder.reset(self.ids.len())?;
            whole = active
                .iter()
                .map(|&s| [self.request.prompts[s].as_slice(), &self.ids[s]].concat())
                .collect();
            whole.iter().map(Vec::as_slice).collect()
        };
        let steps: Vec<Step<'_>> = active
            .iter()
            .zip(&tokens)
            .map(|(&sequence, tokens)| Step { sequence, tokens })
            .collect();
        let next = if self.samplers.is_none() {
            decoder.greedy(&steps)?
        } else {
            let logits = decoder.forward(&steps)?;
            let rows = active.iter().enumerate();
            rows.map(|(row, &sequence)| self.sample(sequence, &logits, row, &[]))
                .collect::<Result<_>>()?
        };
        for (&sequence, id) in active.iter().zip(next) {
            self.ids[sequence].push(id);
        }
        Ok(())
    }

    fn sample(
        &mut self,
        sequence: usize,
        logits: &Logits,
        row: usize,
        greedy: &[u32],
    ) -> Result<u32> {
        let Some(samplers) = &mut self.samplers else { return Ok(greedy[row]) };
        let context: Vec<u32> =
            self.request.prompts[sequence].iter().chain(&self.ids[sequence]).copied().collect();
        let logits = &logits.values[row * logits.vocab..(row + 1) * logits.vocab];
        samplers[sequence].sample(logits, &context)
    }
}

fn last(ids: &[u32]) -> &[u32] {
    &ids[ids.len() - 1..]
}

/// Splits prompts into passes of at most `rows` tokens: pairs of a sequence and a range of its
/// tokens.
fn prefill_chunks(prompts: &[Vec<u32>], rows: usize) -> Vec<Vec<(usize, Range<usize>)>> {
    let mut chunks = vec![Vec::new()];
    let mut free = rows;
    for (sequence, prompt) in prompts.iter().enumerate() {
        let mut start = 0;
        while start < prompt.len() {
            if free == 0 {
                chunks.push(Vec::new());
                free = rows;
            }
            let end = prompt.len().min(start + free);
            chunks.last_mut().expect("there is one from the start").push((sequence, start..end));
            free -= end - start;
            start = end;
        }
    }
    chunks
}
