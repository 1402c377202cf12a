//! Judges two builds that were measured in turns (`gate.md`, section 3). The unit is the block, a
//! fresh process per arm; what one block says of a metric is one number d, the median over its
//! quads of ln cost of the candidate less that of the base.
//!
//! Verdicts are given at planned looks only, see [`crate::compare::looks`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::looks::{Decision, LOOKS, Levels, PRIOR_FREEDOM, Rule, Summary, Track, decide};
use crate::compare::missing::{Mode, Ruling, State, rule, still_measured};
use crate::compare::{
    BLOCKS_NEEDED, Change, Finding, Interval, Judgement, Measured, Outcome, Policy, SCHEMA,
    Verdict, Why, margin, outcome, plausible, same,
};
use crate::error::command;
use crate::record::AbsenceKind;
use crate::record::calibration::Spread;
use crate::record::pair::{Arm, Ended, Paired, PairedBlock, PairedCase, PairedTurns, Quad, Side};
use crate::stats;
use crate::workload::{METRICS, Metric, Work};

/// What a pair adds to a judgement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Course {
    /// What the candidate is compared with.
    pub base: Arm,
    /// What is judged.
    pub candidate: Arm,
    /// The command that measured.
    pub command: String,
    /// All orders were drawn from it.
    pub seed: u64,
    /// Blocks that count.
    pub blocks: usize,
    /// Blocks that were rejected, with the rule.
    pub rejected: Vec<String>,
    /// The base against a copy of itself; empty where no null control was measured.
    pub null: Vec<Null>,
    /// Why measuring ended.
    pub ended: Ended,
    /// Seconds spent starting processes and loading the model.
    pub load_s: f64,
    /// Seconds spent warming up.
    pub warm_up_s: f64,
    /// Seconds spent in turns.
    pub turns_s: f64,
    /// Seconds in all.
    pub total_s: f64,
    /// Scenarios that are not decided yet; measuring goes on with these.
    pub open: Vec<String>,
}

/// The base against a copy of its own binary: whatever is seen here is the machine's doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Null {
    /// The scenario's id.
    pub scenario: String,
    /// The metric's name.
    pub metric: &'static str,
    /// ln(cost of the copy / cost of the base).
    pub theta: f64,
    /// Holds it with 99 %.
    pub interval: Interval,
    /// More than 1 %, and not by chance.
    pub contaminated: bool,
}

/// What each quad of a block says of a metric; `None` if one that the arm took part in has no
/// value.
pub(crate) fn quad_effects(turns: &PairedTurns, metric: &Metric, arm: char) -> Option<Vec<f64>> {
    let cost = |value| metric.better.cost(value);
    let of = |quad: &Quad| {
        Some(quad.mean_ln(metric.name, arm, cost)? - quad.mean_ln(metric.name, 'A', cost)?)
    };
    turns.quads.iter().filter(|quad| quad.order.contains(arm)).map(of).collect()
}

/// What one block says of a metric: the median of its quads from three on, their mean below.
pub fn block_value(turns: &PairedTurns, metric: &Metric, arm: char) -> Option<f64> {
    let cost = |value| metric.better.cost(value);
    if let Some(values) = turns.once.get(metric.name) {
        let ln = |arm: char| {
            values
                .get(&arm)
                .filter(|value| **value > 0.0 && value.is_finite())
                .map(|value| cost(*value).ln())
        };
        return Some(ln(arm)? - ln('A')?);
    }
    let effects = quad_effects(turns, metric, arm)?;
    if effects.len() >= 3 { stats::median(&effects) } else { stats::mean(&effects) }
}

