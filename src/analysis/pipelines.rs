//! Pipelines over document sets, and agreement with the f32 reference.

use std::collections::BTreeMap;

use super::values::{in_group, prompt_tokens, row, short_name, valid_median};
use crate::record::{Case, Record};
use crate::workload::metric;

row! {
    /// One pipeline, `pipelines/*`, with the seconds of its stages. `e2e_s` is from the question,
    /// or the first item, to the last token; one passage answers a simple question.
    PipelineRow(case) {
        name: String = short_name(case).into(),
        /// Documents, chunks or questions per pass.
        items: Option<usize> = (case.work.items > 0).then_some(case.work.items),
        batch: usize = case.work.batch,
        /// Tokens generated per item.
        new_tokens: usize = case.work.new_tokens,
    }
    spreads {
        items_per_min, chunks_per_min, index_s, embed_s, search_s, assemble_s, ttft_s, answer_s,
        e2e_s, e2e_simple_s, e2e_complex_s,
    }
    readings {}
}

/// The pipelines of a record.
pub(super) fn pipelines(record: &Record) -> Vec<PipelineRow> {
    in_group(record, "pipelines").map(PipelineRow::of).collect()
}

row! {
    /// One set of texts, `quality/*`.
    QualityRow(case) {
        /// Labels of the case; `reference` is what it is compared with.
        labels: BTreeMap<String, String> = case.labels.clone(),
        /// Tokens scored.
        tokens: Option<usize> = prompt_tokens(case),
        /// `perplexity` divided by `perplexity_f32`: 1 is no loss. `None` where either was not
        /// measured or the case is invalid.
        perplexity_ratio: Option<f64> = perplexity_ratio(case),
    }
    spreads {}
    readings { top1_agreement, kl_nats, perplexity, perplexity_f32 }
}

fn perplexity_ratio(case: &Case) -> Option<f64> {
    let reference =
        valid_median(case, metric::PERPLEXITY_F32).filter(|perplexity| *perplexity > 0.0)?;
    Some(valid_median(case, metric::PERPLEXITY)? / reference)
}

/// The quality scenarios of a record.
pub(super) fn quality(record: &Record) -> Vec<QualityRow> {
    in_group(record, "quality").map(QualityRow::of).collect()
}
