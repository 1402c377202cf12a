//! Withdraws verdicts on changes that no change of a program makes. If the machine changed, the
//! numbers show the machine: then no pass or improvement stands, and no regression that the machine
//! explains. A regression that it does not explain stands, however large it is: a candidate that
//! hangs has to fail.

use crate::compare::{Finding, Verdict, Why};
use crate::record::{KernelTimes, Record};
use crate::stats;
use crate::workload::metric;

/// A machine whose rates changed by more than this share counts as another machine.
const OTHER_MACHINE: f64 = 0.30;

/// No change of a program moves the cost of most timed metrics by more than this share, all in one
/// direction.
const MAX_COMMON_CHANGE: f64 = 0.70;

/// A measured roofline may be exceeded by this factor before a number is impossible; the validity
/// checks use the same.
const ROOFLINE_TOLERANCE: f64 = 1.25;

/// Withdraws implausible verdicts on a run against its baseline, and returns notes that say why.
pub(super) fn withdraw_implausible(
    findings: &mut [Finding],
    baseline: &Record,
    current: &Record,
) -> Vec<String> {
    let roofline_fraction = |finding: &Finding| {
        let metric = match finding.metric?.kind() {
            "decode" => metric::ROOFLINE_FRACTION,
            "ttft" | "prefill" => metric::PREFILL_FLOP_FRACTION,
            _ => return None,
        };
        stats::median(&baseline.case(&finding.scenario)?.values(metric))
    };
    withdraw(findings, RateRatios::between(baseline, current), &roofline_fraction)
}

/// The same for a pair. Both builds ran on the same machine, whose rates are not measured: it
/// explains no regression, and its roofline limits no improvement.
pub(super) fn withdraw_implausible_of_pair(findings: &mut [Finding]) -> Vec<String> {
    withdraw(findings, RateRatios::default(), &|_| None)
}

fn withdraw(
    findings: &mut [Finding],
    rates: RateRatios,
    roofline_fraction: &dyn Fn(&Finding) -> Option<f64>,
) -> Vec<String> {
    let timed_change = |(at, finding): (usize, &Finding)| {
        let (metric, change) = (finding.metric?, finding.change.as_ref()?);
        let timed = TimedChange {
            kind: metric.kind(),
            verdict: finding.verdict.clone(),
            theta: change.theta,
            margin: change.margin,
            roofline_fraction: roofline_fraction(finding),
        };
        (metric.kind() != "memory").then_some((at, timed))
    };
    let (places, all): (Vec<usize>, Vec<TimedChange>) =
        findings.iter().enumerate().filter_map(timed_change).unzip();
    let reasons = implausible(&all, rates);
    let mut notes = Vec::new();
    let count =
        |which: Implausible| reasons.iter().filter(|reason| **reason == Some(which)).count();
    if count(Implausible::MachineChanged) > 0 {
        let rate =
            |what: &str, now: Option<f64>| Some(format!("{what} {:+.0} %", 100.0 * (now? - 1.0)));
        let changed = [rate("reading", rates.reading), rate("computing", rates.computing)];
        notes.push(format!(
            "check the machine: its rates changed since the baseline ({}), which may explain {} of \
             {} timed metrics",
            changed.into_iter().flatten().collect::<Vec<_>>().join(", "),
            count(Implausible::MachineChanged),
            all.len(),
        ));
    }
    if count(Implausible::MostMoved) > 0 {
        notes.push(format!(
            "check the machine: more than half of the timed metrics ({} of {}) moved by more than \
             {:.0} % in one direction, which a program hardly does",
            count(Implausible::MostMoved),
            all.len(),
            100.0 * MAX_COMMON_CHANGE
        ));
    }
    for (at, reason) in places.into_iter().zip(reasons).filter(|(_, reason)| reason.is_some()) {
        let finding = &mut findings[at];
        finding.verdict = Verdict::Undecided(Why::Implausible);
        if let (Some(Implausible::BeyondRoofline), Some(metric)) = (reason, finding.metric) {
            notes.push(format!(
                "check the machine: {} of {} improved beyond the measured roofline",
                metric.label, finding.scenario
            ));
        }
    }
    notes
}

/// A change of a timed metric with its verdict.
struct TimedChange {
    kind: &'static str,
    verdict: Verdict,
    theta: f64,
    margin: f64,
    /// Of the baseline.
    roofline_fraction: Option<f64>,
}

/// Why a verdict is withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Implausible {
    MachineChanged,
    /// Most timed metrics moved too far in one direction.
    MostMoved,
    BeyondRoofline,
}

/// Rates of the machine relative to the baseline's; `None` where both were not measured in the same
/// way.
#[derive(Debug, Clone, Copy, Default)]
struct RateRatios {
    reading: Option<f64>,
    computing: Option<f64>,
}

