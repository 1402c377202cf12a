//! Batch sizes of each category, and their efficiency.

use serde::Serialize;

use super::values::{CaseState, Reading, Spread, reading, spread, valid_median};
use crate::record::{Case, Record};
use crate::workload::metric;

/// A category and its batch sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Category {
    pub(crate) name: String,
    /// In ascending order of batch size.
    pub(crate) batches: Vec<BatchRow>,
}

/// One batch size of a category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BatchRow {
    pub(crate) id: String,
    pub(crate) state: CaseState,
    pub(crate) batch: usize,
    /// Tokens generated per sequence.
    pub(crate) new_tokens: usize,
    /// Tokens per second of the whole batch.
    pub(crate) aggregate_tok_s: Option<Spread>,
    /// Tokens per second of each sequence.
    pub(crate) sequence_tok_s: Option<Spread>,
    /// The aggregate rate as a share of batch size times the rate of batch 1: 1 is linear scaling.
    /// `None` where either rate was not measured or is invalid.
    pub(crate) efficiency: Option<f64>,
    /// Seconds to the first token, the mean over sequences.
    pub(crate) ttft_s: Option<Spread>,
    pub(crate) prefill_tok_s: Option<Spread>,
    pub(crate) e2e_s: Option<Spread>,
    /// High-water mark.
    pub(crate) peak_rss_bytes: Reading,
}

impl BatchRow {
    /// The aggregate rate where the row is valid.
    pub(super) fn valid_tok_s(&self) -> Option<f64> {
        self.aggregate_tok_s.filter(|_| self.state.is_valid()).map(|spread| spread.median)
    }
}

/// The metric of the aggregate rate. Records of batch 1 may have only the rate per sequence.
pub(super) fn aggregate(case: &Case) -> &'static str {
    let whole = metric::DECODE_TOK_S_AGGREGATE;
    if case.work.batch == 1 && case.values(whole).is_empty() { metric::DECODE_TOK_S } else { whole }
}

/// The category and batch size in an id such as `code/b4`.
pub(super) fn category_and_batch(id: &str) -> Option<(&str, usize)> {
    let (name, batch) = id.rsplit_once("/b")?;
    batch.parse().ok().filter(|batch| *batch > 0).map(|batch| (name, batch))
}

/// The categories of a record in their order, each with its batches.
pub(super) fn categories(record: &Record) -> Vec<Category> {
    let mut categories: Vec<Category> = Vec::new();
    for case in &record.scenarios {
        let Some((name, batch)) = category_and_batch(&case.id) else { continue };
        let single = record.case(&format!("{name}/b1"));
        let row = row(case, batch, single);
        match categories.iter_mut().find(|category| category.name == name) {
            Some(category) => category.batches.push(row),
            None => categories.push(Category { name: name.into(), batches: vec![row] }),
        }
    }
    for category in &mut categories {
        category.batches.sort_by_key(|row| row.batch);
    }
    categories
}

fn row(case: &Case, batch: usize, single: Option<&Case>) -> BatchRow {
    let alone = single.and_then(|single| valid_median(single, aggregate(single)));
    let efficiency = valid_median(case, aggregate(case))
        .zip(alone.filter(|alone| *alone > 0.0))
        .map(|(rate, alone)| rate / (batch as f64 * alone));
    BatchRow {
        id: case.id.clone(),
        state: CaseState::of(case),
        batch,
        new_tokens: case.work.new_tokens,
        aggregate_tok_s: spread(case, aggregate(case)),
        sequence_tok_s: spread(case, metric::DECODE_TOK_S),
        efficiency,
        ttft_s: spread(case, metric::TTFT_S),
        prefill_tok_s: spread(case, metric::PREFILL_TOK_S),
        e2e_s: spread(case, metric::E2E_S),
        peak_rss_bytes: reading(case, metric::PEAK_RSS_BYTES),
    }
}
