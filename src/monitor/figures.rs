//! Tables and charts of the cycles in the window: the newest values compared with earlier ones.
//! Gives no verdict, which cycles of one process each cannot support.

use jiff::SignedDuration;

use crate::monitor::entry::{Entry, Measured};
use crate::report::chart::{
    Axis, Chart, Data, Histogram, Lines, Point, Scale, Series, SeriesStyle, svg,
};
use crate::workload::{METRICS, Metric};
use crate::{report, stats};

/// Minimum number of earlier cycles for a median.
const MIN_EARLIER: usize = 3;

/// Maximum number of series in a chart.
const MAX_SERIES: usize = 6;

/// Maximum number of histograms.
const MAX_HISTOGRAMS: usize = 12;

/// An entry and its age.
pub(super) type AgedEntry<'a> = (SignedDuration, &'a Entry);

/// A metric of a scenario: the newest value and earlier ones of the window.
#[derive(Debug)]
pub(super) struct MetricRow {
    pub(super) scenario: String,
    pub(super) metric: &'static Metric,
    pub(super) newest: Option<f64>,
    /// Earlier values of the same work.
    pub(super) earlier: Vec<f64>,
}

impl MetricRow {
    /// The median of the earlier values, if there are enough.
    pub(super) fn median(&self) -> Option<f64> {
        stats::median(&self.earlier).filter(|_| self.earlier.len() >= MIN_EARLIER)
    }

    /// The relative change of the newest value from the median.
    pub(super) fn change(&self) -> Option<f64> {
        let median = self.median().filter(|median| *median != 0.0)?;
        Some(self.newest? / median - 1.0)
    }

    /// Scenario, metric, newest value, change, median, range, number of cycles.
    pub(super) fn cells(&self) -> [String; 7] {
        let shown = |value: Option<f64>| {
            value.map_or("-".into(), |value| report::metric_value(self.metric, value))
        };
        let all = || self.earlier.iter().copied().chain(self.newest);
        let range = match (all().reduce(f64::min), all().reduce(f64::max)) {
            (Some(lo), Some(hi)) if lo < hi => {
                format!("{} to {}", shown(Some(lo)), shown(Some(hi)))
            }
            _ => "-".into(),
        };
        [
            self.scenario.clone(),
            report::metric_label(self.metric),
            shown(self.newest),
            self.change().map_or("-".into(), report::percent),
            shown(self.median()),
            range,
            all().count().to_string(),
        ]
    }
}

/// The newest entry with measurements, and its age.
pub(super) fn newest<'a>(cycles: &[AgedEntry<'a>]) -> Option<(SignedDuration, &'a Measured)> {
    cycles.iter().rev().find_map(|(age, entry)| Some((*age, entry.measured.as_ref()?)))
}

