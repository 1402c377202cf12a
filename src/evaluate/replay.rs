//! Virtual suites drawn from one environment and judged by one rule. A rule's inputs depend only on
//! the block at which they start: they are prepared once, and a virtual suite looks them up.

use std::collections::BTreeMap;

use crate::evaluate::environment::{EnvironmentData, PairedSeries, VirtualSuite, inputs};
use crate::evaluate::figures::{Figures, SUITE_SCENARIOS};
use crate::evaluate::gate_rule::GateInput;
use crate::evaluate::rule::{RuleInput, RuleOutput, RuleVerdict};
use crate::evaluate::rules::{Rule, RuleKind};
use crate::record::pool::Role;
use crate::stats::Random;
use crate::workload::Metric;

/// Slowed arms, with the names of their figures: how often the rule calls them regressed, and how
/// often they pass.
const SLOWED_ARMS: [(Role, &str, Option<&str>); 7] = [
    (Role::Decode(0.03), "detect_3", Some("pass_3")),
    (Role::Decode(0.05), "detect_5", Some("pass_5")),
    (Role::Decode(0.075), "detect_7_5", Some("pass_7_5")),
    (Role::Decode(0.10), "detect_10", None),
    (Role::Decode(0.20), "detect_20", None),
    (Role::Ttft(0.20), "detect_ttft_20", None),
    (Role::Memory(0.20), "detect_memory_20", None),
];

type Count = fn(&Tally) -> usize;

/// The figures of one rule in one environment.
pub(super) fn replay(
    environment: &EnvironmentData,
    suites: &[VirtualSuite],
    rule: &Rule,
    judged: usize,
    seed: u64,
) -> Figures {
    let mut figures = Figures::default();
    // Over the arms whose true change is known.
    let mut known = Tally::default();
    let mut known_disjoint = Tally::default();
    for (arm, role) in &environment.arms {
        let prepared = PreparedRule::new(environment, rule, *arm, *role, judged);
        let tally = prepared.judge_suites(suites);
        if tally.metrics == 0 {
            continue;
        }
        let disjoint = prepared.judge_disjoint_blocks(seed);
        let share = |count: usize, all: usize| Some(count as f64 / all as f64);
        let mut rate = |name, hits: Count, of: Count| {
            figures.set(name, share(hits(&tally), of(&tally)));
            figures.add_proportion(name, hits(&disjoint), of(&disjoint));
        };
        let (metrics, suites): (Count, Count) = (|tally| tally.metrics, |tally| tally.suites);
        let (regressed, passed): (Count, Count) = (|tally| tally.regressed, |tally| tally.passed);
        match *role {
            Role::Base => {}
            Role::Copy => {
                rate("false_alarm", regressed, metrics);
                rate("suite_false_alarm", |tally| tally.alarms, suites);
                rate("pass_unchanged", passed, metrics);
                rate("inconclusive", |tally| tally.undecided, metrics);
                figures.set("suite_pass_unchanged", share(tally.clean, tally.suites));
                figures.set("blocks", share(tally.blocks, tally.metrics));
                figures.set("seconds", Some(tally.seconds / tally.suites as f64));
            }
            Role::Layout => {
                rate("false_alarm_layout", regressed, metrics);
                rate("suite_false_alarm_layout", |tally| tally.alarms, suites);
            }
            Role::Decode(_) | Role::Ttft(_) | Role::Memory(_) => {
                let slowed = SLOWED_ARMS.iter().find(|(slowed, ..)| slowed == role);
                if let Some((_, detect, pass)) = slowed {
                    rate(detect, regressed, metrics);
                    pass.iter().for_each(|pass| rate(pass, passed, metrics));
                }
            }
        }
        // The true change of another layout is unknown, and a derived arm repeats its copy.
        if *role != Role::Layout && !environment.derived.contains(arm) {
            known.add_estimates(&tally);
            known_disjoint.add_estimates(&disjoint);
        }
    }
    let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
    figures.set("coverage", mean(known.covered as f64, known.intervals));
    figures.add_proportion("coverage", known_disjoint.covered, known_disjoint.intervals);
    figures.set("bias", mean(known.error, known.estimates));
    figures.set_detectable_drop();
    figures
}

/// A rule with its inputs for one arm, starting at every block.
struct PreparedRule<'a> {
    environment: &'a EnvironmentData<'a>,
    rule: &'a Rule,
    judged: usize,
    /// By case, then by metric.
    cases: Vec<Vec<PreparedMetric<'a>>>,
}

struct PreparedMetric<'a> {
    metric: &'static Metric,
    /// The true change.
    theta: f64,
    /// By the block at which the input starts.
    starts: Starts<'a>,
}

enum Starts<'a> {
    /// The verdict itself, where a metric is judged by itself.
    Outputs(Vec<RuleOutput>),
    /// The input of a joint verdict.
    Inputs(Vec<GateInput<'a>>),
}

