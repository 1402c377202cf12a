//! Whether changes are such as a change of a program makes. Where the machine changed, numbers tell
//! of the machine: then no verdict for the better stands, and none for the worse that the machine
//! explains. A regression that it does not explain stands, however large it is: a candidate that
//! hangs has to be red.

use crate::compare::{Finding, Verdict, Why};
use crate::record::{Record, References};
use crate::stats;

/// A machine that reads or computes faster or slower by more than this share is another machine.
const OTHER_MACHINE: f64 = 0.30;

/// No change of a program moves the cost of most of what is timed by more than this share, all in
/// one direction.
const TOO_MUCH: f64 = 0.70;

/// How far a measured roofline may be exceeded before a number is impossible, as where it is
/// measured.
const TOLERANCE: f64 = 1.25;

/// Takes back what cannot be believed of a run against its baseline; what a reader has to know of
/// it.
pub(super) fn doubt_stored(
    findings: &mut [Finding],
    baseline: &Record,
    current: &Record,
) -> Vec<String> {
    let share = |finding: &Finding| {
        let metric = match finding.metric?.kind() {
            "decode" => "roofline_fraction",
            "ttft" | "prefill" => "prefill_flop_fraction",
            _ => return None,
        };
        stats::median(&baseline.case(&finding.scenario)?.values(metric))
    };
    doubt(findings, Machine::between(baseline, current), &share)
}

/// The same of two builds in turns. Both meet the same machine, whose rates are not measured then:
/// its changes explain no regression, and rooflines limit no improvement.
pub(super) fn doubt_paired(findings: &mut [Finding]) -> Vec<String> {
    doubt(findings, Machine::default(), &|_| None)
}

fn doubt(
    findings: &mut [Finding],
    machine: Machine,
    share: &dyn Fn(&Finding) -> Option<f64>,
) -> Vec<String> {
    let moved = |(at, finding): (usize, &Finding)| {
        let (metric, change) = (finding.metric?, finding.change.as_ref()?);
        let moved = Moved {
            kind: metric.kind(),
            verdict: finding.verdict.clone(),
            theta: change.theta,
            margin: change.margin,
            share: share(finding),
        };
        (metric.kind() != "memory").then_some((at, moved))
    };
    let (places, all): (Vec<usize>, Vec<Moved>) =
        findings.iter().enumerate().filter_map(moved).unzip();
    let doubts = doubts(&all, machine);
    let mut notes = Vec::new();
    let count = |which: Doubt| doubts.iter().filter(|doubt| **doubt == Some(which)).count();
    if count(Doubt::Machine) > 0 {
        let rate =
            |what: &str, now: Option<f64>| Some(format!("{what} {:+.0} %", 100.0 * (now? - 1.0)));
        let rates = [rate("reading", machine.reading), rate("computing", machine.computing)];
        notes.push(format!(
            "check the machine: its rates changed since the baseline ({}), and {} of {} timed metrics \
             may be its doing",
            rates.into_iter().flatten().collect::<Vec<_>>().join(", "),
            count(Doubt::Machine),
            all.len(),
        ));
    }
    if count(Doubt::Most) > 0 {
        notes.push(format!(
            "check the machine: more than half of what was timed ({} of {} metrics) moved by more \
             than {:.0} % in one direction, which is hardly the program's doing",
            count(Doubt::Most),
            all.len(),
            100.0 * TOO_MUCH
        ));
    }
    for (at, doubt) in places.into_iter().zip(doubts).filter(|(_, doubt)| doubt.is_some()) {
        let finding = &mut findings[at];
        finding.verdict = Verdict::Inconclusive(Why::Implausible);
        if let (Some(Doubt::Beyond), Some(metric)) = (doubt, finding.metric) {
            notes.push(format!(
                "check the machine: {} of {} improved beyond what the machine was measured to do",
                metric.label, finding.scenario
            ));
        }
    }
    notes
}

/// One timed metric as it was judged.
struct Moved {
    kind: &'static str,
    verdict: Verdict,
    theta: f64,
    margin: f64,
    /// Of the roofline, before.
    share: Option<f64>,
}

/// Why a verdict is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// The machine is another one.
    Machine,
    /// Most metrics moved too far.
    Most,
    /// The machine cannot do it.
    Beyond,
}