/// A row for every metric of every scenario of the newest entry with measurements.
pub(super) fn rows(cycles: &[AgedEntry<'_>]) -> Vec<MetricRow> {
    let Some(at) = cycles.iter().rposition(|(_, entry)| entry.measured.is_some()) else {
        return Vec::new();
    };
    let (newest, earlier) = (cycles[at].1, &cycles[..at]);
    let alike: Vec<&Entry> =
        earlier.iter().map(|(_, entry)| *entry).filter(|entry| entry.is_like(newest)).collect();
    let mut rows = Vec::new();
    for figures in newest.measured.iter().flat_map(|measured| &measured.scenarios) {
        for metric in METRICS.iter().filter(|metric| figures.values.contains_key(metric.name)) {
            let value = |entry: &Entry| entry.value(&figures.id, metric.name);
            rows.push(MetricRow {
                scenario: figures.id.clone(),
                metric,
                newest: value(newest),
                earlier: alike.iter().filter_map(|entry| value(entry)).collect(),
            });
        }
    }
    rows
}

/// A chart, or why there is none.
pub(super) struct MonitorChart {
    pub(super) title: String,
    pub(super) svg: Result<String, String>,
}

/// Each metric over the window, one line per scenario; crosses mark failed cycles. `now` is in
/// seconds since 1970: a cycle is placed by its age, whatever its wall clock said.
pub(super) fn trends(cycles: &[AgedEntry<'_>], rows: &[MetricRow], now: f64) -> Vec<MonitorChart> {
    let used =
        METRICS.iter().filter(|metric| rows.iter().any(|row| row.metric.name == metric.name));
    used.map(|metric| trend(cycles, rows, now, metric)).collect()
}

fn trend(
    cycles: &[AgedEntry<'_>],
    rows: &[MetricRow],
    now: f64,
    metric: &'static Metric,
) -> MonitorChart {
    let Some(last) = cycles.iter().rev().find(|(_, entry)| entry.measured.is_some()) else {
        return MonitorChart { title: report::metric_label(metric), svg: Err("no values".into()) };
    };
    let of_metric: Vec<&MetricRow> =
        rows.iter().filter(|row| row.metric.name == metric.name).collect();
    let alike = |entry: &Entry| entry.measured.is_none() || entry.is_like(last.1);
    let line = |row: &&MetricRow| {
        let points = cycles.iter().filter(|(_, entry)| alike(entry)).map(|(age, entry)| {
            let value = entry.value(&row.scenario, metric.name);
            (now - age.as_secs_f64(), value.map(|value| value * metric.scale))
        });
        Series { name: row.scenario.clone(), points: points.collect(), style: SeriesStyle::Line }
    };
    let mut series: Vec<Series> = of_metric.iter().take(MAX_SERIES).map(line).collect();
    let failed = cycles.iter().filter(|(_, entry)| entry.error.is_some());
    let failed: Vec<Point> = failed.map(|(age, _)| (now - age.as_secs_f64(), None)).collect();
    if !failed.is_empty() {
        series.push(Series {
            name: "failed cycle".into(),
            points: failed,
            style: SeriesStyle::Failures,
        });
    }
    let mut title = metric.label.to_owned();
    if of_metric.len() > MAX_SERIES {
        title += &format!(", {MAX_SERIES} of {} scenarios", of_metric.len());
    }
    over_time(title, metric.unit.into(), series)
}

/// Available memory of the machine over the window.
pub(super) fn available(cycles: &[AgedEntry<'_>], now: f64) -> MonitorChart {
    let points = cycles.iter().filter_map(|(age, entry)| {
        let bytes = entry.measured.as_ref()?.conditions.last()?.available_bytes;
        Some((now - age.as_secs_f64(), bytes.map(|bytes| bytes as f64 / (1 << 20) as f64)))
    });
    let series =
        Series { name: "available".into(), points: points.collect(), style: SeriesStyle::Line };
    over_time("available memory".into(), "MiB".into(), vec![series])
}

fn over_time(title: String, label: String, series: Vec<Series>) -> MonitorChart {
    let x = Axis { label: "time, UTC".into(), scale: Scale::Time };
    let y = Axis { label, scale: Scale::Around };
    let alt = format!("{title} over time");
    render_chart(title, alt, Data::Lines(Lines { x, y, series }))
}

/// Histograms of the values in the window, for comparable cycles only.
pub(super) fn distributions(rows: &[MetricRow]) -> Vec<MonitorChart> {
    let timed = rows.iter().filter(|row| row.metric.kind() != "memory");
    let picture = |row: &MetricRow| {
        let values: Vec<f64> =
            row.earlier.iter().copied().chain(row.newest).map(|v| v * row.metric.scale).collect();
        let mark = |name: &str, value: Option<f64>| {
            let name = |value| format!("{name} {}", report::metric_value(row.metric, value));
            value.map(|value| (name(value), value * row.metric.scale))
        };
        let marks = [mark("newest", row.newest), mark("median", row.median())];
        let title = format!("{} of {}", row.metric.label, row.scenario);
        let alt = format!("distribution of {title}");
        let data = Data::Histogram(Histogram {
            x: row.metric.unit.into(),
            y: "cycles".into(),
            values,
            marks: marks.into_iter().flatten().collect(),
        });
        render_chart(title, alt, data)
    };
    timed.take(MAX_HISTOGRAMS).map(picture).collect()
}

fn render_chart(title: String, alt: String, data: Data) -> MonitorChart {
    let svg = svg(&Chart { title: title.clone(), alt, number: &decimal, data });
    MonitorChart { title, svg: svg.map_err(|why| why.to_string()) }
}

fn decimal(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}
