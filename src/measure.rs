//! One scenario on one loaded engine: warm-ups, samples, memory, the checks that a number can be
//! true, and the block that a record keeps of them. The definitions of the metrics are here and
//! nowhere else.

mod checks;
mod peaks;
pub mod pipeline;
pub mod profile;
pub mod quality;
mod rates;
mod shares;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::Digest as _;

use crate::engine::{Engine, GenerationOutput, GenerationRequest, Identity, Injection};
use crate::error::{Error, Result};
use crate::machine::hex;
use crate::record::{Block, Case, Model, Rates, Settings, Work};
use crate::settings::{Generation, RopeScaling, Setup};
use crate::workload::{Input, PromptFormat, Scenario, Task};
use crate::{engine, machine, stats, workload};

pub use peaks::{MemoryUse, Sharing, take_memory};
pub use rates::{full_rates, patient_rates, rates};
pub use shares::{exceeds, raise, restate};

use peaks::null_memory;

/// Every metric of one generation.
#[derive(Debug, Clone)]
pub struct Sample {
    /// By metric name; a metric that has no value here is left out.
    pub values: BTreeMap<&'static str, f64>,
    /// Each decode step in seconds.
    pub steps_s: Vec<f64>,
    /// Time to first token of each sequence in seconds.
    pub ttft_seq_s: Vec<f64>,
    /// What was generated.
    pub ids: Vec<Vec<u32>>,
    finite: bool,
    total: Duration,
    /// The whole generation by a clock of its own, started before and read after everything.
    around: Duration,
}

impl Sample {
    /// The metrics of a generation (metric definitions: `decode_tok_s` is per sequence, (n - 1) /
    /// (t_n - t_1) with t_1 the instant at which all sequences have their first token;
    /// `decode_tok_s_aggregate` counts the whole batch).
    fn new(
        made: &GenerationOutput,
        prompt_tokens: usize,
        tokenize: Duration,
        around: Duration,
    ) -> Self {
        let seconds = |duration: &Duration| duration.as_secs_f64();
        let ttft_seq_s: Vec<f64> = made.ttft.iter().map(seconds).collect();
        let steps_s: Vec<f64> = made.steps.iter().map(seconds).collect();
        let mut values = BTreeMap::from([
            ("ttft_s", ttft_seq_s.iter().sum::<f64>() / ttft_seq_s.len() as f64),
            ("prefill_s", seconds(&made.prefill)),
            ("prefill_tok_s", prompt_tokens as f64 / seconds(&made.prefill)),
            ("e2e_s", seconds(&made.total)),
            ("tokenize_s", seconds(&tokenize)),
        ]);
        if !steps_s.is_empty() {
            let decode: f64 = steps_s.iter().sum();
            let generated: usize = made.ids.iter().map(|ids| ids.len() - 1).sum();
            // Sequences that stopped at different lengths were not all there all the time.
            if made.ids.windows(2).all(|pair| pair[0].len() == pair[1].len()) {
                values.insert("decode_tok_s_aggregate", generated as f64 / decode);
                values.insert("decode_tok_s", generated as f64 / made.ids.len() as f64 / decode);
            }
            values.insert("tpot_s", decode / steps_s.len() as f64);
            if let Some(typical) = stats::median(&steps_s).filter(|_| steps_s.len() > 1) {
                let stalls = steps_s.iter().filter(|step| **step > 5.0 * typical).count();
                values.insert("stalls", stalls as f64);
            }
            if let (Some(sd), Some(mean)) = (stats::sd(&steps_s), stats::mean(&steps_s)) {
                values.insert("step_cv", sd / mean);
            }
        }
        Self {
            values,
            steps_s,
            ttft_seq_s,
            ids: made.ids.clone(),
            finite: made.is_finite,
            total: made.total,
            around,
        }
    }

    /// Decode time of the whole batch in seconds; the time to the first token where nothing is
    /// decoded.
    pub fn primary_s(&self) -> f64 {
        if self.steps_s.is_empty() { self.values["prefill_s"] } else { self.steps_s.iter().sum() }
    }
}

