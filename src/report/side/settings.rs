//! What was changed: every setting that is not the same in all records, labels of the user first.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::compare::{Severity, record_differences};
use crate::record::Record;
use crate::report::side::ids;
use crate::report::text::plain;

/// A setting that is not the same in all records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Setting {
    /// What it is a setting of: `label`, `scenario`, `model`, `settings`, `environment`,
    /// `machine`, `host` or `build`.
    pub(super) of: &'static str,
    pub(super) name: String,
    /// In each record; `null` where it is not set.
    pub(super) values: Vec<Option<String>>,
    /// Whether a verdict would refuse to compare the records.
    pub(super) forbids_verdict: bool,
}

/// Facts of the host that differ between two readings of one machine.
const UNSTEADY: &[&str] = &["mhz"];

/// Every setting that is not the same in all records: what the user says of the run, then the
/// program's own settings, then where it ran.
pub(super) fn settings(records: &[(String, Record)]) -> Vec<Setting> {
    let labels = |record: &Record| record.settings.labels.clone();
    let facts = |record: &Record| {
        let mut facts = record.machine.facts.clone();
        facts.retain(|name, _| !UNSTEADY.contains(&name.as_str()));
        facts
    };
    let mut settings =
        maps("label", &records.iter().map(|(_, one)| labels(one)).collect::<Vec<_>>());
    for id in ids(records) {
        let of_case = |record: &Record| record.case(id).map(|case| case.labels.clone());
        let maps_of_case: Vec<_> = records.iter().map(|(_, one)| of_case(one)).collect();
        // A record without the scenario says nothing of how it would have been run.
        if let Some(all) = maps_of_case.into_iter().collect::<Option<Vec<_>>>() {
            settings.extend(maps("scenario", &all).into_iter().map(|setting| Setting {
                name: plain(&format!("{id}: {}", setting.name)),
                ..setting
            }));
        }
    }
    let own = own(records);
    for of in ["model", "settings", "environment", "machine"] {
        settings.extend(own.iter().filter(|(its, _)| *its == of).map(|(_, one)| one.clone()));
    }
    settings.extend(maps("host", &records.iter().map(|(_, one)| facts(one)).collect::<Vec<_>>()));
    settings.extend(own.iter().filter(|(of, _)| *of == "build").map(|(_, one)| one.clone()));
    settings
}

/// The entries of maps that differ; nothing of the kind decides a verdict.
fn maps(of: &'static str, maps: &[BTreeMap<String, String>]) -> Vec<Setting> {
    let names: BTreeSet<&String> = maps.iter().flat_map(BTreeMap::keys).collect();
    let settings = names.into_iter().map(|name| Setting {
        of,
        name: plain(name),
        values: maps.iter().map(|map| map.get(name).map(|value| plain(value))).collect(),
        forbids_verdict: false,
    });
    settings
        .filter(|setting| setting.values.iter().any(|value| *value != setting.values[0]))
        .collect()
}

/// What verdicts look at: each difference of a record from the first, put together by name.
fn own(records: &[(String, Record)]) -> Vec<(&'static str, Setting)> {
    let Some(((_, first), others)) = records.split_first() else { return Vec::new() };
    let mut found: Vec<(&'static str, Setting)> = Vec::new();
    for (at, (_, record)) in others.iter().enumerate() {
        for one in record_differences(first, record, &BTreeMap::new()) {
            let (of, name) = place(&one.field);
            let value = |text: &str| (!["null", "absent"].contains(&text)).then(|| plain(text));
            let same = |(its, setting): &(&str, Setting)| *its == of && setting.name == name;
            let row = found.iter().position(same).unwrap_or_else(|| {
                let values = vec![value(&one.old); records.len()];
                found.push((of, Setting { of, name, values, forbids_verdict: false }));
                found.len() - 1
            });
            let setting = &mut found[row].1;
            setting.values[at + 1] = value(&one.new);
            setting.forbids_verdict |= one.severity == Severity::Blocking;
        }
    }
    found
}

/// What a field of a difference belongs to, and its name there.
fn place(field: &str) -> (&'static str, String) {
    for (prefix, of) in [("model: ", "model"), ("settings: ", "settings"), ("build: ", "build")] {
        if let Some(name) = field.strip_prefix(prefix) {
            return (of, plain(name));
        }
    }
    if field.starts_with("crate ") {
        ("build", plain(field))
    } else if let Some(name) = field.strip_prefix("machine") {
        ("machine", plain(name.trim_start_matches([':', ' '])))
    } else {
        ("environment", plain(field))
    }
}
