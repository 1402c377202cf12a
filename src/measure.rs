//! One scenario on one loaded engine: warm-ups, samples, memory, plausibility checks, and the block
//! that a record keeps of them. The metrics are defined here and in the modules below.

mod cached;
mod checks;
mod describe;
mod kernel_variants;
mod memory_use;
mod peak_rates;
pub mod pipeline;
pub mod profile;
pub mod quality;
mod roofline;
#[cfg(feature = "server")]
pub(crate) mod server;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::Digest as _;

use crate::engine::{Engine, GenerationOutput, GenerationRequest, Injection};
use crate::error::{Error, Result};
use crate::record::{Block, Case, Rates, Work};
use crate::settings::Generation;
use crate::workload::{PromptFormat, Scenario, Task, metric};
use crate::{engine, files, machine, stats, workload};

pub(crate) use describe::{describe_model, describe_settings};
pub(crate) use kernel_variants::{VariantRates, variant_rates};
#[cfg(feature = "bench")]
pub(crate) use memory_use::copy_memory;
pub use memory_use::{MemoryUse, Sharing};
pub use peak_rates::{ReadBudget, peak_rates};
#[cfg(feature = "server")]
pub(crate) use pipeline::unit_vector;
pub(crate) use roofline::{exceeds_roofline, read_fraction, rescale, update_peak_rates};

use cached::Cached;
use describe::labels;
use memory_use::store_no_memory;

/// The metrics of one generation.
#[derive(Debug, Clone)]
pub struct Sample {
    /// By metric name; a metric without a value is left out.
    pub values: BTreeMap<&'static str, f64>,
    /// Time of each decode step in seconds.
    pub steps_s: Vec<f64>,
    /// Time to first token of each sequence in seconds.
    pub ttft_seq_s: Vec<f64>,
    /// Generated token ids of each sequence.
    pub ids: Vec<Vec<u32>>,
    finite: bool,
    total: Duration,
    /// The whole generation by a second clock, started before and read after everything.
    around: Duration,
}

impl Sample {
    /// Computes the metrics of a generation. `decode_tok_s` is per sequence, (n - 1) / (t_n - t_1)
    /// with t_1 the instant at which all sequences have their first token;
    /// `decode_tok_s_aggregate` counts the whole batch.
    fn new(
        output: &GenerationOutput,
        prompt_tokens: usize,
        tokenize: Duration,
        around: Duration,
    ) -> Self {
        let seconds = |duration: &Duration| duration.as_secs_f64();
        let ttft_seq_s: Vec<f64> = output.ttft.iter().map(seconds).collect();
        let steps_s: Vec<f64> = output.steps.iter().map(seconds).collect();
        let mut values = BTreeMap::from([
            (metric::TTFT_S, ttft_seq_s.iter().sum::<f64>() / ttft_seq_s.len() as f64),
            (metric::PREFILL_S, seconds(&output.prefill)),
            (metric::PREFILL_TOK_S, prompt_tokens as f64 / seconds(&output.prefill)),
            (metric::E2E_S, seconds(&output.total)),
            (metric::TOKENIZE_S, seconds(&tokenize)),
        ]);
        if !steps_s.is_empty() {
            let decode: f64 = steps_s.iter().sum();
            let generated: usize = output.ids.iter().map(|ids| ids.len() - 1).sum();
            // With different lengths the batch shrinks on the way, and a rate has no batch size.
            if output.ids.windows(2).all(|pair| pair[0].len() == pair[1].len()) {
                values.insert(metric::DECODE_TOK_S_AGGREGATE, generated as f64 / decode);
                values.insert(
                    metric::DECODE_TOK_S,
                    generated as f64 / output.ids.len() as f64 / decode,
                );
            }
            values.insert(metric::TPOT_S, decode / steps_s.len() as f64);
            if let Some(typical) = stats::median(&steps_s).filter(|_| steps_s.len() > 1) {
                let stalls = steps_s.iter().filter(|step| **step > 5.0 * typical).count();
                values.insert(metric::STALLS, stalls as f64);
            }
            if let (Some(sd), Some(mean)) = (stats::sd(&steps_s), stats::mean(&steps_s)) {
                values.insert(metric::STEP_CV, sd / mean);
            }
        }
        Self {
            values,
            steps_s,
            ttft_seq_s,
            ids: output.ids.clone(),
            finite: output.is_finite,
            total: output.total,
            around,
        }
    }

