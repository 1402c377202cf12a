//! The figures reported for every rule, and the targets of this gate. A figure is a row of a table.

use std::collections::BTreeMap;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::record::pool::NoiseLevel;

/// Scenarios of a virtual suite. Fixed, so that figures stay comparable when a category is added.
pub(crate) const SUITE_SCENARIOS: usize = 20;

/// One figure of a rule in one environment or column.
#[derive(Debug)]
pub struct Figure {
    pub(crate) name: &'static str,
    /// For people, short enough for the head of a column.
    pub(crate) label: &'static str,
    pub(crate) unit: FigureUnit,
    pub(crate) about: &'static str,
}

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FigureUnit {
    /// A fraction of cases.
    Share,
    /// A change: a difference of ln cost, or a share of the metric's value.
    Effect,
    /// A count.
    Count,
    /// Seconds.
    Seconds,
}

/// Every figure, in the order in which it is shown.
#[rustfmt::skip]
pub(crate) const FIGURES: &[Figure] = &[
    Figure { name: "false_alarm", label: "alarm", unit: FigureUnit::Share,
        about: "metrics of an unchanged program that are called regressed" },
    Figure { name: "suite_false_alarm", label: "alarm/suite", unit: FigureUnit::Share,
        about: "suites of an unchanged program with any metric called regressed" },
    Figure { name: "false_alarm_layout", label: "layout", unit: FigureUnit::Share,
        about: "the same per metric with another code layout" },
    Figure { name: "suite_false_alarm_layout", label: "layout/suite", unit: FigureUnit::Share,
        about: "the same per suite with another code layout" },
    Figure { name: "detect_3", label: "-3 %", unit: FigureUnit::Share,
        about: "decode metrics 3 % down, within the limit, that are called regressed" },
    Figure { name: "detect_5", label: "-5 %", unit: FigureUnit::Share,
        about: "decode metrics 5 % down, exactly the limit, that are called regressed" },
    Figure { name: "detect_7_5", label: "-7.5 %", unit: FigureUnit::Share,
        about: "decode metrics 7.5 % down that are called regressed" },
    Figure { name: "detect_10", label: "-10 %", unit: FigureUnit::Share,
        about: "decode metrics 10 % down that are called regressed" },
    Figure { name: "detect_20", label: "-20 %", unit: FigureUnit::Share,
        about: "decode metrics 20 % down that are called regressed" },
    Figure { name: "detect_ttft_20", label: "TTFT +20 %", unit: FigureUnit::Share,
        about: "times to first token 20 % up that are called regressed" },
    Figure { name: "detect_memory_20", label: "memory +20 %", unit: FigureUnit::Share,
        about: "peak memories 20 % up that are called regressed" },
    Figure { name: "pass_unchanged", label: "0 passes", unit: FigureUnit::Share,
        about: "metrics of an unchanged program that pass" },
    Figure { name: "suite_pass_unchanged", label: "0 passes/suite", unit: FigureUnit::Share,
        about: "suites of an unchanged program in which every metric passes" },
    Figure { name: "pass_3", label: "3 % passes", unit: FigureUnit::Share,
        about: "decode metrics 3 % down that pass" },
    Figure { name: "pass_5", label: "5 % passes", unit: FigureUnit::Share,
        about: "decode metrics 5 % down that pass" },
    Figure { name: "pass_7_5", label: "7.5 % passes", unit: FigureUnit::Share,
        about: "decode metrics 7.5 % down that pass" },
    Figure { name: "inconclusive", label: "0 undecided", unit: FigureUnit::Share,
        about: "metrics of an unchanged program that stay undecided" },
    Figure { name: "coverage", label: "coverage", unit: FigureUnit::Share,
        about: "95 % intervals that contain the true change, at the look that decided" },
    Figure { name: "bias", label: "bias", unit: FigureUnit::Effect,
        about: "mean of the estimated minus the true change of ln cost" },
    Figure { name: "mde_80", label: "80 % at", unit: FigureUnit::Effect,
        about: "the drop of decode called regressed in 80 % of cases, interpolated between the \
                measured ones" },
    Figure { name: "blocks", label: "blocks", unit: FigureUnit::Count,
        about: "mean number of blocks per metric of an unchanged program" },
    Figure { name: "seconds", label: "seconds", unit: FigureUnit::Seconds,
        about: "time to measure two builds of an unchanged program in a suite of 20 scenarios" },
];

