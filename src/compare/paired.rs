//! Judges two builds that were measured in turns (`docs/gate.md`). The unit of statistics is the
//! block, a fresh process per arm. The block effect of a metric is the median over its rounds of
//! the change of ln cost from base to candidate.
//!
//! Verdicts are given at planned looks only, see [`crate::compare::looks`].

use crate::compare::difference::{arm_differences, work_difference};
use crate::compare::judgement::{overall_outcome, undecided};
use crate::compare::missing::{DataState, Entry, Mode, resolve, still_measured_notes};
use crate::compare::{
    Finding, Judgement, MeasurementTimes, NullControl, Outcome, PairSummary, Policy, Subject,
    Verdict, Why, notes, plausible,
};
use crate::error::command;
use crate::record::AbsenceKind;
use crate::record::pair::{Divergence, Ended, PairBlock, PairCase, PairRecord, Side};
use crate::workload::{Metric, hashes_differ, metric};

mod effects;
mod judge;

pub(crate) use effects::block_effect;
pub(crate) use effects::{arm_value, round_effects, round_sd};

use effects::gated_metrics;
use judge::{PairJudge, null_controls};

/// Both builds have numbers of this metric of this scenario.
type Comparison<'a> = (&'a PairCase, &'static Metric);

/// Judges two builds that were measured in turns.
pub fn judge(paired: &PairRecord, policy: &Policy) -> Judgement {
    let entries = entries(paired, policy);
    let comparisons: Vec<Comparison> =
        entries.iter().filter_map(Entry::comparison).copied().collect();
    let judged = comparisons.len();
    let null = null_controls(paired);
    let judge = PairJudge::new(paired, judged, &null, policy);
    let mut decisions = judge.decisions(&comparisons).into_iter();
    let mut next = || decisions.next().expect("every judged metric has its decision");
    let findings = entries.into_iter().map(|entry| match entry {
        Entry::Finding(finding) => *finding,
        Entry::Comparison((case, metric)) => judge.finding(case, metric, next()),
    });
    let mut findings: Vec<Finding> = findings.collect();
    let implausible = plausible::withdraw_implausible_of_pair(&mut findings);
    let summary = summary(paired, null, &findings);
    let mut notes = notes::pair_notes(paired, &summary);
    notes.extend(still_measured_notes(policy, |id| {
        let case = paired.scenarios.iter().find(|case| case.id == id);
        case.is_some_and(|case| case.candidate.absent.is_none())
    }));
    notes.extend(implausible);
    let outcome = outcome(paired, &findings, policy);
    let seconds = paired.scenarios.iter().map(|case| {
        let rounds = case.blocks.iter().flat_map(|turns| &turns.rounds);
        (&case.id, rounds.filter_map(|round| round.values.get(metric::E2E_S)).flatten().sum())
    });
    Judgement {
        judged,
        differences: arm_differences(&paired.base, &paired.candidate),
        notes,
        pair: Some(summary),
        measured: MeasurementTimes::new(Some(&paired.session.started), seconds),
        subject: Some(Box::new(Subject::from(paired))),
        findings,
        ..Judgement::new(outcome, policy)
    }
}

fn outcome(paired: &PairRecord, findings: &[Finding], policy: &Policy) -> Outcome {
    // An undecided metric needs more time, not another base.
    let was_compared = |finding: &Finding| {
        finding.change.is_some()
            || matches!(finding.verdict, Verdict::Undecided(_) | Verdict::Identical)
    };
    let nothing = !findings.iter().any(was_compared);
    let stopped = matches!(paired.ended, Ended::Open | Ended::Budget | Ended::Interrupted);
    match paired.ended {
        Ended::Failed(_) => Outcome::Failed,
        _ if stopped && paired.blocks.is_empty() => Outcome::Undecided,
        _ => overall_outcome(findings, nothing, policy),
    }
}

fn summary(paired: &PairRecord, null: Vec<NullControl>, findings: &[Finding]) -> PairSummary {
    let (rejected, counted): (Vec<_>, Vec<_>) =
        paired.blocks.iter().partition(|block| block.rejected.is_some());
    let seconds = |of: fn(&PairBlock) -> f64| paired.blocks.iter().map(of).sum();
    PairSummary {
        base: paired.base.clone(),
        candidate: paired.candidate.clone(),
        command: command(&paired.session.command),
        seed: paired.seed,
        blocks: counted.len(),
        rejected: rejected.into_iter().filter_map(|block| block.rejected.clone()).collect(),
        null,
        kernels: paired.kernels.clone(),
        ended: paired.ended.clone(),
        load_s: seconds(|block| block.load_s),
        warm_up_s: seconds(|block| block.warm_up_s),
        turns_s: seconds(|block| block.turns_s),
        total_s: seconds(|block| block.total_s),
        open: undecided(findings, |_, _| true).into_iter().map(str::to_owned).collect(),
    }
}

