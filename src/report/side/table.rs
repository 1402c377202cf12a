//! What each record has: the state of every scenario, and every metric's value with its change from
//! the first record.

use serde::Serialize;

use crate::compare::work_difference;
use crate::record::{Absence, AbsenceKind, Case, Record};
use crate::report::side::ids;
use crate::report::text::plain;
use crate::stats;
use crate::workload::METRICS;

/// What a record has of a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "why", rename_all = "snake_case")]
pub(super) enum Standing {
    /// Numbers that can be true, of the first record's work.
    Measured,
    /// It is not in the record.
    Missing,
    /// The engine cannot do it.
    Unsupported(String),
    /// It had no turn.
    Skipped(String),
    /// The run has not come to it.
    Pending,
    /// It was tried.
    Failed(String),
    /// The numbers cannot be true.
    Invalid(String),
    /// The numbers are of other work than the first record's.
    OtherWork(String),
}

/// A scenario in each record.
#[derive(Serialize)]
pub(super) struct State {
    pub(super) scenario: String,
    pub(super) standings: Vec<Standing>,
    /// Whether the greedy output is another one than the first record's; `null` where one of the
    /// two has none.
    pub(super) other_output: Vec<Option<bool>>,
}

/// A metric of a scenario in each record.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) scenario: String,
    pub(super) metric: &'static str,
    /// Medians over processes; `null` where there are none.
    pub(super) values: Vec<Option<f64>>,
    /// Value over the first record's; `null` where either is missing, zero, cannot be true, or is
    /// of other work.
    pub(super) ratios: Vec<Option<f64>>,
    /// Whether the numbers of the column can be true.
    pub(super) valid: Vec<bool>,
}

/// What a record has of a scenario, beside the first record.
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
    match first.and_then(|first| work_difference(&first.work, &case.work)) {
        Some(how) => Standing::OtherWork(plain(&how)),
        None => Standing::Measured,
    }
}

fn output(case: Option<&Case>) -> Option<&str> {
    case?.output_sha256.as_deref()
}

/// Every scenario's state in each record.
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

/// Every metric that some record has, scenario by scenario.
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
