//! Document pipelines: a set of documents, from text to answers, vectors or retrieved answers. The
//! metrics are those of the whole pipeline, not of the model's steps, and are defined here and in
//! the modules below.
//!
//! * One sample is one pass over the set, in batches of the scenario's size, one after the other.
//! * `e2e_s`: the time of a pass, including tokenization before and detokenization after each
//!   batch.
//! * `items_per_min`: documents answered, chunks embedded or questions answered, per minute.
//! * `error_rate`: the share of items that failed. Failed items make the case INVALID.
//! * Answers have a fixed length, and end-of-text is ignored: the work does not depend on the
//!   model's output.
//! * The warm-up is one batch, however many the settings ask for: it has the shape of those that
//!   follow. Its rate is stored as cold. `warmups = 0` leaves it out.
//! * A set is many generations, so at most three passes are run, unless the scenario asks for more
//!   ([`Scenario::repetitions`]).

mod retrieval;

use std::time::{Duration, Instant};

use crate::engine::{Engine, GenerationRequest, Injection};
use crate::error::{Error, Result};
use crate::machine::{Meter, RegionUsage};
use crate::measure::checks::DEBUG_ASSERTIONS;
use crate::measure::describe::labels;
use crate::measure::{MemoryUse, hash_ids, work};
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Generation;
use crate::workload::{Pipeline, Scenario, documents, metric};
use crate::{engine, machine};

#[cfg(feature = "server")]
pub(crate) use retrieval::unit_vector;

/// Passes over a set, unless the scenario asks for more.
const MAX_PASSES: usize = 3;

/// What a pipeline needs beside the engine and the scenario.
pub struct Context<'a> {
    /// Sampler, seed and repetitions.
    pub generation: &'a Generation,
    /// A deliberate regression.
    pub injection: Option<Injection>,
    /// The session that the block belongs to.
    pub session: &'a str,
    /// Memory use so far; read again after the last pass.
    pub memory: MemoryUse,
    /// Measures energy and utilization of the passes.
    pub meter: &'a Meter,
}

/// Measures a pipeline: a case with one block.
///
/// # Errors
/// When the engine cannot do what the pipeline needs ([`Error::Unsupported`]), or every document
/// fails.
pub fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    pipeline: Pipeline,
    context: Context<'_>,
) -> Result<Case> {
    let Context { injection, session, mut memory, meter, .. } = context;
    let mut generation = context.generation.clone();
    generation.prompt_format = scenario.format.unwrap_or(generation.prompt_format);
    let mut runner = Runner { engine, scenario, generation: &generation, injection, meter };
    let samples = match pipeline {
        Pipeline::Embedding => retrieval::embed_chunks(&mut runner)?,
        Pipeline::Rag => retrieval::answer_questions(&mut runner)?,
        _ => answer_documents(&mut runner, pipeline)?,
    };
    memory.end(injection);
    Ok(samples.into_case(&runner, session, &memory))
}

/// Runs the passes of a pipeline.
struct Runner<'a> {
    engine: &'a mut Engine,
    scenario: &'a Scenario,
    generation: &'a Generation,
    injection: Option<Injection>,
    meter: &'a Meter,
}

/// The result of one item, or why it failed.
type ItemResult<T> = std::result::Result<T, String>;

