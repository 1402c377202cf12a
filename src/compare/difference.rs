//! What differs between two records beside their numbers, and whether it forbids a comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::record::pair::Arm;
use crate::record::{Build, Machine, Model, Record, Settings, Work};
use crate::workload;

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

/// All differences between a baseline and a run. A baseline must not have been slowed down on
/// purpose.
pub(crate) fn differences(
    old: &Record,
    new: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Differences::default();
    if let Some(injected) = &old.injected {
        let field = "slowdown on purpose, which a baseline must not have,";
        found.add(Blocking, field, injected, "none");
    }
    found.0.extend(record_differences(old, new, allow_class));
    found.0
}

/// All differences between two records, slowdowns on purpose aside. Machines differ when their
/// classes do, unless `allow_class` lets the new one use the baseline of the old one; model, engine
/// and generation settings must be equal.
pub(crate) fn record_differences(
    old: &Record,
    new: &Record,
    allow_class: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Differences::default();
    let (before, now) = (&old.machine, &new.machine);
    if !now.is_of_class(&before.class, &before.fields) {
        let allowed = allow_class.get(&now.class) == Some(&before.class);
        let machine = if allowed { Informative } else { Blocking };
        found.add(machine, "machine class", &before.class, &now.class);
        let severity = |name: &str| (!Machine::is_retired(name)).then_some(machine);
        found.fields("machine: ", &before.fields, &now.fields, "absent", severity);
    }
    for fact in ["cpu_stepping", "kernel_version"] {
        if let (Some(before), Some(now)) = (before.facts.get(fact), now.facts.get(fact)) {
            found.add(Informative, &format!("machine: {fact}"), before, now);
        }
    }
    let (before, now) = (&old.model, &new.model);
    found.add(Blocking, "model: sha256", &before.sha256, &now.sha256);
    found.add(Blocking, "model: quant", &before.quant, &now.quant);
    found.add(Blocking, "model: kv_dtype", &before.kv_dtype, &now.kv_dtype);
    let rope_scaling =
        |model: &Model| serde_json::to_string(&model.rope_scaling).expect("plain data");
    found.add(Blocking, "model: rope_scaling", &rope_scaling(before), &rope_scaling(now));
    found.add(Informative, "model: spec", &before.spec, &now.spec);
    if let (Some(before), Some(now)) = (&before.isa, &now.isa) {
        found.add(Informative, "model: isa", before, now);
    }
    if let (Some(before), Some(now)) = (&before.kernel_plan, &now.kernel_plan) {
        found.add(Informative, "model: kernel_plan", before, now);
    }
    let (before, now) = (&old.settings, &new.settings);
    found.add(Blocking, "settings: engine", &before.engine, &now.engine);
    found.add(Blocking, "settings: device", &before.device, &now.device);
    let threads = |settings: &Settings| settings.threads.to_string();
    found.add(Blocking, "settings: threads", &threads(before), &threads(now));
    let kernels =
        |settings: &Settings| settings.kernels.as_deref().unwrap_or("those of the CPU").to_owned();
    found.add(Blocking, "settings: kernels", &kernels(before), &kernels(now));
    found.fields("settings: ", &before.generation, &now.generation, NULL, |name| {
        // How often something is measured, not what.
        let repetition = ["iters", "warmup_tokens", "warmups"].contains(&name);
        Some(if repetition { Informative } else { Blocking })
    });
    let inform = |_: &str| Some(Informative);
    found.fields("", &before.environment, &now.environment, NULL, inform);
    found.build(&old.build, &new.build, &["crates", "binary_sha256"]);
    found.0
}

/// All differences between the two builds of a pair. Their trees and compilers may differ: that is
/// what is judged.
pub(super) fn arm_differences(base: &Arm, candidate: &Arm) -> Vec<Difference> {
    let mut found = Differences::default();
    let inform = |_: &str| Some(Informative);
    found.build(&base.build, &candidate.build, &["binary_sha256", "crates", "lock_sha256"]);
    found.fields("model: ", &base.model, &candidate.model, NULL, inform);
    let not_server = |name: &str| (name != "server").then_some(Informative);
    found.fields("settings: ", &base.settings, &candidate.settings, NULL, not_server);
    if let (Some(base), Some(candidate)) = (&base.settings.server, &candidate.settings.server) {
        // The arms' names say where they are; a server that a command starts has any port.
        let not_url = |name: &str| (name != "url").then_some(Informative);
        found.fields("server: ", base, candidate, NULL, not_url);
    }
    found.0
}

/// What differs in the exact work of a scenario.
pub(crate) fn work_difference(old: &Work, new: &Work) -> Option<String> {
    let mut found = Differences::default();
    let prompts = workload::hashes_differ(&old.prompts_sha256, &new.prompts_sha256);
    let is_compared = |name: &str| name != "prompts_sha256" || prompts.is_some();
    found.fields("", old, new, NULL, |name| is_compared(name).then_some(Blocking));
    let field =
        |Difference { field, old, new, .. }: &Difference| format!("{field} was {old} and is {new}");
    let fields: Vec<String> = found.0.iter().map(field).collect();
    (!fields.is_empty()).then(|| fields.join(", "))
}

/// A missing field.
const NULL: &str = "null";

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, severity: Severity, field: &str, old: &str, new: &str) {
        if old != new {
            let (old, new) = (short_hash(old).to_owned(), short_hash(new).to_owned());
            self.0.push(Difference { field: field.to_owned(), old, new, severity });
        }
    }

    /// Compares each field of either value, as text, to which `severity` gives one; a field that
    /// one of them lacks is `absent`.
    fn fields<T: Serialize>(
        &mut self,
        prefix: &str,
        old: &T,
        new: &T,
        absent: &str,
        severity: impl Fn(&str) -> Option<Severity>,
    ) {
        let fields = |value: &T| match serde_json::to_value(value) {
            Ok(Value::Object(fields)) => fields,
            _ => unreachable!("a struct or map of plain data is an object"),
        };
        let (old, new) = (fields(old), fields(new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let of = |value: Option<&Value>| value.map_or_else(|| absent.to_owned(), text);
        for (name, severity) in names.into_iter().filter_map(|name| Some((name, severity(name)?))) {
            self.add(severity, &format!("{prefix}{name}"), &of(old.get(name)), &of(new.get(name)));
        }
    }

    /// Compares two builds and their crates, without the fields that are expected to differ.
    fn build(&mut self, old: &Build, new: &Build, expected: &[&str]) {
        let severity = |name: &str| (!expected.contains(&name)).then_some(Informative);
        self.fields("build: ", old, new, NULL, severity);
        self.fields("crate ", &old.crates, &new.crates, NULL, |_| Some(Informative));
    }
}

/// A string without its quotes, any other value as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The first digits of a hash; any other text unchanged.
fn short_hash(text: &str) -> &str {
    let hash = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hash { &text[..12] } else { text }
}
