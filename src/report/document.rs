//! A record as a document: Markdown, CSV, JSON, and the one-line row for a table that people share.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::Case;
use crate::record::Machine;
use crate::record::Record;
use crate::report::text::Medium;
use crate::report::text::cell;
use crate::report::text::label;
use crate::report::text::number;
use crate::report::text::plain;
use crate::report::text::shown;
use crate::report::text::table;
use crate::stats;
use crate::workload::METRICS;
use crate::workload::Metric;

/// The record as it is stored.
pub fn json(record: &Record) -> String {
    record.to_json()
}

/// Where and how a record was made, as name and value.
pub(super) fn environment(record: &Record) -> Vec<(&'static str, String)> {
    let Record { build, machine, model, settings, .. } = record;
    let mut rows = Vec::new();
    if let Some(injected) = &record.injected {
        rows.push(("SLOWED DOWN ON PURPOSE", injected.clone()));
    }
    let started: Vec<&str> =
        record.sessions.iter().map(|session| session.started.as_str()).collect();
    let commands: Vec<String> =
        record.sessions.iter().map(|session| session.command.join(" ")).collect();
    let dirty = if build.dirty == Some(true) { ", with uncommitted changes" } else { "" };
    let generation = &settings.generation;
    let crates: Vec<String> =
        build.crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
    rows.extend([("sessions", started.join(", ")), ("command", commands.join("; "))]);
    rows.extend(self::machine(machine));
    rows.extend([
        ("model", format!("{} ({})", model.spec, model.architecture)),
        ("parameters", number(model.parameters as f64)),
        (
            "weights",
            format!(
                "{}, {} MiB, KV cache {}",
                model.quant,
                mib(model.weight_bytes as f64),
                model.kv_dtype
            ),
        ),
        ("model sha256", model.sha256.clone()),
        (
            "engine",
            format!("{} on {}, {} threads", settings.engine, settings.device, settings.threads),
        ),
        (
            "generation",
            format!(
                "{}, seed {}, KV cache {}, {} warm-ups and {} repetitions per process",
                if generation.deterministic || generation.temperature == 0.0 {
                    "greedy"
                } else {
                    "sampled"
                },
                generation.seed,
                on(generation.use_kv_cache),
                generation.warmups,
                generation.iters
            ),
        ),
        (
            "build",
            format!(
                "candlemark {}, {}{dirty}, profile {}, {}",
                build.version,
                build.commit.as_deref().unwrap_or("no commit"),
                build.profile,
                build.rustc
            ),
        ),
        ("crates", crates.join(", ")),
    ]);
    rows.retain(|(_, value)| !value.is_empty());
    rows
}

/// Where something was measured, as name and value.
pub(super) fn machine(machine: &Machine) -> [(&'static str, String); 5] {
    let list = |fields: &BTreeMap<String, String>| {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        fields.join(", ")
    };
    let rate = |value: Option<f64>, unit: &str| {
        value.map_or("not measured".into(), |value| format!("{} {unit}", number(value / 1e9)))
    };
    [
        ("machine class", machine.class.clone()),
        ("machine", list(&machine.fields)),
        ("host", list(&machine.facts)),
        ("memory read rate", rate(machine.rates.read_bytes_per_s, "GB/s")),
        ("f32 rate", rate(machine.rates.f32_flop_per_s, "GFLOP/s")),
    ]
}

fn on(switch: bool) -> &'static str {
    if switch { "on" } else { "off" }
}

fn mib(bytes: f64) -> String {
    number(bytes / 1_048_576.0)
}

pub(super) const HEADER: &[&str] =
    &["scenario", "metric", "median", "spread", "blocks", "validity"];