/// Judges two builds that were measured in turns.
pub fn judge(paired: &Paired, policy: &Policy) -> Judgement {
    let differences = same::between_arms(&paired.base, &paired.candidate);
    let over = paired.ended != Ended::Open;
    let same_binary = paired.base.build.binary_sha256.is_some()
        && paired.base.build.binary_sha256 == paired.candidate.build.binary_sha256;
    let mut rows = Vec::new();
    for case in &paired.scenarios {
        let removed = policy.removed.get(&case.id).map(String::as_str);
        let (base, candidate) = states(case, paired);
        match rule(Mode::Paired, base, candidate, removed) {
            _ if paired.ended == Ended::Identical => {
                rows.push(Row::Said(case, None, Verdict::Identical));
            }
            Ruling::Silent => {}
            Ruling::Verdict(verdict) => rows.push(Row::Said(case, None, verdict)),
            Ruling::Judge => match other_work(case, paired) {
                Some(verdict) => rows.push(Row::Said(case, None, verdict)),
                None => rows.extend(metrics(case)),
            },
        }
    }
    let judged = rows.iter().filter(|row| matches!(row, Row::Judged(..))).count();
    let null = null(paired);
    let bias = null
        .iter()
        .filter(|null| null.contaminated)
        .map(|null| null.theta.abs())
        .fold(0.0, f64::max);
    let jury = Jury {
        paired,
        levels: Levels::in_turns(policy.alpha, judged),
        same_binary,
        bias,
        over,
        policy,
    };
    let mut decisions = jury.decisions(&rows).into_iter();
    let mut next = || decisions.next().expect("every judged metric has its decision");
    let mut findings: Vec<Finding> = rows
        .iter()
        .map(|row| match row {
            Row::Said(case, metric, verdict) => Finding::said(&case.id, *metric, verdict.clone()),
            Row::Judged(case, metric) => jury.finding(case, metric, next()),
        })
        .collect();
    let doubts = plausible::doubt_paired(&mut findings);
    // What is undecided is decided by more time, not by another base.
    let is_said = |finding: &Finding| {
        finding.change.is_some()
            || matches!(finding.verdict, Verdict::Inconclusive(_) | Verdict::Identical)
    };
    let nothing = !findings.iter().any(is_said);
    let stopped = matches!(paired.ended, Ended::Open | Ended::Budget | Ended::Interrupted);
    let outcome = match paired.ended {
        Ended::Failed(_) => Outcome::Failed,
        _ if stopped && paired.blocks.is_empty() => Outcome::Undecided,
        _ => outcome(&findings, nothing, policy),
    };
    // More blocks make no change plausible.
    let undecided = |finding: &&Finding| match finding.verdict {
        Verdict::Inconclusive(why) => why != Why::Implausible,
        _ => false,
    };
    let mut open: Vec<String> = Vec::new();
    for finding in findings.iter().filter(undecided) {
        if !open.contains(&finding.scenario) {
            open.push(finding.scenario.clone());
        }
    }
    let (rejected, counted): (Vec<_>, Vec<_>) =
        paired.blocks.iter().partition(|block| block.rejected.is_some());
    let seconds = |of: fn(&PairedBlock) -> f64| paired.blocks.iter().map(of).sum();
    let course = Course {
        base: paired.base.clone(),
        candidate: paired.candidate.clone(),
        command: command(&paired.session.command),
        seed: paired.seed,
        blocks: counted.len(),
        rejected: rejected.into_iter().filter_map(|block| block.rejected.clone()).collect(),
        null,
        ended: paired.ended.clone(),
        load_s: seconds(|block| block.load_s),
        warm_up_s: seconds(|block| block.warm_up_s),
        turns_s: seconds(|block| block.turns_s),
        total_s: seconds(|block| block.total_s),
        open,
    };
    let mut notes = same::pair_notes(paired, &course);
    notes.extend(still_measured(policy, |id| {
        let case = paired.scenarios.iter().find(|case| case.id == id);
        case.is_some_and(|case| case.candidate.absent.is_none())
    }));
    notes.extend(doubts);
    Judgement {
        schema: SCHEMA,
        outcome,
        reason: None,
        judged,
        differences,
        notes,
        findings,
        drift: Vec::new(),
        policy: policy.clone(),
        baseline_commit: None,
        course: Some(course),
        measured: measured(paired),
    }
}

