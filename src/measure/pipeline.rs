//! Document pipelines: a whole set of documents from text to answers, vectors or retrieved answers.
//! What is counted here are items a minute of everything that a pipeline does, not steps of a
//! model; the definitions of its metrics are here and in the modules below, and nowhere else.
//!
//! * One sample is one pass over the set: documents in batches of the scenario's size, one batch
//!   after the other.
//! * `e2e_s`: the pass, from the first text to the last, with tokenising before a batch and
//!   detokenising after it.
//! * `items_per_min`: documents that were answered, chunks that were embedded or questions that
//!   were answered, by that time.
//! * `error_rate`: the share of the set's items that failed. They make the case INVALID, and are
//!   never left out in silence.
//! * The length of an answer is fixed, and end-of-text is ignored: the work does not depend on what
//!   the model says.
//! * Before the first pass one batch is run, and only one however many warm-ups are asked for: it
//!   has the shape of those that follow. Its rate is kept as cold, the rest of it is not comparable
//!   with a pass. `warmups = 0` leaves it out.
//! * A set is many generations, so three passes at most are made where the settings ask for more;
//!   what a scenario itself asks for ([`Scenario::repetitions`]) is done in any case.

mod index;
mod retrieval;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::{Engine, GenerationRequest, Injection};
use crate::error::{Error, Result};
use crate::machine::{Meter, Spent};
use crate::measure::{MemoryUse, hash_ids, labels};
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Generation;
use crate::workload::{Input, Pipeline, Scenario, documents};
use crate::{engine, machine, stats};

/// Passes over a set at most, unless the scenario asks for more.
const MOST_PASSES: usize = 3;

/// What a pipeline is measured with, beside the model.
pub struct Means<'a> {
    /// Sampler, seed and repetitions.
    pub generation: &'a Generation,
    /// A deliberate slowdown.
    pub injection: Option<Injection>,
    /// The session that the block belongs to.
    pub session: &'a str,
    /// Begun already; read when the last pass is over.
    pub memory: MemoryUse,
    /// Reads energy and utilisation around the passes.
    pub meter: &'a Meter,
}

/// Measures a pipeline: a case with one block.
///
/// # Errors
/// When the scenario has no documents, the engine cannot do what the pipeline needs
/// ([`Error::Unsupported`]), or every document fails.
pub fn case(engine: &mut Engine, scenario: &Scenario, means: Means<'_>) -> Result<Case> {
    let Input::Documents(pipeline) = scenario.input else {
        return Err(Error::Unsupported(format!("`{}` has no documents", scenario.id)));
    };
    let Means { injection, session, mut memory, meter, .. } = means;
    let mut generation = means.generation.clone();
    generation.prompt_format = scenario.format.unwrap_or(generation.prompt_format);
    let mut stage = Stage { engine, scenario, generation: &generation, injection, meter };
    let measured = match pipeline {
        Pipeline::Embedding => retrieval::embedding(&mut stage)?,
        Pipeline::Rag => retrieval::questions(&mut stage)?,
        _ => answers(&mut stage, pipeline)?,
    };
    memory.end(injection);
    Ok(measured.into_case(&stage, session, &memory))
}

/// Everything that the passes of a pipeline have in common.
struct Stage<'a> {
    engine: &'a mut Engine,
    scenario: &'a Scenario,
    generation: &'a Generation,
    injection: Option<Injection>,
    meter: &'a Meter,
}

/// What became of a document: its token ids, or why there are none.
type Outcome<T> = std::result::Result<T, String>;

impl Stage<'_> {
    /// Makes all passes, with the meter around them.
    fn repeat(
        &mut self,
        measured: &mut Measured,
        mut pass: impl FnMut(&mut Self, &mut Measured) -> Result<()>,
    ) -> Result<()> {
        let passes = self.generation.iters.min(MOST_PASSES);
        let begun = self.meter.begin();
        for _ in 0..passes.max(self.scenario.repetitions.unwrap_or(1)) {
            pass(self, measured)?;
        }
        measured.spent = Some(self.meter.end(begun));
        Ok(())
    }

    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        self.engine.encode(prompt, self.generation.prompt_format)
    }

    /// Whether a prompt and its answer fit into the context.
    fn check_length(&self, prompt: &[u32]) -> Result<()> {
        self.engine.decoder.check_length(prompt.len() + self.scenario.new_tokens)
    }

    /// The answers to a batch of prompts, from text to text. A prompt that cannot be read or does
    /// not fit into the context fails alone, one that breaks the model takes its batch along.
    ///
    /// # Errors
    /// When the engine cannot do such a batch at all ([`Error::Unsupported`]).
    fn answer(&mut self, prompts: &[String]) -> Result<Vec<Outcome<Vec<u32>>>> {
        let read = |prompt: &String| {
            let ids = self.encode(prompt).map_err(|error| error.chain())?;
            self.check_length(&ids).map(|()| ids).map_err(|error| error.chain())
        };
        let mut outcomes: Vec<Outcome<Vec<u32>>> = prompts.iter().map(read).collect();
        let ids: Vec<Vec<u32>> = outcomes.iter().flatten().cloned().collect();
        if ids.is_empty() {
            return Ok(outcomes);
        }
        let mut answers = match self.generate(&ids) {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error @ Error::Unsupported(_)) => return Err(error),
            Err(error) => vec![Err(error.chain()); ids.len()],
        }
        .into_iter();
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            *outcome = answers.next().expect("there is an answer for each prompt that was read");
        }
        Ok(outcomes)
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
        let made = engine::generate(self.engine.decoder.as_mut(), &request)?;
        if !made.is_finite {
            return Err(Error::Failed("a score of a first token is not a finite number".into()));
        }
        for ids in &made.ids {
            std::hint::black_box(self.engine.tokenizer.decode(ids));
        }
        Ok(made.ids)
    }
}

