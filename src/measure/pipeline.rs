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

mod index;
mod retrieval;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::{Engine, GenerationRequest, Injection};
use crate::error::{Error, Result};
use crate::machine::{Meter, RegionUsage};
use crate::measure::describe::labels;
use crate::measure::{MemoryUse, hash_ids};
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Generation;
use crate::workload::{Input, Pipeline, Scenario, documents, metric};
use crate::{engine, machine, stats};

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
/// When the scenario has no documents, the engine cannot do what the pipeline needs
/// ([`Error::Unsupported`]), or every document fails.
pub fn case(engine: &mut Engine, scenario: &Scenario, context: Context<'_>) -> Result<Case> {
    let Input::Documents(pipeline) = scenario.input else {
        return Err(Error::Unsupported(format!("`{}` has no documents", scenario.id)));
    };
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

    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        self.engine.encode(prompt, self.generation.prompt_format)
    }

    /// Checks that a prompt and its answer fit into the context.
    fn check_length(&self, prompt: &[u32]) -> Result<()> {
        self.engine.decoder.check_length(prompt.len() + self.scenario.new_tokens)
    }

    /// Answers a batch of prompts, tokenization and detokenization included. A prompt that cannot
    /// be tokenized or does not fit into the context fails alone; a failed generation fails its
    /// batch.
    ///
    /// # Errors
    /// When the engine does not support such a batch ([`Error::Unsupported`]).
    fn answer_batch(&mut self, prompts: &[String]) -> Result<Vec<ItemResult<Vec<u32>>>> {
        let tokenize = |prompt: &String| {
            let ids = self.encode(prompt).map_err(|error| error.chain())?;
            self.check_length(&ids).map(|()| ids).map_err(|error| error.chain())
        };
        let mut results: Vec<ItemResult<Vec<u32>>> = prompts.iter().map(tokenize).collect();
        let ids: Vec<Vec<u32>> = results.iter().flatten().cloned().collect();
        if ids.is_empty() {
            return Ok(results);
        }
        let mut answers = match self.generate(&ids) {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error @ Error::Unsupported(_)) => return Err(error),
            Err(error) => vec![Err(error.chain()); ids.len()],
        }
        .into_iter();
        for result in results.iter_mut().filter(|result| result.is_ok()) {
            *result = answers.next().expect("there is an answer to each tokenized prompt");
        }
        Ok(results)
    }

    fn generate(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
        let request = GenerationRequest {
            prompts,
            new_tokens: self.scenario.new_tokens,
            stop_tokens: &[],
            sampling: self.generation,
            cached_tokens: None,
            injection: self.injection,
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

/// Passes over a set of documents with one answer each.
fn answer_documents(runner: &mut Runner<'_>, pipeline: Pipeline) -> Result<PipelineSamples> {
    let documents = documents::documents(pipeline);
    let prompts: Vec<String> =
        documents.iter().map(|document| documents::prompt(pipeline, document.text)).collect();
    let inputs = prompts.iter().map(|prompt| runner.encode(prompt)).collect::<Result<Vec<_>>>()?;
    // If none fits, the scenario is unsupported; no item has failed.
    if let Some(shortest) = inputs.iter().min_by_key(|ids| ids.len()) {
        runner.check_length(shortest)?;
    }
    let mut samples = PipelineSamples::new(inputs, prompts.len());
    let batch = runner.scenario.batch;
    if runner.generation.warmups > 0 {
        let first = &prompts[..batch.min(prompts.len())];
        let start = Instant::now();
        runner.answer_batch(first)?;
        samples.cold = Some(per_minute(first.len(), start.elapsed()));
    }
    runner.run_passes(&mut samples, |runner, samples| {
        let start = Instant::now();
        let mut results = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(batch) {
            results.extend(runner.answer_batch(prompts)?);
        }
        let elapsed = start.elapsed();
        samples.add(metric::E2E_S, elapsed.as_secs_f64());
        samples.add_pass(results, elapsed)
    })?;
    Ok(samples)
}

fn per_minute(items: usize, elapsed: Duration) -> f64 {
    items as f64 * 60.0 / elapsed.as_secs_f64()
}

/// The samples of a pipeline's passes.
struct PipelineSamples {
    /// Token ids of every input text, in order.
    inputs: Vec<Vec<u32>>,
    /// Items of a pass.
    items: usize,
    values: BTreeMap<&'static str, Vec<f64>>,
    /// Items per minute of the warm-up.
    cold: Option<f64>,
    notes: BTreeMap<&'static str, String>,
    /// Output of the first pass per item: token ids, or numbers of chunks and token ids. Empty for
    /// a failed item.
    output: Option<Vec<Vec<u32>>>,
    failed: Vec<String>,
    /// Whether a later pass gave another output than the first.
    differs: bool,
    /// Items of all passes that did not fail.
    succeeded: usize,
    /// Energy and utilization of all passes.
    usage: Option<RegionUsage>,
}

impl PipelineSamples {
    fn new(inputs: Vec<Vec<u32>>, items: usize) -> Self {
        Self {
            inputs,
            items,
            values: BTreeMap::new(),
            cold: None,
            notes: BTreeMap::new(),
            output: None,
            failed: Vec::new(),
            differs: false,
            succeeded: 0,
            usage: None,
        }
    }

    fn add(&mut self, name: &'static str, value: f64) {
        self.values.entry(name).or_default().push(value);
    }

    /// Adds the results of a pass, and its time.
    ///
    /// # Errors
    /// When every item failed.
    fn add_pass(&mut self, results: Vec<ItemResult<Vec<u32>>>, elapsed: Duration) -> Result<()> {
        let all = results.len();
        let failures: Vec<&String> =
            results.iter().filter_map(|result| result.as_ref().err()).collect();
        if let Some(first) = failures.first() {
            let finding = format!("{} of {all} items failed; the first: {first}", failures.len());
            if failures.len() == all {
                return Err(Error::Failed(finding));
            }
            self.fail(finding);
        }
        let failed = failures.len();
        self.succeeded += all - failed;
        self.add(metric::ERROR_RATE, failed as f64 / all as f64);
        self.add(metric::ITEMS_PER_MIN, per_minute(all - failed, elapsed));
        let output: Vec<Vec<u32>> =
            results.into_iter().map(ItemResult::unwrap_or_default).collect();
        match &self.output {
            Some(first) => self.differs |= *first != output,
            None => self.output = Some(output),
        }
        Ok(())
    }

    fn fail(&mut self, finding: String) {
        if !self.failed.contains(&finding) {
            self.failed.push(finding);
        }
    }

    fn into_case(mut self, runner: &Runner<'_>, session: &str, memory: &MemoryUse) -> Case {
        let Runner { engine, scenario, generation, .. } = runner;
        let greedy = generation.deterministic || generation.temperature == 0.0;
        if greedy && self.differs {
            self.fail("output differs between passes".into());
        }
        let mut block = Block { session: session.into(), ..Block::default() };
        block.samples =
            self.values.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
        let median = |(name, values): (&String, &Vec<f64>)| (name.clone(), stats::median(values));
        block.values = block.samples.iter().map(median).collect();
        block.notes = self.notes.into_iter().map(|(name, note)| (name.to_owned(), note)).collect();
        if let Some(rate) = self.cold {
            block.cold.insert(metric::ITEMS_PER_MIN.into(), vec![rate]);
        }
        block.values.insert(metric::LOAD_S.into(), Some(engine.load.as_secs_f64()));
        if let Some(usage) = &self.usage {
            let tokens = self.succeeded * scenario.new_tokens;
            machine::store_usage(usage, tokens as f64, &mut block);
        }
        memory.store(&mut block);
        if cfg!(debug_assertions) {
            self.failed.push("the build has debug assertions".into());
        }
        Case {
            id: scenario.id.clone(),
            work: Work {
                task: scenario.task(),
                batch: scenario.batch,
                prompt_tokens: self.inputs.iter().map(Vec::len).collect(),
                items: self.items,
                new_tokens: scenario.new_tokens,
                prompts_sha256: hash_ids(&self.inputs),
                stop: "length".into(),
                ..Work::default()
            },
            labels: labels(engine, scenario),
            output_sha256: self.output.filter(|_| greedy).map(|output| hash_ids(&output)),
            validity: Validity { failed: self.failed, warnings: Vec::new() },
            blocks: vec![block],
            ..Case::default()
        }
    }
}

#[cfg(test)]
mod tests;