    /// Decode time of the whole batch in seconds; prefill time where nothing is decoded.
    pub(crate) fn primary_s(&self) -> f64 {
        if self.steps_s.is_empty() {
            self.values[metric::PREFILL_S]
        } else {
            self.steps_s.iter().sum()
        }
    }
}

/// A scenario on an engine: warm-ups and samples, then a case.
pub struct Trial {
    scenario: Scenario,
    prompts: Vec<String>,
    ids: Vec<Vec<u32>>,
    new_tokens: usize,
    generation: Generation,
    before: Cached,
    /// Tokens in the KV cache before the prompt, once it is filled; `None` for an empty one.
    cached_tokens: Option<usize>,
    injection: Option<Injection>,
    cold: Vec<Sample>,
}

impl Trial {
    /// Tokenizes the prompts of a scenario.
    ///
    /// # Errors
    /// When the chat template fails, or a sequence would be longer than the context
    /// ([`Error::Unsupported`]).
    pub fn new(
        engine: &Engine,
        scenario: &Scenario,
        generation: &Generation,
        injection: Option<Injection>,
    ) -> Result<Self> {
        let mut generation = generation.clone();
        generation.prompt_format = scenario.format.unwrap_or(generation.prompt_format);
        let new_tokens = scenario.length(generation.gen_tokens);
        let (before, ids) = Cached::before(engine, scenario, &generation)?;
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        engine.decoder.check_length(before.longest(new_tokens) + longest + new_tokens)?;
        Ok(Self {
            scenario: scenario.clone(),
            prompts: scenario.prompts(),
            cold: Vec::new(),
            cached_tokens: None,
            new_tokens,
            generation,
            ids,
            before,
            injection,
        })
    }

    /// Tokens in the KV cache before the prompt.
    fn depth(&self) -> usize {
        self.cached_tokens.unwrap_or(0)
    }

    /// Sets the deliberate regression of the generations that follow.
    pub(crate) fn inject(&mut self, injection: Option<Injection>) {
        self.injection = injection;
    }

    /// Token ids of the last warm-up.
    pub(crate) fn warm_ids(&self) -> Option<&[Vec<u32>]> {
        self.cold.last().map(|sample| sample.ids.as_slice())
    }

    /// Runs a generation that is no sample, because the first of a shape pays for memory and
    /// caches. Returns its time in seconds, as `Sample::primary_s`.
    ///
    /// # Errors
    /// When generating fails.
    pub fn warm_up(&mut self, engine: &mut Engine) -> Result<f64> {
        let sample =
            self.generate(engine, self.generation.warmup_tokens.unwrap_or(self.new_tokens))?;
        let seconds = sample.primary_s();
        self.cold.push(sample);
        Ok(seconds)
    }

    /// One measured generation.
    ///
    /// # Errors
    /// When generating fails.
    pub fn sample(&mut self, engine: &mut Engine) -> Result<Sample> {
        self.generate(engine, self.new_tokens)
    }

    fn generate(&mut self, engine: &mut Engine, new_tokens: usize) -> Result<Sample> {
        if self.cached_tokens.is_none() {
            self.cached_tokens = self.before.fill(engine, self.new_tokens, &self.generation)?;
        }
        let start = Instant::now();
        for prompt in &self.prompts {
            std::hint::black_box(engine.encode(prompt, self.generation.prompt_format)?);
        }
        let tokenize = start.elapsed();
        let stop_tokens: &[u32] =
            if self.generation.natural_stop { engine.tokenizer.end_tokens() } else { &[] };
        let request = GenerationRequest {
            prompts: &self.ids,
            new_tokens,
            stop_tokens,
            sampling: &self.generation,
            cached_tokens: self.cached_tokens,
            injection: self.injection,
        };
        let start = Instant::now();
        let output = engine::generate(engine.decoder.as_mut(), &request)?;
        let around = start.elapsed();
        let prompt_tokens = self.ids.iter().map(Vec::len).sum();
        let mut sample = Sample::new(&output, prompt_tokens, tokenize, around);
        if self.prompts.is_empty() {
            sample.values.remove(metric::TOKENIZE_S);
        }
        if self.scenario.task() == Task::Depth {
            for name in FROM_START {
                sample.values.remove(name);
            }
        }
        Ok(sample)
    }

