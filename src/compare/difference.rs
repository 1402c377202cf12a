//! What differs between two records beside their numbers, and whether it forbids a comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::record::pair::Arm;
use crate::record::{Record, Work};

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name, as `machine: cpu`.
    pub field: String,
    /// In the baseline.
    pub old: String,
    /// In the run.
    pub new: String,
    /// Whether it forbids a comparison.
    #[serde(rename = "weight")]
    pub severity: Severity,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} was `{}` and is `{}`", self.field, self.old, self.new)
    }
}

/// Whether a difference forbids a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Severity {
    /// The numbers mean different things: no comparison.
    #[serde(rename = "blocks")]
    Blocking,
    /// It may be the cause of a change.
    #[serde(rename = "informs")]
    Informative,
}

use Severity::{Blocking, Informative};

/// Settings that change how often something is measured, not what.
const REPETITION_SETTINGS: &[&str] = &["iters", "warmup_tokens", "warmups"];

/// All differences between a baseline and a run. A baseline must not have been slowed down on
/// purpose.
pub fn differences(
    old: &Record,
    new: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let injected = old.injected.as_ref().map(|injected| Difference {
        field: "slowdown on purpose, which a baseline must not have,".into(),
        old: injected.clone(),
        new: "none".into(),
        severity: Blocking,
    });
    injected.into_iter().chain(record_differences(old, new, allow_class)).collect()
}

/// All differences between two records, slowdowns on purpose aside. Machines differ when their
/// classes do, unless `allow_class` lets the new one use the baseline of the old one; model, engine
/// and generation settings must be equal.
pub fn record_differences(
    old: &Record,
    new: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut field = |severity: Severity, field: &str, old: &str, new: &str| {
        if old != new {
            let (field, old, new) = (field.into(), old.into(), new.into());
            found.push(Difference { field, old, new, severity });
        }
    };

    let (before, now) = (&old.machine, &new.machine);
    let allowed = allow_class.get(&now.class) == Some(&before.class);
    let machine = if allowed { Informative } else { Blocking };
    field(machine, "machine class", &before.class, &now.class);
    if before.class != now.class {
        let names: BTreeSet<&String> = before.fields.keys().chain(now.fields.keys()).collect();
        for name in names {
            let value = |fields: &BTreeMap<String, String>| {
                fields.get(name).cloned().unwrap_or_else(|| "absent".into())
            };
            field(
                machine,
                &format!("machine: {name}"),
                &value(&before.fields),
                &value(&now.fields),
            );
        }
    }
    let (before, now) = (&old.model, &new.model);
    field(Blocking, "model: sha256", short_hash(&before.sha256), short_hash(&now.sha256));
    field(Blocking, "model: quant", &before.quant, &now.quant);
    field(Blocking, "model: kv_dtype", &before.kv_dtype, &now.kv_dtype);
    field(Blocking, "model: rope_scaling", &json(&before.rope_scaling), &json(&now.rope_scaling));
    field(Informative, "model: spec", &before.spec, &now.spec);
    if let (Some(before), Some(now)) = (&before.isa, &now.isa) {
        field(Informative, "model: isa", before, now);
    }
    let (before, now) = (&old.settings, &new.settings);
    field(Blocking, "settings: engine", &before.engine, &now.engine);
    field(Blocking, "settings: device", &before.device, &now.device);
    field(Blocking, "settings: threads", &before.threads.to_string(), &now.threads.to_string());
    for_each_field(&before.generation, &now.generation, |name, old, new| {
        let severity = if REPETITION_SETTINGS.contains(&name) { Informative } else { Blocking };
        field(severity, &format!("settings: {name}"), old, new);
    });
    for_each_field(&before.environment, &now.environment, |name, old, new| {
        field(Informative, name, old, new);
    });
    for_each_field(&old.build, &new.build, |name, old, new| {
        if name != "crates" && name != "binary_sha256" {
            field(Informative, &format!("build: {name}"), short_hash(old), short_hash(new));
        }
    });
    for_each_field(&old.build.crates, &new.build.crates, |name, old, new| {
        field(Informative, &format!("crate {name}"), old, new);
    });
    found
}

/// All differences between the two builds of a pair. Their trees and compilers may differ: that is
/// what is judged.
pub(super) fn arm_differences(base: &Arm, candidate: &Arm) -> Vec<Difference> {
    const EXPECTED: [&str; 3] = ["binary_sha256", "crates", "lock_sha256"];
    let mut found = Vec::new();
    let mut field = |field: &str, old: &str, new: &str| {
        if old != new {
            let (field, old, new) = (field.into(), short_hash(old).into(), short_hash(new).into());
            found.push(Difference { field, old, new, severity: Informative });
        }
    };
    for_each_field(&base.build, &candidate.build, |name, old, new| {
        if !EXPECTED.contains(&name) {
            field(&format!("build: {name}"), old, new);
        }
    });
    for_each_field(&base.build.crates, &candidate.build.crates, |name, old, new| {
        field(&format!("crate {name}"), old, new);
    });
    for_each_field(&base.model, &candidate.model, |name, old, new| {
        field(&format!("model: {name}"), old, new);
    });
    for_each_field(&base.settings, &candidate.settings, |name, old, new| {
        field(&format!("settings: {name}"), old, new);
    });
    found
}

/// What differs in the exact work of a scenario.
pub(crate) fn work_difference(old: &Work, new: &Work) -> Option<String> {
    let mut fields = Vec::new();
    for_each_field(old, new, |name, old, new| {
        if old != new {
            fields.push(format!("{name} was {} and is {}", short_hash(old), short_hash(new)));
        }
    });
    (!fields.is_empty()).then(|| fields.join(", "))
}

/// Calls `visit` for each field of either value, as text; a missing field is `null`.
fn for_each_field<T: Serialize>(old: &T, new: &T, mut visit: impl FnMut(&str, &str, &str)) {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("a struct or map of plain data is an object"),
    };
    let (old, new) = (fields(old), fields(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let text = |value: Option<&serde_json::Value>| match value {
        None => "null".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    for name in names {
        visit(name, &text(old.get(name)), &text(new.get(name)));
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

/// The first digits of a hash; any other text unchanged.
fn short_hash(text: &str) -> &str {
    let hash = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hash { &text[..12] } else { text }
}
