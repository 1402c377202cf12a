//! Comparison of two or more records: changed settings, results by aspect, scenario status, every
//! metric. Gives no verdict; warns if machines differ.

mod aspects;
mod markdown;
mod settings;
mod table;

use serde::Serialize;

use crate::record::Record;
use crate::report::comparison::aspects::{Aspect, aspects};
use crate::report::comparison::settings::{Setting, settings};
use crate::report::comparison::table::{MetricRow, ScenarioStatus, metric_rows, scenario_statuses};
use crate::report::text::sanitize;

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// Two or more records; lists of values are in the order of the records, and changes are relative
/// to the first.
#[derive(Serialize)]
struct Comparison {
    schema: u32,
    records: Vec<RecordInfo>,
    /// Reasons why the numbers may mislead.
    warnings: Vec<String>,
    /// Settings that differ between records.
    settings: Vec<Setting>,
    /// Summary by aspect: informational, never a verdict.
    aspects: Vec<Aspect>,
    /// The status of every scenario in each record.
    scenarios: Vec<ScenarioStatus>,
    /// Every value: medians over processes, in the unit of the metric's name.
    metrics: Vec<MetricRow>,
}

/// The record of a column.
#[derive(Serialize)]
struct RecordInfo {
    name: String,
    model: String,
    machine: String,
    commit: Option<String>,
    /// When the first session began: UTC, RFC 3339.
    started: Option<String>,
}

/// Two or more named records compared as Markdown. Changes are relative to the first record, of
/// medians over processes, in the metric's own unit and sign, without a verdict.
pub fn comparison_markdown(records: &[(String, Record)]) -> String {
    markdown::markdown(&compare(records))
}

/// The same as JSON.
pub fn comparison_json(records: &[(String, Record)]) -> String {
    serde_json::to_string_pretty(&compare(records)).expect("plain data is JSON") + "\n"
}

fn compare(records: &[(String, Record)]) -> Comparison {
    let named = records.iter().map(|(name, record)| RecordInfo {
        name: sanitize(name),
        model: sanitize(&record.model.spec),
        machine: sanitize(&record.machine.class),
        commit: record.build.commit.as_deref().map(sanitize),
        started: record.sessions.first().map(|session| sanitize(&session.started)),
    });
    Comparison {
        schema: SCHEMA,
        records: named.collect(),
        warnings: warnings(records),
        settings: settings(records),
        aspects: aspects(records),
        scenarios: scenario_statuses(records),
        metrics: metric_rows(records),
    }
}

fn warnings(records: &[(String, Record)]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(((first_name, first), others)) = records.split_first() else { return warnings };
    for (name, record) in others {
        if first.machine.class != record.machine.class {
            warnings.push(sanitize(&format!(
                "{first_name} and {name} are from different machines: differences reflect the \
                 machines, not the code."
            )));
        }
    }
    for (name, record) in records {
        if let Some(injected) = &record.injected {
            warnings.push(sanitize(&format!("{name} was slowed down on purpose: {injected}")));
        }
        if record.build.is_unoptimized() {
            warnings.push(sanitize(&format!("{name} is from an unoptimized build.")));
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