    /// Ends the trial: a case with the samples of this process as its one block. Without `memory`,
    /// memory metrics are `null`.
    pub(crate) fn into_case(
        self,
        engine: &Engine,
        session: &str,
        samples: &[Sample],
        memory: Option<&MemoryUse>,
        rates: &Rates,
    ) -> Case {
        let block = self.block(engine, session, samples, memory, rates);
        let validity = checks::validity(&self, samples, &block);
        let greedy = self.generation.is_greedy();
        let stop = if self.generation.natural_stop { "natural" } else { "length" }.into();
        Case {
            id: self.scenario.id.clone(),
            work: self.work(stop),
            output_sha256: samples.first().filter(|_| greedy).map(|sample| hash_ids(&sample.ids)),
            validity,
            labels: labels(engine, &self.scenario),
            blocks: vec![block],
            ..Case::default()
        }
    }

    /// The exact work. The prompts of a conversation are all its messages so far: the answers
    /// between them follow from these and the model.
    fn work(&self, stop: String) -> Work {
        let work = work(&self.scenario, &self.ids, self.new_tokens);
        let prompts_sha256 = match &self.before {
            Cached::Conversation(messages) => hash_ids(&[messages.as_slice(), &self.ids].concat()),
            _ => work.prompts_sha256,
        };
        Work { depth: self.depth(), prompts_sha256, stop, ..work }
    }

    fn block(
        &self,
        engine: &Engine,
        session: &str,
        samples: &[Sample],
        memory: Option<&MemoryUse>,
        rates: &Rates,
    ) -> Block {
        let mut block = block_of(session, samples, &self.cold, |sample| &sample.values);
        block.steps_s = samples.iter().map(|sample| sample.steps_s.clone()).collect();
        block.ttft_seq_s = samples.iter().map(|sample| sample.ttft_seq_s.clone()).collect();
        let decodes = samples.iter().any(|sample| !sample.steps_s.is_empty());
        for (is_missing, names, reason) in [
            (!decodes, DECODING.as_slice(), "nothing is decoded after the first token"),
            (self.scenario.task() == Task::Depth, &FROM_START, FILLED),
            (self.prompts.is_empty(), &[metric::TOKENIZE_S], "the prompt is given as token ids"),
            (
                true,
                &[metric::PEAK_DEVICE_BYTES],
                "the device is the CPU, or has no supported counter",
            ),
        ] {
            for name in names.iter().filter(|_| is_missing) {
                block.set_missing(name, reason);
            }
        }
        let kv_bytes = self.kv_bytes(engine, self.new_tokens as f64);
        for (name, value) in
            [(metric::LOAD_S, engine.load.as_secs_f64()), (metric::KV_BYTES_EXPECTED, kv_bytes)]
        {
            block.values.insert(name.into(), Some(value));
        }
        let allocated = engine.decoder.kv_cache_bytes().map(|bytes| bytes as f64);
        block.set(metric::KV_BYTES_HELD, allocated, "this engine does not report it");
        match memory {
            Some(memory) => memory.store(&mut block),
            None => store_no_memory(&mut block, "memory was not read in this process"),
        }
        if self.before != Cached::Nothing {
            block.set_missing(metric::COLD_TTFT_S, FILLED);
        } else if memory.is_some_and(|memory| memory.sharing == Sharing::Fresh) {
            let cold = self.cold.first().or(samples.first());
            let cold_ttft = cold.and_then(|sample| sample.values.get(metric::TTFT_S).copied());
            block.values.insert(metric::COLD_TTFT_S.into(), cold_ttft);
        } else {
            block.set_missing(metric::COLD_TTFT_S, "the process had run before");
        }
        for (name, fraction) in [
            (metric::ROOFLINE_FRACTION, roofline::roofline_fraction(self, engine, &block, rates)),
            (metric::PREFILL_FLOP_FRACTION, roofline::prefill_flop_fraction(engine, &block, rates)),
        ] {
            block.set(name, fraction.ok(), fraction.err().unwrap_or_default());
        }
        block
    }