/// Figures by name; absent where the pool has no data for them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    values: BTreeMap<&'static str, f64>,
    proportions: BTreeMap<&'static str, Proportion>,
}

/// A binomial proportion among cases that share no block. Virtual suites reuse the same blocks, so
/// only disjoint cases give the confidence interval of a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Proportion {
    /// Cases that count.
    pub(crate) hits: usize,
    /// All cases.
    pub(crate) cases: usize,
}

impl Proportion {
    /// The 95 % confidence interval of the share (Clopper–Pearson).
    pub(crate) fn confidence_interval(self) -> (f64, f64) {
        crate::stats::clopper_pearson(self.hits, self.cases)
    }
}

impl Figures {
    /// The figure of this name.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// The disjoint cases of a share; `None` for other figures.
    pub(crate) fn proportion(&self, name: &str) -> Option<Proportion> {
        // Cases of a suite's figure are scenarios. Which alarms fell into one suite is unknown, so
        // each counts as a suite of its own.
        let suites = |Proportion { hits, cases }: Proportion| {
            let suites = cases / SUITE_SCENARIOS;
            Proportion { hits: hits.min(suites), cases: suites }
        };
        let known = self.proportions.get(name).copied();
        if name.starts_with("suite_") { known.map(suites) } else { known }
    }

    pub(super) fn set(&mut self, name: &'static str, value: Option<f64>) {
        assert!(FIGURES.iter().any(|figure| figure.name == name), "{name}");
        self.values.extend(value.filter(|value| value.is_finite()).map(|value| (name, value)));
    }

    /// Cases of a suite's figure are scenarios.
    pub(super) fn add_proportion(&mut self, name: &'static str, hits: usize, cases: usize) {
        let known = self.proportions.entry(name).or_default();
        *known = Proportion { hits: known.hits + hits, cases: known.cases + cases };
    }

    /// The unweighted mean over the environments that have the figure; proportions are pooled.
    pub(super) fn mean(all: &[&Figures]) -> Self {
        let mut mean = Self::default();
        for figure in FIGURES {
            let values: Vec<f64> =
                all.iter().filter_map(|figures| figures.get(figure.name)).collect();
            mean.set(figure.name, crate::stats::mean(&values));
        }
        for (name, proportion) in all.iter().flat_map(|figures| &figures.proportions) {
            mean.add_proportion(name, proportion.hits, proportion.cases);
        }
        mean.set_detectable_drop();
        mean
    }

    /// Sets the smallest detectable change: the drop detected in 80 % of cases, interpolated
    /// linearly between the measured drops; none if even the largest is detected less often.
    pub(super) fn set_detectable_drop(&mut self) {
        const DROPS: [(&str, f64); 6] = [
            ("false_alarm", 0.0),
            ("detect_3", 0.03),
            ("detect_5", 0.05),
            ("detect_7_5", 0.075),
            ("detect_10", 0.10),
            ("detect_20", 0.20),
        ];
        self.values.remove("mde_80");
        let measured: Vec<(f64, f64)> =
            DROPS.iter().filter_map(|(name, drop)| Some((*drop, self.get(name)?))).collect();
        if measured.len() < 2 {
            return;
        }
        let crossing = measured.windows(2).find(|pair| pair[0].1 < 0.8 && pair[1].1 >= 0.8);
        let drop = crossing.map(|pair| {
            let ((from, low), (to, high)) = (pair[0], pair[1]);
            from + (to - from) * (0.8 - low) / (high - low)
        });
        self.set("mde_80", drop);
    }
}

/// Every figure, `null` where it has no data, and the disjoint cases of the shares.
impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = |value: f64| (value * 1e6).round() / 1e6;
        let proportions: BTreeMap<&str, Proportion> =
            FIGURES.iter().filter_map(|one| Some((one.name, self.proportion(one.name)?))).collect();
        let mut map = serializer.serialize_map(None)?;
        for one in FIGURES {
            map.serialize_entry(one.name, &self.get(one.name).map(rounded))?;
        }
        map.serialize_entry("evidence", &proportions)?;
        map.end()
    }
}

