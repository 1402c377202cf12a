//! Pipelines over document sets, and agreement with the f32 reference.

use std::collections::BTreeMap;

use serde::Serialize;

use super::values::{
    CaseState, Reading, Spread, in_group, prompt_tokens, reading, spread, valid_median,
};
use crate::record::{Case, Record};
use crate::workload::metric;

/// One pipeline, `pipelines/*`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PipelineRow {
    pub(crate) id: String,
    /// The id without its first segment: `classification`, `rag`, ...
    pub(crate) name: String,
    pub(crate) state: CaseState,
    /// Documents, chunks or questions per pass.
    pub(crate) items: Option<usize>,
    pub(crate) batch: usize,
    /// Tokens generated per item.
    pub(crate) new_tokens: usize,
    /// Items per minute.
    pub(crate) items_per_min: Option<Spread>,
    /// Chunks embedded per minute.
    pub(crate) chunks_per_min: Option<Spread>,
    /// Seconds to build the index.
    pub(crate) index_s: Option<Spread>,
    /// Seconds to embed the question.
    pub(crate) embed_s: Option<Spread>,
    /// Seconds to search.
    pub(crate) search_s: Option<Spread>,
    /// Seconds to assemble the context.
    pub(crate) assemble_s: Option<Spread>,
    pub(crate) ttft_s: Option<Spread>,
    /// Seconds to answer.
    pub(crate) answer_s: Option<Spread>,
    /// Seconds from the question, or the first item, to the last token.
    pub(crate) e2e_s: Option<Spread>,
    /// `e2e_s` of simple questions, which one passage answers.
    pub(crate) e2e_simple_s: Option<Spread>,
    /// `e2e_s` of complex questions.
    pub(crate) e2e_complex_s: Option<Spread>,
}

/// The pipelines of a record.
pub(super) fn pipelines(record: &Record) -> Vec<PipelineRow> {
    let row = |(case, name): (&Case, &str)| PipelineRow {
        id: case.id.clone(),
        name: name.into(),
        state: CaseState::of(case),
        items: (case.work.items > 0).then_some(case.work.items),
        batch: case.work.batch,
        new_tokens: case.work.new_tokens,
        items_per_min: spread(case, metric::ITEMS_PER_MIN),
        chunks_per_min: spread(case, metric::CHUNKS_PER_MIN),
        index_s: spread(case, metric::INDEX_S),
        embed_s: spread(case, metric::EMBED_S),
        search_s: spread(case, metric::SEARCH_S),
        assemble_s: spread(case, metric::ASSEMBLE_S),
        ttft_s: spread(case, metric::TTFT_S),
        answer_s: spread(case, metric::ANSWER_S),
        e2e_s: spread(case, metric::E2E_S),
        e2e_simple_s: spread(case, metric::E2E_SIMPLE_S),
        e2e_complex_s: spread(case, metric::E2E_COMPLEX_S),
    };
    in_group(record, "pipelines").map(row).collect()
}

/// One set of texts, `quality/*`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct QualityRow {
    pub(crate) id: String,
    pub(crate) state: CaseState,
    /// Labels of the case; `reference` is what it is compared with.
    pub(crate) labels: BTreeMap<String, String>,
    /// Tokens scored.
    pub(crate) tokens: Option<usize>,
    /// Share of positions at which the most likely token equals that of f32.
    pub(crate) top1_agreement: Reading,
    /// Kullback-Leibler divergence from f32, in nats per token.
    pub(crate) kl_nats: Reading,
    /// Perplexity of the model as stored.
    pub(crate) perplexity: Reading,
    /// Perplexity of the f32 reference.
    pub(crate) perplexity_f32: Reading,
    /// `perplexity` divided by `perplexity_f32`: 1 is no loss. `None` where either was not measured
    /// or the case is invalid.
    pub(crate) perplexity_ratio: Option<f64>,
}

/// The quality scenarios of a record.
pub(super) fn quality(record: &Record) -> Vec<QualityRow> {
    let row = |(case, _): (&Case, &str)| {
        let reference =
            valid_median(case, metric::PERPLEXITY_F32).filter(|perplexity| *perplexity > 0.0);
        let ratio =
            valid_median(case, metric::PERPLEXITY).zip(reference).map(|(stored, f32)| stored / f32);
        QualityRow {
            id: case.id.clone(),
            state: CaseState::of(case),
            labels: case.labels.clone(),
            tokens: prompt_tokens(case),
            top1_agreement: reading(case, metric::TOP1_AGREEMENT),
            kl_nats: reading(case, metric::KL_NATS),
            perplexity: reading(case, metric::PERPLEXITY),
            perplexity_f32: reading(case, metric::PERPLEXITY_F32),
            perplexity_ratio: ratio,
        }
    };
    in_group(record, "quality").map(row).collect()
}
