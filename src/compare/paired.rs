//! Judges two builds that were measured in turns (`gate.md`, section 3). The unit is the block, a fresh process per arm; what
//! one block says of a metric is one number d, the median over its quads of ln cost of the candidate less that of the base.
//!
//! Verdicts are given at planned looks only, and each pays for all of them: looking until something is significant would
//! find something in the end.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::compare::Change;
use crate::compare::Evidence;
use crate::compare::Finding;
use crate::compare::Interval;
use crate::compare::Judgement;
use crate::compare::Outcome;
use crate::compare::Policy;
use crate::compare::SCHEMA;
use crate::compare::Verdict;
use crate::compare::Why;
use crate::compare::margin;
use crate::compare::outcome;
use crate::compare::same;
use crate::compare::verdict;
use crate::record::pair::Arm;
use crate::record::pair::Ended;
use crate::record::pair::Paired;
use crate::record::pair::PairedBlock;
use crate::record::pair::PairedCase;
use crate::record::pair::PairedTurns;
use crate::record::pair::Quad;
use crate::record::pair::Side;
use crate::stats;
use crate::workload::METRICS;
use crate::workload::Metric;
use crate::workload::Work;

/// Numbers of blocks at which verdicts are given.
pub const LOOKS: [usize; 6] = [8, 12, 16, 20, 24, 32];

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

/// The levels at which intervals have to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Of a regression: a union over all metrics of the suite and all looks, 1 - α / (m L).
    pub family: f64,
    /// Of a pass, which every metric has to have, at any look: 1 - α / L.
    pub pass: f64,
}

impl Levels {
    /// For so many metrics judged together at so many looks.
    pub fn new(alpha: f64, metrics: usize, looks: usize) -> Self {
        let looks = looks.max(1) as f64;
        Self { family: 1.0 - alpha / (metrics.max(1) as f64 * looks), pass: 1.0 - alpha / looks }
    }
}

/// What block values say, looked at as planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What is said.
    pub verdict: Verdict,
    /// The trimmed mean of the block values that were used; `None` without any.
    pub theta: Option<f64>,
    /// How well it is known; `None` below the first look.
    pub evidence: Option<Evidence>,
    /// How many blocks were used.
    pub used: usize,
}

impl Decision {
    /// Whether more blocks would change nothing.
    pub fn is_final(&self) -> bool {
        !matches!(self.verdict, Verdict::Inconclusive(_))
    }
}

/// Block values d of one metric, in the order measured, looked at as planned: the first decisive look stands. When `over`, what
/// lies beyond the last look that was reached is looked at once more, as long as no more looks are taken than were planned.
pub fn decide(
    blocks: &[f64],
    limits: (f64, f64),
    levels: Levels,
    layout_sd: f64,
    looks: &[usize],
    over: bool,
) -> Decision {
    let (margin, critical) = limits;
    let mut reached: Vec<usize> =
        looks.iter().copied().filter(|look| *look <= blocks.len()).collect();
    let first = looks.first().copied().unwrap_or(usize::MAX);
    if over
        && blocks.len() >= first
        && reached.len() < looks.len()
        && !reached.contains(&blocks.len())
    {
        reached.push(blocks.len());
    }
    let mut last = None;
    for used in reached {
        let (theta, evidence) = evidence(&blocks[..used], levels, layout_sd);
        let verdict = verdict(theta, &evidence, margin, critical);
        let decision = Decision { verdict, theta: Some(theta), evidence: Some(evidence), used };
        if decision.is_final() {
            return decision;
        }
        last = Some(decision);
    }
    last.unwrap_or_else(|| Decision {
        verdict: Verdict::Inconclusive(Why::TooFewBlocks),
        theta: stats::trimmed(blocks).map(|centre| centre.value),
        evidence: None,
        used: blocks.len(),
    })
}

/// One process differs from the next by at least 0.4 %, even where a few happened to agree.
pub(crate) const BLOCK_FLOOR: f64 = 0.004;

/// The trimmed mean of at least five block values with its error: Tukey and McLaughlin's, and the layout of the two builds.
fn evidence(blocks: &[f64], levels: Levels, layout_sd: f64) -> (f64, Evidence) {
    let centre = stats::trimmed(blocks).expect("looks are at eight blocks or more");
    let (error, freedom) = centre.error.expect("looks are at eight blocks or more");
    let floor = BLOCK_FLOOR / (blocks.len() as f64).sqrt();
    let error = error.max(floor).hypot(layout_sd);
    let theta = centre.value;
    let half = |level: f64| stats::student_t(level, freedom) * error;
    let around = |half: f64| Interval { lo: theta - half, hi: theta + half };
    let evidence = Evidence {
        error,
        freedom,
        single: around(half(0.95)),
        pass: theta + half(levels.pass),
        family: around(half(levels.family)),
        lasting: layout_sd,
        smallest: half(levels.family) + half(0.8),
    };
    (theta, evidence)
}

