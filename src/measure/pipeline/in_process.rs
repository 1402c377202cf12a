//! Pipelines on an engine in this process.

use std::time::Instant;

use super::retrieval::unit_vector;
use super::{Backend, ItemResult};
use crate::engine::{Engine, GenerationRequest, Injection};
use crate::error::{Error, Result};
use crate::machine::{Meter, RegionStart, RegionUsage};
use crate::measure::checks::DEBUG_ASSERTIONS;
use crate::measure::describe::labels;
use crate::measure::{MemoryUse, hash_ids, work};
use crate::model::Step;
use crate::record::{Case, Work};
use crate::settings::Generation;
use crate::workload::{Pipeline, PromptFormat, Scenario, metric};
use crate::{engine, machine};

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
    let (start, usage) = (None, None);
    let mut backend =
        InProcess { engine, scenario, generation: &generation, injection, meter, start, usage };
    let samples = super::run(&mut backend, scenario, pipeline, &generation)?;
    memory.end(injection);
    let InProcess { engine, usage, .. } = backend;
    let greedy = generation.is_greedy();
    let output_sha256 = samples.output.as_deref().filter(|_| greedy).map(hash_ids);
    let (differs, succeeded) = (samples.differs, samples.succeeded);
    let mut case = Case {
        labels: labels(engine, scenario),
        output_sha256,
        ..samples.into_case(scenario, session)
    };
    if greedy && differs {
        case.validity.fail("output differs between passes");
    }
    if cfg!(debug_assertions) {
        case.validity.fail(DEBUG_ASSERTIONS);
    }
    for block in &mut case.blocks {
        block.values.insert(metric::LOAD_S.into(), Some(engine.load.as_secs_f64()));
        if let Some(usage) = &usage {
            machine::store_usage(usage, (succeeded * scenario.new_tokens) as f64, block);
        }
        memory.store(block);
    }
    Ok(case)
}

/// An engine in this process.
struct InProcess<'a> {
    engine: &'a mut Engine,
    scenario: &'a Scenario,
    generation: &'a Generation,
    injection: Option<Injection>,
    meter: &'a Meter,
    /// The beginning of the passes.
    start: Option<RegionStart>,
    /// Energy and utilization of all passes.
    usage: Option<RegionUsage>,
}

impl InProcess<'_> {
    fn encode_raw(&self, text: &str) -> Result<Vec<u32>> {
        self.engine.encode(text, PromptFormat::Raw)
    }

    /// The mean of the final hidden states of each sequence.
    fn mean_hidden_states(&mut self, ids: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let start = Instant::now();
        let decoder = &mut self.engine.decoder;
        decoder.reset(ids.len())?;
        let steps: Vec<Step<'_>> =
            ids.iter().enumerate().map(|(sequence, tokens)| Step { sequence, tokens }).collect();
        let vectors = decoder.embed(&steps)?;
        Injection::after_pass(self.injection, decoder.as_ref(), start.elapsed());
        Ok(vectors)
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

    fn answers(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
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

impl Backend for InProcess<'_> {
    /// The prompt's token ids, if it and its answer fit into the context.
    type Prompt = Result<Vec<u32>>;

    fn answering(&mut self, prompts: &[String]) -> Result<Work> {
        let encode = |prompt: &String| self.engine.encode(prompt, self.generation.prompt_format);
        let inputs = prompts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        // If none fits, the scenario is unsupported; no item has failed.
        let shortest = inputs.iter().map(Vec::len).min().unwrap_or(0);
        self.engine.decoder.check_length(shortest + self.scenario.new_tokens)?;
        Ok(work(self.scenario, &inputs, self.scenario.new_tokens))
    }

    /// Texts are embedded without a chat template.
    fn embedding(&mut self, texts: &[&str]) -> Result<Work> {
        let inputs = texts.iter().map(|text| self.encode_raw(text)).collect::<Result<Vec<_>>>()?;
        Ok(work(self.scenario, &inputs, self.scenario.new_tokens))
    }

    fn prompt(&mut self, text: &str) -> Result<Vec<u32>> {
        let ids = self.engine.encode(text, self.generation.prompt_format)?;
        self.engine.decoder.check_length(ids.len() + self.scenario.new_tokens)?;
        Ok(ids)
    }

    fn generate(&mut self, prompts: Vec<Result<Vec<u32>>>) -> Result<Vec<ItemResult<Vec<u32>>>> {
        self.run_batch(prompts, Self::answers)
    }

    /// A text that is longer than the context fails alone.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<ItemResult<Vec<f32>>>> {
        let tokenize = |text: &&str| {
            let ids = self.encode_raw(text)?;
            self.engine.decoder.check_length(ids.len()).map(|()| ids)
        };
        let tokens = texts.iter().map(tokenize).collect();
        let vectors = self.run_batch(tokens, Self::mean_hidden_states)?;
        Ok(vectors.into_iter().map(|vector| vector.and_then(unit_vector)).collect())
    }

    fn begin(&mut self) {
        self.start = Some(self.meter.begin());
    }

    fn end(&mut self) {
        self.usage = self.start.take().map(|start| self.meter.end(start));
    }
}