impl Runner<'_> {
    /// Runs all passes and meters them.
    fn run_passes(
        &mut self,
        samples: &mut PipelineSamples,
        mut pass: impl FnMut(&mut Self, &mut PipelineSamples) -> Result<()>,
    ) -> Result<()> {
        let passes = self.generation.iters.min(MAX_PASSES);
        let start = self.meter.begin();
        for _ in 0..passes.max(self.scenario.repetitions.unwrap_or(1)) {
            pass(self, samples)?;
        }
        samples.usage = Some(self.meter.end(start));
        Ok(())
    }

    /// The token ids of a prompt, if it and its answer fit into the context.
    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let ids = self.engine.encode(prompt, self.generation.prompt_format)?;
        self.engine.decoder.check_length(ids.len() + self.scenario.new_tokens)?;
        Ok(ids)
    }

    /// Passes over a set of texts in batches, after a warm-up of one batch. `end_pass` adds the
    /// results of a pass, which took that long, to the samples.
    fn run_set<S, T>(
        &mut self,
        samples: &mut PipelineSamples,
        texts: &[S],
        mut work: impl FnMut(&mut Self, &[S]) -> Result<Vec<ItemResult<T>>>,
        end_pass: impl Fn(&mut PipelineSamples, Vec<ItemResult<T>>, Duration) -> Result<()>,
    ) -> Result<()> {
        let batch = self.scenario.batch;
        if self.generation.warmups > 0 {
            let first = &texts[..batch.min(texts.len())];
            let start = Instant::now();
            work(self, first)?;
            samples.set_cold(per_minute(first.len(), start.elapsed()));
        }
        self.run_passes(samples, |runner, samples| {
            let start = Instant::now();
            let mut results = Vec::with_capacity(texts.len());
            for texts in texts.chunks(batch) {
                results.extend(work(runner, texts)?);
            }
            let elapsed = start.elapsed();
            samples.block.add_sample(metric::E2E_S, elapsed.as_secs_f64());
            end_pass(samples, results, elapsed)
        })
    }

    /// Runs `work` on a batch. A text that could not be tokenized fails alone; a failure of `work`
    /// fails the batch.
    ///
    /// # Errors
    /// When the engine does not support such a batch ([`Error::Unsupported`]).
    fn run_batch<T: Clone>(
        &mut self,
        tokens: Vec<Result<Vec<u32>>>,
        work: impl FnOnce(&mut Self, &[Vec<u32>]) -> Result<Vec<T>>,
    ) -> Result<Vec<ItemResult<T>>> {
        let ids: Vec<Vec<u32>> = tokens.iter().flatten().cloned().collect();
        let results = if ids.is_empty() { Ok(Vec::new()) } else { work(self, &ids) };
        let mut results = match results {
            Ok(results) => results.into_iter().map(Ok).collect(),
            Err(error @ Error::Unsupported(_)) => return Err(error),
            Err(error) => vec![Err(error.chain()); ids.len()],
        }
        .into_iter();
        let result = |tokens: Result<Vec<u32>>| match tokens {
            Ok(_) => results.next().expect("there is a result for each tokenized text"),
            Err(error) => Err(error.chain()),
        };
        Ok(tokens.into_iter().map(result).collect())
    }

    fn generate(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
        let new_tokens = self.scenario.new_tokens;
        let request = GenerationRequest {
            injection: self.injection,
            ..GenerationRequest::new(prompts, new_tokens, self.generation)
        };
        let output = engine::generate(self.engine.decoder.as_mut(), &request)?;
        if !output.is_finite {
            return Err(Error::Failed("a logit of a first token is not finite".into()));
        }
        for ids in &output.ids {
            std::hint::black_box(self.engine.tokenizer.decode(ids));
        }
        Ok(output.ids)
    }
}

/// Passes over a set of documents with one answer each, tokenization and detokenization included.
fn answer_documents(runner: &mut Runner<'_>, pipeline: Pipeline) -> Result<PipelineSamples> {
    let documents = documents::documents(pipeline);
    let prompts: Vec<String> =
        documents.iter().map(|(_, text)| documents::prompt(pipeline, text)).collect();
    let encode = |prompt: &String| runner.engine.encode(prompt, runner.generation.prompt_format);
    let inputs = prompts.iter().map(encode).collect::<Result<Vec<_>>>()?;
    // If none fits, the scenario is unsupported; no item has failed.
    let shortest = inputs.iter().map(Vec::len).min().unwrap_or(0);
    runner.engine.decoder.check_length(shortest + runner.scenario.new_tokens)?;
    let mut samples = PipelineSamples::new(inputs, prompts.len());
    let answer = |runner: &mut Runner<'_>, prompts: &[String]| {
        let tokens = prompts.iter().map(|prompt| runner.encode(prompt)).collect();
        runner.run_batch(tokens, Runner::generate)
    };
    runner.run_set(&mut samples, &prompts, answer, PipelineSamples::add_pass)?;
    Ok(samples)
}

