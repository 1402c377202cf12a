//! Recommended batch size, context and memory. Every recommendation carries the numbers that
//! support it; where there is none, the reason says what is missing.

use serde::Serialize;

use super::batches;
use super::batches::Category;
use super::context::{Context, ContextRow};
use super::resources::serves;
use super::values::valid_median;
use crate::record::Record;
use crate::workload::metric;

/// Smallest gain of the aggregate rate, as a share, for which a larger batch is recommended.
pub(crate) const BATCH_GAIN: f64 = 0.10;

/// Tokens per second that each sequence must keep: about human reading speed.
pub(crate) const BATCH_TOK_S: f64 = 5.0;

/// The share of the decode rate at depth 0 that a context must keep.
pub(crate) const CONTEXT_RETENTION: f64 = 0.5;

/// Recommended memory as a multiple of the largest measured peak.
pub(crate) const MEMORY_HEADROOM: f64 = 1.2;

/// Memory is rounded up to multiples of this: 256 MiB.
pub(crate) const MEMORY_STEP_BYTES: u64 = 256 << 20;

/// The recommendations of a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Advice {
    pub(crate) batch: Result<BatchAdvice, NoAdvice>,
    /// Tokens of context.
    pub(crate) context: Result<ContextAdvice, NoAdvice>,
    /// Memory of the process.
    pub(crate) memory: Result<MemoryAdvice, NoAdvice>,
    /// Memory of the device.
    pub(crate) device_memory: Result<MemoryAdvice, NoAdvice>,
}

/// Why there is no advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NoAdvice {
    /// No category has valid rates at two batch sizes.
    NoBatches,
    /// Even a single sequence is slower than [`BATCH_TOK_S`].
    TooSlow,
    /// No valid rate at depth 0.
    NoDepthZero,
    /// No valid rate at any other depth.
    NoDepths,
    /// No valid scenario has a memory peak.
    NoPeak,
}

/// The recommended batch size: the smallest over categories of each category's.
///
/// A category's is the largest batch whose aggregate rate exceeds the best rate of all smaller
/// batches by at least [`BATCH_GAIN`] and in which each sequence still decodes [`BATCH_TOK_S`]; if
/// there is none, the smallest batch measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BatchAdvice {
    pub(crate) batch: usize,
    /// The supporting rates.
    pub(crate) categories: Vec<CategoryBatch>,
}

/// The recommended batch size of one category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CategoryBatch {
    pub(crate) category: String,
    pub(crate) batch: usize,
    /// The valid batch sizes, in ascending order.
    pub(crate) steps: Vec<BatchStep>,
}

/// One batch size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct BatchStep {
    pub(crate) batch: usize,
    /// Tokens per second of the whole batch.
    pub(crate) aggregate_tok_s: f64,
    /// Tokens per second of each sequence.
    pub(crate) sequence_tok_s: f64,
    /// Whether it meets both conditions.
    pub(crate) worth_it: bool,
}

/// The largest depth at which decoding, here and at every smaller measured depth, keeps
/// [`CONTEXT_RETENTION`] of its rate at depth 0. Without depths with YaRN, which changes the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ContextAdvice {
    /// Tokens.
    pub(crate) depth: usize,
    /// Decode rate as a share of that at depth 0.
    pub(crate) retention: f64,
    /// What limits it.
    pub(crate) end: ContextEnd,
}

/// What limits the recommended context.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContextEnd {
    /// The largest measured depth; a deeper one may be fine.
    NotMeasured,
    /// The next depth keeps too little.
    Slow {
        /// That depth.
        depth: usize,
        /// Its decode rate as a share of that at depth 0.
        retention: f64,
    },
    /// The next depth has no valid rate.
    NoRate {
        /// That depth.
        depth: usize,
    },
}

/// The largest peak of the scenarios that serve the model times [`MEMORY_HEADROOM`], rounded up to
/// [`MEMORY_STEP_BYTES`]. Without stress, which fills memory on purpose, and without quality and
/// traces, which hold more than the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MemoryAdvice {
    /// Recommended memory.
    pub(crate) bytes: u64,
    /// The largest peak.
    pub(crate) peak_bytes: f64,
    /// Its scenario.
    pub(crate) id: String,
}

