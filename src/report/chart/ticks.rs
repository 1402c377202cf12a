//! Ticks of an axis: at round values, as many as fit.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Number, Scale};

/// The minimum span of an axis as a share of its larger end, so that noise is not magnified.
const LEAST_SPAN: f64 = 0.02;

/// The minimum span of an axis in its unit: labels have at most nine decimals.
const LEAST: f64 = 1e-8;

/// Tick distances of a time axis, in seconds.
const TIMES: [u32; 21] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
    172_800, 604_800, 2_592_000,
];

/// An axis with its ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    /// Both ends.
    pub(super) range: (f64, f64),
    /// Values of the ticks.
    pub(super) at: Vec<f64>,
    /// Labels of the ticks.
    pub(super) labels: Vec<String>,
}

/// The axis for values from `lo` to `hi` with at most `most` ticks, fewer if `fits` says that their
/// labels touch.
pub(super) fn ticks(
    scale: Scale,
    (lo, hi): (f64, f64),
    most: usize,
    end: AxisEnd,
    number: Number<'_>,
    fits: impl Fn(&Ticks) -> bool,
) -> Ticks {
    let range = padded(scale, lo, hi, end);
    let tried = |most: usize| place_ticks(scale, range, step(scale, range, most), end, number);
    if let Some(ticks) = (2..=most).rev().map(tried).find(|ticks| fits(ticks)) {
        return ticks;
    }
    // A single label is better than two that touch.
    let mut least = tried(2);
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
    let (lo, hi) = if scale == Scale::Zero { (lo.min(0.0), hi.max(0.0)) } else { (lo, hi) };
    let least = match scale {
        Scale::Zero if lo == hi => 1.0,
        Scale::Zero => LEAST,
        Scale::Around => (LEAST_SPAN * lo.abs().max(hi.abs())).max(LEAST),
        Scale::Whole => 1.0,
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
        let longest = f64::from(TIMES[TIMES.len() - 1]);
        let fitting = TIMES.into_iter().map(f64::from).find(|step| *step >= rough);
        return fitting.unwrap_or((rough / longest).ceil() * longest);
    }
    let power = 10f64.powf(rough.log10().floor());
    let round =
        [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= rough * (1.0 - 1e-9));
    let step = round.unwrap_or(10.0) * power;
    if scale == Scale::Whole { step.max(1.0).round() } else { step }
}

fn place_ticks(
    scale: Scale,
    (lo, hi): (f64, f64),
    step: f64,
    end: AxisEnd,
    number: Number<'_>,
) -> Ticks {
    let slack = step * 1e-6;
    let (first, last) = match end {
        AxisEnd::AtTick => (((lo + slack) / step).floor(), ((hi - slack) / step).ceil()),
        AxisEnd::Padded => (((lo - slack) / step).ceil(), ((hi + slack) / step).floor()),
    };
    let count = (last - first).max(0.0) as usize;
    let at: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).collect();
    let range = match end {
        AxisEnd::AtTick => (lo.min(first * step), hi.max(last * step)),
        AxisEnd::Padded => (lo, hi),
    };
    let labels = at.iter().map(|at| text(scale, *at, step, number)).collect();
    Ticks { range, at, labels }
}

fn text(scale: Scale, at: f64, step: f64, number: Number<'_>) -> String {
    match scale {
        Scale::Time => time(at, step),
        Scale::Whole => number(at, 0),
        Scale::Zero | Scale::Around => number(at, decimals(step)),
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
