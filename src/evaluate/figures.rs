//! What is reported of every rule, and what is asked of ours. A figure is one row of one table.

use std::collections::BTreeMap;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::evaluate::SCENARIOS;
use crate::record::pool::NoiseLevel;

/// One figure of a rule in one environment or column.
#[derive(Debug)]
pub struct Figure {
    /// Its key.
    pub name: &'static str,
    /// For people, short enough for the head of a column.
    pub label: &'static str,
    /// How it is read.
    pub unit: Unit,
    /// What it is.
    pub about: &'static str,
}

/// How a figure is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
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
pub const FIGURES: &[Figure] = &[
    Figure { name: "false_alarm", label: "alarm", unit: Unit::Share, about: "metrics of an unchanged program that are called regressed" },
    Figure { name: "suite_false_alarm", label: "alarm/suite", unit: Unit::Share, about: "suites of an unchanged program with any metric called regressed" },
    Figure { name: "false_alarm_layout", label: "layout", unit: Unit::Share, about: "the same per metric with another code layout" },
    Figure { name: "suite_false_alarm_layout", label: "layout/suite", unit: Unit::Share, about: "the same per suite with another code layout" },
    Figure { name: "detect_3", label: "-3 %", unit: Unit::Share, about: "decode metrics 3 % down that are called regressed; the limit allows them" },
    Figure { name: "detect_5", label: "-5 %", unit: Unit::Share, about: "decode metrics 5 % down that are called regressed: exactly the limit" },
    Figure { name: "detect_7_5", label: "-7.5 %", unit: Unit::Share, about: "decode metrics 7.5 % down that are called regressed" },
    Figure { name: "detect_10", label: "-10 %", unit: Unit::Share, about: "decode metrics 10 % down that are called regressed" },
    Figure { name: "detect_20", label: "-20 %", unit: Unit::Share, about: "decode metrics 20 % down that are called regressed" },
    Figure { name: "detect_ttft_20", label: "TTFT +20 %", unit: Unit::Share, about: "times to first token 20 % up that are called regressed" },
    Figure { name: "detect_memory_20", label: "memory +20 %", unit: Unit::Share, about: "peak memories 20 % up that are called regressed" },
    Figure { name: "pass_unchanged", label: "0 passes", unit: Unit::Share, about: "metrics of an unchanged program that pass" },
    Figure { name: "suite_pass_unchanged", label: "0 passes/suite", unit: Unit::Share, about: "suites of an unchanged program of which every metric passes" },
    Figure { name: "pass_3", label: "3 % passes", unit: Unit::Share, about: "decode metrics 3 % down that pass" },
    Figure { name: "pass_5", label: "5 % passes", unit: Unit::Share, about: "decode metrics 5 % down that pass" },
    Figure { name: "pass_7_5", label: "7.5 % passes", unit: Unit::Share, about: "decode metrics 7.5 % down that pass" },
    Figure { name: "inconclusive", label: "0 undecided", unit: Unit::Share, about: "metrics of an unchanged program of which nothing is said" },
    Figure { name: "coverage", label: "coverage", unit: Unit::Share, about: "intervals that are said to hold the true change with 95 % and do, at the look that decided" },
    Figure { name: "bias", label: "bias", unit: Unit::Effect, about: "mean of estimated less true change of ln cost" },
    Figure { name: "mde_80", label: "80 % at", unit: Unit::Effect, about: "the drop of decode that is called regressed in 80 % of cases, between the measured ones" },
    Figure { name: "blocks", label: "blocks", unit: Unit::Count, about: "mean number of blocks per metric of an unchanged program" },
    Figure { name: "seconds", label: "seconds", unit: Unit::Seconds, about: "time to measure two builds of an unchanged program in a suite of 20 scenarios" },
];

/// Figures by name; `None` where the pool has nothing to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    found: BTreeMap<&'static str, f64>,
    evidence: BTreeMap<&'static str, Evidence>,
}

/// How often something was so among cases that share no block. Virtual suites are drawn from the
/// same few blocks again and again: how much is known of a share is what these say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Cases in which it was so.
    pub hits: usize,
    /// All cases.
    pub cases: usize,
}

impl Evidence {
    /// The interval that holds the share with 95 %.
    pub fn bounds(self) -> (f64, f64) {
        crate::stats::clopper_pearson(self.hits, self.cases)
    }
}

