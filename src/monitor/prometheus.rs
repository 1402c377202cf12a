//! The newest cycle in Prometheus' text format, version 0.0.4. Values that the newest cycle did not
//! measure are absent.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::monitor::Ended;
use crate::monitor::entry::{Entry, Measured};
use crate::report;
use crate::workload::METRICS;

/// The state of the monitor itself.
pub(super) struct MonitorStats {
    pub(super) ended: Ended,
    pub(super) interval_s: f64,
    pub(super) pending: usize,
    /// The end of the newest cycle, by the current wall clock.
    pub(super) newest: Option<Timestamp>,
}

/// The whole text.
pub(super) fn text(about: &MonitorStats, newest: Option<&Entry>) -> String {
    let mut text = String::new();
    let ended = about.ended;
    monitor_metric(
        &mut text,
        "cycles_total",
        "counter",
        "Cycles since the monitor began",
        ended.cycles as f64,
    );
    monitor_metric(
        &mut text,
        "failures_total",
        "counter",
        "Cycles that failed",
        ended.failures as f64,
    );
    monitor_metric(
        &mut text,
        "interval_seconds",
        "gauge",
        "Time between regular cycles",
        about.interval_s,
    );
    let pending = "History entries not yet on disk";
    monitor_metric(&mut text, "history_pending", "gauge", pending, about.pending as f64);
    let Some((entry, at)) = newest.zip(about.newest) else { return text };
    let failed = if entry.error.is_some() { 1.0 } else { 0.0 };
    monitor_metric(
        &mut text,
        "last_cycle_failed",
        "gauge",
        "Whether the newest cycle failed",
        failed,
    );
    let end = at.as_millisecond() as f64 / 1e3;
    monitor_metric(
        &mut text,
        "last_cycle_end_seconds",
        "gauge",
        "When the newest cycle ended",
        end,
    );
    monitor_metric(
        &mut text,
        "last_cycle_seconds",
        "gauge",
        "How long the newest cycle took",
        entry.took_s,
    );
    if let Some(measured) = &entry.measured {
        figures(&mut text, entry, measured);
        machine(&mut text, measured);
    }
    text
}

/// A metric of the monitor itself.
fn monitor_metric(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    head(text, &format!("monitor_{name}"), kind, help);
    let _ = writeln!(text, "candlemark_monitor_{name} {value}");
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP candlemark_{name} {help}\n# TYPE candlemark_{name} {kind}");
}

fn figures(text: &mut String, entry: &Entry, measured: &Measured) {
    let [model, quant, machine] = [&measured.model, &measured.quant, &measured.machine]
        .map(|text| report::escape_label(text));
    let whole = format!("model=\"{model}\",quant=\"{quant}\",machine=\"{machine}\"");
    for metric in METRICS {
        let values = measured.scenarios.iter().filter_map(|one| {
            Some((report::escape_label(&one.id), entry.value(&one.id, metric.name)?))
        });
        let mut values = values.peekable();
        let (name, base) = report::prometheus_name(metric);
        if values.peek().is_some() {
            head(text, &name, "gauge", &format!("Median over processes: {}.", metric.label));
        }
        for (scenario, value) in values {
            let value = base * value;
            let _ = writeln!(text, "candlemark_{name}{{scenario=\"{scenario}\",{whole}}} {value}");
        }
    }
    if let Some(outcome) = measured.verdict.outcome {
        head(text, "verdict", "gauge", "The verdict against the baseline, in its label");
        let name = serde_json::to_value(outcome).expect("plain data");
        let name = report::escape_label(name.as_str().unwrap_or_default());
        let _ = writeln!(text, "candlemark_verdict{{outcome=\"{name}\",{whole}}} 1");
    }
}

fn machine(text: &mut String, measured: &Measured) {
    let Some(now) = measured.conditions.last() else { return };
    for (name, help, value) in [
        ("machine_load1", "Load average over one minute", now.load_1m),
        ("machine_steal_ratio", "Share of CPU time that the hypervisor took", now.steal),
        (
            "machine_cpu_pressure_ratio",
            "Share of time that tasks waited for a CPU",
            now.cpu_pressure_10s,
        ),
        (
            "machine_available_bytes",
            "Memory available without swapping",
            now.available_bytes.map(|bytes| bytes as f64),
        ),
    ] {
        if let Some(value) = value {
            head(text, name, "gauge", help);
            let _ = writeln!(text, "candlemark_{name} {value}");
        }
    }
}
