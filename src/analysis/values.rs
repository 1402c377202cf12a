//! Values of a case: median, spread, distribution, and why there are none.

use serde::Serialize;

use crate::record::{Absence, AbsenceKind, Case, Record};
use crate::stats;

/// Seed of every bootstrap in this module, so that the same record gives the same intervals.
pub(super) const BOOTSTRAP_SEED: u64 = 0x0ca4_d1e5;

/// Whether a case has valid numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CaseState {
    /// Measured, and all checks passed.
    Valid,
    /// Failed these checks: its numbers are shown struck out, and nothing is computed from them.
    Invalid(Vec<String>),
    /// The engine does not support it: why.
    Unsupported(String),
    /// Skipped, for lack of time for example: why.
    Skipped(String),
    /// Failed: why.
    Failed(String),
    /// Not measured, or not yet.
    Empty,
}

impl CaseState {
    /// The state of a case.
    pub(crate) fn of(case: &Case) -> Self {
        match &case.absent {
            Some(Absence { kind, why }) => match kind {
                AbsenceKind::Unsupported | AbsenceKind::Unknown => {
                    CaseState::Unsupported(why.clone())
                }
                AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory => {
                    CaseState::Skipped(why.clone())
                }
                AbsenceKind::Failed => CaseState::Failed(why.clone()),
                AbsenceKind::NotMeasuredYet => CaseState::Empty,
            },
            None if !case.validity.ok() => CaseState::Invalid(case.validity.failed.clone()),
            None if case.blocks.is_empty() => CaseState::Empty,
            None => CaseState::Valid,
        }
    }

    /// Whether numbers may be derived from it.
    pub(crate) fn is_valid(&self) -> bool {
        *self == CaseState::Valid
    }
}

/// Median and standard deviation of values, in the unit of the metric's name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// Sample standard deviation; `None` for one value.
    pub(crate) sd: Option<f64>,
}

impl Spread {
    /// `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        Some(Self { median: stats::median(values)?, sd: stats::sd(values) })
    }
}

/// The spread of a metric: over the samples if there is one block, otherwise over the blocks.
pub(crate) fn spread(case: &Case, metric: &str) -> Option<Spread> {
    if let [block] = case.blocks.as_slice()
        && let Some(samples) = block.samples.get(metric)
        && !samples.is_empty()
    {
        return Spread::of(samples);
    }
    Spread::of(&case.values(metric))
}

/// Summary statistics of values, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Distribution {
    pub(crate) count: usize,
    pub(crate) mean: f64,
    pub(crate) median: f64,
    /// Sample standard deviation; `None` for one value.
    pub(crate) sd: Option<f64>,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// 90th percentile; `None` below 10 values.
    pub(crate) p90: Option<f64>,
    /// 95th percentile; `None` below 20 values.
    pub(crate) p95: Option<f64>,
    /// 99th percentile; `None` below 100 values.
    pub(crate) p99: Option<f64>,
}

impl Distribution {
    /// `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
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

    /// 95th percentile divided by the median; `None` if there is no 95th percentile or the median
    /// is zero.
    pub(crate) fn p95_over_p50(&self) -> Option<f64> {
        self.p95.filter(|_| self.median > 0.0).map(|p95| p95 / self.median)
    }
}

/// All samples of a metric, of all processes, in order.
pub(crate) fn pooled(case: &Case, metric: &str) -> Vec<f64> {
    case.blocks.iter().filter_map(|block| block.samples.get(metric)).flatten().copied().collect()
}

/// A value, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Reading {
    /// In the unit of the metric's name; the median over processes.
    pub(crate) value: Option<f64>,
    /// The record's note: why there is no value, or how it was read.
    pub(crate) why: Option<String>,
}

/// The value of a metric of a case, with the record's note.
pub(crate) fn reading(case: &Case, metric: &str) -> Reading {
    let value = stats::median(&case.values(metric));
    Reading { value, why: note(case, metric).or_else(|| absent(case)) }
}

/// The median of a metric of a valid case.
pub(super) fn valid_median(case: &Case, metric: &str) -> Option<f64> {
    CaseState::of(case).is_valid().then(|| stats::median(&case.values(metric)))?
}

/// One value over the valid cases, by `statistic`. If there is none, the note is that of any case
/// on the metric, or the reason of the first absent case.
pub(super) fn over_valid<'a>(
    cases: impl Iterator<Item = &'a Case> + Clone,
    metric: &str,
    statistic: fn(&[f64]) -> Option<f64>,
) -> Reading {
    let values: Vec<f64> = cases.clone().filter_map(|case| valid_median(case, metric)).collect();
    let value = statistic(&values);
    let none = || if value.is_none() { cases.clone().find_map(absent) } else { None };
    Reading { value, why: cases.clone().find_map(|case| note(case, metric)).or_else(none) }
}

pub(super) fn max(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

fn note(case: &Case, metric: &str) -> Option<String> {
    case.blocks.iter().find_map(|block| block.notes.get(metric)).cloned()
}

fn absent(case: &Case) -> Option<String> {
    case.absent.as_ref().map(Absence::to_string)
}

/// Declares a row of a table from its case: fields with their values, then metrics by name.
macro_rules! row {
    (
        $(#[$doc:meta])*
        $name:ident($case:ident) { $($(#[$note:meta])* $own:ident: $type:ty = $value:expr,)* }
        spreads { $($spread:ident),* $(,)? }
        readings { $($reading:ident),* $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        pub(crate) struct $name {
            pub(crate) id: String,
            pub(crate) state: $crate::analysis::values::CaseState,
            $($(#[$note])* pub(crate) $own: $type,)*
            $(pub(crate) $spread: Option<$crate::analysis::values::Spread>,)*
            $(pub(crate) $reading: $crate::analysis::values::Reading,)*
        }

        impl $name {
            pub(super) fn of($case: &$crate::record::Case) -> Self {
                Self {
                    id: $case.id.clone(),
                    state: $crate::analysis::values::CaseState::of($case),
                    $($own: $value,)*
                    $($spread: $crate::analysis::values::spread($case, stringify!($spread)),)*
                    $($reading: $crate::analysis::values::reading($case, stringify!($reading)),)*
                }
            }
        }
    };
}
pub(super) use row;

/// Prompt tokens of all sequences; `None` where no process has tokenized them.
pub(super) fn prompt_tokens(case: &Case) -> Option<usize> {
    let tokens = &case.work.prompt_tokens;
    (!tokens.is_empty()).then(|| tokens.iter().sum())
}

/// The id of a case without its first segment: `classification`, `rag`, ...
pub(super) fn short_name(case: &Case) -> &str {
    case.id.split_once('/').map_or(&case.id, |(_, name)| name)
}

/// The cases whose ids begin with `group/`.
pub(super) fn in_group<'a>(
    record: &'a Record,
    group: &'static str,
) -> impl Iterator<Item = &'a Case> {
    let cases = record.scenarios.iter();
    cases.filter(move |case| case.id.strip_prefix(group).is_some_and(|id| id.starts_with('/')))
}
