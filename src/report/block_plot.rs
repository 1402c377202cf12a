//! Block values of a finding as a plot: coordinates for a template, in units of its view box. Worse
//! is up, zero is the base, and the limit is a line.

use std::fmt::Write as _;

use minijinja::{Value, context};

use crate::compare::{Change, Finding, share};
use crate::report::text::percent;
use crate::report::verdict;
use crate::workload::Metric;

/// The area of the points within the plot of 320 by 120 units.
const LEFT: f64 = 8.0;
const RIGHT: f64 = 236.0;
const TOP: f64 = 6.0;
const BOTTOM: f64 = 102.0;

/// Points beyond this many limits are drawn at the edge, so that one disturbed block does not
/// flatten all others.
const FURTHEST: f64 = 4.0;

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
    let furthest = FURTHEST * change.margin;
    let band = change.evidence.map(|evidence| evidence.ci_90);
    let all = groups.iter().flat_map(|(_, points)| points.iter().copied());
    let all = all.chain(band.into_iter().flat_map(|band| [band.lo, band.hi]));
    let within =
        all.filter(|theta| theta.is_finite()).map(|theta| theta.clamp(-furthest, furthest));
    let (mut lo, mut hi) = (-0.5 * change.margin, 1.25 * change.margin);
    for theta in within {
        (lo, hi) = (lo.min(theta), hi.max(theta));
    }
    let edge = 0.04 * (hi - lo);
    let y = |theta: f64| {
        TOP + (hi + edge - theta.clamp(lo, hi)) / (hi - lo + 2.0 * edge) * (BOTTOM - TOP)
    };
    let width = (RIGHT - LEFT) / groups.len() as f64;
    let (mut inside, mut outside) = (String::new(), String::new());
    let mut labels = Vec::new();
    for (at, (label, points)) in groups.iter().enumerate() {
        let left = LEFT + width * at as f64;
        labels.push(context! { x => units(left + width / 2.0), text => label });
        for (i, theta) in points.iter().enumerate() {
            let x = left + width * (i as f64 + 0.5) / points.len() as f64;
            let path = if (lo..=hi).contains(theta) { &mut inside } else { &mut outside };
            // A path of zero length with round caps is a dot.
            let _ = write!(path, "M{} {}h0", units(x), units(y(*theta)));
        }
    }
    // A line of text is 11 units high; a label that would overlap another is omitted.
    let clear = [0.0, change.margin].iter().all(|at| (y(*at) - y(change.theta)).abs() > 11.0);
    let band = band.map(|band| {
        context! { y => units(y(band.hi)), height => units((y(band.lo) - y(band.hi)).max(1.0)) }
    });
    context! {
        left => units(LEFT),
        right => units(RIGHT),
        width => units(RIGHT - LEFT),
        label => units(RIGHT + 6.0),
        zero => units(y(0.0)),
        limit => units(y(change.margin)),
        limit_text => verdict::format_limit(metric, change),
        middle => units(y(change.theta)),
        middle_text => if clear { percent(share(metric.better, change.theta)) } else { String::new() },
        band => band.unwrap_or(Value::from(())),
        inside => inside,
        outside => outside,
        split => if groups.len() > 1 { Value::from(units(LEFT + width)) } else { Value::from(()) },
        labels => labels,
    }
}

fn units(x: f64) -> String {
    format!("{x:.1}")
}
