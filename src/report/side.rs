//! Records side by side, configurations before and after: what was changed, what became of it by
//! aspect, which scenarios gave nothing, then every metric. Refuses nothing, judges nothing, and
//! says loudly when machines differ.

mod aspects;
mod markdown;
mod settings;
mod table;

use serde::Serialize;

use crate::record::Record;
use crate::report::side::aspects::{Aspect, aspects};
use crate::report::side::settings::{Setting, settings};
use crate::report::side::table::{Row, State, rows, states};
use crate::report::text::plain;

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// Records side by side; lists of values are in the order of the records, and changes are against
/// the first of them.
#[derive(Serialize)]
struct Side {
    schema: u32,
    records: Vec<Named>,
    /// What makes the numbers mean something else than they seem to.
    warnings: Vec<String>,
    /// Settings that are not the same everywhere.
    settings: Vec<Setting>,
    /// What became of it; informational, never a verdict.
    aspects: Vec<Aspect>,
    /// What each record has of the scenarios.
    scenarios: Vec<State>,
    /// Every value: medians over processes, in the unit of the metric's name.
    metrics: Vec<Row>,
}

/// Which record a column is of.
#[derive(Serialize)]
struct Named {
    name: String,
    model: String,
    machine: String,
    commit: Option<String>,
    /// When its first session began: UTC, RFC 3339.
    started: Option<String>,
}

/// Two or more records, each with a name, side by side as Markdown; changes are against the first.
///
/// A change is shown in the metric's own unit and sign, of medians over processes, without a
/// verdict.
pub fn side_by_side(records: &[(String, Record)]) -> String {
    markdown::markdown(&side(records))
}

/// The same as JSON.
pub fn side_by_side_json(records: &[(String, Record)]) -> String {
    serde_json::to_string_pretty(&side(records)).expect("plain data is JSON") + "\n"
}

fn side(records: &[(String, Record)]) -> Side {
    let named = records.iter().map(|(name, record)| Named {
        name: plain(name),
        model: plain(&record.model.spec),
        machine: plain(&record.machine.class),
        commit: record.build.commit.as_deref().map(plain),
        started: record.sessions.first().map(|session| plain(&session.started)),
    });
    Side {
        schema: SCHEMA,
        records: named.collect(),
        warnings: warnings(records),
        settings: settings(records),
        aspects: aspects(records),
        scenarios: states(records),
        metrics: rows(records),
    }
}

fn warnings(records: &[(String, Record)]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(((first_name, first), others)) = records.split_first() else { return warnings };
    for (name, record) in others {
        if first.machine.class != record.machine.class {
            warnings.push(plain(&format!(
                "{first_name} and {name} are of different machines; their numbers compare machines, not code."
            )));
        }
    }
    for (name, record) in records {
        if let Some(injected) = &record.injected {
            warnings.push(plain(&format!("{name} was slowed down on purpose: {injected}")));
        }
        if record.build.is_unoptimised() {
            warnings.push(plain(&format!("{name} is of an unoptimised build.")));
        }
    }
    warnings
}

/// The ids of all scenarios, in the order of the first record that has them.
fn ids(records: &[(String, Record)]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for case in records.iter().flat_map(|(_, record)| &record.scenarios) {
        if !ids.contains(&case.id.as_str()) {
            ids.push(&case.id);
        }
    }
    ids
}

#[cfg(test)]
mod tests;