/// Every metric of a scenario that has a value: label, median over processes, spread, number of processes.
///
/// The spread is the standard deviation as a share of the mean: between processes where there are several, otherwise within
/// the one, which says so.
pub(super) fn metrics(case: &Case) -> Vec<(&'static Metric, [String; 4])> {
    let rows = METRICS.iter().filter_map(|metric| {
        let values = case.values(metric.name);
        let centre = stats::median(&values)?;
        let spread = |values: &[f64]| {
            let share = stats::sd(values)? / stats::mean(values).filter(|mean| *mean != 0.0)?;
            Some(format!("{:.1} %", 100.0 * share))
        };
        let within = || {
            let samples = case.blocks.first()?.samples.get(metric.name)?;
            Some(format!("{} in one process", spread(samples)?))
        };
        let spread = spread(&values).or_else(within).unwrap_or_else(|| "-".into());
        Some((metric, [label(metric), shown(metric, centre), spread, values.len().to_string()]))
    });
    rows.collect()
}

/// What is judged of a scenario at a glance: a rate, a latency and memory, as [`OVERVIEW`] says.
pub(super) fn overview(case: &Case) -> [String; 3] {
    OVERVIEW.map(|(_, unit)| {
        let judged = METRICS.iter().filter(|metric| metric.gated(&case.work));
        let mut values = judged
            .filter(|metric| metric.unit == unit)
            .filter_map(|metric| Some(shown(metric, stats::median(&case.values(metric.name))?)));
        values.next().unwrap_or_else(|| "-".into())
    })
}

/// Headings of [`overview`], and the unit of each.
pub(super) const OVERVIEW: [(&str, &str); 3] =
    [("tok/s", "tok/s"), ("TTFT ms", "ms"), ("peak MiB", "MiB")];

/// Whether a scenario's numbers can be true, in words.
pub(super) fn validity(case: &Case) -> String {
    match (&case.absent, case.validity.ok(), case.validity.warnings.as_slice()) {
        (Some(why), ..) => why.clone(),
        (None, false, _) => format!("INVALID: {}", case.validity.failed.join("; ")),
        (None, true, []) => "valid".into(),
        (None, true, warnings) => format!("valid; {}", warnings.join("; ")),
    }
}

/// The record as Markdown: environment, then every metric of every scenario. Numbers that cannot be true are struck out.
pub fn markdown(record: &Record) -> String {
    let environment: Vec<Vec<String>> =
        environment(record).into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let mut text =
        format!("# {}\n\n", cell(&format!("{} on {}", record.model.spec, record.machine.class)));
    text += &table(Medium::Markdown, &["", "value"], &environment, &[]);
    let mut rows = Vec::new();
    for case in &record.scenarios {
        let metrics = metrics(case);
        if metrics.is_empty() {
            let nothing = || "-".to_owned();
            rows.push(vec![
                case.id.clone(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                validity(case),
            ]);
        }
        for (_, [name, median, spread, blocks]) in metrics {
            let median = if case.validity.ok() { median } else { format!("~~{median}~~") };
            rows.push(vec![case.id.clone(), name, median, spread, blocks, validity(case)]);
        }
    }
    let _ = write!(text, "\n{}", table(Medium::Markdown, HEADER, &rows, &[2, 3, 4]));
    text
}

/// One line per scenario, metric and block, values in the unit of the metric's name.
pub fn csv(record: &Record) -> String {
    let mut text = String::from("scenario,metric,block,session,value,valid,note\n");
    for case in &record.scenarios {
        for (at, block) in case.blocks.iter().enumerate() {
            for (metric, value) in &block.values {
                let value = value.map_or(String::new(), |value| value.to_string());
                let note = block.notes.get(metric).map_or("", String::as_str);
                let fields = [
                    &case.id,
                    metric,
                    &at.to_string(),
                    &block.session,
                    &value,
                    &case.validity.ok().to_string(),
                    note,
                ];
                let fields: Vec<String> = fields.into_iter().map(quoted).collect();
                text += &(fields.join(",") + "\n");
            }
        }
        if let Some(why) = &case.absent {
            let _ = writeln!(text, "{},,,,,,{}", quoted(&case.id), quoted(why));
        }
    }
    text
}

/// A field that ends neither itself nor its line, and that a spreadsheet does not take for a formula: that begins with one of
/// `=+-@`, and gets an apostrophe in front unless it is a number.
fn quoted(field: &str) -> String {
    let field = plain(field);
    let formula = field.starts_with(['=', '+', '-', '@']) && field.parse::<f64>().is_err();
    let field = if formula { format!("'{field}") } else { field };
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}
