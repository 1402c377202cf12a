//! The newest cycle in Prometheus' text format, version 0.0.4. Values that the newest cycle did not
//! measure are absent.

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
    let (ended, pending) = (about.ended, about.pending as f64);
    let entry = newest.filter(|_| about.newest.is_some());
    let measured = entry.and_then(|entry| entry.measured.as_ref());
    let now = measured.and_then(|measured| measured.conditions.last());
    let failed = entry.map(|entry| f64::from(entry.error.is_some()));
    let end = about.newest.filter(|_| entry.is_some()).map(|at| at.as_millisecond() as f64 / 1e3);
    let available = now.and_then(|now| now.available_bytes).map(|bytes| bytes as f64);
    let pressure = now.and_then(|now| now.cpu_pressure_10s);
    let steal = now.and_then(|now| now.steal);
    for (name, help, value) in [
        ("monitor_cycles_total", "Cycles since the monitor began", Some(ended.cycles as f64)),
        ("monitor_failures_total", "Cycles that failed", Some(ended.failures as f64)),
        ("monitor_interval_seconds", "Time between regular cycles", Some(about.interval_s)),
        ("monitor_history_pending", "History entries not yet on disk", Some(pending)),
        ("monitor_last_cycle_failed", "Whether the newest cycle failed", failed),
        ("monitor_last_cycle_end_seconds", "When the newest cycle ended", end),
        ("monitor_last_cycle_seconds", "How long the newest cycle took", entry.map(|e| e.took_s)),
        ("machine_load1", "Load average over one minute", now.and_then(|now| now.load_1m)),
        ("machine_steal_ratio", "Share of CPU time that the hypervisor took", steal),
        ("machine_cpu_pressure_ratio", "Share of time that tasks waited for a CPU", pressure),
        ("machine_available_bytes", "Memory available without swapping", available),
    ] {
        report::prometheus_family(&mut text, name, help, value.map(|value| (String::new(), value)));
    }
    if let Some((entry, measured)) = entry.zip(measured) {
        figures(&mut text, entry, measured);
    }
    text
}

fn figures(text: &mut String, entry: &Entry, measured: &Measured) {
    let [model, quant, machine] = [&measured.model, &measured.quant, &measured.machine]
        .map(|text| report::escape_label(text));
    let labels = |name: &str, value: &str| {
        let value = report::escape_label(value);
        format!("{{{name}=\"{value}\",model=\"{model}\",quant=\"{quant}\",machine=\"{machine}\"}}")
    };
    for metric in METRICS {
        let (name, base) = report::prometheus_name(metric);
        let samples = measured.scenarios.iter().filter_map(|one| {
            Some((labels("scenario", &one.id), base * entry.value(&one.id, metric.name)?))
        });
        let help = format!("Median over processes: {}.", metric.label);
        report::prometheus_family(text, &name, &help, samples);
    }
    let outcome = measured.verdict.outcome.map(|outcome| {
        let name = serde_json::to_value(outcome).expect("plain data");
        (labels("outcome", name.as_str().unwrap_or_default()), 1.0)
    });
    report::prometheus_family(
        text,
        "verdict",
        "The verdict against the baseline, in its label",
        outcome,
    );
}
