//! Document pipelines: a set of documents, from text to answers, vectors or retrieved answers. The
//! metrics are those of the whole pipeline, not of the model's steps, and are defined here and in
//! the modules below.
//!
//! * One sample is one pass over the set, in batches of the scenario's size, one after the other.
//! * `e2e_s`: the time of a pass, including tokenization before and detokenization after each
//!   batch.
//! * `items_per_min`: documents answered, chunks embedded or questions answered, per minute.
//! * `error_rate`: the share of items that failed. Failed items make the case INVALID.
//! * Tokenization is part of the work of an engine in this process; a server does it within its
//!   answer.
//! * Answers have a fixed length, and end-of-text is ignored: the work does not depend on the
//!   model's output.
//! * The warm-up is one batch, however many the settings ask for: it has the shape of those that
//!   follow. Its rate is stored as cold. `warmups = 0` leaves it out.
//! * A set is many generations, so at most three passes are run, unless the scenario asks for more
//!   ([`Scenario::repetitions`]).

mod in_process;
mod retrieval;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::record::{Block, Case, Validity, Work};
use crate::settings::Generation;
use crate::workload::{Pipeline, Scenario, documents, metric};

pub use in_process::{Context, case};
#[cfg(feature = "server")]
pub(crate) use retrieval::unit_vector;

/// Passes over a set, unless the scenario asks for more.
const MAX_PASSES: usize = 3;

/// The result of one item, or why it failed.
pub(crate) type ItemResult<T> = std::result::Result<T, String>;

/// What answers prompts and embeds texts: an engine in this process, or a server.
pub(crate) trait Backend {
    /// A prompt that is ready to be answered.
    type Prompt;

    /// The work of answering these prompts, with neither items nor times.
    ///
    /// # Errors
    /// When none of them fits into the context ([`Error::Unsupported`]).
    fn answering(&mut self, prompts: &[String]) -> Result<Work>;

    /// The work of embedding these texts, or of embedding questions and answering them.
    ///
    /// # Errors
    /// When it gives no embeddings ([`Error::Unsupported`]).
    fn embedding(&mut self, texts: &[&str]) -> Result<Work>;

    /// Makes a prompt ready.
    fn prompt(&mut self, text: &str) -> Self::Prompt;

    /// Answers a batch of prompts: token ids or other numbers that tell answers apart.
    ///
    /// # Errors
    /// When it does not support such a batch ([`Error::Unsupported`]).
    fn generate(&mut self, prompts: Vec<Self::Prompt>) -> Result<Vec<ItemResult<Vec<u32>>>>;

    /// The unit vector of each text of a batch.
    ///
    /// # Errors
    /// When it gives no embeddings ([`Error::Unsupported`]).
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<ItemResult<Vec<f32>>>>;

    /// The warm-up is over, and the passes begin.
    fn begin(&mut self) {}

    /// The passes have ended.
    fn end(&mut self) {}
}

/// Measures a pipeline.
///
/// # Errors
/// When the backend cannot do what the pipeline needs ([`Error::Unsupported`]), or every document
/// fails.
pub(crate) fn run<B: Backend>(
    backend: &mut B,
    scenario: &Scenario,
    pipeline: Pipeline,
    generation: &Generation,
) -> Result<PipelineSamples> {
    let mut runner = Runner { backend, scenario, generation };
    match pipeline {
        Pipeline::Embedding => retrieval::embed_chunks(&mut runner),
        Pipeline::Rag => retrieval::answer_questions(&mut runner),
        _ => answer_documents(&mut runner, pipeline),
    }
}

/// Runs the passes of a pipeline.
struct Runner<'a, B> {
    backend: &'a mut B,
    scenario: &'a Scenario,
    generation: &'a Generation,
}

impl<B: Backend> Runner<'_, B> {
    /// Runs all passes.
    fn run_passes(
        &mut self,
        samples: &mut PipelineSamples,
        mut pass: impl FnMut(&mut Self, &mut PipelineSamples) -> Result<()>,
    ) -> Result<()> {
        let passes = self.generation.iters.min(MAX_PASSES);
        self.backend.begin();
        for _ in 0..passes.max(self.scenario.repetitions.unwrap_or(1)) {
            pass(self, samples)?;
        }
        self.backend.end();
        Ok(())
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
}

/// Passes over a set of documents with one answer each, tokenization and detokenization included.
fn answer_documents<B: Backend>(
    runner: &mut Runner<'_, B>,
    pipeline: Pipeline,
) -> Result<PipelineSamples> {
    let documents = documents::documents(pipeline);
    let prompts: Vec<String> =
        documents.iter().map(|(_, text)| documents::prompt(pipeline, text)).collect();
    let mut samples = PipelineSamples::new(runner.backend.answering(&prompts)?, prompts.len());
    let answer = |runner: &mut Runner<'_, B>, prompts: &[String]| {
        let prompts = prompts.iter().map(|prompt| runner.backend.prompt(prompt)).collect();
        runner.backend.generate(prompts)
    };
    runner.run_set(&mut samples, &prompts, answer, PipelineSamples::add_pass)?;
    Ok(samples)
}

fn per_minute(items: usize, elapsed: Duration) -> f64 {
    items as f64 * 60.0 / elapsed.as_secs_f64()
}

/// The samples of a pipeline's passes.
#[derive(Default)]
pub(crate) struct PipelineSamples {
    work: Work,
    /// Samples and notes so far.
    block: Block,
    validity: Validity,
    /// Output of the first pass per item: that of the backend, or numbers of chunks and that. Empty
    /// for a failed item.
    pub(crate) output: Option<Vec<Vec<u32>>>,
    /// Whether a later pass gave another output than the first.
    pub(crate) differs: bool,
    /// Items of all passes that did not fail.
    pub(crate) succeeded: usize,
}

impl PipelineSamples {
    fn new(work: Work, items: usize) -> Self {
        Self { work: Work { items, ..work }, ..Self::default() }
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

    /// A case with one block, which has what every backend has.
    pub(crate) fn into_case(self, scenario: &Scenario, session: &str) -> Case {
        let Self { work, mut block, validity, .. } = self;
        block.session = session.into();
        block.set_medians();
        Case { id: scenario.id.clone(), blocks: vec![block], work, validity, ..Case::default() }
    }
}

#[cfg(test)]
mod tests;
