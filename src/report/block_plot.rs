//! Block values of a finding as a plot: coordinates for a template, in units of its view box. Worse
//! is up, zero is the base, and the limit is a line.

use std::fmt::Write as _;

use minijinja::{Value, context};

use crate::compare::{Change, Finding, share};
use crate::report::changes::{round_values, tick, worsening};
use crate::report::text::percent;
use crate::report::verdict;
use crate::workload::{Better, Metric};

/// The area of the points within the plot of 336 by 120 units.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 238.0;
const TOP: f64 = 6.0;
const BOTTOM: f64 = 102.0;

/// The plot of a finding; `None` if it has no numbers.
///
/// A pair shows the change of each block in the order measured. A run against a baseline shows the
/// blocks of both sides, each as its change from the baseline's centre.
pub(super) fn block_plot(finding: &Finding) -> Option<Value> {
    let (metric, change) = (finding.metric?, finding.change.as_ref()?);
    let groups = if finding.changes.is_empty() {
        let from_base = |blocks: &[f64]| -> Vec<f64> {
            let cost = |value: f64| metric.better.cost(value).ln();
            blocks.iter().map(|value| cost(*value) - cost(change.base)).collect()
        };
        let (base, now) = (from_base(&finding.base_blocks), from_base(&finding.current_blocks));
        vec![(format!("base, {}", base.len()), base), (format!("now, {}", now.len()), now)]
    } else {
        let blocks = match finding.changes.len() {
            1 => "block 1".into(),
            last => format!("blocks 1 to {last}"),
        };
        vec![(blocks, finding.changes.clone())]
    };
    Some(plot_data(metric, change, &groups))
}

fn plot_data(metric: &Metric, change: &Change, groups: &[(String, Vec<f64>)]) -> Value {
    let worse = |theta: f64| worsening(metric, theta);
    let (middle, limit) = (worse(change.theta), change.limit);
    let band = change.evidence.map(|evidence| (worse(evidence.ci_90.lo), worse(evidence.ci_90.hi)));
    let groups: Vec<(&str, Vec<f64>)> = groups
        .iter()
        .map(|(label, thetas)| (label.as_str(), thetas.iter().map(|one| worse(*one)).collect()))
        .collect();
    let ends = band.into_iter().flat_map(|(lo, hi)| [lo, hi]).chain([0.0, limit, middle]);
    let (mut lo, mut hi) = range(ends);
    // One disturbed block must not flatten all others.
    let room = hi - lo;
    let near = lo - room..=hi + room;
    let points = groups.iter().flat_map(|(_, points)| points.iter().copied());
    for point in points.filter(|point| near.contains(point)) {
        (lo, hi) = (lo.min(point), hi.max(point));
    }
    let edge = 0.06 * (hi - lo);
    let y = |worse: f64| {
        TOP + (hi + edge - worse.clamp(lo, hi)) / (hi - lo + 2.0 * edge) * (BOTTOM - TOP)
    };
    let width = (RIGHT - LEFT) / groups.len() as f64;
    let (mut inside, mut outside) = (String::new(), String::new());
    let mut labels = Vec::new();
    for (at, (label, points)) in groups.iter().enumerate() {
        let left = LEFT + width * at as f64;
        labels.push(context! { x => units(left + width / 2.0), text => *label });
        for (i, point) in points.iter().enumerate() {
            let x = left + width * (i as f64 + 0.5) / points.len() as f64;
            let path = if (lo..=hi).contains(point) { &mut inside } else { &mut outside };
            // A path of zero length with round caps is a dot.
            let _ = write!(path, "M{} {}h0", units(x), units(y(*point)));
        }
    }
    let sign = if metric.better == Better::Higher { -1.0 } else { 1.0 };
    let ticks = round_values(lo - edge, hi + edge, 4).into_iter();
    let ticks = ticks.map(|value| {
        let text = tick(sign * value);
        let plus = if sign * value > 1e-9 { "+" } else { "" };
        context! { y => units(y(value)), text => format!("{plus}{text}") }
    });
    // A line of text is 12 units high; a label that would overlap another is omitted.
    let clear = (y(limit) - y(middle)).abs() > 12.0;
    let band = band
        .map(|(lo, hi)| context! { y => units(y(hi)), height => units((y(lo) - y(hi)).max(1.0)) });
    context! {
        left => units(LEFT),
        right => units(RIGHT),
        width => units(RIGHT - LEFT),
        label => units(RIGHT + 6.0),
        scale => units(LEFT - 5.0),
        ticks => ticks.collect::<Vec<_>>(),
        zero => units(y(0.0)),
        limit => units(y(limit)),
        limit_text => verdict::format_limit(metric, change),
        middle => units(y(middle)),
        middle_text => if clear { percent(share(metric.better, change.theta)) } else { String::new() },
        band => band.unwrap_or(Value::from(())),
        inside => inside,
        outside => outside,
        split => if groups.len() > 1 { Value::from(units(LEFT + width)) } else { Value::from(()) },
        labels => labels,
    }
}

/// The smallest and the largest finite value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    finite.fold((0.0, 0.0), |(lo, hi), value| (f64::min(lo, value), f64::max(hi, value)))
}

fn units(x: f64) -> String {
    format!("{x:.1}")
}
