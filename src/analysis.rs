//! What follows from one record beyond its single values: distributions, growth with length and depth, batch efficiency,
//! drift, advice, an overall score, and how the record stands to a matrix of targets. Plain data out: numbers, ids and
//! enums. Knows nothing of documents nor of languages; reasons that a record gives are passed on as they are.
//!
//! A number that was not measured is `None`, never zero. Rows of invalid cases are kept and marked, so that they can be
//! shown struck out; nothing is computed from them.

mod advice;
mod batches;
mod context;
mod grid;
mod outcome;
mod pipelines;
mod requests;
mod resources;
mod score;
mod stress;
mod targets;
mod values;

use serde::Serialize;

use crate::record::Record;

pub use advice::Advice;
pub use advice::BATCH_GAIN;
pub use advice::BATCH_TOK_S;
pub use advice::BatchAdvice;
pub use advice::BatchStep;
pub use advice::CONTEXT_RETENTION;
pub use advice::CategoryBatch;
pub use advice::ContextAdvice;
pub use advice::ContextEnd;
pub use advice::MEMORY_HEADROOM;
pub use advice::MEMORY_STEP_BYTES;
pub use advice::MemoryAdvice;
pub use advice::NoAdvice;
pub use batches::BatchRow;
pub use batches::Category;
pub use context::Context;
pub use context::ContextRow;
pub use grid::Grid;
pub use grid::GridRow;
pub use grid::Kernels;
pub use grid::StepCurve;
pub use grid::StepPoint;
pub use outcome::TargetResult;
pub use outcome::TargetSummary;
pub use outcome::TargetVerdict;
pub use outcome::Unmeasurable;
pub use outcome::evaluate;
pub use outcome::summarise;
pub use pipelines::PipelineRow;
pub use pipelines::QualityRow;
pub use requests::ApiRow;
pub use requests::Consistency;
pub use requests::Latency;
pub use resources::ResourceRow;
pub use resources::Resources;
pub use score::FEWEST_PARTS;
pub use score::Part;
pub use score::PartKind;
pub use score::Score;
pub use stress::Outcomes;
pub use stress::StressRow;
pub use targets::Expected;
pub use targets::QuantClass;
pub use targets::Reference;
pub use targets::Target;
pub use targets::Targets;
pub use targets::Topic;
pub use targets::Unit;
pub use values::Distribution;
pub use values::Over;
pub use values::Reading;
pub use values::Spread;
pub use values::State;
pub use values::pooled;
pub use values::reading;
pub use values::spread;

/// Everything that follows from one record alone. Parts whose scenarios are not in the record are `None` or empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Prompt and answer lengths, `grid/S1` to `grid/S6`.
    pub grid: Option<Grid>,
    /// Where the time of an answer goes, `profile/answer`.
    pub kernels: Option<Kernels>,
    /// Decoding at depths, `context/<depth>`.
    pub context: Option<Context>,
    /// Batch sizes of each category, `<category>/b<size>`.
    pub categories: Vec<Category>,
    /// Percentiles of latencies of every scenario that generates.
    pub latencies: Vec<Latency>,
    /// Kinds of requests, `api/*`.
    pub api: Vec<ApiRow>,
    /// One request many times, `consistency/*`.
    pub consistency: Vec<Consistency>,
    /// Requests under a memory limit, `stress/*`.
    pub stress: Vec<StressRow>,
    /// Document sets, `pipelines/*`.
    pub pipelines: Vec<PipelineRow>,
    /// Agreement with the f32 definition, `quality/*`.
    pub quality: Vec<QualityRow>,
    /// Utilisation, power, memory and share of bandwidth of every scenario.
    pub resources: Resources,
    /// Batch, context and memory that the record speaks for.
    pub advice: Advice,
    /// One number for the curious.
    pub score: Score,
}

impl Analysis {
    /// Derives everything from a record. The same record gives the same analysis.
    pub fn of(record: &Record) -> Self {
        Self {
            grid: Grid::of(record),
            kernels: Kernels::of(record),
            context: Context::of(record),
            categories: batches::categories(record),
            latencies: requests::latencies(record),
            api: requests::api(record),
            consistency: requests::consistency(record),
            stress: stress::stress(record),
            pipelines: pipelines::pipelines(record),
            quality: pipelines::quality(record),
            resources: Resources::of(record),
            advice: Advice::of(record),
            score: Score::of(record),
        }
    }
}

#[cfg(test)]
mod tests;