/// Every metric of every scenario, in the order of the suite.
fn entries<'a>(paired: &'a PairRecord, policy: &Policy) -> Vec<Entry<Comparison<'a>>> {
    let entries = |case: &'a PairCase| {
        let verdict = |verdict| vec![Entry::verdict(&case.id, None, verdict)];
        if paired.ended == Ended::Identical {
            return verdict(Verdict::Identical);
        }
        let removed = policy.removed.get(&case.id).map(String::as_str);
        let (base, candidate) = side_states(case, paired);
        resolve(Mode::Paired, base, candidate, removed).entries(&case.id, None, || {
            other_work(case, paired).map_or_else(|| metric_entries(case), verdict)
        })
    };
    paired.scenarios.iter().flat_map(entries).collect()
}

/// What the two sides have of a scenario.
fn side_states<'a>(case: &'a PairCase, paired: &PairRecord) -> (DataState<'a>, DataState<'a>) {
    let state = |side: &'a Side| match &side.absent {
        Some(absent) => absent.into(),
        None if side.failed.is_empty() => DataState::Valid,
        None => DataState::Invalid(&side.failed),
    };
    let (base, candidate) = (state(&case.base), state(&case.candidate));
    // Scenarios whose outputs differ are not timed either, but have a verdict of their own.
    let unmeasured =
        case.base.work.is_none() && case.candidate.work.is_none() && case.divergence.is_none();
    match candidate {
        DataState::Valid if unmeasured => (base, DataState::Absent(unmeasured_kind(paired), "")),
        candidate => (base, candidate),
    }
}

/// Why a scenario has had no turn.
fn unmeasured_kind(paired: &PairRecord) -> AbsenceKind {
    match paired.ended {
        Ended::Budget => AbsenceKind::SkippedTime,
        _ => AbsenceKind::NotMeasuredYet,
    }
}

/// The verdict on two valid sides that did different work.
fn other_work(case: &PairCase, paired: &PairRecord) -> Option<Verdict> {
    if let (Some(base), Some(candidate)) = (&case.base.work, &case.candidate.work)
        && let Some(difference) = work_difference(base, candidate)
    {
        return Some(Verdict::NotComparable(difference));
    }
    if paired.output_change.is_none()
        && let Some(divergence) = &case.divergence
    {
        return Some(Verdict::OutputChanged(Some(describe(divergence))));
    }
    match (&case.base.output_sha256, &case.candidate.output_sha256) {
        (Some(base), Some(candidate))
            if hashes_differ(base, candidate) == Some(true) && paired.output_change.is_none() =>
        {
            Some(Verdict::OutputChanged(None))
        }
        // It never had a turn, and its work decides which metrics it has.
        _ if case.base.work.is_none() && case.candidate.work.is_none() => {
            Some(Verdict::Undecided(Why::TooFewBlocks))
        }
        _ => None,
    }
}

/// The first token that differs.
fn describe(divergence: &Divergence) -> String {
    let token = |token: Option<u32>| token.map_or("the end".into(), |token| token.to_string());
    format!(
        "token {} of sequence {} was {} and is {}",
        divergence.token + 1,
        divergence.sequence + 1,
        token(divergence.base),
        token(divergence.candidate)
    )
}

/// The metrics of two valid sides.
fn metric_entries(case: &PairCase) -> Vec<Entry<Comparison<'_>>> {
    let entries = |metric: &'static Metric| {
        let has_effect =
            || case.blocks.iter().any(|turns| block_effect(turns, metric, 'B').is_some());
        let base = match value_state(&case.base, metric) {
            // It has a value in some blocks, if not in every one.
            DataState::NoValue(_) if has_effect() => DataState::Valid,
            base => base,
        };
        resolve(Mode::Paired, base, value_state(&case.candidate, metric), None).entries(
            &case.id,
            Some(metric),
            || vec![Entry::Comparison((case, metric))],
        )
    };
    gated_metrics(case).flat_map(entries).collect()
}

/// What a side has of a metric.
fn value_state<'a>(side: &'a Side, metric: &Metric) -> DataState<'a> {
    side.no_value.get(metric.name).map_or(DataState::Valid, |why| DataState::NoValue(why))
}

#[cfg(test)]
mod tests;