impl RateRatios {
    /// From the measured rates or the reference kernels, whichever changed more.
    fn between(baseline: &Record, current: &Record) -> Self {
        let (before, now) = (&baseline.machine.rates, &current.machine.rates);
        let same_rates =
            before.read_huge_bytes_per_s.is_some() == now.read_huge_bytes_per_s.is_some();
        let read = if same_rates {
            ratio(now.best_read_bytes_per_s(), before.best_read_bytes_per_s())
        } else {
            ratio(now.read_bytes_per_s, before.read_bytes_per_s)
        };
        // Rates that were measured with different instructions cannot be compared.
        let computed = ratio(now.f32_flop_per_s, before.f32_flop_per_s);
        let computed = computed.filter(|_| before.isa == now.isa);
        // A rate is the inverse of seconds.
        let kernel = |of: fn(&KernelTimes) -> f64| {
            ratio(median_seconds(baseline, of), median_seconds(current, of))
        };
        Self {
            reading: larger_change(read, kernel(|times| times.stream_s)),
            computing: larger_change(computed, kernel(|times| times.compute_s)),
        }
    }

    /// The rate that bounds a kind of metric: decoding reads every weight per token, prompts are
    /// arithmetic, pipelines do both.
    fn of(self, kind: &str) -> Option<f64> {
        match kind {
            "decode" => self.reading,
            "ttft" | "prefill" => self.computing,
            "items" => larger_change(self.reading, self.computing),
            _ => None,
        }
    }
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    let usable = |value: &f64| value.is_finite() && *value > 0.0;
    Some(one.filter(usable)? / other.filter(usable)?)
}

/// The ratio that is farther from 1.
fn larger_change(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    let both = one.into_iter().chain(other);
    both.max_by(|one, other| one.ln().abs().total_cmp(&other.ln().abs()))
}

/// Median seconds of a reference kernel around the blocks of a record.
fn median_seconds(record: &Record, of: fn(&KernelTimes) -> f64) -> Option<f64> {
    let blocks = record.scenarios.iter().flat_map(|case| &case.blocks);
    let seconds = blocks.flat_map(|block| block.references.iter().flatten().map(of));
    stats::median(&seconds.collect::<Vec<f64>>())
}