/// What each quad of a block says of a metric; `None` if one that the arm took part in has no value.
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
        match said(case, paired) {
            Some(verdict) => rows.push(Row::Said(case, verdict)),
            None => rows.extend(gated(case).map(|metric| Row::Judged(case, metric))),
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
        levels: Levels::new(policy.alpha, judged, LOOKS.len()),
        same_binary,
        bias,
        over,
        policy,
    };
    let findings: Vec<Finding> = rows
        .into_iter()
        .map(|row| match row {
            Row::Said(case, verdict) => Finding::said(&case.id, None, verdict),
            Row::Judged(case, metric) => jury.finding(case, metric),
        })
        .collect();
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
    let undecided = |finding: &&Finding| matches!(finding.verdict, Verdict::Inconclusive(_));
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
        command: paired.session.command.join(" "),
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
    let notes = same::pair_notes(paired, &course);
    Judgement {
        schema: SCHEMA,
        outcome,
        judged,
        differences,
        notes,
        findings,
        drift: Vec::new(),
        policy: policy.clone(),
        baseline_commit: None,
        course: Some(course),
    }
}

enum Row<'a> {
    Said(&'a PairedCase, Verdict),
    Judged(&'a PairedCase, &'static Metric),
}

/// The metrics that a case is judged by; not those of which neither arm can have a value here, which the notes say.
fn gated(case: &PairedCase) -> impl Iterator<Item = &'static Metric> {
    let work = case.base.work.as_ref().or(case.candidate.work.as_ref());
    let unknown = || Work { batch: 1, new_tokens: 1, ..Work::default() };
    let work = work.cloned().unwrap_or_else(unknown);
    let has_none = |metric: &Metric| {
        let turns = || case.blocks.iter();
        turns().any(|turns| turns.notes.contains_key(metric.name))
            && turns().all(|turns| !turns.once.contains_key(metric.name))
    };
    METRICS.iter().filter(move |metric| metric.gated(&work) && !has_none(metric))
}

/// What is said of a scenario before any number is looked at.
fn said(case: &PairedCase, paired: &Paired) -> Option<Verdict> {
    if paired.ended == Ended::Identical {
        return Some(Verdict::Identical);
    }
    let cannot = |side: &Side| side.absent.as_deref().is_some_and(|why| !why.starts_with("failed"));
    let failed = [("base", &case.base), ("candidate", &case.candidate)].into_iter().find_map(
        |(arm, side)| {
            let why = side.absent.as_ref().filter(|_| !cannot(side))?;
            Some(Verdict::Failed(format!("{arm}: {}", why.trim_start_matches("failed: "))))
        },
    );
    if failed.is_some() {
        return failed;
    }
    match (cannot(&case.base), cannot(&case.candidate)) {
        (_, true) => return Some(Verdict::Missing),
        (true, false) => return Some(Verdict::New),
        (false, false) => {}
    }
    if !case.candidate.failed.is_empty() {
        return Some(Verdict::Invalid(case.candidate.failed.join("; ")));
    }
    if !case.base.failed.is_empty() {
        return Some(Verdict::Invalid(format!("the base: {}", case.base.failed.join("; "))));
    }
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
    fn finding(&self, case: &PairedCase, metric: &'static Metric) -> Finding {
        let limit = self.policy.limit(metric);
        let limits = (margin(metric.better, limit), margin(metric.better, 2.0 * limit));
        let layout_sd = if self.same_binary { 0.0 } else { self.layout_sd(metric) };
        let rejected: BTreeSet<usize> = (0..self.paired.blocks.len())
            .filter(|block| self.paired.blocks[*block].rejected.is_some())
            .collect();
        let values = |with_rejected: bool| -> Vec<f64> {
            let counts = |turns: &&PairedTurns| with_rejected || !rejected.contains(&turns.block);
            case.blocks
                .iter()
                .filter(counts)
                .filter_map(|turns| block_value(turns, metric, 'B'))
                .collect()
        };
        let decide =
            |blocks: &[f64]| decide(blocks, limits, self.levels, layout_sd, &LOOKS, self.over);
        let blocks = values(false);
        let mut decision = decide(&blocks);
        let contrary = |one: &Verdict, other: &Verdict| {
            let regressed = |verdict: &Verdict| matches!(verdict, Verdict::Regressed { .. });
            regressed(one) != regressed(other)
        };
        if decision.is_final() {
            let all = values(true);
            let with = decide(&all);
            if all.len() > blocks.len()
                && with.is_final()
                && contrary(&decision.verdict, &with.verdict)
            {
                decision.verdict = Verdict::Inconclusive(Why::Rejected);
            }
        }
        let timed = metric.kind() != "memory";
        if matches!(decision.verdict, Verdict::Regressed { .. })
            && timed
            && decision.theta.is_some_and(|theta| self.bias > 0.0 && theta - self.bias < limits.0)
        {
            decision.verdict = Verdict::Inconclusive(Why::Contaminated);
        }
        // The same blocks as the changes: one that lacks an arm has no change, and would shift all after it.
        let counts = |turns: &&PairedTurns| {
            !rejected.contains(&turns.block) && block_value(turns, metric, 'B').is_some()
        };
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

    fn layout_sd(&self, metric: &Metric) -> f64 {
        let measured = self.paired.layout_sd.get(metric.kind()).copied();
        measured.unwrap_or(self.policy.layout_sd)
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
            let level = Levels { family: 0.995, pass: 0.995 };
            let (theta, evidence) = evidence(&values, level, 0.0);
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