/// A target of this gate.
#[derive(Debug)]
pub(crate) struct GateTarget {
    /// The figure's name.
    pub(crate) figure: &'static str,
    /// For quiet, typical and hostile environments.
    pub(crate) bounds: [Bound; 3],
}

/// The range in which a figure must lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// Both ends included.
    Between(f64, f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= limit,
            Bound::AtLeast(limit) => value >= limit,
            Bound::Between(low, high) => (low..=high).contains(&value),
        }
    }
}

use Bound::{AtLeast, AtMost, Between};

/// The targets of this gate: `gate.md`, section 7.
#[rustfmt::skip]
pub(crate) const GATE_TARGETS: &[GateTarget] = &[
    GateTarget { figure: "suite_false_alarm", bounds: [AtMost(0.005), AtMost(0.01), AtMost(0.05)] },
    GateTarget { figure: "suite_false_alarm_layout",
        bounds: [AtMost(0.01), AtMost(0.02), AtMost(0.05)] },
    GateTarget { figure: "detect_3", bounds: [AtMost(0.005), AtMost(0.01), AtMost(0.10)] },
    GateTarget { figure: "pass_5", bounds: [AtMost(0.05), AtMost(0.05), AtMost(0.05)] },
    GateTarget { figure: "detect_7_5", bounds: [AtLeast(0.99), AtLeast(0.95), AtLeast(0.90)] },
    GateTarget { figure: "detect_10", bounds: [AtLeast(0.999), AtLeast(0.99), AtLeast(0.95)] },
    GateTarget { figure: "pass_unchanged", bounds: [AtLeast(0.99), AtLeast(0.97), AtLeast(0.85)] },
    GateTarget { figure: "seconds", bounds: [AtMost(180.0), AtMost(360.0), AtMost(720.0)] },
    GateTarget { figure: "coverage",
        bounds: [Between(0.93, 0.97), Between(0.92, 0.98), AtLeast(0.90)] },
];

/// A target and the figure's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct GateTargetResult {
    /// The figure's name.
    pub(crate) figure: &'static str,
    /// Its column.
    pub(crate) column: NoiseLevel,
    /// The range in which it must lie.
    pub(crate) bound: Bound,
    /// The figure's value; `null` where the pool has no data for it.
    #[serde(rename = "found")]
    pub(crate) value: Option<f64>,
    /// The disjoint cases of a share.
    #[serde(rename = "evidence")]
    pub(crate) proportion: Option<Proportion>,
    /// Whether it is met.
    pub(crate) status: GateTargetStatus,
}

/// Whether a target is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GateTargetStatus {
    /// The whole 95 % confidence interval lies in the range; for figures that are no share, the
    /// value does.
    Met,
    /// The value lies in the range, its confidence interval does not: too few disjoint cases.
    NotShown,
    /// The value lies outside the range.
    Missed,
    /// The pool has no data for it.
    NotMeasured,
}

impl GateTargetResult {
    /// Every target in every column, from the figures of this gate's rule.
    pub(super) fn all(figures: impl Fn(NoiseLevel) -> Option<Figures>) -> Vec<Self> {
        let columns = NoiseLevel::ALL.map(|column| (column, figures(column)));
        let row = |target: &GateTarget| {
            let (figure, bounds) = (target.figure, target.bounds);
            columns.each_ref().map(|(column, figures)| {
                let bound = bounds[*column as usize];
                let value = figures.as_ref().and_then(|figures| figures.get(figure));
                let proportion = figures.as_ref().and_then(|figures| figures.proportion(figure));
                let status = status(bound, value, proportion, unit(figure));
                Self { figure, column: *column, bound, value, proportion, status }
            })
        };
        GATE_TARGETS.iter().flat_map(row).collect()
    }
}

fn unit(name: &str) -> FigureUnit {
    FIGURES.iter().find(|figure| figure.name == name).expect("targets name figures").unit
}