/// A scenario on an engine, ready to be sampled.
pub struct Trial {
    scenario: Scenario,
    prompts: Vec<String>,
    ids: Vec<Vec<u32>>,
    new_tokens: usize,
    generation: Generation,
    /// Read into the cache, untimed, before anything is measured.
    filling: Vec<u32>,
    filled: bool,
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
        let prompts = scenario.prompts();
        let encode = |prompt: &String| engine.encode(prompt, generation.prompt_format);
        let (ids, filling) = match scenario.input {
            Input::Category { .. } => {
                (prompts.iter().map(encode).collect::<Result<Vec<_>>>()?, Vec::new())
            }
            Input::Length { prompt_tokens } => {
                (vec![of_length(engine, prompt_tokens)?], Vec::new())
            }
            Input::Depth { .. } if !generation.use_kv_cache => {
                return Err(Error::Unsupported(
                    "a depth is what a KV cache holds; there is none".into(),
                ));
            }
            Input::Depth { depth, read } => {
                let longest = depth + read + scenario.length(generation.gen_tokens);
                engine.decoder.check_length(longest)?;
                has_room(engine, longest)?;
                let mut ids = of_length(engine, depth + read)?;
                let read = ids.split_off(depth);
                (vec![read], ids)
            }
            Input::Documents(_) | Input::Requests(_) | Input::Texts | Input::Traced => {
                return Err(Error::Unsupported(format!(
                    "`{}` is measured by `candlemark run`, not generation by generation",
                    scenario.id
                )));
            }
        };
        let new_tokens = scenario.length(generation.gen_tokens);
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        engine.decoder.check_length(filling.len() + longest + new_tokens)?;
        Ok(Self {
            scenario: scenario.clone(),
            new_tokens,
            generation,
            cold: Vec::new(),
            prompts,
            ids,
            filling,
            filled: false,
            injection,
        })
    }

    /// Tokens that the cache holds before the prompt.
    fn depth(&self) -> usize {
        self.filling.len()
    }

    /// Fills the cache before the first generation; later ones go back to where it was full.
    fn fill(&mut self, engine: &mut Engine) -> Result<()> {
        if self.scenario.task() == Task::Depth && !self.filled {
            engine::prefill(engine.decoder.as_mut(), &self.filling)?;
            self.filled = true;
        }
        Ok(())
    }

    /// From here on, the work is made worse by this on purpose, or no longer.
    pub fn inject(&mut self, injection: Option<Injection>) {
        self.injection = injection;
    }

    /// What the last warm-up generated.
    pub fn warm_ids(&self) -> Option<&[Vec<u32>]> {
        self.cold.last().map(|sample| sample.ids.as_slice())
    }

    /// A generation that is kept apart, because the first of a shape pays for memory and caches;
    /// its [`Sample::primary_s`].
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
        self.fill(engine)?;
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
            cached_tokens: (self.scenario.task() == Task::Depth).then(|| self.depth()),
            injection: self.injection,
        };
        let start = Instant::now();
        let made = engine::generate(engine.decoder.as_mut(), &request)?;
        let around = start.elapsed();
        let prompt_tokens = self.ids.iter().map(Vec::len).sum();
        let mut sample = Sample::new(&made, prompt_tokens, tokenize, around);
        if self.prompts.is_empty() {
            sample.values.remove("tokenize_s");
        }
        if self.scenario.task() == Task::Depth {
            // What fills the cache is part of both, and is not timed.
            for name in ["ttft_s", "e2e_s"] {
                sample.values.remove(name);
            }
        }
        Ok(sample)
    }

    /// What the samples of one process come to: a case with one block.
    ///
    /// `memory` is what was read after the samples; without it, memory is `null`.
    pub fn into_case(
        self,
        engine: &Engine,
        session: &str,
        samples: &[Sample],
        memory: Option<&MemoryUse>,
        rates: &Rates,
    ) -> Case {
        let mut block = Block { session: session.into(), ..Block::default() };
        for sample in samples {
            for (&name, &value) in &sample.values {
                block.samples.entry(name.into()).or_default().push(value);
            }
        }
        block.values = block
            .samples
            .iter()
            .map(|(name, values)| (name.clone(), stats::median(values)))
            .collect();
        block.steps_s = samples.iter().map(|sample| sample.steps_s.clone()).collect();
        block.ttft_seq_s = samples.iter().map(|sample| sample.ttft_seq_s.clone()).collect();
        for sample in &self.cold {
            for (&name, &value) in &sample.values {
                block.cold.entry(name.into()).or_default().push(value);
            }
        }
        let mut null = |name: &str, why: &str| {
            block.values.insert(name.into(), None);
            block.notes.insert(name.into(), why.into());
        };
        if samples.iter().all(|sample| sample.steps_s.is_empty()) {
            for name in ["decode_tok_s", "decode_tok_s_aggregate", "tpot_s", "step_cv", "stalls"] {
                null(name, "nothing is decoded after the first token");
            }
        }
        if self.scenario.task() == Task::Depth {
            for name in ["ttft_s", "e2e_s", "cold_ttft_s"] {
                null(name, "the cache was filled untimed");
            }
        }
        if self.prompts.is_empty() {
            null("tokenize_s", "the prompt is given as token ids");
        }
        null("peak_device_bytes", "the device is the CPU, or has no counter that is read");
        block.values.insert("load_s".into(), Some(engine.load.as_secs_f64()));
        block.values.insert(
            "kv_bytes_expected".into(),
            Some(self.kv_bytes(engine, self.new_tokens as f64)),
        );
        let held = engine.decoder.kv_cache_bytes().map(|bytes| bytes as f64);
        block.values.insert("kv_bytes_held".into(), held);
        if held.is_none() {
            block.notes.insert("kv_bytes_held".into(), "this engine does not tell".into());
        }
        match memory {
            Some(memory) => memory.store(&mut block),
            None => null_memory(&mut block, "memory was not read in this process"),
        }
        let fresh = memory.is_some_and(|memory| memory.shared == Sharing::Fresh);
        let cold = self.cold.first().or(samples.first()).filter(|_| fresh);
        let cold_ttft = cold.and_then(|sample| sample.values.get("ttft_s").copied());
        block.values.insert("cold_ttft_s".into(), cold_ttft);
        if !fresh {
            block.notes.insert("cold_ttft_s".into(), "the process had run before".into());
        }
        for (name, share) in [
            ("roofline_fraction", shares::of_bandwidth(&self, engine, &block, rates)),
            ("prefill_flop_fraction", shares::of_arithmetic(engine, &block, rates)),
        ] {
            if let Err(why) = share {
                block.notes.insert(name.into(), why.into());
            }
            block.values.insert(name.into(), share.ok());
        }
        let validity = checks::validity(&self, samples, &block);
        let output =
            samples.first().filter(|_| self.is_greedy()).map(|sample| hash_ids(&sample.ids));
        Case {
            id: self.scenario.id.clone(),
            work: Work {
                task: self.scenario.task(),
                batch: self.scenario.batch,
                prompt_tokens: self.ids.iter().map(Vec::len).collect(),
                depth: self.depth(),
                items: 0,
                new_tokens: self.new_tokens,
                prompts_sha256: hash_ids(&self.ids),
                stop: if self.generation.natural_stop { "natural" } else { "length" }.into(),
            },
            output_sha256: output,
            validity,
            labels: labels(engine, &self.scenario),
            blocks: vec![block],
            ..Case::default()
        }
    }

    fn is_greedy(&self) -> bool {
        self.generation.deterministic || self.generation.temperature == 0.0
    }

    /// Of the caches of all sequences when so many tokens of each answer are there.
    fn kv_bytes(&self, engine: &Engine, answered: f64) -> f64 {
        let read: usize = self.ids.iter().map(|ids| self.depth() + ids.len()).sum();
        kv_bytes_per_token(engine) as f64 * (read as f64 + answered * self.ids.len() as f64)
    }
}

