//! Ticks of an axis: at round values, as many as fit.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::{Axis, Scale};

/// The minimum span of an axis as a share of its larger end, so that noise is not magnified.
const LEAST_SPAN: f64 = 0.02;

/// The minimum span of an axis in its unit: labels have at most nine decimals.
const LEAST: f64 = 1e-8;

/// Tick distances of a time axis, in seconds.
const TIMES: [f64; 21] = [
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    900.0,
    1800.0,
    3600.0,
    7200.0,
    10800.0,
    21600.0,
    43200.0,
    86400.0,
    172_800.0,
    604_800.0,
    2_592_000.0,
];

/// An axis with its ticks. Positions are values, or their logarithms on [`Scale::Doubling`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    /// Both ends.
    pub(super) range: (f64, f64),
    /// Positions of the ticks.
    pub(super) at: Vec<f64>,
    /// Labels of the ticks.
    pub(super) labels: Vec<String>,
}

impl Ranged for Ticks {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.at.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Ticks {
    fn format_ext(&self, at: &f64) -> String {
        let found = self.at.iter().position(|tick| tick == at);
        found.map_or_else(String::new, |i| self.labels[i].clone())
    }
}

/// The position of a value on an axis.
pub(super) fn position(scale: Scale, value: f64) -> f64 {
    if scale == Scale::Doubling { value.log2() } else { value }
}

/// The axis for values from `lo` to `hi` with at most `most` ticks, fewer if `fits` says that their
/// labels touch.
pub(super) fn ticks(
    axis: &Axis<'_>,
    (lo, hi): (f64, f64),
    most: usize,
    end: AxisEnd,
    fits: impl Fn(&Ticks) -> bool,
) -> Ticks {
    let range = padded(axis.scale, lo, hi, end);
    let tried = |most: usize| {
        let step = step(axis.scale, range, most);
        place_ticks(axis, range, step, end)
    };
    let mut least = tried(most);
    for most in (2..=most).rev() {
        least = tried(most);
        if fits(&least) {
            return least;
        }
    }
    // A single label is better than two that touch.
    least.at.truncate(1);
    least.labels.truncate(1);
    least
}

/// Where an axis ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AxisEnd {
    /// At the next tick.
    AtTick,
    /// A little beyond the last value.
    Padded,
}

fn padded(scale: Scale, lo: f64, hi: f64, end: AxisEnd) -> (f64, f64) {
    let (lo, hi) = (position(scale, lo), position(scale, hi));
    let (lo, hi) = if scale == Scale::Zero { (lo.min(0.0), hi.max(0.0)) } else { (lo, hi) };
    let least = match scale {
        Scale::Zero if lo == hi => 1.0,
        Scale::Zero => LEAST,
        Scale::Around => (LEAST_SPAN * lo.abs().max(hi.abs())).max(LEAST),
        Scale::Whole | Scale::Doubling => 1.0,
        Scale::Time => 10.0,
    };
    let missing = (least - (hi - lo)).max(0.0) / 2.0;
    let (lo, hi) =
        if scale == Scale::Zero { (lo, hi + 2.0 * missing) } else { (lo - missing, hi + missing) };
    match end {
        AxisEnd::AtTick => (lo, hi),
        AxisEnd::Padded => {
            let edge = 0.03 * (hi - lo);
            (if scale == Scale::Zero && lo == 0.0 { lo } else { lo - edge }, hi + edge)
        }
    }
}

/// The distance between ticks that gives at most `most` of them.
fn step(scale: Scale, (lo, hi): (f64, f64), most: usize) -> f64 {
    let rough = (hi - lo) / most.saturating_sub(1).max(1) as f64;
    if scale == Scale::Time {
        let longest = TIMES[TIMES.len() - 1];
        return TIMES
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or((rough / longest).ceil() * longest);
    }
    if scale == Scale::Doubling {
        return rough.ceil().max(1.0);
    }
    let power = 10f64.powf(rough.log10().floor());
    let round =
        [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= rough * (1.0 - 1e-9));
    let step = round.unwrap_or(10.0) * power;
    if scale == Scale::Whole { step.max(1.0).round() } else { step }
}

fn place_ticks(axis: &Axis<'_>, (lo, hi): (f64, f64), step: f64, end: AxisEnd) -> Ticks {
    let slack = step * 1e-6;
    // Ticks count from the first doubling in the chart, so that a small batch has a label.
    let origin = if axis.scale == Scale::Doubling { (lo - slack).ceil() } else { 0.0 };
    let (from, to) = (lo - origin, hi - origin);
    let (first, last) = match end {
        AxisEnd::AtTick => (((from + slack) / step).floor(), ((to - slack) / step).ceil()),
        AxisEnd::Padded => (((from - slack) / step).ceil(), ((to + slack) / step).floor()),
    };
    let place = |number: f64| origin + number * step;
    let count = (last - first).max(0.0) as usize;
    let at: Vec<f64> = (0..=count).map(|i| place(first + i as f64)).collect();
    let range = match end {
        AxisEnd::AtTick => (lo.min(place(first)), hi.max(place(last))),
        AxisEnd::Padded => (lo, hi),
    };
    let labels = at.iter().map(|at| text(axis, *at, step)).collect();
    Ticks { range, at, labels }
}

fn text(axis: &Axis<'_>, at: f64, step: f64) -> String {
    match axis.scale {
        Scale::Time => time(at, step),
        Scale::Doubling => {
            let value = at.exp2();
            (axis.number)(value, decimals(value))
        }
        Scale::Whole => (axis.number)(at, 0),
        Scale::Zero | Scale::Around => (axis.number)(at, decimals(step)),
    }
}

/// Decimals that distinguish multiples of a step.
fn decimals(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize
}

/// Decimals for three significant digits.
pub(super) fn three_digits(value: f64) -> usize {
    if value == 0.0 { 0 } else { (2.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize }
}

fn time(seconds: f64, step: f64) -> String {
    let pattern = match step {
        ..60.0 => "%H:%M:%S",
        60.0..86400.0 => "%H:%M",
        86400.0..2_592_000.0 => "%m-%d",
        _ => "%Y-%m-%d",
    };
    let at = Timestamp::from_second(seconds.round() as i64).unwrap_or_default();
    at.to_zoned(TimeZone::UTC).strftime(pattern).to_string()
}