impl Advice {
    /// The advice of a record.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            batch: batch(&batches::categories(record)),
            context: context(Context::of(record).as_ref()),
            memory: memory(record, metric::PEAK_RSS_BYTES),
            device_memory: memory(record, metric::PEAK_DEVICE_BYTES),
        }
    }
}

fn batch(categories: &[Category]) -> Result<BatchAdvice, NoAdvice> {
    let with_steps = categories.iter().map(|category| (category, steps(category)));
    let categories: Vec<CategoryBatch> = with_steps
        .filter(|(_, steps)| steps.len() > 1)
        .map(|(category, steps)| {
            let largest = steps.iter().rev().find(|step| step.worth_it);
            let batch = largest.map_or(steps[0].batch, |step| step.batch);
            CategoryBatch { category: category.name.clone(), batch, steps }
        })
        .collect();
    if categories.iter().any(|one| one.steps[0].sequence_tok_s < BATCH_TOK_S) {
        return Err(NoAdvice::TooSlow);
    }
    let batch = categories.iter().map(|one| one.batch).min().ok_or(NoAdvice::NoBatches)?;
    Ok(BatchAdvice { batch, categories })
}

fn steps(category: &Category) -> Vec<BatchStep> {
    let mut steps: Vec<BatchStep> = Vec::new();
    for row in &category.batches {
        let rates = row.valid_tok_s().zip(row.sequence_tok_s);
        let Some((aggregate_tok_s, sequence)) = rates else { continue };
        let before = steps.iter().map(|step| step.aggregate_tok_s).max_by(f64::total_cmp);
        let gains = before.is_none_or(|before| aggregate_tok_s / before - 1.0 >= BATCH_GAIN);
        let sequence_tok_s = sequence.median;
        let worth_it = gains && sequence_tok_s >= BATCH_TOK_S;
        steps.push(BatchStep { batch: row.batch, aggregate_tok_s, sequence_tok_s, worth_it });
    }
    steps
}

fn context(context: Option<&Context>) -> Result<ContextAdvice, NoAdvice> {
    let rows = context.map_or([].as_slice(), |context| &context.rows);
    let rows: Vec<&ContextRow> = rows.iter().filter(|row| !row.extended).collect();
    let Some((zero, deeper)) = rows.split_first() else { return Err(NoAdvice::NoDepthZero) };
    let retention = zero.decode_retention.filter(|_| zero.depth == 0);
    let retention = retention.ok_or(NoAdvice::NoDepthZero)?;
    if deeper.iter().all(|row| row.decode_retention.is_none()) {
        return Err(NoAdvice::NoDepths);
    }
    let mut advice = ContextAdvice { depth: 0, retention, end: ContextEnd::NotMeasured };
    for row in deeper {
        let depth = row.depth;
        match row.decode_retention {
            Some(retention) if retention >= CONTEXT_RETENTION => {
                (advice.depth, advice.retention) = (depth, retention);
                continue;
            }
            Some(retention) => advice.end = ContextEnd::Slow { depth, retention },
            None => advice.end = ContextEnd::NoRate { depth },
        }
        break;
    }
    Ok(advice)
}

fn memory(record: &Record, metric: &str) -> Result<MemoryAdvice, NoAdvice> {
    let cases = record.scenarios.iter().filter(|case| serves(case));
    let peaks = cases.filter_map(|case| Some((valid_median(case, metric)?, case)));
    let (peak_bytes, case) = peaks.max_by(|a, b| a.0.total_cmp(&b.0)).ok_or(NoAdvice::NoPeak)?;
    let bytes = ((peak_bytes * MEMORY_HEADROOM).ceil() as u64).next_multiple_of(MEMORY_STEP_BYTES);
    Ok(MemoryAdvice { bytes, peak_bytes, id: case.id.clone() })
}