impl Figures {
    /// The figure of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.found.get(name).copied()
    }

    /// What a share rests on; `None` for what is no share.
    pub fn evidence(&self, name: &str) -> Option<Evidence> {
        // A suite is as many scenarios; in which of them alarms came together is not known, so each
        // counts as one suite.
        let suites = |Evidence { hits, cases }: Evidence| {
            let suites = cases / SCENARIOS;
            Evidence { hits: hits.min(suites), cases: suites }
        };
        let known = self.evidence.get(name).copied();
        if name.starts_with("suite_") { known.map(suites) } else { known }
    }

    pub(super) fn set(&mut self, name: &'static str, value: Option<f64>) {
        assert!(FIGURES.iter().any(|figure| figure.name == name), "{name}");
        self.found.extend(value.filter(|value| value.is_finite()).map(|value| (name, value)));
    }

    /// Of a suite's figure the cases are scenarios.
    pub(super) fn rest(&mut self, name: &'static str, hits: usize, cases: usize) {
        let evidence = self.evidence.entry(name).or_default();
        *evidence = Evidence { hits: evidence.hits + hits, cases: evidence.cases + cases };
    }

    /// The mean over environments, each with the same weight; of those that have the figure.
    /// Evidence is added up.
    pub(super) fn mean(of: &[&Figures]) -> Self {
        let mut mean = Self::default();
        for figure in FIGURES {
            let values: Vec<f64> =
                of.iter().filter_map(|figures| figures.get(figure.name)).collect();
            mean.set(figure.name, crate::stats::mean(&values));
        }
        for (name, evidence) in of.iter().flat_map(|figures| &figures.evidence) {
            mean.rest(name, evidence.hits, evidence.cases);
        }
        mean.detectable();
        mean
    }

    /// Fills in the drop that is found in 80 % of cases, linearly between the drops that were
    /// measured; none if even the largest is found less often.
    pub(super) fn detectable(&mut self) {
        const DROPS: [(&str, f64); 6] = [
            ("false_alarm", 0.0),
            ("detect_3", 0.03),
            ("detect_5", 0.05),
            ("detect_7_5", 0.075),
            ("detect_10", 0.10),
            ("detect_20", 0.20),
        ];
        self.found.remove("mde_80");
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

/// Every figure, `null` where there is none, and what shares rest on.
impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = |value: f64| (value * 1e6).round() / 1e6;
        let evidence: BTreeMap<&str, Evidence> =
            FIGURES.iter().filter_map(|one| Some((one.name, self.evidence(one.name)?))).collect();
        let mut map = serializer.serialize_map(None)?;
        for one in FIGURES {
            map.serialize_entry(one.name, &self.get(one.name).map(rounded))?;
        }
        map.serialize_entry("evidence", &evidence)?;
        map.end()
    }
}

/// What is asked of our rule.
#[derive(Debug)]
pub struct Target {
    /// The figure's name.
    pub figure: &'static str,
    /// Quiet, typical, hostile.
    pub bounds: [Bound; 3],
}

/// In which range a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
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

/// What is asked of our rule: `gate.md`, section 7.
#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    Target { figure: "suite_false_alarm", bounds: [AtMost(0.005), AtMost(0.01), AtMost(0.05)] },
    Target { figure: "suite_false_alarm_layout", bounds: [AtMost(0.01), AtMost(0.02), AtMost(0.05)] },
    Target { figure: "detect_3", bounds: [AtMost(0.005), AtMost(0.01), AtMost(0.10)] },
    Target { figure: "pass_5", bounds: [AtMost(0.05), AtMost(0.05), AtMost(0.05)] },
    Target { figure: "detect_7_5", bounds: [AtLeast(0.99), AtLeast(0.95), AtLeast(0.90)] },
    Target { figure: "detect_10", bounds: [AtLeast(0.999), AtLeast(0.99), AtLeast(0.95)] },
    Target { figure: "pass_unchanged", bounds: [AtLeast(0.99), AtLeast(0.97), AtLeast(0.85)] },
    Target { figure: "seconds", bounds: [AtMost(180.0), AtMost(360.0), AtMost(720.0)] },
    Target { figure: "coverage", bounds: [Between(0.93, 0.97), Between(0.92, 0.98), AtLeast(0.90)] },
];

/// A target beside what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Met {
    /// The figure's name.
    pub figure: &'static str,
    /// In which column.
    pub column: NoiseLevel,
    /// What was asked for.
    pub bound: Bound,
    /// What was found; `null` where the pool has nothing to say.
    pub found: Option<f64>,
    /// What that rests on, for shares.
    pub evidence: Option<Evidence>,
    /// Whether it is met.
    pub status: Status,
}

/// Whether a target is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The exact interval of 95 % keeps to it; for what is no share, the value.
    Met,
    /// The value keeps to it, its interval does not: there are too few disjoint cases to tell.
    NotShown,
    /// The value does not keep to it.
    Missed,
    /// The pool has nothing to say.
    NotMeasured,
}

