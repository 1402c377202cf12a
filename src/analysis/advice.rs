//! Which batch size, context and memory a record speaks for. Every answer carries the numbers that
//! it rests on, and every refusal says what is missing.

use serde::Serialize;

use super::batches;
use super::batches::Category;
use super::context::{Context, ContextRow};
use super::resources::serves;
use super::values::{State, sound};
use crate::record::Record;

/// A larger batch is worth it from this gain of the whole batch's rate on, as a share.
pub const BATCH_GAIN: f64 = 0.10;

/// Tokens per second that each sequence must keep: about as fast as people read.
pub const BATCH_TOK_S: f64 = 5.0;

/// The share of the decode rate at depth 0 that a context must keep.
pub const CONTEXT_RETENTION: f64 = 0.5;

/// Memory to have, as a multiple of the largest peak that was measured.
pub const MEMORY_HEADROOM: f64 = 1.2;

/// Memory is rounded up to multiples of this: 256 MiB.
pub const MEMORY_STEP_BYTES: u64 = 256 << 20;

/// What the record speaks for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// Sequences to answer together.
    pub batch: Result<BatchAdvice, NoAdvice>,
    /// Tokens of context.
    pub context: Result<ContextAdvice, NoAdvice>,
    /// Memory of the process.
    pub memory: Result<MemoryAdvice, NoAdvice>,
    /// Memory of the device.
    pub device_memory: Result<MemoryAdvice, NoAdvice>,
}

/// Why there is no advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoAdvice {
    /// No category has valid rates at two batch sizes.
    NoBatches,
    /// A single sequence is slower than [`BATCH_TOK_S`] already.
    TooSlow,
    /// No valid rate at depth 0.
    NoDepthZero,
    /// No valid rate at any other depth.
    NoDepths,
    /// No valid scenario has a memory peak.
    NoPeak,
}

/// The largest batch that is worth it in every category.
///
/// In a category that is the largest batch whose aggregate rate is at least [`BATCH_GAIN`] over the
/// best of all smaller batches, and in which each sequence still decodes [`BATCH_TOK_S`]; the
/// smallest batch measured where none is. Over categories it is the smallest of those.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchAdvice {
    /// Sequences.
    pub batch: usize,
    /// What it rests on.
    pub categories: Vec<CategoryBatch>,
}

/// One category's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryBatch {
    /// Its name.
    pub category: String,
    /// The largest batch that is worth it here.
    pub batch: usize,
    /// The valid batch sizes from the smallest on.
    pub steps: Vec<BatchStep>,
}

/// One batch size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BatchStep {
    /// Sequences.
    pub batch: usize,
    /// Tokens per second of the whole batch.
    pub aggregate_tok_s: f64,
    /// Tokens per second of each sequence.
    pub sequence_tok_s: f64,
    /// The aggregate rate over the best of all smaller batches, as a share; `None` of the
    /// smallest.
    pub gain: Option<f64>,
    /// Whether it is worth it.
    pub worth_it: bool,
}

/// The largest depth at which decoding keeps [`CONTEXT_RETENTION`] of its rate at depth 0, as it
/// does at every measured depth before it. Depths with YaRN are left out: they answer another
/// question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContextAdvice {
    /// Tokens.
    pub depth: usize,
    /// What decoding keeps there.
    pub retention: f64,
    /// Tokens per second there.
    pub decode_tok_s: f64,
    /// Why it is no larger.
    pub end: ContextEnd,
}

/// Why a context is no larger.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextEnd {
    /// Nothing deeper was measured: the limit may be higher.
    NotMeasured,
    /// The next depth keeps too little.
    Slow {
        /// That depth.
        depth: usize,
        /// What decoding keeps there.
        retention: f64,
    },
    /// The next depth has no valid rate.
    NoRate {
        /// That depth.
        depth: usize,
        /// What became of it.
        state: State,
    },
}

/// The largest peak of scenarios that serve the model times [`MEMORY_HEADROOM`], rounded up to
/// [`MEMORY_STEP_BYTES`]. Stress fills memory on purpose, quality and traces hold more than the
/// model: they are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryAdvice {
    /// Memory to have.
    pub bytes: u64,
    /// The largest peak.
    pub peak_bytes: f64,
    /// Its scenario.
    pub id: String,
}

