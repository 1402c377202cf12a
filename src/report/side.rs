//! Records side by side: what differs first, then every metric. Refuses nothing, and says loudly when machines differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::compare::Weight;
use crate::compare::differences;
use crate::record::Record;
use crate::report::text::Medium;
use crate::report::text::label;
use crate::report::text::percent;
use crate::report::text::shown;
use crate::report::text::table;
use crate::stats;
use crate::workload::METRICS;

/// Two or more records, each with a name, side by side as Markdown; changes are against the first.
///
/// A change is shown in the metric's own unit and sign, of medians over processes, without a verdict: one number each says
/// nothing about noise.
pub fn side_by_side(records: &[(String, Record)]) -> String {
    let medium = Medium::Markdown;
    let Some(((first_name, first), others)) = records.split_first() else { return String::new() };
    let mut text = String::new();
    let mut differ = Vec::new();
    for (name, record) in others {
        for one in differences(first, record, &BTreeMap::new()) {
            let weight = if one.weight == Weight::Blocks { "not comparable" } else { "" };
            differ.push(vec![one.field, one.old, one.new, name.clone(), weight.into()]);
        }
        if first.machine.class != record.machine.class {
            let (first_name, name) = (medium.escape(first_name), medium.escape(name));
            let _ = writeln!(
                text,
                "**WARNING: {first_name} and {name} are of different machines; their numbers compare machines, not code.**\n"
            );
        }
    }
    let injected =
        records.iter().filter_map(|(name, record)| Some((name, record.injected.as_ref()?)));
    for (name, injected) in injected {
        let _ = writeln!(
            text,
            "**WARNING: {} was slowed down on purpose: {}**\n",
            medium.escape(name),
            medium.escape(injected)
        );
    }
    if differ.is_empty() {
        text += "Nothing differs in machine, model, settings or build.\n";
    } else {
        text += &table(medium, &["differs", first_name, "other", "in", "effect"], &differ, &[]);
    }
    let mut header = vec!["scenario", "metric", first_name.as_str()];
    for (name, _) in others {
        header.extend([name.as_str(), "change"]);
    }
    let mut rows = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    for case in records.iter().flat_map(|(_, record)| &record.scenarios) {
        if !ids.contains(&case.id.as_str()) {
            ids.push(&case.id);
        }
    }
    for id in ids {
        for metric in METRICS {
            let value = |record: &Record| stats::median(&record.case(id)?.values(metric.name));
            let base = value(first);
            let values: Vec<Option<f64>> = others.iter().map(|(_, record)| value(record)).collect();
            if base.is_none() && values.iter().all(Option::is_none) {
                continue;
            }
            let text = |value: Option<f64>| value.map_or("-".into(), |value| shown(metric, value));
            let mut row = vec![id.to_owned(), label(metric), text(base)];
            for now in values {
                let change = base
                    .zip(now)
                    .filter(|(base, _)| *base != 0.0)
                    .map(|(base, now)| percent(now / base - 1.0));
                row.extend([text(now), change.unwrap_or_else(|| "-".into())]);
            }
            rows.push(row);
        }
    }
    let numbers: Vec<usize> = (2..header.len()).collect();
    let _ = write!(text, "\n{}", table(medium, &header, &rows, &numbers));
    text
}