impl<'a> PreparedRule<'a> {
    fn new(
        environment: &'a EnvironmentData<'a>,
        rule: &'a Rule,
        arm: char,
        role: Role,
        judged: usize,
    ) -> Self {
        let prepare = |(metric, arms): &'a (&'static Metric, BTreeMap<char, PairedSeries>)| {
            let inputs = inputs(arms.get(&arm)?, metric);
            let starts = match &rule.kind {
                RuleKind::PerMetric(decide, threshold) => {
                    let output = |input: RuleInput| decide(&input, threshold.of(&input));
                    Starts::Outputs(inputs.map(output).collect())
                }
                RuleKind::Joint(gate) => {
                    Starts::Inputs(inputs.map(|input| gate.prepare(input)).collect())
                }
            };
            Some(PreparedMetric { metric, theta: role.theta(metric.kind()), starts })
        };
        let cases = environment
            .cases
            .iter()
            .map(|case| case.series.iter().filter_map(prepare).collect())
            .collect();
        Self { environment, rule, judged, cases }
    }

    fn judge_suites(&self, suites: &[VirtualSuite]) -> Tally {
        let mut tally = Tally::default();
        for suite in suites {
            let judged = self.judge(suite);
            let (mut seconds, mut longest) = (0.0, 0);
            for ((case, start), outputs) in suite.iter().zip(&judged) {
                let blocks = most_blocks(outputs);
                let elapsed_s = &self.environment.cases[*case].elapsed_s;
                seconds += elapsed_s[start + blocks] - elapsed_s[*start];
                longest = longest.max(blocks);
            }
            tally.seconds += seconds + self.environment.load_s * longest as f64;
            tally.add(&Tally::of(judged.iter().flatten()));
        }
        tally
    }

    /// Judges every scenario again and again, each time on blocks that none of its earlier verdicts
    /// used. The rest of the suite, with which it is judged jointly, is drawn as in any other.
    fn judge_disjoint_blocks(&self, seed: u64) -> Tally {
        let environment = self.environment;
        let mut random = Random::new(seed ^ 0xd15_501);
        let mut tally = Tally::default();
        let mut next: Vec<(usize, usize)> = (0..self.cases.len()).map(|case| (case, 0)).collect();
        while !next.is_empty() {
            let mut suite = next.clone();
            suite.truncate(SUITE_SCENARIOS);
            let own = suite.len();
            suite.extend((own..SUITE_SCENARIOS).map(|_| environment.draw_scenario(&mut random)));
            let outputs = self.judge(&suite);
            let mut left = next.split_off(own);
            for ((case, start), outputs) in next.into_iter().zip(&outputs) {
                let blocks = most_blocks(outputs);
                if blocks == 0 || start + blocks > environment.blocks() {
                    continue;
                }
                tally.add(&Tally::of(outputs.iter()));
                left.push((case, start + blocks));
            }
            next = left.into_iter().filter(|(_, start)| *start < environment.blocks()).collect();
        }
        tally
    }

    /// Judges a suite: for every scenario its metrics' true changes and the rule's outputs.
    fn judge(&self, suite: &[(usize, usize)]) -> Vec<Vec<(f64, RuleOutput)>> {
        let mut outputs: Vec<Vec<(f64, RuleOutput)>> = vec![Vec::new(); suite.len()];
        let mut by_kind: BTreeMap<&str, Vec<(usize, f64, &GateInput)>> = BTreeMap::new();
        for (at, (case, start)) in suite.iter().enumerate() {
            for one in &self.cases[*case] {
                match &one.starts {
                    Starts::Outputs(known) => outputs[at].push((one.theta, known[*start])),
                    Starts::Inputs(inputs) => by_kind.entry(one.metric.kind()).or_default().push((
                        at,
                        one.theta,
                        &inputs[*start],
                    )),
                }
            }
        }
        if let RuleKind::Joint(gate) = &self.rule.kind {
            for members in by_kind.into_values() {
                let inputs: Vec<&GateInput> = members.iter().map(|(.., input)| *input).collect();
                let decided = gate.decide(&inputs, self.judged);
                for ((at, theta, _), output) in members.into_iter().zip(decided) {
                    outputs[at].push((theta, output));
                }
            }
        }
        outputs
    }
}

fn most_blocks(outputs: &[(f64, RuleOutput)]) -> usize {
    outputs.iter().map(|(_, output)| output.blocks).max().unwrap_or(0)
}

/// Counts of verdicts.
#[derive(Debug, Clone, Default)]
struct Tally {
    metrics: usize,
    regressed: usize,
    passed: usize,
    undecided: usize,
    /// Suites, or scenarios, with any regressed metric.
    alarms: usize,
    /// Suites, or scenarios, whose metrics all pass.
    clean: usize,
    /// Suites, or scenarios.
    suites: usize,
    intervals: usize,
    covered: usize,
    estimates: usize,
    /// Sum of estimated minus true θ.
    error: f64,
    blocks: usize,
    seconds: f64,
}

impl Tally {
    /// Of one suite or scenario: true changes and outputs.
    fn of<'a>(outputs: impl Iterator<Item = &'a (f64, RuleOutput)>) -> Self {
        let mut one = Self { suites: 1, ..Self::default() };
        for (theta, output) in outputs {
            one.metrics += 1;
            match output.verdict {
                RuleVerdict::Regressed => one.regressed += 1,
                RuleVerdict::Pass => one.passed += 1,
                RuleVerdict::Undecided => one.undecided += 1,
            }
            if let Some(interval) = output.interval {
                one.intervals += 1;
                one.covered += usize::from(interval.lo <= *theta && *theta <= interval.hi);
            }
            if let Some(estimate) = output.theta {
                one.estimates += 1;
                one.error += estimate - theta;
            }
            one.blocks += output.blocks;
        }
        one.alarms = usize::from(one.regressed > 0);
        one.clean = usize::from(one.passed == one.metrics);
        one
    }

    fn add(&mut self, other: &Self) {
        self.metrics += other.metrics;
        self.regressed += other.regressed;
        self.passed += other.passed;
        self.undecided += other.undecided;
        self.alarms += other.alarms;
        self.clean += other.clean;
        self.suites += other.suites;
        self.blocks += other.blocks;
        self.add_estimates(other);
    }

    fn add_estimates(&mut self, other: &Self) {
        self.intervals += other.intervals;
        self.covered += other.covered;
        self.estimates += other.estimates;
        self.error += other.error;
    }
}
