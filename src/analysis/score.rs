//! One number from 0 to 10 for a record, by a published formula. Information, never a verdict:
//! nothing is judged by it.

use serde::Serialize;

use super::context::Context;
use super::resources::{Resources, with_roofline};
use super::values::State;
use super::{batches, requests};
use crate::record::Record;
use crate::stats;
use crate::workload::Task;

/// With fewer parts than this there is no score.
pub const FEWEST_PARTS: usize = 3;

/// What goes into the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// Share of the measured read bandwidth that decoding reaches: median over the valid scenarios
    /// of one sequence.
    Roofline,
    /// Batch efficiency at the largest valid batch of each category: median over categories.
    BatchEfficiency,
    /// Decode rate at the deepest valid context as a share of that at depth 0, without YaRN.
    ContextRetention,
    /// p50/p95 of `e2e_s` of the repeated request: 1 where the slow requests are as fast as the
    /// usual, a half where they take twice as long. The worst where there are several.
    Consistency,
    /// Scenarios other than stress that were measured and are valid, as a share of those that were
    /// tried. What the engine does not support, or there was no time for, was not tried.
    Success,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// From 0 to 1; `None` where it was not measured, and then it is left out.
    pub value: Option<f64>,
    /// How many scenarios it rests on.
    pub scenarios: usize,
    /// Why it is `None`, where the record says.
    pub why: Option<String>,
}

/// The score: 10 times the geometric mean of the parts that were measured, each clamped to 0..1.
///
/// score = 10 (p1 p2 ... pk)^(1/k), with k the number of measured parts, at least [`FEWEST_PARTS`].
/// The geometric mean, so that a part near zero cannot be bought off by the others. Scores of
/// different sets of parts are not comparable, nor are those of different machines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// From 0 to 10; `None` with fewer than [`FEWEST_PARTS`] parts.
    pub value: Option<f64>,
    /// Every part, measured or not.
    pub parts: Vec<Part>,
}

impl Score {
    /// The score of a record.
    pub fn of(record: &Record) -> Self {
        let parts = vec![
            roofline(record),
            batch_efficiency(record),
            context_retention(record),
            consistency(record),
            success(record),
        ];
        let values: Vec<f64> = parts.iter().filter_map(|part| part.value).collect();
        let mean = values.iter().product::<f64>().powf(1.0 / values.len().max(1) as f64);
        Self { value: (values.len() >= FEWEST_PARTS).then_some(10.0 * mean), parts }
    }
}

fn part(kind: PartKind, value: Option<f64>, scenarios: usize) -> Part {
    Part { kind, value: value.map(|value| value.clamp(0.0, 1.0)), scenarios, why: None }
}

fn roofline(record: &Record) -> Part {
    let reading = Resources::of(record).roofline_fraction;
    let scenarios = with_roofline(record);
    let why = if reading.value.is_none() { reading.why } else { None };
    Part { why, ..part(PartKind::Roofline, reading.value, scenarios) }
}

fn batch_efficiency(record: &Record) -> Part {
    let categories = batches::categories(record);
    let largest = categories.iter().filter_map(|category| {
        let batched = category.batches.iter().filter(|row| row.batch > 1);
        batched.filter_map(|row| row.efficiency).next_back()
    });
    let values: Vec<f64> = largest.collect();
    part(PartKind::BatchEfficiency, stats::median(&values), values.len())
}

fn context_retention(record: &Record) -> Part {
    let context = Context::of(record);
    let rows = context.iter().flat_map(|context| &context.rows);
    let deepest = rows
        .filter(|row| !row.extended && row.depth > 0)
        .filter_map(|row| row.decode_retention)
        .next_back();
    part(PartKind::ContextRetention, deepest, if deepest.is_some() { 2 } else { 0 })
}

fn consistency(record: &Record) -> Part {
    let repeated = requests::consistency(record).into_iter().filter(|one| one.state.is_valid());
    let ratios: Vec<f64> = repeated.filter_map(|one| one.p95_over_p50).collect();
    let worst = ratios.iter().copied().max_by(f64::total_cmp);
    part(PartKind::Consistency, worst.map(f64::recip), ratios.len())
}

fn success(record: &Record) -> Part {
    let cases = record.scenarios.iter().filter(|case| case.work.task != Task::Stress);
    let states = cases.filter(|case| !case.id.starts_with("stress/")).map(State::of);
    let tried: Vec<bool> = states
        .filter(|state| !matches!(state, State::Unsupported(_) | State::Skipped(_) | State::Empty))
        .map(|state| state.is_valid())
        .collect();
    let valid = tried.iter().filter(|valid| **valid).count() as f64;
    let share = (!tried.is_empty()).then(|| valid / tried.len() as f64);
    part(PartKind::Success, share, tried.len())
}