/// The turns of both builds.
fn measured(paired: &Paired) -> Measured {
    let seconds = |case: &PairedCase| {
        let quads = case.blocks.iter().flat_map(|turns| &turns.quads);
        let all: f64 = quads.filter_map(|quad| quad.values.get("e2e_s")).flatten().sum();
        (all > 0.0 && all.is_finite()).then(|| (case.id.clone(), all))
    };
    Measured {
        started: Some(paired.session.started.clone()),
        seconds: paired.scenarios.iter().filter_map(seconds).collect(),
    }
}

enum Row<'a> {
    Said(&'a PairedCase, Option<&'static Metric>, Verdict),
    Judged(&'a PairedCase, &'static Metric),
}

/// The metrics that a case is judged by.
fn gated(case: &PairedCase) -> impl Iterator<Item = &'static Metric> {
    let work = case.base.work.as_ref().or(case.candidate.work.as_ref());
    let unknown = || Work { batch: 1, new_tokens: 1, ..Work::default() };
    let work = work.cloned().unwrap_or_else(unknown);
    METRICS.iter().filter(move |metric| metric.gated(&work))
}

/// What the two sides have of a scenario.
fn states<'a>(case: &'a PairedCase, paired: &Paired) -> (State<'a>, State<'a>) {
    let state = |side: &'a Side| match &side.absent {
        Some(absent) => absent.into(),
        None if side.failed.is_empty() => State::Valid,
        None => State::Invalid(&side.failed),
    };
    let (base, candidate) = (state(&case.base), state(&case.candidate));
    // Where outputs part nothing is timed either, and that is another matter.
    let unmeasured =
        case.base.work.is_none() && case.candidate.work.is_none() && case.parting.is_none();
    match candidate {
        State::Valid if unmeasured => (base, State::Absent(not_reached(paired), "")),
        candidate => (base, candidate),
    }
}

/// Why a scenario has had no turn.
fn not_reached(paired: &Paired) -> AbsenceKind {
    match paired.ended {
        Ended::Budget => AbsenceKind::SkippedTime,
        _ => AbsenceKind::NotMeasuredYet,
    }
}

/// Why the numbers of two valid sides are not of the same work.
fn other_work(case: &PairedCase, paired: &Paired) -> Option<Verdict> {
    if let (Some(base), Some(candidate)) = (&case.base.work, &case.candidate.work)
        && let Some(difference) = same::work(base, candidate)
    {
        return Some(Verdict::NotComparable(difference));
    }
    if paired.output_change.is_none()
        && let Some(parting) = &case.parting
    {
        return Some(Verdict::OutputChanged(Some(same::parting(parting))));
    }
    match (&case.base.output_sha256, &case.candidate.output_sha256) {
        (Some(base), Some(candidate)) if base != candidate && paired.output_change.is_none() => {
            Some(Verdict::OutputChanged(None))
        }
        // It never had a turn, and which metrics it has depends on its work.
        _ if case.base.work.is_none() && case.candidate.work.is_none() => {
            Some(Verdict::Inconclusive(Why::TooFewBlocks))
        }
        _ => None,
    }
}

/// The metrics of two valid sides.
fn metrics(case: &PairedCase) -> impl Iterator<Item = Row<'_>> {
    gated(case).filter_map(move |metric| {
        let both = || case.blocks.iter().any(|turns| block_value(turns, metric, 'B').is_some());
        let base = match value(&case.base, metric) {
            State::NoValue(_) if both() => State::Valid, // It has it, if not in every block.
            base => base,
        };
        match rule(Mode::Paired, base, value(&case.candidate, metric), None) {
            Ruling::Silent => None,
            Ruling::Verdict(verdict) => Some(Row::Said(case, Some(metric), verdict)),
            Ruling::Judge => Some(Row::Judged(case, metric)),
        }
    })
}

/// What a side has of a metric.
fn value<'a>(side: &'a Side, metric: &Metric) -> State<'a> {
    side.no_value.get(metric.name).map_or(State::Valid, |why| State::NoValue(why))
}