/// Of each timed metric, why its verdict is withdrawn. All that were judged together are compared.
fn implausible(all: &[TimedChange], rates: RateRatios) -> Vec<Option<Implausible>> {
    let far = MAX_COMMON_CHANGE.ln_1p();
    let most =
        |is: &dyn Fn(f64) -> bool| 2 * all.iter().filter(|one| is(one.theta)).count() > all.len();
    let (faster, slower) = (most(&|theta| theta < -far), most(&|theta| theta > far));
    let each = all.iter().map(|one| {
        let ratio = rates.of(one.kind);
        let other_machine = ratio.filter(|ratio| (ratio - 1.0).abs() > OTHER_MACHINE);
        match one.verdict {
            Verdict::Pass | Verdict::SlowerWithin | Verdict::Improved => {
                let too_far = (faster && one.theta < -far) || (slower && one.theta > far);
                let limit = ROOFLINE_TOLERANCE * ratio.unwrap_or(1.0).max(1.0);
                let fraction = one.roofline_fraction.map(|before| before * (-one.theta).exp());
                if other_machine.is_some() {
                    Some(Implausible::MachineChanged)
                } else if too_far {
                    Some(Implausible::MostMoved)
                } else {
                    fraction
                        .is_some_and(|fraction| fraction > limit)
                        .then_some(Implausible::BeyondRoofline)
                }
            }
            Verdict::Regressed { .. } => {
                let explains = |ratio: &f64| one.theta + ratio.ln() < one.margin;
                other_machine.filter(explains).map(|_| Implausible::MachineChanged)
            }
            _ => None,
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::record;
    use crate::compare::{Outcome, Policy, judge};

    const REGRESSED: Verdict = Verdict::Regressed { proven: true, critical: true };

    fn moved(verdict: Verdict, theta: f64) -> TimedChange {
        TimedChange { kind: "decode", verdict, theta, margin: 0.05, roofline_fraction: None }
    }

    #[test]
    fn a_change_that_the_machine_explains_is_implausible() {
        for (reading, verdict, theta, expected) in [
            (1.29, Verdict::Improved, -0.2, None),
            (1.31, Verdict::Improved, -0.2, Some(Implausible::MachineChanged)),
            (0.69, Verdict::Pass, 0.0, Some(Implausible::MachineChanged)),
            (0.71, Verdict::Pass, 0.0, None),
            // The machine explains ln 2 of it.
            (0.50, REGRESSED, 0.70, Some(Implausible::MachineChanged)),
            (0.50, REGRESSED, 0.75, None), // More than the machine explains.
            // A change of 20 % is still the same machine.
            (0.80, REGRESSED, 0.20, None),
            (2.00, REGRESSED, 0.70, None), // It became faster.
            (0.50, Verdict::Undecided(Why::Noisy), 0.0, None),
        ] {
            let machine = RateRatios { reading: Some(reading), computing: None };
            let found = implausible(&[moved(verdict.clone(), theta)], machine);
            assert_eq!(found, [expected], "{reading} {verdict:?} {theta}");
            let other = RateRatios { reading: None, computing: Some(reading) };
            let found = implausible(&[moved(verdict.clone(), theta)], other);
            assert_eq!(found, [None], "decode is bound by reading: {reading} {verdict:?} {theta}");
        }
    }

    #[test]
    fn it_is_implausible_that_most_metrics_move_far_in_one_direction() {
        let unchanged = || moved(Verdict::Pass, 0.0);
        // ln 1.7 is 0.5306.
        let better = |theta| moved(Verdict::Improved, theta);
        let most = Some(Implausible::MostMoved);
        for (all, expected) in [
            (vec![better(-3.25)], vec![most]),
            (vec![better(-0.54), better(-0.54), unchanged()], vec![most, most, None]),
            (vec![better(-0.52), better(-0.54), unchanged()], vec![None; 3]),
            (vec![better(-0.54), unchanged()], vec![None; 2]), // Half is not most.
            (vec![better(-0.54), moved(REGRESSED, 0.54)], vec![None; 2]),
            (vec![moved(REGRESSED, 1.6)], vec![None]), // Five times slower stays a regression.
        ] {
            assert_eq!(implausible(&all, RateRatios::default()), expected);
        }
    }

    #[test]
    fn an_improvement_beyond_the_roofline_is_implausible() {
        let at = |fraction, theta| TimedChange {
            roofline_fraction: Some(fraction),
            ..moved(Verdict::Improved, theta)
        };
        let unchanged = || moved(Verdict::Pass, 0.0);
        for (share, theta, reading, expected) in [
            (0.9, -0.40, 1.0, Some(Implausible::BeyondRoofline)), // 0.9 × 1.49 is 1.34.
            (0.9, -0.30, 1.0, None),                              // 0.9 × 1.35 is 1.21.
            (0.9, -0.40, 1.2, None),                              // The roofline rose, too.
            (0.5, -0.50, 1.0, None),
        ] {
            let machine = RateRatios { reading: Some(reading), computing: None };
            let found = implausible(&[at(share, theta), unchanged(), unchanged()], machine);
            assert_eq!(found[0], expected, "{share} {theta} {reading}");
        }
    }

    #[test]
    fn a_run_on_a_machine_of_half_the_rate_is_undecided_and_says_what_to_check() {
        let steady: &[&[f64]] =
            &[&[100.0, 101.0, 99.0], &[100.5, 99.5, 100.0], &[99.8, 100.2, 100.1]];
        let mut base = record(&[("code/b1", &[("decode_tok_s", steady)])]);
        base.machine.rates.read_bytes_per_s = Some(40e9);
        let judged = |speed: f64, read: f64| {
            let blocks = [speed, 1.01 * speed, 0.99 * speed];
            let mut now = record(&[("code/b1", &[("decode_tok_s", &[&blocks])])]);
            now.machine.rates.read_bytes_per_s = Some(read);
            judge(&base, &now, &Policy::default())
        };
        let implausible = Verdict::Undecided(Why::Implausible);
        for (speed, read, verdict, outcome) in [
            (2591.0, 20e9, implausible.clone(), Outcome::Undecided),
            (2591.0, 40e9, implausible.clone(), Outcome::Undecided),
            (100.0, 40e9, Verdict::Pass, Outcome::Pass),
            (100.0, 20e9, implausible.clone(), Outcome::Undecided),
            (50.0, 20e9, implausible, Outcome::Undecided),
            (20.0, 20e9, REGRESSED, Outcome::Regression),
            (20.0, 40e9, REGRESSED, Outcome::Regression),
        ] {
            let judgement = judged(speed, read);
            let found = (&judgement.findings[0].verdict, judgement.outcome);
            assert_eq!(found, (&verdict, outcome), "{speed} tok/s, {read} bytes/s");
            let noted = judgement.notes.iter().any(|note| note.starts_with("check the machine: "));
            assert_eq!(noted, outcome == Outcome::Undecided, "{:?}", judgement.notes);
            assert!(judgement.open().is_empty(), "more blocks would decide nothing");
        }
    }

    #[test]
    fn reference_kernels_show_a_changed_machine() {
        let with = |stream_s: f64| {
            let mut record = record(&[("code/b1", &[("decode_tok_s", &[&[100.0; 3]])])]);
            let kernels = KernelTimes { compute_s: 0.001, stream_s, dispatch_s: 0.002 };
            record.scenarios[0].blocks[1].references = Some([kernels; 2]);
            record
        };
        let machine = RateRatios::between(&with(0.005), &with(0.010));
        assert_eq!((machine.reading, machine.computing), (Some(0.5), Some(1.0)));
        let mut rated = (with(0.005), with(0.005));
        rated.0.machine.rates.read_bytes_per_s = Some(30e9);
        rated.1.machine.rates.read_bytes_per_s = Some(60e9);
        rated.1.machine.rates.read_huge_bytes_per_s = Some(90e9);
        let machine = RateRatios::between(&rated.0, &rated.1);
        assert_eq!(machine.reading, Some(2.0), "the rate that both measured");
        assert_eq!(machine.of("memory"), None);
    }
}
