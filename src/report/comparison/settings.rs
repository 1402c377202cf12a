//! Every setting that differs record_differences records; user labels first.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::compare::{Severity, record_differences};
use crate::record::Record;
use crate::report::comparison::table::ids;
use crate::report::text::sanitize;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Setting {
    /// What it belongs to: `label`, `scenario`, `model`, `settings`, `environment`, `machine`,
    /// `host` or `build`.
    #[serde(rename = "of")]
    pub(super) group: &'static str,
    pub(super) name: String,
    /// The value in each record; `null` if not set.
    pub(super) values: Vec<Option<String>>,
    /// Whether a verdict refuses to compare the records because of it.
    pub(super) forbids_verdict: bool,
}

/// Facts of the host that differ record_differences two readings of one machine.
const UNSTEADY: &[&str] = &["mhz"];

/// Every setting that differs: user labels, then the program's settings, then the machine.
pub(super) fn settings(records: &[(String, Record)]) -> Vec<Setting> {
    let labels = |record: &Record| record.settings.labels.clone();
    let facts = |record: &Record| {
        let mut facts = record.machine.facts.clone();
        facts.retain(|name, _| !UNSTEADY.contains(&name.as_str()));
        facts
    };
    let mut settings =
        differing_entries("label", &records.iter().map(|(_, one)| labels(one)).collect::<Vec<_>>());
    for id in ids(records) {
        let of_case = |record: &Record| record.case(id).map(|case| case.labels.clone());
        let maps_of_case: Vec<_> = records.iter().map(|(_, one)| of_case(one)).collect();
        // A record without the scenario says nothing about its labels.
        if let Some(all) = maps_of_case.into_iter().collect::<Option<Vec<_>>>() {
            settings.extend(differing_entries("scenario", &all).into_iter().map(|setting| {
                Setting { name: sanitize(&format!("{id}: {}", setting.name)), ..setting }
            }));
        }
    }
    let checked = verdict_differences(records);
    for of in ["model", "settings", "environment", "machine"] {
        settings.extend(checked.iter().filter(|(its, _)| *its == of).map(|(_, one)| one.clone()));
    }
    settings.extend(differing_entries(
        "host",
        &records.iter().map(|(_, one)| facts(one)).collect::<Vec<_>>(),
    ));
    settings.extend(checked.iter().filter(|(of, _)| *of == "build").map(|(_, one)| one.clone()));
    settings
}

/// The entries of maps that differ; none of them forbids a verdict.
fn differing_entries(group: &'static str, maps: &[BTreeMap<String, String>]) -> Vec<Setting> {
    let names: BTreeSet<&String> = maps.iter().flat_map(BTreeMap::keys).collect();
    let settings = names.into_iter().map(|name| Setting {
        group,
        name: sanitize(name),
        values: maps.iter().map(|map| map.get(name).map(|value| sanitize(value))).collect(),
        forbids_verdict: false,
    });
    settings
        .filter(|setting| setting.values.iter().any(|value| *value != setting.values[0]))
        .collect()
}

/// The differences that verdicts check, merged by name.
fn verdict_differences(records: &[(String, Record)]) -> Vec<(&'static str, Setting)> {
    let Some(((_, first), others)) = records.split_first() else { return Vec::new() };
    let mut found: Vec<(&'static str, Setting)> = Vec::new();
    for (at, (_, record)) in others.iter().enumerate() {
        for one in record_differences(first, record, &BTreeMap::new()) {
            let (of, name) = group_and_name(&one.field);
            let value = |text: &str| (!["null", "absent"].contains(&text)).then(|| sanitize(text));
            let same = |(its, setting): &(&str, Setting)| *its == of && setting.name == name;
            let row = found.iter().position(same).unwrap_or_else(|| {
                let values = vec![value(&one.old); records.len()];
                found.push((of, Setting { group: of, name, values, forbids_verdict: false }));
                found.len() - 1
            });
            let setting = &mut found[row].1;
            setting.values[at + 1] = value(&one.new);
            setting.forbids_verdict |= one.severity == Severity::Blocking;
        }
    }
    found
}

/// The group of a difference's field, and its name in that group.
fn group_and_name(field: &str) -> (&'static str, String) {
    for (prefix, of) in [("model: ", "model"), ("settings: ", "settings"), ("build: ", "build")] {
        if let Some(name) = field.strip_prefix(prefix) {
            return (of, sanitize(name));
        }
    }
    if field.starts_with("crate ") {
        ("build", sanitize(field))
    } else if let Some(name) = field.strip_prefix("machine") {
        ("machine", sanitize(name.trim_start_matches([':', ' '])))
    } else {
        ("environment", sanitize(field))
    }
}
