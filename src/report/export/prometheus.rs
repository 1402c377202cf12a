//! A record in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), for the textfile collector of
//! node_exporter: medians over processes in base units, without timestamps, which the collector
//! refuses.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::record::{AbsenceKind, Case, Record};
use crate::report::export::is_valid;
use crate::report::text::sanitize;
use crate::stats;
use crate::workload::{METRICS, Metric};

/// The record as series `candlemark_<metric>{scenario, model, quant, machine}`, each the median
/// over processes.
///
/// Unmeasured and invalid values have no sample; `candlemark_scenario_valid` and
/// `candlemark_scenario_absent` list them. A record with an injected slowdown has an extra label.
pub fn prometheus(record: &Record) -> String {
    let mut text = String::new();
    let whole = labels(record, &[]);
    family(
        &mut text,
        "record_info",
        "Model, build and settings of the record; always 1.",
        [(info(record), 1.0)],
    );
    let ended =
        record.sessions.last().map(|session| session.ended.as_ref().unwrap_or(&session.started));
    let at = ended.and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let at = at.map(|at| (whole, at.as_second() as f64));
    family(&mut text, "record_timestamp_seconds", "Unix time at which the record was made.", at);

    // The collector drops the whole file if labels repeat.
    let mut seen = BTreeSet::new();
    let cases: Vec<(&Case, String)> = record
        .scenarios
        .iter()
        .map(|case| (case, labels(record, &[("scenario", &case.id)])))
        .filter(|(_, labels)| seen.insert(labels.clone()))
        .collect();
    if cases.len() < record.scenarios.len() {
        let _ = writeln!(text, "# Scenarios with a repeated id are omitted.");
    }
    let measured = cases.iter().filter(|(case, _)| case.absent.is_none());
    let valid = measured.map(|(case, labels)| (labels.clone(), f64::from(case.validity.ok())));
    family(&mut text, "scenario_valid", "Whether the numbers are valid (1) or not (0).", valid);
    let absent = cases.iter().flat_map(|(case, _)| {
        let reasons = [
            ("failed", case.absence() == Some(AbsenceKind::Failed)),
            ("pending", case.is_pending()),
            ("skipped", case.is_skipped()),
            ("unsupported", case.is_unsupported()),
        ];
        reasons.map(|(why, is)| {
            (labels(record, &[("scenario", &case.id), ("why", why)]), f64::from(is))
        })
    });
    family(
        &mut text,
        "scenario_absent",
        "Whether the scenario has no numbers (1), by reason.",
        absent,
    );
    let blocks = cases.iter().map(|(case, labels)| (labels.clone(), case.blocks.len() as f64));
    family(&mut text, "scenario_blocks", "Fresh processes measured.", blocks);

    for metric in METRICS {
        let (name, base) = prometheus_name(metric);
        let samples =
            cases.iter().filter(|(case, _)| is_valid(case)).filter_map(|(case, labels)| {
                Some((labels.clone(), base * stats::median(&case.values(metric.name))?))
            });
        let help = format!("Median over processes: {}.", metric.label);
        family(&mut text, &name, &help, samples);
    }
    text
}

/// The name of a metric's series without its prefix, and the factor from stored to base unit.
pub(crate) fn prometheus_name(metric: &Metric) -> (String, f64) {
    let name = metric.name;
    for (ending, base_ending, base) in [
        ("tok_s", "tokens_per_second", 1.0),
        ("tok_s_aggregate", "tokens_per_second_aggregate", 1.0),
        ("_per_min", "_per_second", 1.0 / 60.0),
        ("_j_per_token", "_joules_per_token", 1.0),
        ("_w", "_watts", 1.0),
        ("_s", "_seconds", 1.0),
    ] {
        if let Some(stem) = name.strip_suffix(ending) {
            return (format!("{stem}{base_ending}"), base);
        }
    }
    let share = metric.unit == "%" && !name.ends_with("_ratio");
    (if share { format!("{name}_ratio") } else { name.into() }, 1.0)
}

/// The labels of the info series.
fn info(record: &Record) -> String {
    let (build, settings) = (&record.build, &record.settings);
    let threads = settings.threads.to_string();
    labels(
        record,
        &[
            ("engine", &settings.engine),
            ("device", &settings.device),
            ("threads", &threads),
            ("sha256", &record.model.sha256),
            ("commit", build.commit.as_deref().unwrap_or("unknown")),
            ("version", &build.version),
        ],
    )
}

fn labels(record: &Record, more: &[(&str, &str)]) -> String {
    let model = &record.model;
    let fixed = [
        ("model", model.spec.as_str()),
        ("quant", model.quant.as_str()),
        ("machine", record.machine.class.as_str()),
    ];
    let injected = record.injected.as_deref().map(|how| ("injected", how));
    let all = more.iter().copied().chain(fixed).chain(injected);
    let all: Vec<String> =
        all.map(|(name, value)| format!("{name}=\"{}\"", escape_label(value))).collect();
    format!("{{{}}}", all.join(","))
}

/// The escaped value of a label.
pub(crate) fn escape_label(text: &str) -> String {
    sanitize(text).replace('\\', "\\\\").replace('"', "\\\"")
}

/// A family of gauges, or of counters if its name ends with `_total`; nothing without a sample.
pub(crate) fn family(
    text: &mut String,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, f64)>,
) {
    let samples: Vec<_> = samples.into_iter().filter(|(_, value)| value.is_finite()).collect();
    if samples.is_empty() {
        return;
    }
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(text, "# HELP candlemark_{name} {help}\n# TYPE candlemark_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "candlemark_{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_with_base_units_and_differ() {
        let name = |name: &str| prometheus_name(crate::workload::metric(name).unwrap());
        for (stored, expected, base) in [
            ("decode_tok_s", "decode_tokens_per_second", 1.0),
            ("decode_tok_s_aggregate", "decode_tokens_per_second_aggregate", 1.0),
            ("ttft_s", "ttft_seconds", 1.0),
            ("peak_rss_bytes", "peak_rss_bytes", 1.0),
            ("items_per_min", "items_per_second", 1.0 / 60.0),
            ("energy_j_per_token", "energy_joules_per_token", 1.0),
            ("power_w", "power_watts", 1.0),
            ("oom_rate", "oom_rate_ratio", 1.0),
            ("stalls", "stalls", 1.0),
        ] {
            assert_eq!(name(stored), (expected.into(), base), "{stored}");
        }
        let all: BTreeSet<String> =
            METRICS.iter().map(|metric| prometheus_name(metric).0).collect();
        assert_eq!(all.len(), METRICS.len());
        for name in all {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(allowed), "{name}");
            assert!(["_s", "_ms", "_total"].iter().all(|end| !name.ends_with(end)), "{name}");
        }
    }
}
