//! Batch sizes of each category, and their efficiency.

use serde::Serialize;

use super::values::{Spread, row, spread, valid_median};
use crate::record::{Case, Record};
use crate::workload::metric;

/// A category and its batch sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Category {
    pub(crate) name: String,
    /// In ascending order of batch size.
    pub(crate) batches: Vec<BatchRow>,
}

row! {
    /// One batch size of a category.
    BatchRow(case) {
        batch: usize = case.work.batch,
        /// Tokens per second of the whole batch.
        aggregate_tok_s: Option<Spread> = spread(case, aggregate(case)),
        /// Tokens per second of each sequence.
        sequence_tok_s: Option<Spread> = spread(case, metric::DECODE_TOK_S),
        /// The aggregate rate as a share of batch size times the rate of batch 1: 1 is linear
        /// scaling. `None` where either rate was not measured or is invalid.
        efficiency: Option<f64> = None,
    }
    spreads { ttft_s, prefill_tok_s, e2e_s }
    readings { peak_rss_bytes }
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
        let row = batch_row(case, batch, single);
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

fn batch_row(case: &Case, batch: usize, single: Option<&Case>) -> BatchRow {
    let alone = single.and_then(|single| valid_median(single, aggregate(single)));
    let efficiency = valid_median(case, aggregate(case))
        .zip(alone.filter(|alone| *alone > 0.0))
        .map(|(rate, alone)| rate / (batch as f64 * alone));
    BatchRow { batch, efficiency, ..BatchRow::of(case) }
}