/// How fast the machine is, as a multiple of how fast it was; `None` where both were not measured
/// alike.
#[derive(Debug, Clone, Copy, Default)]
struct Machine {
    reading: Option<f64>,
    computing: Option<f64>,
}

impl Machine {
    /// By the measured rates or by the reference kernels, whichever moved farther.
    fn between(baseline: &Record, current: &Record) -> Self {
        let (before, now) = (&baseline.machine.rates, &current.machine.rates);
        let alike = before.read_huge_bytes_per_s.is_some() == now.read_huge_bytes_per_s.is_some();
        let read = if alike {
            ratio(now.best_read_bytes_per_s(), before.best_read_bytes_per_s())
        } else {
            ratio(now.read_bytes_per_s, before.read_bytes_per_s)
        };
        // Measured with other instructions it is another figure.
        let computed = ratio(now.f32_flop_per_s, before.f32_flop_per_s);
        let computed = computed.filter(|_| before.isa == now.isa);
        // A rate is the inverse of seconds.
        let kernel =
            |of: fn(&References) -> f64| ratio(typical(baseline, of), typical(current, of));
        Self {
            reading: farther(read, kernel(|kernels| kernels.stream_s)),
            computing: farther(computed, kernel(|kernels| kernels.compute_s)),
        }
    }

    /// What a kind of metric moves with: every token reads every weight, prompts are arithmetic,
    /// pipelines do both.
    fn of(self, kind: &str) -> Option<f64> {
        match kind {
            "decode" => self.reading,
            "ttft" | "prefill" => self.computing,
            "items" => farther(self.reading, self.computing),
            _ => None,
        }
    }
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    let usable = |value: &f64| value.is_finite() && *value > 0.0;
    Some(one.filter(usable)? / other.filter(usable)?)
}

/// The multiple that is farther from no change.
fn farther(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    let both = one.into_iter().chain(other);
    both.max_by(|one, other| one.ln().abs().total_cmp(&other.ln().abs()))
}

/// Seconds of a reference kernel around the blocks of a record.
fn typical(record: &Record, of: fn(&References) -> f64) -> Option<f64> {
    let blocks = record.scenarios.iter().flat_map(|case| &case.blocks);
    let seconds = blocks.flat_map(|block| block.references.iter().flatten().map(of));
    stats::median(&seconds.collect::<Vec<f64>>())
}

