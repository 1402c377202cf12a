//! Derived data of one record: distributions, growth with prompt length and context depth, batch
//! efficiency, drift, advice, an overall score, and the status of targets. The result is plain
//! data: numbers, ids and enums. Knows nothing of documents nor of languages; reasons that a record
//! gives are passed on unchanged.
//!
//! A number that was not measured is `None`, never zero. Rows of invalid cases are kept and marked,
//! so that they can be shown struck out; nothing is computed from them.

mod advice;
mod batches;
mod context;
mod grid;
mod pipelines;
mod requests;
mod resources;
mod score;
mod stress;
mod target_results;
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
pub use grid::{Grid, GridRow, KernelProfile, StepCurve, StepPoint};
pub use pipelines::{PipelineRow, QualityRow};
pub use requests::{ApiRow, Consistency, Latency};
pub use resources::{ResourceRow, Resources};
pub use score::{MIN_SCORE_PARTS, Score, ScorePart, ScorePartKind};
pub use stress::{RequestCounts, StressRow};
pub use target_results::{
    TargetResult, TargetSummary, TargetVerdict, Unmeasurable, evaluate_targets, summarise,
};
pub use targets::{Expected, QuantClass, Reference, Target, TargetUnit, Targets, Topic};
pub use values::{CaseState, Distribution, Reading, Spread, SpreadOver, pooled, reading, spread};

/// All derived data of one record. Parts whose scenarios are not in the record are `None` or empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Prompt and answer lengths, `grid/S1` to `grid/S6`.
    pub grid: Option<Grid>,
    /// Time per kernel, `profile/answer`.
    pub kernels: Option<KernelProfile>,
    /// Context depths, `context/<depth>`.
    pub context: Option<Context>,
    /// Batch sizes, `<category>/b<size>`.
    pub categories: Vec<Category>,
    /// Latency percentiles of every scenario that generates.
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
    /// Utilization, power, memory and roofline fraction of every scenario.
    pub resources: Resources,
    /// Recommended batch size, context and memory.
    pub advice: Advice,
    /// One number from 0 to 10.
    pub score: Score,
}

impl Analysis {
    /// Deterministic: the same record gives the same analysis.
    pub fn of(record: &Record) -> Self {
        Self {
            grid: Grid::of(record),
            kernels: KernelProfile::of(record),
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