impl Met {
    pub(super) fn all(ours: impl Fn(NoiseLevel) -> Option<Figures>) -> Vec<Met> {
        let columns = NoiseLevel::ALL.map(|column| (column, ours(column)));
        let row = |target: &Target| {
            let (figure, bounds) = (target.figure, target.bounds);
            columns.each_ref().map(|(column, figures)| {
                let bound = bounds[*column as usize];
                let found = figures.as_ref().and_then(|figures| figures.get(figure));
                let evidence = figures.as_ref().and_then(|figures| figures.evidence(figure));
                let status = status(bound, found, evidence, unit(figure));
                Met { figure, column: *column, bound, found, evidence, status }
            })
        };
        TARGETS.iter().flat_map(row).collect()
    }
}

fn unit(name: &str) -> Unit {
    FIGURES.iter().find(|figure| figure.name == name).expect("targets name figures").unit
}

fn status(bound: Bound, found: Option<f64>, evidence: Option<Evidence>, unit: Unit) -> Status {
    let shown = match (unit, evidence) {
        (Unit::Share, None) => false,
        (Unit::Share, Some(evidence)) => {
            let (low, high) = evidence.bounds();
            bound.holds(low) && bound.holds(high)
        }
        _ => true,
    };
    match found {
        None => Status::NotMeasured,
        Some(found) if !bound.holds(found) => Status::Missed,
        Some(_) if shown => Status::Met,
        Some(_) => Status::NotShown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detectable_drop_lies_between_the_measured_ones() {
        let figures = |found: &[(&'static str, f64)]| {
            let mut figures = Figures::default();
            found.iter().for_each(|(name, value)| figures.set(name, Some(*value)));
            figures.detectable();
            figures.get("mde_80")
        };
        assert_eq!(figures(&[]), None);
        assert_eq!(figures(&[("false_alarm", 0.0), ("detect_20", 0.5)]), None);
        assert_eq!(figures(&[("detect_5", 0.6), ("detect_7_5", 1.0)]), Some(0.0625));
        let all = figures(&[("false_alarm", 0.0), ("detect_10", 0.8)]).unwrap();
        assert!((all - 0.10).abs() < 1e-12);
    }

    #[test]
    fn a_target_is_met_where_the_bound_meets_it_and_not_shown_where_only_the_point_does() {
        let rate = |hits, cases| Some(Evidence { hits, cases });
        for (bound, found, evidence, expected) in [
            (AtMost(0.005), Some(0.0), rate(0, 30), Status::NotShown), // At most 11.6 %.
            (AtMost(0.12), Some(0.0), rate(0, 30), Status::Met),
            (AtMost(0.005), Some(0.0), rate(0, 0), Status::NotShown),
            (AtMost(0.005), Some(0.0), None, Status::NotShown),
            (AtMost(0.005), Some(0.01), rate(0, 30), Status::Missed),
            (AtLeast(0.9), Some(1.0), rate(30, 30), Status::NotShown), // At least 88.4 %.
            (AtLeast(0.88), Some(1.0), rate(30, 30), Status::Met),
            (Between(0.5, 0.99), Some(0.95), rate(95, 100), Status::Met),
            (AtLeast(0.9), None, None, Status::NotMeasured),
        ] {
            assert_eq!(
                status(bound, found, evidence, Unit::Share),
                expected,
                "{bound:?} {evidence:?}"
            );
        }
        assert_eq!(status(AtMost(180.0), Some(100.0), None, Unit::Seconds), Status::Met);
    }

    #[test]
    fn a_suite_is_as_many_scenarios_and_every_alarm_one_of_them() {
        let mut figures = Figures::default();
        figures.rest("suite_false_alarm", 0, 30);
        let mut more = Figures::default();
        more.rest("suite_false_alarm", 3, 30);
        let both = Figures::mean(&[&figures, &more]);
        assert_eq!(figures.evidence("suite_false_alarm"), Some(Evidence { hits: 0, cases: 1 }));
        assert_eq!(both.evidence("suite_false_alarm"), Some(Evidence { hits: 3, cases: 3 }));
        assert_eq!(both.evidence("detect_5"), None);
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
        for target in TARGETS {
            assert!(FIGURES.iter().any(|figure| figure.name == target.figure));
        }
        assert!(AtMost(0.05).holds(0.05) && !AtMost(0.05).holds(0.051));
        assert!(AtLeast(0.9).holds(0.9) && !AtLeast(0.9).holds(0.89));
        assert!(Between(0.93, 0.97).holds(0.97) && !Between(0.93, 0.97).holds(0.98));
    }
}
