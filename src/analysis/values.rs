//! Values of a case: their centre and spread, their distribution, and why there are none. Knows
//! nothing of what they mean.

use serde::Serialize;

use crate::record::{Absence, AbsenceKind, Case, Record};
use crate::stats;

/// Seed of every bootstrap here: the same record gives the same intervals.
pub(super) const SEED: u64 = 0x0ca4_d1e5;

/// What can be said of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its numbers can be true.
    Valid,
    /// Checks failed, named here: its numbers are shown struck out, and nothing is computed from
    /// them.
    Invalid(Vec<String>),
    /// The engine cannot do it, which is an answer: why.
    Unsupported(String),
    /// It was left out, because time was up for example: why.
    Skipped(String),
    /// It was tried and failed: why.
    Failed(String),
    /// No process measured it, or none has yet.
    Empty,
}

impl State {
    /// The state of a case.
    pub fn of(case: &Case) -> Self {
        match &case.absent {
            Some(Absence { kind, why }) => match kind {
                AbsenceKind::Unsupported | AbsenceKind::Unknown => State::Unsupported(why.clone()),
                AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory => {
                    State::Skipped(why.clone())
                }
                AbsenceKind::Failed => State::Failed(why.clone()),
                AbsenceKind::NotMeasuredYet => State::Empty,
            },
            None if !case.validity.ok() => State::Invalid(case.validity.failed.clone()),
            None if case.blocks.is_empty() => State::Empty,
            None => State::Valid,
        }
    }

    /// Whether numbers may be computed from it.
    pub fn is_valid(&self) -> bool {
        *self == State::Valid
    }
}

/// What a spread is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Samples of one process: how much its repetitions differ, which says nothing of other
    /// processes.
    Samples,
    /// Values of processes, one each.
    Blocks,
}

/// The centre of values and how far they lie apart, in the unit of their metric's name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Their median.
    pub median: f64,
    /// Their sample standard deviation; `None` of one value.
    pub sd: Option<f64>,
    /// How many there are.
    pub count: usize,
    /// What they are.
    pub over: Over,
}

impl Spread {
    /// The spread of these values; `None` where there are none.
    pub fn of(values: &[f64], over: Over) -> Option<Self> {
        let median = stats::median(values)?;
        Some(Self { median, sd: stats::sd(values), count: values.len(), over })
    }
}

/// The spread of a metric: over the samples of the only process, otherwise over the values of
/// processes.
pub fn spread(case: &Case, metric: &str) -> Option<Spread> {
    if let [block] = case.blocks.as_slice()
        && let Some(samples) = block.samples.get(metric)
        && !samples.is_empty()
    {
        return Spread::of(samples, Over::Samples);
    }
    Spread::of(&case.values(metric), Over::Blocks)
}

/// What is known of many values, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// How many values.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// The middle value.
    pub median: f64,
    /// Sample standard deviation; `None` of one value.
    pub sd: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// 90th percentile; `None` below 10 values.
    pub p90: Option<f64>,
    /// 95th percentile; `None` below 20 values.
    pub p95: Option<f64>,
    /// 99th percentile; `None` below 100 values.
    pub p99: Option<f64>,
}

impl Distribution {
    /// The distribution of these values; `None` where there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            count: values.len(),
            mean: stats::mean(values)?,
            median: stats::median(values)?,
            sd: stats::sd(values),
            min: values.iter().copied().min_by(f64::total_cmp)?,
            max: values.iter().copied().max_by(f64::total_cmp)?,
            p90: stats::quantile(values, 0.90),
            p95: stats::quantile(values, 0.95),
            p99: stats::quantile(values, 0.99),
        })
    }

    /// How much worse the slow ones are than the usual; `None` where there is no 95th percentile or
    /// the median is zero.
    pub fn p95_over_p50(&self) -> Option<f64> {
        self.p95.filter(|_| self.median > 0.0).map(|p95| p95 / self.median)
    }
}

/// Every sample of a metric, of all processes, in their order.
pub fn pooled(case: &Case, metric: &str) -> Vec<f64> {
    case.blocks.iter().filter_map(|block| block.samples.get(metric)).flatten().copied().collect()
}

/// A value, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reading {
    /// In the unit of the metric's name; the median over processes.
    pub value: Option<f64>,
    /// Why it is `None`, or how it was read where there are several ways, as the record says; may
    /// be unknown.
    pub why: Option<String>,
}

/// The value of a metric of a case, with what the record says of it.
pub fn reading(case: &Case, metric: &str) -> Reading {
    let value = stats::median(&case.values(metric));
    Reading { value, why: note(case, metric).or_else(|| absent(case)) }
}

/// The centre of a metric of a case that is valid.
pub(super) fn sound(case: &Case, metric: &str) -> Option<f64> {
    State::of(case).is_valid().then(|| stats::median(&case.values(metric)))?
}

/// One value for many cases: a centre of the values of those that are valid. Why there is none is
/// what any of them says of the metric, or, where none does, what became of the first that is
/// absent.
pub(super) fn over_all<'a>(
    cases: impl Iterator<Item = &'a Case> + Clone,
    metric: &str,
    centre: fn(&[f64]) -> Option<f64>,
) -> Reading {
    let values: Vec<f64> = cases.clone().filter_map(|case| sound(case, metric)).collect();
    let value = centre(&values);
    let none = || if value.is_none() { cases.clone().find_map(absent) } else { None };
    Reading { value, why: cases.clone().find_map(|case| note(case, metric)).or_else(none) }
}

/// The largest.
pub(super) fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

fn note(case: &Case, metric: &str) -> Option<String> {
    case.blocks.iter().find_map(|block| block.notes.get(metric)).cloned()
}

fn absent(case: &Case) -> Option<String> {
    case.absent.as_ref().map(Absence::to_string)
}

/// Tokens of all sequences' prompts; `None` where no process has tokenized them.
pub(super) fn prompt_tokens(case: &Case) -> Option<usize> {
    let tokens = &case.work.prompt_tokens;
    (!tokens.is_empty()).then(|| tokens.iter().sum())
}

/// The cases whose ids begin with a segment, with the rest of their ids.
pub(super) fn within<'a>(
    record: &'a Record,
    segment: &'static str,
) -> impl Iterator<Item = (&'a Case, &'a str)> {
    let rest = move |id: &'a str| id.strip_prefix(segment)?.strip_prefix('/');
    record.scenarios.iter().filter_map(move |case| Some((case, rest(&case.id)?)))
}
