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

pub(crate) use advice::{
    Advice, BATCH_GAIN, BATCH_TOK_S, BatchAdvice, CONTEXT_RETENTION, ContextAdvice, ContextEnd,
    MEMORY_HEADROOM, MEMORY_STEP_BYTES, MemoryAdvice, NoAdvice,
};
pub(crate) use batches::{BatchRow, Category};
pub(crate) use context::{Context, ContextRow};
pub(crate) use grid::{Grid, GridRow, KernelProfile};
pub(crate) use pipelines::{PipelineRow, QualityRow};
pub(crate) use requests::{ApiRow, Consistency, Latency};
pub(crate) use score::{MIN_SCORE_PARTS, Score, ScorePartKind};
pub(crate) use stress::StressRow;
pub(crate) use target_results::{TargetResult, TargetVerdict, Unmeasurable, evaluate_targets};
pub use targets::Targets;
pub(crate) use targets::{Reference, Target, Topic};
#[cfg(test)]
pub(crate) use values::spread;
pub(crate) use values::{CaseState, Distribution, Reading, Spread, reading};

/// All derived data of one record. Parts whose scenarios are not in the record are `None` or empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Prompt and answer lengths, `grid/S1` to `grid/S6`.
    pub(crate) grid: Option<Grid>,
    /// Time per kernel, `profile/answer`.
    pub(crate) kernels: Option<KernelProfile>,
    /// Context depths, `context/<depth>`.
    pub(crate) context: Option<Context>,
    /// Batch sizes, `<category>/b<size>`.
    pub(crate) categories: Vec<Category>,
    /// Latency percentiles of every scenario that generates.
    pub(crate) latencies: Vec<Latency>,
    /// Kinds of requests, `api/*`.
    pub(crate) api: Vec<ApiRow>,
    /// One request many times, `consistency/*`.
    pub(crate) consistency: Vec<Consistency>,
    /// Requests under a memory limit, `stress/*`.
    pub(crate) stress: Vec<StressRow>,
    /// Document sets, `pipelines/*`.
    pub(crate) pipelines: Vec<PipelineRow>,
    /// Agreement with the f32 definition, `quality/*`.
    pub(crate) quality: Vec<QualityRow>,
    /// Recommended batch size, context and memory.
    pub(crate) advice: Advice,
    /// One number from 0 to 10.
    pub(crate) score: Score,
}

impl Analysis {
    /// Deterministic: the same record gives the same analysis.
    pub fn of(record: &Record) -> Self {
        Self {
            grid: Grid::of(record),
            kernels: record.case("profile/answer").map(KernelProfile::of),
            context: Context::of(record),
            categories: batches::categories(record),
            latencies: requests::latencies(record),
            api: requests::api(record),
            consistency: requests::consistency(record),
            stress: stress::stress(record),
            pipelines: pipelines::pipelines(record),
            quality: pipelines::quality(record),
            advice: Advice::of(record),
            score: Score::of(record),
        }
    }
}

#[cfg(test)]
mod tests;
