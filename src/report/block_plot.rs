//! Block values of a finding as a plot: coordinates for a template, in units of its view box. Worse
//! is up, zero is the base, and the limit is a line.

use std::fmt::Write as _;

use minijinja::{Value, context};

use crate::compare::{Finding, share};
use crate::report::changes::{round_values, tick, worsening};
use crate::report::text::percent;
use crate::report::verdict;
use crate::workload::Better;

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
    let worse = |theta: f64| worsening(metric, theta);
    let groups: Vec<(String, Vec<f64>)> = if finding.changes.is_empty() {
        let group = |name: &str, blocks: &[f64]| {
            let cost = |value: f64| metric.better.cost(value).ln();
            let from_base = blocks.iter().map(|value| worse(cost(*value) - cost(change.base)));
            (format!("{name}, {}", blocks.len()), from_base.collect())
        };
        vec![group("base", &finding.base_blocks), group("now", &finding.current_blocks)]
    } else {
        let label = match finding.changes.len() {
            1 => "block 1".into(),
            last => format!("blocks 1 to {last}"),
        };
        vec![(label, finding.changes.iter().map(|theta| worse(*theta)).collect())]
    };
    let (middle, limit) = (worse(change.theta), change.limit);
    let band = change.evidence.map(|evidence| (worse(evidence.ci_90.lo), worse(evidence.ci_90.hi)));
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
        labels.push(context! { x => left + width / 2.0, text => label });
        for (i, point) in points.iter().enumerate() {
            let x = left + width * (i as f64 + 0.5) / points.len() as f64;
            let path = if (lo..=hi).contains(point) { &mut inside } else { &mut outside };
            // A path of zero length with round caps is a dot.
            let _ = write!(path, "M{x:.1} {:.1}h0", y(*point));
        }
    }
    let sign = if metric.better == Better::Higher { -1.0 } else { 1.0 };
    let ticks = round_values(lo - edge, hi + edge, 4).into_iter();
    let ticks = ticks.map(|value| {
        let text = tick(sign * value);
        let plus = if sign * value > 1e-9 { "+" } else { "" };
        context! { y => y(value), text => format!("{plus}{text}") }
    });
    // A line of text is 12 units high; a label that would overlap another is omitted.
    let clear = (y(limit) - y(middle)).abs() > 12.0;
    let band = band.map(|(lo, hi)| context! { y => y(hi), height => (y(lo) - y(hi)).max(1.0) });
    Some(context! {
        left => LEFT,
        right => RIGHT,
        width => RIGHT - LEFT,
        label => RIGHT + 6.0,
        scale => LEFT - 5.0,
        ticks => ticks.collect::<Vec<_>>(),
        zero => y(0.0),
        limit => y(limit),
        limit_text => verdict::format_limit(metric, change),
        middle => y(middle),
        middle_text => clear.then(|| percent(share(metric.better, change.theta))),
        band => band,
        inside => inside,
        outside => outside,
        split => (groups.len() > 1).then_some(LEFT + width),
        labels => labels,
    })
}

/// The smallest and the largest finite value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    finite.fold((0.0, 0.0), |(lo, hi), value| (f64::min(lo, value), f64::max(hi, value)))
}
