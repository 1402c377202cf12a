//! The status of every scenario and the value of every metric in each record.

use serde::Serialize;

use crate::compare::difference_of_work;
use crate::record::{Absence, AbsenceKind, Case, Record};
use crate::report::side::ids;
use crate::report::text::plain;
use crate::stats;
use crate::workload::METRICS;

/// The status of a scenario in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "why", rename_all = "snake_case")]
pub(super) enum Standing {
    /// Valid numbers of the first record's work.
    Measured,
    /// The record lacks it.
    Missing,
    /// The engine does not support it.
    Unsupported(String),
    /// Skipped for lack of time or memory.
    Skipped(String),
    /// Not measured yet.
    Pending,
    /// It failed.
    Failed(String),
    /// The numbers are implausible.
    Invalid(String),
    /// The work differs from the first record's.
    OtherWork(String),
}

/// A scenario in each record.
#[derive(Serialize)]
pub(super) struct State {
    pub(super) scenario: String,
    pub(super) standings: Vec<Standing>,
    /// Whether the greedy output differs from the first record's; `null` if one of the two has
    /// none.
    pub(super) other_output: Vec<Option<bool>>,
}

/// A metric of a scenario in each record.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) scenario: String,
    pub(super) metric: &'static str,
    /// Medians over processes; `null` if missing.
    pub(super) values: Vec<Option<f64>>,
    /// Value divided by the first record's; `null` if either is missing, zero, invalid, or of
    /// different work.
    pub(super) ratios: Vec<Option<f64>>,
    /// Whether the scenario's numbers are valid.
    pub(super) valid: Vec<bool>,
}

/// The status of a scenario, relative to the first record.
pub(super) fn standing(first: Option<&Case>, case: Option<&Case>) -> Standing {
    let Some(case) = case else { return Standing::Missing };
    if let Some(Absence { kind, why }) = &case.absent {
        let why = plain(why);
        return match kind {
            AbsenceKind::Unsupported | AbsenceKind::Unknown => Standing::Unsupported(why),
            AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory => Standing::Skipped(why),
            AbsenceKind::NotMeasuredYet => Standing::Pending,
            AbsenceKind::Failed => Standing::Failed(why),
        };
    }
    if !case.validity.ok() {
        return Standing::Invalid(plain(&case.validity.failed.join("; ")));
    }
    let first = first.filter(|first| first.absent.is_none());
    match first.and_then(|first| difference_of_work(&first.work, &case.work)) {
        Some(how) => Standing::OtherWork(plain(&how)),
        None => Standing::Measured,
    }
}

fn output(case: Option<&Case>) -> Option<&str> {
    case?.output_sha256.as_deref()
}

/// The status of every scenario.
pub(super) fn states(records: &[(String, Record)]) -> Vec<State> {
    let state = |id: &str| {
        let cases: Vec<Option<&Case>> = records.iter().map(|(_, record)| record.case(id)).collect();
        let first = cases[0];
        let other = |case: &Option<&Case>| Some(output(first)? != output(*case)?);
        State {
            scenario: plain(id),
            standings: cases.iter().map(|case| standing(first, *case)).collect(),
            other_output: cases.iter().map(other).collect(),
        }
    };
    ids(records).into_iter().map(state).collect()
}

/// Every metric that any record has, by scenario.
pub(super) fn rows(records: &[(String, Record)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for id in ids(records) {
        let cases: Vec<Option<&Case>> = records.iter().map(|(_, record)| record.case(id)).collect();
        let standings: Vec<Standing> = cases.iter().map(|case| standing(cases[0], *case)).collect();
        let comparable =
            |at: usize| [0, at].into_iter().all(|at| standings[at] == Standing::Measured);
        for metric in METRICS {
            let value = |case: &Option<&Case>| stats::median(&case.as_ref()?.values(metric.name));
            let values: Vec<Option<f64>> = cases.iter().map(value).collect();
            if values.iter().all(Option::is_none) {
                continue;
            }
            let ratio = |at: usize| {
                let base = values[0].filter(|base| *base != 0.0 && comparable(at))?;
                Some(values[at]? / base)
            };
            rows.push(Row {
                scenario: plain(id),
                metric: metric.name,
                ratios: (0..values.len()).map(ratio).collect(),
                valid: cases
                    .iter()
                    .map(|case| case.is_none_or(|case| case.validity.ok()))
                    .collect(),
                values,
            });
        }
    }
    rows
}
