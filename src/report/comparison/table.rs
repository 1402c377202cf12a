//! The status of every scenario and the value of every metric in each record.

use serde::Serialize;

use crate::compare::work_difference;
use crate::record::{Absence, AbsenceKind, Case, Record};
use crate::report::text::sanitize;
use crate::stats;
use crate::workload::{METRICS, hashes_differ};

/// The status of a scenario in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StatusKind {
    /// Valid numbers of the first record's work.
    Measured,
    /// The record lacks it.
    Missing,
    /// The engine does not support it.
    Unsupported,
    /// Skipped for lack of time or memory.
    Skipped,
    /// Not measured yet.
    Pending,
    /// It failed.
    Failed,
    /// The numbers are implausible.
    Invalid,
    /// The work differs from the first record's.
    OtherWork,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Status {
    #[serde(rename = "is")]
    pub(super) kind: StatusKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// A scenario in each record.
#[derive(Serialize)]
pub(super) struct ScenarioStatus {
    pub(super) scenario: String,
    #[serde(rename = "standings")]
    pub(super) statuses: Vec<Status>,
    /// Whether the greedy output differs from the first record's; `null` if one of the two has
    /// none.
    pub(super) other_output: Vec<Option<bool>>,
}

/// A metric of a scenario in each record.
#[derive(Serialize)]
pub(super) struct MetricRow {
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
pub(super) fn status(first: Option<&Case>, case: Option<&Case>) -> Status {
    let because = |kind, why: &str| Status { kind, why: Some(sanitize(why)) };
    let plain = |kind| Status { kind, why: None };
    let Some(case) = case else { return plain(StatusKind::Missing) };
    if let Some(Absence { kind, why }) = &case.absent {
        return match kind {
            AbsenceKind::Unsupported | AbsenceKind::Unknown => {
                because(StatusKind::Unsupported, why)
            }
            AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory => {
                because(StatusKind::Skipped, why)
            }
            AbsenceKind::NotMeasuredYet => plain(StatusKind::Pending),
            AbsenceKind::Failed => because(StatusKind::Failed, why),
        };
    }
    if !case.validity.ok() {
        return because(StatusKind::Invalid, &case.validity.failed.join("; "));
    }
    let first = first.filter(|first| first.absent.is_none());
    match first.and_then(|first| work_difference(&first.work, &case.work)) {
        Some(how) => because(StatusKind::OtherWork, &how),
        None => plain(StatusKind::Measured),
    }
}

fn output(case: Option<&Case>) -> Option<&str> {
    case?.output_sha256.as_deref()
}

/// The status of every scenario.
pub(super) fn scenario_statuses(records: &[(String, Record)]) -> Vec<ScenarioStatus> {
    let state = |id: &str| {
        let cases: Vec<Option<&Case>> = records.iter().map(|(_, record)| record.case(id)).collect();
        let first = cases[0];
        let other = |case: &Option<&Case>| hashes_differ(output(first)?, output(*case)?);
        ScenarioStatus {
            scenario: sanitize(id),
            statuses: cases.iter().map(|case| status(first, *case)).collect(),
            other_output: cases.iter().map(other).collect(),
        }
    };
    ids(records).into_iter().map(state).collect()
}

/// Every metric that any record has, by scenario.
pub(super) fn metric_rows(records: &[(String, Record)]) -> Vec<MetricRow> {
    let mut rows = Vec::new();
    for id in ids(records) {
        let cases: Vec<Option<&Case>> = records.iter().map(|(_, record)| record.case(id)).collect();
        let statuses: Vec<Status> = cases.iter().map(|case| status(cases[0], *case)).collect();
        let comparable =
            |at: usize| [0, at].into_iter().all(|at| statuses[at].kind == StatusKind::Measured);
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
            rows.push(MetricRow {
                scenario: sanitize(id),
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

/// The ids of all scenarios, in the order of the first record that has them.
pub(super) fn ids(records: &[(String, Record)]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for case in records.iter().flat_map(|(_, record)| &record.scenarios) {
        if !ids.contains(&case.id.as_str()) {
            ids.push(&case.id);
        }
    }
    ids
}