/// SHA-256 of token ids, each sequence with its length in front, as little-endian 32-bit numbers.
pub fn hash_ids(sequences: &[Vec<u32>]) -> String {
    let mut hash = sha2::Sha256::new();
    for ids in sequences {
        hash.update((ids.len() as u32).to_le_bytes());
        for id in ids {
            hash.update(id.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}

/// So many token ids of running text: the prompts of all categories one after the other, over and
/// over.
///
/// # Errors
/// When the text cannot be tokenized.
pub fn of_length(engine: &Engine, tokens: usize) -> Result<Vec<u32>> {
    let text: Vec<&str> =
        workload::CATEGORIES.iter().flat_map(|category| category.prompts).collect();
    let ids = engine.encode(&text.concat(), PromptFormat::Raw)?;
    // The token that texts begin with stands once.
    let (first, rest) = ids.split_at(engine.tokenizer.prefix().len());
    Ok(first.iter().chain(rest.iter().cycle()).copied().take(tokens).collect())
}

/// 2 layers kv_heads head_dim bytes.
fn kv_bytes_per_token(engine: &Engine) -> usize {
    let config = &engine.source.config;
    2 * config.layers
        * config.kv_heads
        * config.head_dim
        * engine.decoder.footprint().kv_dtype_bytes
}

/// Whether the caches of so many tokens fit into the memory of the CPU's host; while they grow, old
/// and new are there at once.
fn has_room(engine: &Engine, tokens: usize) -> Result<()> {
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

/// How a scenario is run where that differs from the record's settings.
fn labels(engine: &Engine, scenario: &Scenario) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if let Some(scaling) = engine.source.config.rope_scaling.as_ref().filter(|_| scenario.extended)
    {
        let RopeScaling { rope_type, factor, original_max_position_embeddings, .. } = scaling;
        let text = format!("{rope_type}, factor {factor}, from {original_max_position_embeddings}");
        labels.insert("rope_scaling".into(), text);
    }
    if let Some(format) = scenario.format {
        labels.insert("prompt_format".into(), format.name().into());
    }
    labels
}

/// What a record says of the model; `identity` is what it is known by, where that is known already.
pub fn describe_model(engine: &Engine, identity: Option<&Identity>) -> Model {
    let config = &engine.source.config;
    let footprint = engine.decoder.footprint();
    Model {
        spec: engine.source.spec.clone(),
        architecture: config.family.name().into(),
        sha256: identity.map_or(String::new(), |identity| identity.sha256.clone()),
        commit: engine.source.commit.clone(),
        parameters: config.parameters(),
        weight_bytes: footprint.weight_bytes,
        quant: footprint.quant_name(),
        kv_dtype: if footprint.kv_dtype_bytes == 4 { "f32" } else { "bf16" }.into(),
        layers: config.layers,
        hidden: config.hidden,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        vocab: config.vocab,
        context: config.context,
        rope_scaling: config.rope_scaling.clone(),
        isa: engine.decoder.isa().map(Into::into),
    }
}

/// What a record says of how it was run.
pub fn describe_settings(setup: &Setup) -> Settings {
    Settings {
        engine: setup.engine.clone(),
        device: setup.device.clone(),
        quant: setup.quant.clone(),
        threads: setup.threads,
        generation: setup.generation.clone(),
        environment: crate::machine::environment(),
        labels: setup.labels.clone(),
    }
}