impl Advice {
    /// The advice of a record.
    pub fn of(record: &Record) -> Self {
        Self {
            batch: batch(&batches::categories(record)),
            context: context(Context::of(record).as_ref()),
            memory: memory(record, "peak_rss_bytes"),
            device_memory: memory(record, "peak_device_bytes"),
        }
    }
}

fn batch(categories: &[Category]) -> Result<BatchAdvice, NoAdvice> {
    let with_steps = categories.iter().map(|category| (category, steps(category)));
    let found: Vec<CategoryBatch> = with_steps
        .filter(|(_, steps)| steps.len() > 1)
        .map(|(category, steps)| {
            let worth = steps.iter().rev().find(|step| step.worth_it);
            let batch = worth.map_or(steps[0].batch, |step| step.batch);
            CategoryBatch { category: category.name.clone(), batch, steps }
        })
        .collect();
    if found.iter().any(|one| one.steps[0].sequence_tok_s < BATCH_TOK_S) {
        return Err(NoAdvice::TooSlow);
    }
    let batch = found.iter().map(|one| one.batch).min().ok_or(NoAdvice::NoBatches)?;
    Ok(BatchAdvice { batch, categories: found })
}

fn steps(category: &Category) -> Vec<BatchStep> {
    let mut steps: Vec<BatchStep> = Vec::new();
    for row in &category.batches {
        let rates = row.sound_tok_s().zip(row.sequence_tok_s);
        let Some((aggregate_tok_s, sequence)) = rates else { continue };
        let before = steps.iter().map(|step| step.aggregate_tok_s).max_by(f64::total_cmp);
        let gain = before.map(|before| aggregate_tok_s / before - 1.0);
        let pays = gain.is_none_or(|gain| gain >= BATCH_GAIN);
        let sequence_tok_s = sequence.median;
        let worth_it = pays && sequence_tok_s >= BATCH_TOK_S;
        steps.push(BatchStep { batch: row.batch, aggregate_tok_s, sequence_tok_s, gain, worth_it });
    }
    steps
}

fn context(context: Option<&Context>) -> Result<ContextAdvice, NoAdvice> {
    let rows = context.map_or([].as_slice(), |context| &context.rows);
    let rows: Vec<&ContextRow> = rows.iter().filter(|row| !row.extended).collect();
    let rate = |row: &ContextRow| row.decode_tok_s.zip(row.decode_retention);
    let Some((zero, deeper)) = rows.split_first() else { return Err(NoAdvice::NoDepthZero) };
    let (start, retention) = rate(zero).filter(|_| zero.depth == 0).ok_or(NoAdvice::NoDepthZero)?;
    if !deeper.iter().any(|row| rate(row).is_some()) {
        return Err(NoAdvice::NoDepths);
    }
    let mut advice = ContextAdvice {
        depth: 0,
        retention,
        decode_tok_s: start.median,
        end: ContextEnd::NotMeasured,
    };
    for row in deeper {
        let depth = row.depth;
        match rate(row) {
            None => {
                advice.end = ContextEnd::NoRate { depth, state: row.state.clone() };
                break;
            }
            Some((_, retention)) if retention < CONTEXT_RETENTION => {
                advice.end = ContextEnd::Slow { depth, retention };
                break;
            }
            Some((decode, retention)) => {
                advice = ContextAdvice { depth, retention, decode_tok_s: decode.median, ..advice };
            }
        }
    }
    Ok(advice)
}

fn memory(record: &Record, metric: &str) -> Result<MemoryAdvice, NoAdvice> {
    let cases = record.scenarios.iter().filter(|case| serves(case));
    let peaks = cases.filter_map(|case| Some((sound(case, metric)?, case)));
    let (peak_bytes, case) = peaks.max_by(|a, b| a.0.total_cmp(&b.0)).ok_or(NoAdvice::NoPeak)?;
    let bytes = ((peak_bytes * MEMORY_HEADROOM).ceil() as u64).next_multiple_of(MEMORY_STEP_BYTES);
    Ok(MemoryAdvice { bytes, peak_bytes, id: case.id.clone() })
}