fn status(
    bound: Bound,
    value: Option<f64>,
    proportion: Option<Proportion>,
    unit: FigureUnit,
) -> GateTargetStatus {
    let shown = match (unit, proportion) {
        (FigureUnit::Share, None) => false,
        (FigureUnit::Share, Some(proportion)) => {
            let (low, high) = proportion.confidence_interval();
            bound.holds(low) && bound.holds(high)
        }
        _ => true,
    };
    match value {
        None => GateTargetStatus::NotMeasured,
        Some(value) if !bound.holds(value) => GateTargetStatus::Missed,
        Some(_) if shown => GateTargetStatus::Met,
        Some(_) => GateTargetStatus::NotShown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detectable_drop_lies_between_the_measured_ones() {
        let figures = |values: &[(&'static str, f64)]| {
            let mut figures = Figures::default();
            values.iter().for_each(|(name, value)| figures.set(name, Some(*value)));
            figures.set_detectable_drop();
            figures.get("mde_80")
        };
        assert_eq!(figures(&[]), None);
        assert_eq!(figures(&[("false_alarm", 0.0), ("detect_20", 0.5)]), None);
        assert_eq!(figures(&[("detect_5", 0.6), ("detect_7_5", 1.0)]), Some(0.0625));
        let all = figures(&[("false_alarm", 0.0), ("detect_10", 0.8)]).unwrap();
        assert!((all - 0.10).abs() < 1e-12);
    }

    #[test]
    fn a_target_is_met_if_the_interval_keeps_to_it_and_not_shown_if_only_the_value_does() {
        let rate = |hits, cases| Some(Proportion { hits, cases });
        for (bound, value, proportion, expected) in [
            (AtMost(0.005), Some(0.0), rate(0, 30), GateTargetStatus::NotShown), // At most 11.6 %.
            (AtMost(0.12), Some(0.0), rate(0, 30), GateTargetStatus::Met),
            (AtMost(0.005), Some(0.0), rate(0, 0), GateTargetStatus::NotShown),
            (AtMost(0.005), Some(0.0), None, GateTargetStatus::NotShown),
            (AtMost(0.005), Some(0.01), rate(0, 30), GateTargetStatus::Missed),
            (AtLeast(0.9), Some(1.0), rate(30, 30), GateTargetStatus::NotShown), // At least 88.4 %.
            (AtLeast(0.88), Some(1.0), rate(30, 30), GateTargetStatus::Met),
            (Between(0.5, 0.99), Some(0.95), rate(95, 100), GateTargetStatus::Met),
            (AtLeast(0.9), None, None, GateTargetStatus::NotMeasured),
        ] {
            assert_eq!(
                status(bound, value, proportion, FigureUnit::Share),
                expected,
                "{bound:?} {proportion:?}"
            );
        }
        assert_eq!(
            status(AtMost(180.0), Some(100.0), None, FigureUnit::Seconds),
            GateTargetStatus::Met
        );
    }

    #[test]
    fn a_suite_is_as_many_scenarios_and_every_alarm_one_of_them() {
        let mut figures = Figures::default();
        figures.add_proportion("suite_false_alarm", 0, 30);
        let mut more = Figures::default();
        more.add_proportion("suite_false_alarm", 3, 30);
        let both = Figures::mean(&[&figures, &more]);
        assert_eq!(figures.proportion("suite_false_alarm"), Some(Proportion { hits: 0, cases: 1 }));
        assert_eq!(both.proportion("suite_false_alarm"), Some(Proportion { hits: 3, cases: 3 }));
        assert_eq!(both.proportion("detect_5"), None);
    }

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let mut figures = Figures::default();
        figures.set("detect_5", Some(1.0 / 3.0));
        figures.set("bias", Some(f64::NAN));
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["detect_5"], 0.333333);
        assert!(json["bias"].is_null() && json["coverage"].is_null());
        let mean = Figures::mean(&[&figures, &Figures::default()]);
        assert_eq!(mean.get("detect_5"), figures.get("detect_5"));
    }

    #[test]
    fn targets_name_figures_and_hold_at_their_ends() {
        for target in GATE_TARGETS {
            assert!(FIGURES.iter().any(|figure| figure.name == target.figure));
        }
        assert!(AtMost(0.05).holds(0.05) && !AtMost(0.05).holds(0.051));
        assert!(AtLeast(0.9).holds(0.9) && !AtLeast(0.9).holds(0.89));
        assert!(Between(0.93, 0.97).holds(0.97) && !Between(0.93, 0.97).holds(0.98));
    }
}