/// What every metric of a pair is judged by.
struct Jury<'a> {
    paired: &'a Paired,
    levels: Levels,
    same_binary: bool,
    /// How much the null control was off, if it was.
    bias: f64,
    over: bool,
    policy: &'a Policy,
}

impl Jury<'_> {
    /// Of every judged row, in their order.
    fn decisions(&self, rows: &[Row]) -> Vec<Decision> {
        let judged: Vec<(&PairedCase, &'static Metric)> = rows
            .iter()
            .filter_map(|row| match row {
                Row::Judged(case, metric) => Some((*case, *metric)),
                Row::Said(..) => None,
            })
            .collect();
        let mut decisions = self.decided(&judged, Rejected::LeftOut);
        if self.paired.blocks.iter().any(|block| block.rejected.is_some()) {
            let all = self.decided(&judged, Rejected::Counted);
            for (decision, with) in decisions.iter_mut().zip(all) {
                let regressed = |one: &Decision| matches!(one.verdict, Verdict::Regressed { .. });
                let both = decision.is_final() && with.is_final();
                if both && regressed(decision) != regressed(&with) {
                    decision.verdict = Verdict::Inconclusive(Why::Rejected);
                }
            }
        }
        decisions
    }

    fn decided(
        &self,
        judged: &[(&PairedCase, &'static Metric)],
        rejected: Rejected,
    ) -> Vec<Decision> {
        let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, (_, metric)) in judged.iter().enumerate() {
            kinds.entry(metric.kind()).or_default().push(at);
        }
        let mut decisions = vec![None; judged.len()];
        for members in kinds.into_values() {
            let metric = judged[members[0]].1;
            let tracks: Vec<Blocks> = members
                .iter()
                .map(|at| {
                    let (case, metric) = judged[*at];
                    Blocks {
                        values: self.values(case, metric, rejected),
                        limits: self.limits(metric),
                    }
                })
                .collect();
            let rule = Rule {
                looks: &LOOKS,
                fewest_for_regression: BLOCKS_NEEDED,
                levels: self.levels,
                layout: self.layout(metric),
                prior_freedom: PRIOR_FREEDOM,
                over: self.over,
            };
            for (at, decision) in members.into_iter().zip(decide(&tracks, &rule)) {
                decisions[at] = Some(decision);
            }
        }
        decisions.into_iter().map(|one| one.expect("every metric has a kind")).collect()
    }

    /// The limit and the critical limit, as θ.
    fn limits(&self, metric: &Metric) -> (f64, f64) {
        let limit = self.policy.limit(metric);
        (margin(metric.better, limit), margin(metric.better, 2.0 * limit))
    }

    fn counts(&self, turns: &PairedTurns) -> bool {
        self.paired.blocks.get(turns.block).is_none_or(|block| block.rejected.is_none())
    }

    /// What each block says of a metric.
    fn values(&self, case: &PairedCase, metric: &Metric, rejected: Rejected) -> Vec<f64> {
        let counted =
            case.blocks.iter().filter(|turns| rejected == Rejected::Counted || self.counts(turns));
        counted.filter_map(|turns| block_value(turns, metric, 'B')).collect()
    }

    fn finding(
        &self,
        case: &PairedCase,
        metric: &'static Metric,
        mut decision: Decision,
    ) -> Finding {
        let limit = self.policy.limit(metric);
        let limits = self.limits(metric);
        let blocks = self.values(case, metric, Rejected::LeftOut);
        // Below the first look there is no verdict; where the blocks lie is shown all the same.
        decision.theta =
            decision.theta.or_else(|| stats::trimmed(&blocks).map(|centre| centre.value));
        let timed = metric.kind() != "memory";
        if matches!(decision.verdict, Verdict::Regressed { .. })
            && timed
            && decision.theta.is_some_and(|theta| self.bias > 0.0 && theta - self.bias < limits.0)
        {
            decision.verdict = Verdict::Inconclusive(Why::Contaminated);
        }
        // The same blocks as the changes: one that lacks an arm has no change, and would shift all
        // after it.
        let counts =
            |turns: &&PairedTurns| self.counts(turns) && block_value(turns, metric, 'B').is_some();
        let centres = |arm: char| -> Vec<f64> {
            let counted = case.blocks.iter().filter(counts).take(decision.used);
            counted.filter_map(|turns| centre(turns, metric, arm)).collect()
        };
        let (base_blocks, current_blocks) = (centres('A'), centres('B'));
        let middle = |values: &[f64]| {
            let ln: Vec<f64> = values.iter().map(|value| value.ln()).collect();
            stats::trimmed(&ln).map(|centre| centre.value.exp())
        };
        let sides = middle(&base_blocks).zip(middle(&current_blocks)).zip(decision.theta);
        let change = sides.map(|((base, current), theta)| Change {
            base,
            current,
            theta,
            normalised: None, // Both builds meet the same machine, in turns.
            limit,
            margin: limits.0,
            evidence: decision.evidence,
        });
        let mut changes = blocks;
        changes.truncate(decision.used);
        Finding {
            scenario: case.id.clone(),
            metric: Some(metric),
            verdict: decision.verdict,
            change,
            base_blocks,
            current_blocks,
            changes,
        }
    }

    /// By how much two builds of one source differ: as measured here, or as it is assumed.
    fn layout(&self, metric: &Metric) -> Spread {
        let assumed = |sd| Spread { sd, freedom: f64::INFINITY };
        match self.paired.layout.get(metric.kind()) {
            _ if self.same_binary => assumed(0.0),
            Some(measured) => *measured,
            None => assumed(self.policy.layout_sd),
        }
    }
}

/// What becomes of rejected blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rejected {
    LeftOut,
    Counted,
}