fn per_minute(items: usize, elapsed: Duration) -> f64 {
    items as f64 * 60.0 / elapsed.as_secs_f64()
}

/// The samples of a pipeline's passes.
#[derive(Default)]
struct PipelineSamples {
    /// Token ids of every input text, in order.
    inputs: Vec<Vec<u32>>,
    /// Items of a pass.
    items: usize,
    /// Samples and notes so far.
    block: Block,
    validity: Validity,
    /// Output of the first pass per item: token ids, or numbers of chunks and token ids. Empty for
    /// a failed item.
    output: Option<Vec<Vec<u32>>>,
    /// Whether a later pass gave another output than the first.
    differs: bool,
    /// Items of all passes that did not fail.
    succeeded: usize,
    /// Energy and utilization of all passes.
    usage: Option<RegionUsage>,
}

impl PipelineSamples {
    fn new(inputs: Vec<Vec<u32>>, items: usize) -> Self {
        Self { inputs, items, ..Self::default() }
    }

    /// Stores the items per minute of the warm-up.
    fn set_cold(&mut self, rate: f64) {
        self.block.cold.insert(metric::ITEMS_PER_MIN.into(), vec![rate]);
    }

    /// Adds the results of a pass, and its time.
    ///
    /// # Errors
    /// When every item failed.
    fn add_pass(&mut self, results: Vec<ItemResult<Vec<u32>>>, elapsed: Duration) -> Result<()> {
        let all = results.len();
        let failures: Vec<&String> =
            results.iter().filter_map(|result| result.as_ref().err()).collect();
        let failed = failures.len();
        if let Some(first) = failures.first() {
            let finding = format!("{failed} of {all} items failed; the first: {first}");
            if failed == all {
                return Err(Error::Failed(finding));
            }
            self.validity.fail(finding);
        }
        self.succeeded += all - failed;
        self.block.add_sample(metric::ERROR_RATE, failed as f64 / all as f64);
        self.block.add_sample(metric::ITEMS_PER_MIN, per_minute(all - failed, elapsed));
        let output: Vec<Vec<u32>> =
            results.into_iter().map(ItemResult::unwrap_or_default).collect();
        match &self.output {
            Some(first) => self.differs |= *first != output,
            None => self.output = Some(output),
        }
        Ok(())
    }

    fn into_case(self, runner: &Runner<'_>, session: &str, memory: &MemoryUse) -> Case {
        let Runner { engine, scenario, generation, .. } = runner;
        let Self { mut block, mut validity, .. } = self;
        let greedy = generation.is_greedy();
        if greedy && self.differs {
            validity.fail("output differs between passes");
        }
        if cfg!(debug_assertions) {
            validity.fail(DEBUG_ASSERTIONS);
        }
        block.session = session.into();
        block.set_medians();
        block.values.insert(metric::LOAD_S.into(), Some(engine.load.as_secs_f64()));
        if let Some(usage) = &self.usage {
            let tokens = self.succeeded * scenario.new_tokens;
            machine::store_usage(usage, tokens as f64, &mut block);
        }
        memory.store(&mut block);
        Case {
            id: scenario.id.clone(),
            work: Work { items: self.items, ..work(scenario, &self.inputs, scenario.new_tokens) },
            labels: labels(engine, scenario),
            output_sha256: self.output.filter(|_| greedy).map(|output| hash_ids(&output)),
            validity,
            blocks: vec![block],
            ..Case::default()
        }
    }
}

#[cfg(test)]
mod tests;
