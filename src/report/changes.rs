//! Changes as bars on one axis: how much worse each metric is in all, its interval, each of its
//! blocks, and its limit, as percentages of the axis for a template.

use minijinja::value::Serde;
use minijinja::{Value, context};

use crate::compare::{Finding, Judgement, share};
use crate::report::verdict;
use crate::workload::{Better, Metric};

/// The table has the others.
const MAX_ROWS: usize = 30;

/// How much worse, as a share of the base; negative if better.
fn worsening(metric: &Metric, theta: f64) -> f64 {
    match metric.better {
        Better::Higher => -share(metric.better, theta),
        Better::Lower => share(metric.better, theta),
    }
}

/// Round values from `lo` to `hi`, at most `most`.
fn round_values(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    let rough = (hi - lo) / most as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
    let first = (lo / step).ceil();
    let values = (0..=most).map(|at| (first + at as f64) * step);
    values.filter(|value| *value <= hi).collect()
}

/// A share as a tick: `0 %`, `-5 %`, `0.2 %`.
fn tick(share: f64) -> String {
    let text = ((1e6 * share).round() / 1e4).to_string();
    format!("{} %", if text == "-0" { "0" } else { &text })
}

/// One change as shares of the base.
struct Row<'a> {
    finding: &'a Finding,
    metric: &'static Metric,
    change: f64,
    interval: Option<(f64, f64)>,
    /// Of a pair each block's own change; otherwise that of each new block from the baseline.
    blocks: Vec<f64>,
    limit: f64,
}

fn row(finding: &Finding) -> Option<Row<'_>> {
    let (metric, change) = (finding.metric?, finding.change.as_ref()?);
    let at = |theta| worsening(metric, theta);
    let interval = change.evidence.map(|evidence| (at(evidence.ci_90.lo), at(evidence.ci_90.hi)));
    let cost = |value: f64| metric.better.cost(value).ln();
    let from_base = |value: &f64| at(cost(*value) - cost(change.base));
    let mut blocks: Vec<f64> = match finding.changes.as_slice() {
        [] => finding.current_blocks.iter().map(from_base).collect(),
        changes => changes.iter().map(|theta| at(*theta)).collect(),
    };
    blocks.retain(|block| block.is_finite());
    let (change, limit) = (at(change.theta), change.limit);
    change.is_finite().then_some(Row { finding, metric, change, interval, blocks, limit })
}

/// The bars of a verdict, most important first; `None` if nothing has numbers.
pub(super) fn changes(judgement: &Judgement) -> Option<Value> {
    let (findings, unchanged) = verdict::by_importance(judgement);
    let mut rows: Vec<Row> = findings.into_iter().chain(unchanged).filter_map(row).collect();
    let more = rows.len().saturating_sub(MAX_ROWS);
    rows.truncate(MAX_ROWS);
    let limit = rows.iter().map(|row| row.limit).reduce(f64::max)?;
    let changes = || rows.iter().map(|row| row.change);
    let (lo, hi) = (changes().fold(-limit, f64::min), changes().fold(limit, f64::max));
    // A very wide interval must not flatten all bars: it is cut at the edge.
    let room = hi - lo;
    let ends = || rows.iter().filter_map(|row| row.interval);
    let lo = ends().map(|(end, _)| end.max(lo - room)).fold(lo, f64::min) - 0.03 * room;
    let hi = ends().map(|(_, end)| end.min(hi + room)).fold(hi, f64::max) + 0.03 * room;
    let x = |value: f64| (value.clamp(lo, hi) - lo) / (hi - lo) * 100.0;
    let span = |from: f64, to: f64| {
        context! { left => x(from), width => (x(to) - x(from)).max(0.3) }
    };
    let bar = |row: &Row<'_>| {
        let Row { finding, metric, change, interval, limit, .. } = *row;
        let cells = verdict::table_row(finding);
        context! {
            metric => metric.label,
            scenario => finding.scenario.as_str(),
            change => cells[4].as_str(),
            limit => cells[5].as_str(),
            verdict => cells[8].as_str(),
            tone => Value::from(Serde(verdict::tone(&finding.verdict))),
            within => span(-limit, limit),
            edge => x(limit),
            bar => span(change.min(0.0), change.max(0.0)),
            blocks => row.blocks.iter().map(|block| x(*block)).collect::<Vec<_>>(),
            interval => interval.map(|(from, to)| span(from, to)),
        }
    };
    let ticks = round_values(lo, hi, 6).into_iter();
    let ticks = ticks.map(|value| context! { at => x(value), text => tick(value) });
    Some(context! {
        rows => rows.iter().map(bar).collect::<Vec<_>>(),
        ticks => ticks.collect::<Vec<_>>(),
        zero => x(0.0),
        more => more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::metric;

    #[test]
    fn worse_is_positive_whatever_the_direction() {
        for (name, theta, expected) in
            [("decode_tok_s", 0.1, 0.0952), ("ttft_s", 0.1, 0.1052), ("ttft_s", -0.1, -0.0952)]
        {
            let found = worsening(metric(name).unwrap(), theta);
            assert!((found - expected).abs() < 1e-4, "{name}: {found}");
        }
    }

    #[test]
    fn ticks_are_round() {
        for (lo, hi, expected) in [
            (-0.052, 0.11, ["-0.05", "0", "0.05", "0.1"].as_slice()),
            (-0.1, 0.43, &["-0.1", "0", "0.1", "0.2", "0.3", "0.4"]),
            (-0.9, 3.1, &["0", "1", "2", "3"]),
        ] {
            let values = round_values(lo, hi, 6);
            let texts: Vec<String> =
                values.iter().map(|v| ((v * 1e6).round() / 1e6 + 0.0).to_string()).collect();
            assert_eq!(texts, expected);
        }
        assert_eq!([0.0, -0.05, 0.002, 1.5].map(tick), ["0 %", "-5 %", "0.2 %", "150 %"]);
    }
}