    /// Bytes of the KV caches of all sequences after `generated` tokens of each answer.
    fn kv_bytes(&self, engine: &Engine, generated: f64) -> f64 {
        let read: usize = self.ids.iter().map(|ids| self.depth() + ids.len()).sum();
        kv_bytes_per_token(engine) as f64 * (read as f64 + generated * self.ids.len() as f64)
    }
}

/// Metrics of decode steps.
const DECODING: [&str; 5] = [
    metric::DECODE_TOK_S,
    metric::DECODE_TOK_S_AGGREGATE,
    metric::TPOT_S,
    metric::STEP_CV,
    metric::STALLS,
];

/// Why there is no time from the start of a request, or none of a process's first.
const FILLED: &str = "the cache was filled untimed";

/// Metrics that include reading what is in the cache before the prompt. At a depth there is none; a
/// conversation and a shared prefix are measured from what is cached.
const FROM_START: [&str; 3] = [metric::TTFT_S, metric::E2E_S, metric::COLD_TTFT_S];

/// A block with the values of samples, their medians, and those of cold samples.
fn block_of<S>(
    session: &str,
    samples: &[S],
    cold: &[S],
    values: impl Fn(&S) -> &BTreeMap<&'static str, f64>,
) -> Block {
    let mut block = Block { session: session.into(), ..Block::default() };
    for (name, value) in samples.iter().flat_map(&values) {
        block.add_sample(name, *value);
    }
    block.set_medians();
    for (name, value) in cold.iter().flat_map(&values) {
        block.cold.entry((*name).into()).or_default().push(*value);
    }
    block
}

/// The work of a scenario on prompts of these token ids.
fn work(scenario: &Scenario, prompts: &[Vec<u32>], new_tokens: usize) -> Work {
    Work {
        task: scenario.task(),
        batch: scenario.batch,
        prompt_tokens: prompts.iter().map(Vec::len).collect(),
        new_tokens,
        prompts_sha256: hash_ids(prompts),
        stop: "length".into(),
        ..Work::default()
    }
}

/// SHA-256 of token ids: for each sequence its length, then its ids, as little-endian u32.
pub fn hash_ids(sequences: &[Vec<u32>]) -> String {
    let mut hash = sha2::Sha256::new();
    for ids in sequences {
        hash.update((ids.len() as u32).to_le_bytes());
        for id in ids {
            hash.update(id.to_le_bytes());
        }
    }
    files::hex(&hash.finalize())
}

/// This many tokens of the running text, repeated.
///
/// # Errors
/// When the text cannot be tokenized.
pub fn text_of_length(engine: &Engine, tokens: usize) -> Result<Vec<u32>> {
    let ids = engine.encode(workload::RUNNING_TEXT, PromptFormat::Raw)?;
    // Begin-of-text tokens are not repeated.
    let (prefix, rest) = ids.split_at(engine.tokenizer.prefix().len());
    Ok(prefix.iter().chain(rest.iter().cycle()).copied().take(tokens).collect())
}

fn kv_bytes_per_token(engine: &Engine) -> usize {
    engine.source.config.kv_bytes_per_token(engine.decoder.footprint().kv_dtype)
}

/// Checks that KV caches of this many tokens fit into host memory, twice: while they grow, the old
/// and the new buffers exist at once.
fn check_cache_memory(engine: &Engine, tokens: usize) -> Result<()> {
    let needed = 2 * (kv_bytes_per_token(engine) * tokens) as u64;
    match machine::conditions().available_bytes {
        Some(available) if available < needed => Err(Error::SkippedMemory(format!(
            "the KV cache of {tokens} tokens needs up to {} MiB of memory, {} MiB are available",
            needed >> 20,
            available >> 20
        ))),
        _ => Ok(()),
    }
}