/// What the blocks say of one metric.
struct Blocks {
    values: Vec<f64>,
    limits: (f64, f64),
}

impl Track for Blocks {
    fn count(&self) -> usize {
        self.values.len()
    }

    fn summary(&self, used: usize) -> Summary {
        Summary::of(&self.values[..used])
    }

    fn limits(&self) -> (f64, f64) {
        self.limits
    }
}

/// The value of one arm in one block, in the metric's stored unit.
pub(crate) fn centre(turns: &PairedTurns, metric: &Metric, arm: char) -> Option<f64> {
    if let Some(values) = turns.once.get(metric.name) {
        return values.get(&arm).copied().filter(|value| *value > 0.0);
    }
    let quads = turns.quads.iter().filter_map(|quad| quad.mean_ln(metric.name, arm, |value| value));
    stats::median(&quads.collect::<Vec<_>>()).map(f64::exp)
}

/// The base against its copy, in every scenario and time metric for which the copy had turns.
fn null(paired: &Paired) -> Vec<Null> {
    const SMALLEST: f64 = 0.01;
    let mut found = Vec::new();
    for case in &paired.scenarios {
        for metric in gated(case).filter(|metric| metric.kind() != "memory") {
            let counted = case.blocks.iter().filter(|turns| {
                paired.blocks.get(turns.block).is_some_and(|block| block.rejected.is_none())
            });
            let values: Vec<f64> =
                counted.filter_map(|turns| block_value(turns, metric, 'N')).collect();
            if values.len() < LOOKS[0] {
                continue;
            }
            let rule = Rule {
                looks: &LOOKS,
                fewest_for_regression: BLOCKS_NEEDED,
                levels: Levels { family: 0.995, pass: 0.995 },
                layout: Spread { sd: 0.0, freedom: f64::INFINITY },
                prior_freedom: 0.0,
                over: true,
            };
            let summary = Summary::of(&values);
            let (theta, evidence) = (summary.theta, rule.evidence(&summary, values.len(), None));
            let interval = evidence.family;
            let contaminated = theta.abs() > SMALLEST && (interval.lo > 0.0 || interval.hi < 0.0);
            let scenario = case.id.clone();
            found.push(Null { scenario, metric: metric.name, theta, interval, contaminated });
        }
    }
    found
}

#[cfg(test)]
mod tests;