/// What is to be doubted of all timed metrics that were judged together.
fn doubts(all: &[Moved], machine: Machine) -> Vec<Option<Doubt>> {
    let far = TOO_MUCH.ln_1p();
    let most =
        |is: &dyn Fn(f64) -> bool| 2 * all.iter().filter(|one| is(one.theta)).count() > all.len();
    let (faster, slower) = (most(&|theta| theta < -far), most(&|theta| theta > far));
    let each = all.iter().map(|one| {
        let now = machine.of(one.kind);
        let other = now.filter(|now| (now - 1.0).abs() > OTHER_MACHINE);
        match one.verdict {
            Verdict::Pass | Verdict::SlowerWithin | Verdict::Improved => {
                let too_far = (faster && one.theta < -far) || (slower && one.theta > far);
                let limit = TOLERANCE * now.unwrap_or(1.0).max(1.0);
                let beyond = one.share.is_some_and(|share| share * (-one.theta).exp() > limit);
                if other.is_some() {
                    Some(Doubt::Machine)
                } else if too_far {
                    Some(Doubt::Most)
                } else {
                    beyond.then_some(Doubt::Beyond)
                }
            }
            Verdict::Regressed { .. } => {
                let explains = |now: &f64| one.theta + now.ln() < one.margin;
                other.filter(explains).map(|_| Doubt::Machine)
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

    fn moved(verdict: Verdict, theta: f64) -> Moved {
        Moved { kind: "decode", verdict, theta, margin: 0.05, share: None }
    }

    #[test]
    fn what_a_machine_that_changed_may_have_done_is_doubted() {
        for (reading, verdict, theta, expected) in [
            (1.29, Verdict::Improved, -0.2, None),
            (1.31, Verdict::Improved, -0.2, Some(Doubt::Machine)),
            (0.69, Verdict::Pass, 0.0, Some(Doubt::Machine)),
            (0.71, Verdict::Pass, 0.0, None),
            (0.50, REGRESSED, 0.70, Some(Doubt::Machine)), // ln 2 of it are the machine's.
            (0.50, REGRESSED, 0.75, None),                 // More than the machine explains.
            // It moved too little to be another one.
            (0.80, REGRESSED, 0.20, None),
            (2.00, REGRESSED, 0.70, None), // It became faster.
            (0.50, Verdict::Inconclusive(Why::Noisy), 0.0, None),
        ] {
            let machine = Machine { reading: Some(reading), computing: None };
            let found = doubts(&[moved(verdict.clone(), theta)], machine);
            assert_eq!(found, [expected], "{reading} {verdict:?} {theta}");
            let other = Machine { reading: None, computing: Some(reading) };
            let found = doubts(&[moved(verdict.clone(), theta)], other);
            assert_eq!(found, [None], "decoding reads: {reading} {verdict:?} {theta}");
        }
    }

    #[test]
    fn most_metrics_do_not_move_far_in_one_direction() {
        let nowhere = || moved(Verdict::Pass, 0.0);
        // ln 1.7 is 0.5306.
        let better = |theta| moved(Verdict::Improved, theta);
        let most = Some(Doubt::Most);
        for (all, expected) in [
            (vec![better(-3.25)], vec![most]),
            (vec![better(-0.54), better(-0.54), nowhere()], vec![most, most, None]),
            (vec![better(-0.52), better(-0.54), nowhere()], vec![None; 3]),
            (vec![better(-0.54), nowhere()], vec![None; 2]), // Half is not most.
            (vec![better(-0.54), moved(REGRESSED, 0.54)], vec![None; 2]),
            (vec![moved(REGRESSED, 1.6)], vec![None]), // Five times slower stays red.
        ] {
            assert_eq!(doubts(&all, Machine::default()), expected);
        }
    }

    #[test]
    fn nothing_improves_beyond_the_roofline() {
        let at = |share, theta| Moved { share: Some(share), ..moved(Verdict::Improved, theta) };
        let nowhere = || moved(Verdict::Pass, 0.0);
        for (share, theta, reading, expected) in [
            (0.9, -0.40, 1.0, Some(Doubt::Beyond)), // 0.9 × 1.49 is 1.34.
            (0.9, -0.30, 1.0, None),                // 0.9 × 1.35 is 1.21.
            (0.9, -0.40, 1.2, None),                // The roofline rose, too.
            (0.5, -0.50, 1.0, None),
        ] {
            let machine = Machine { reading: Some(reading), computing: None };
            let found = doubts(&[at(share, theta), nowhere(), nowhere()], machine);
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
        let implausible = Verdict::Inconclusive(Why::Implausible);
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
            let says = judgement.notes.iter().any(|note| note.starts_with("check the machine: "));
            assert_eq!(says, outcome == Outcome::Undecided, "{:?}", judgement.notes);
            assert!(judgement.open().is_empty(), "more blocks would decide nothing");
        }
    }

    #[test]
    fn reference_kernels_tell_of_the_machine_too() {
        let with = |stream_s: f64| {
            let mut record = record(&[("code/b1", &[("decode_tok_s", &[&[100.0; 3]])])]);
            let kernels = References { compute_s: 0.001, stream_s, dispatch_s: 0.002 };
            record.scenarios[0].blocks[1].references = Some([kernels; 2]);
            record
        };
        let machine = Machine::between(&with(0.005), &with(0.010));
        assert_eq!((machine.reading, machine.computing), (Some(0.5), Some(1.0)));
        let mut rated = (with(0.005), with(0.005));
        rated.0.machine.rates.read_bytes_per_s = Some(30e9);
        rated.1.machine.rates.read_bytes_per_s = Some(60e9);
        rated.1.machine.rates.read_huge_bytes_per_s = Some(90e9);
        let machine = Machine::between(&rated.0, &rated.1);
        assert_eq!(machine.reading, Some(2.0), "as both were measured, and the one that moved");
        assert_eq!(machine.of("memory"), None);
    }
}