/// Passes over a set of documents that are answered one by one.
fn answers(stage: &mut Stage<'_>, pipeline: Pipeline) -> Result<Measured> {
    let documents = documents::documents(pipeline);
    let prompts: Vec<String> =
        documents.iter().map(|document| documents::prompt(pipeline, document.text)).collect();
    let inputs = prompts.iter().map(|prompt| stage.encode(prompt)).collect::<Result<Vec<_>>>()?;
    // Where none fits, no item has failed: the model cannot do such a thing.
    if let Some(shortest) = inputs.iter().min_by_key(|ids| ids.len()) {
        stage.check_length(shortest)?;
    }
    let mut measured = Measured::new(inputs, prompts.len());
    let batch = stage.scenario.batch;
    if stage.generation.warmups > 0 {
        let first = &prompts[..batch.min(prompts.len())];
        let start = Instant::now();
        stage.answer(first)?;
        measured.cold = Some(per_minute(first.len(), start.elapsed()));
    }
    stage.repeat(&mut measured, |stage, measured| {
        let start = Instant::now();
        let mut outcomes = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(batch) {
            outcomes.extend(stage.answer(prompts)?);
        }
        let spent = start.elapsed();
        measured.sample("e2e_s", spent.as_secs_f64());
        measured.pass(outcomes, spent)
    })?;
    Ok(measured)
}

/// Items a minute.
fn per_minute(items: usize, spent: Duration) -> f64 {
    items as f64 * 60.0 / spent.as_secs_f64()
}

/// What the passes of a pipeline came to.
struct Measured {
    /// Token ids of every text that is given, in its order.
    inputs: Vec<Vec<u32>>,
    /// Items of a pass.
    items: usize,
    samples: BTreeMap<&'static str, Vec<f64>>,
    /// Items a minute of the batch before the first pass.
    cold: Option<f64>,
    notes: BTreeMap<&'static str, String>,
    /// What the first pass gave, item by item: token ids, or numbers of chunks and token ids.
    /// Empty where an item failed.
    output: Option<Vec<Vec<u32>>>,
    failed: Vec<String>,
    /// Whether a later pass gave another output than the first.
    differs: bool,
    /// Items of all passes that did not fail.
    done: usize,
    /// Energy and utilisation of all passes.
    spent: Option<Spent>,
}

impl Measured {
    fn new(inputs: Vec<Vec<u32>>, items: usize) -> Self {
        Self {
            inputs,
            items,
            samples: BTreeMap::new(),
            cold: None,
            notes: BTreeMap::new(),
            output: None,
            failed: Vec::new(),
            differs: false,
            done: 0,
            spent: None,
        }
    }

    fn sample(&mut self, name: &'static str, value: f64) {
        self.samples.entry(name).or_default().push(value);
    }

    /// Takes what became of the items of one pass, and how long it took.
    ///
    /// # Errors
    /// When all of them failed: there is nothing to be counted.
    fn pass(&mut self, outcomes: Vec<Outcome<Vec<u32>>>, spent: Duration) -> Result<()> {
        let all = outcomes.len();
        let failures: Vec<&String> =
            outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        if let Some(first) = failures.first() {
            let what = format!("{} of {all} items failed; the first: {first}", failures.len());
            if failures.len() == all {
                return Err(Error::Failed(what));
            }
            self.fail(what);
        }
        let failed = failures.len();
        self.done += all - failed;
        self.sample("error_rate", failed as f64 / all as f64);
        self.sample("items_per_min", per_minute(all - failed, spent));
        let output: Vec<Vec<u32>> = outcomes.into_iter().map(Outcome::unwrap_or_default).collect();
        match &self.output {
            Some(first) => self.differs |= *first != output,
            None => self.output = Some(output),
        }
        Ok(())
    }

    fn fail(&mut self, what: String) {
        if !self.failed.contains(&what) {
            self.failed.push(what);
        }
    }

    fn into_case(mut self, stage: &Stage<'_>, session: &str, memory: &MemoryUse) -> Case {
        let Stage { engine, scenario, generation, .. } = stage;
        let greedy = generation.deterministic || generation.temperature == 0.0;
        if greedy && self.differs {
            self.fail("output differs between passes".into());
        }
        let mut block = Block { session: session.into(), ..Block::default() };
        block.samples =
            self.samples.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
        let centre = |(name, values): (&String, &Vec<f64>)| (name.clone(), stats::median(values));
        block.values = block.samples.iter().map(centre).collect();
        block.notes = self.notes.into_iter().map(|(name, note)| (name.to_owned(), note)).collect();
        if let Some(rate) = self.cold {
            block.cold.insert("items_per_min".into(), vec![rate]);
        }
        block.values.insert("load_s".into(), Some(engine.load.as_secs_f64()));
        if let Some(spent) = &self.spent {
            machine::store(spent, (self.done * scenario.new_tokens) as f64, &mut block);
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
