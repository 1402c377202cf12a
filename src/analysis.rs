//! What follows from one record beyond its single values: distributions, growth with length and
//! depth, batch efficiency, drift, advice, an overall score, and how the record stands to a matrix
//! of targets. Plain data out: numbers, ids and enums. Knows nothing of documents nor of languages;
//! reasons that a record gives are passed on as they are.
//!
//! A number that was not measured is `None`, never zero. Rows of invalid cases are kept and marked,
//! so that they can be shown struck out; nothing is computed from them.

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

pub use advice::{
    Advice, BATCH_GAIN, BATCH_TOK_S, BatchAdvice, BatchStep, CONTEXT_RETENTION, CategoryBatch,
    ContextAdvice, ContextEnd, MEMORY_HEADROOM, MEMORY_STEP_BYTES, MemoryAdvice, NoAdvice,
};
pub use batches::{BatchRow, Category};
pub use context::{Context, ContextRow};
pub use grid::{Grid, GridRow, Kernels, StepCurve, StepPoint};
pub use outcome::{TargetResult, TargetSummary, TargetVerdict, Unmeasurable, evaluate, summarise};
pub use pipelines::{PipelineRow, QualityRow};
pub use requests::{ApiRow, Consistency, Latency};
pub use resources::{ResourceRow, Resources};
pub use score::{FEWEST_PARTS, Part, PartKind, Score};
pub use stress::{Outcomes, StressRow};
pub use targets::{Expected, QuantClass, Reference, Target, Targets, Topic, Unit};
pub use values::{Distribution, Over, Reading, Spread, State, pooled, reading, spread};

/// Everything that follows from one record alone. Parts whose scenarios are not in the record are
/// `None` or empty.
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
