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

/// The groups of settings in display order.
const GROUPS: [&str; 8] =
    ["label", "scenario", "model", "settings", "environment", "machine", "host", "build"];

/// Facts of the host that differ between two readings of one machine.
const UNSTEADY: &[&str] = &["mhz"];

/// Every setting that differs: user labels, then the program's settings, then the machine.
pub(super) fn settings(records: &[(String, Record)]) -> Vec<Setting> {
    let maps = |of: &dyn Fn(&Record) -> BTreeMap<String, String>| {
        records.iter().map(|(_, record)| of(record)).collect::<Vec<_>>()
    };
    let mut settings = differing_entries("label", &maps(&|one| one.settings.labels.clone()));
    let facts = maps(&|one| {
        let mut facts = one.machine.facts.clone();
        facts.retain(|name, _| !UNSTEADY.contains(&name.as_str()));
        facts
    });
    settings.extend(differing_entries("host", &facts));
    for id in ids(records) {
        let cases = records.iter().map(|(_, record)| Some(record.case(id)?.labels.clone()));
        // A record without the scenario says nothing about its labels.
        let labels = cases.collect::<Option<Vec<_>>>().unwrap_or_default();
        settings.extend(differing_entries("scenario", &labels).into_iter().map(|setting| {
            Setting { name: sanitize(&format!("{id}: {}", setting.name)), ..setting }
        }));
    }
    settings.extend(verdict_differences(records));
    settings.sort_by_key(|one| GROUPS.iter().position(|group| *group == one.group));
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
fn verdict_differences(records: &[(String, Record)]) -> Vec<Setting> {
    let Some(((_, first), others)) = records.split_first() else { return Vec::new() };
    let mut found: Vec<Setting> = Vec::new();
    for (at, (_, record)) in others.iter().enumerate() {
        for one in record_differences(first, record, &BTreeMap::new()) {
            let (group, name) = group_and_name(&one.field);
            let value = |text: &str| (!["null", "absent"].contains(&text)).then(|| sanitize(text));
            let same = |known: &Setting| known.group == group && known.name == name;
            let row = found.iter().position(same).unwrap_or_else(|| {
                let values = vec![value(&one.old); records.len()];
                found.push(Setting { group, name, values, forbids_verdict: false });
                found.len() - 1
            });
            found[row].values[at + 1] = value(&one.new);
            found[row].forbids_verdict |= one.severity == Severity::Blocking;
        }
    }
    found
}

/// The group of a difference's field, and its name in that group.
fn group_and_name(field: &str) -> (&'static str, String) {
    let prefixes = [
        ("model: ", "model"),
        ("settings: ", "settings"),
        ("build: ", "build"),
        ("machine", "machine"),
    ];
    let of =
        prefixes.iter().find_map(|(prefix, group)| Some((*group, field.strip_prefix(prefix)?)));
    match of {
        Some((group, name)) => (group, sanitize(name.trim_start_matches([':', ' ']))),
        None if field.starts_with("crate ") => ("build", sanitize(field)),
        None => ("environment", sanitize(field)),
    }
}
