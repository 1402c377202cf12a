//! One number from 0 to 10 for a record, by a published formula. No verdict depends on it.

use serde::Serialize;

use super::context::Context;
use super::resources::roofline_fractions;
use super::values::CaseState;
use super::{batches, requests};
use crate::record::Record;
use crate::stats;
use crate::workload::Task;

/// Fewest measured parts of a score.
pub(crate) const MIN_SCORE_PARTS: usize = 3;

/// The parts of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScorePartKind {
    /// Share of the measured read bandwidth that decode reaches: median over the valid scenarios of
    /// batch 1.
    Roofline,
    /// Batch efficiency at the largest valid batch of each category: median over categories.
    BatchEfficiency,
    /// Decode rate at the deepest valid context as a share of that at depth 0, without YaRN.
    ContextRetention,
    /// p50/p95 of `e2e_s` of the repeated request: 1 if the slow requests are as fast as the
    /// median,
    /// 0.5 if they take twice as long. The smallest where there are several.
    Consistency,
    /// Valid scenarios as a share of those tried, without stress. Unsupported and skipped scenarios
    /// were not tried.
    Success,
}

/// One part of a score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ScorePart {
    pub(crate) kind: ScorePartKind,
    /// From 0 to 1; `None` where it was not measured.
    pub(crate) value: Option<f64>,
    /// Number of scenarios in it.
    pub(crate) scenarios: usize,
}

/// The score: 10 times the geometric mean of the parts that were measured, each clamped to 0..1.
///
/// score = 10 (p1 p2 ... pk)^(1/k), with k the number of measured parts, at least
/// [`MIN_SCORE_PARTS`]. The geometric mean, so that other parts cannot compensate for one near
/// zero. Scores of different sets of parts or of different machines are not comparable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Score {
    /// From 0 to 10; `None` with fewer than [`MIN_SCORE_PARTS`] parts.
    pub(crate) value: Option<f64>,
    /// Every part, measured or not.
    pub(crate) parts: Vec<ScorePart>,
}

impl Score {
    /// The score of a record.
    pub(crate) fn of(record: &Record) -> Self {
        let parts = vec![
            roofline(record),
            batch_efficiency(record),
            context_retention(record),
            consistency(record),
            success(record),
        ];
        let values: Vec<f64> = parts.iter().filter_map(|part| part.value).collect();
        let mean = values.iter().product::<f64>().powf(1.0 / values.len().max(1) as f64);
        Self { value: (values.len() >= MIN_SCORE_PARTS).then_some(10.0 * mean), parts }
    }
}

fn part(kind: ScorePartKind, value: Option<f64>, scenarios: usize) -> ScorePart {
    ScorePart { kind, value: value.map(|value| value.clamp(0.0, 1.0)), scenarios }
}

fn roofline(record: &Record) -> ScorePart {
    let fractions = roofline_fractions(record);
    part(ScorePartKind::Roofline, stats::median(&fractions), fractions.len())
}

fn batch_efficiency(record: &Record) -> ScorePart {
    let categories = batches::categories(record);
    let largest = categories.iter().filter_map(|category| {
        let batched = category.batches.iter().filter(|row| row.batch > 1);
        batched.filter_map(|row| row.efficiency).next_back()
    });
    let values: Vec<f64> = largest.collect();
    part(ScorePartKind::BatchEfficiency, stats::median(&values), values.len())
}

fn context_retention(record: &Record) -> ScorePart {
    let context = Context::of(record);
    let rows = context.iter().flat_map(|context| &context.rows);
    let deepest = rows
        .filter(|row| !row.extended && row.depth > 0)
        .filter_map(|row| row.decode_retention)
        .next_back();
    part(ScorePartKind::ContextRetention, deepest, if deepest.is_some() { 2 } else { 0 })
}

fn consistency(record: &Record) -> ScorePart {
    let repeated = requests::consistency(record).into_iter().filter(|one| one.state.is_valid());
    let ratios: Vec<f64> = repeated.filter_map(|one| one.p95_over_p50).collect();
    let worst = ratios.iter().copied().max_by(f64::total_cmp);
    part(ScorePartKind::Consistency, worst.map(f64::recip), ratios.len())
}

fn success(record: &Record) -> ScorePart {
    let cases = record.scenarios.iter().filter(|case| case.work.task != Task::Stress);
    let states = cases.filter(|case| !case.id.starts_with("stress/")).map(CaseState::of);
    let tried: Vec<bool> = states
        .filter(|state| {
            !matches!(state, CaseState::Unsupported(_) | CaseState::Skipped(_) | CaseState::Empty)
        })
        .map(|state| state.is_valid())
        .collect();
    let valid = tried.iter().filter(|valid| **valid).count() as f64;
    let share = (!tried.is_empty()).then(|| valid / tried.len() as f64);
    part(ScorePartKind::Success, share, tried.len())
}
