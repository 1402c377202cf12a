//! Judges a record against a baseline: records in, verdicts out. No file, no clock, no model: the
//! same two records always give the same verdict.
//!
//! Every metric is a cost, and a change is θ = ln(cost now / cost before): positive is always
//! worse, whatever the metric's own direction. The unit of statistics is the block, one fresh
//! process. `docs/gate.md` describes the design.

use crate::record::Record;
use crate::record::calibration::Calibration;

mod difference;
mod drift;
mod estimate;
mod interval;
mod judgement;
pub mod looks;
mod missing;
mod normalized;
mod notes;
pub mod paired;
mod plausible;
mod policy;
mod series;
mod stored;
mod verdict;

pub(crate) use difference::work_difference;
pub use difference::{Difference, Severity, differences, record_differences};
pub use interval::{Evidence, Interval};
pub use judgement::{
    Change, Drift, Finding, Judgement, MeasurementTimes, NullControl, PairSummary, SCHEMA, Subject,
};
pub use policy::{BLOCKS_NEEDED, FailOn, PLANNED_LOOKS, Policy, SESSIONS_NEEDED};
pub(crate) use verdict::margin;
pub use verdict::{Outcome, Verdict, Why, share};

use judgement::overall_outcome;
use stored::{RecordEntry, RecordJudge};
use verdict::judge_change;

/// What a run is compared with.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceData<'a> {
    /// The last promotion; verdicts are given against it.
    pub baseline: &'a Record,
    /// The release; drift is reported against it and turns no verdict.
    pub release: Option<&'a Record>,
    /// How much the machine varies without a change.
    pub calibration: Option<&'a Calibration>,
}

impl<'a> From<&'a Record> for ReferenceData<'a> {
    /// A baseline alone.
    fn from(baseline: &'a Record) -> Self {
        Self { baseline, release: None, calibration: None }
    }
}

/// Judges a run against a baseline, or against all reference data.
pub fn judge<'a>(
    reference: impl Into<ReferenceData<'a>>,
    current: &Record,
    policy: &Policy,
) -> Judgement {
    let reference = reference.into();
    let ReferenceData { baseline, release, .. } = reference;
    let calibration = reference.calibration.filter(|calibration| calibration.is_of(current));
    let differences = differences(baseline, current, &policy.allow_class);
    let blocked = differences.iter().any(|difference| difference.severity == Severity::Blocking);
    let mut entries = stored::entries(baseline, current, policy);
    if blocked {
        // A run that failed has failed on any machine.
        entries.retain(|entry| match entry {
            RecordEntry::Finding(one) => {
                matches!(one.verdict, Verdict::Failed(_) | Verdict::Invalid(_))
            }
            RecordEntry::Comparison(_) => false,
        });
    }
    let binary = |record: &Record| record.build.binary_sha256.clone();
    let same_binary = binary(baseline).is_some() && binary(baseline) == binary(current);
    let judge = RecordJudge::new(&entries, calibration, same_binary, policy);
    let judged = judge.judged;
    let mut findings: Vec<Finding> = entries.iter().map(|entry| judge.finding(entry)).collect();
    let mut notes = notes::record_notes(baseline, calibration, current, &findings);
    notes.extend(stored::missing_notes(current, &findings, policy));
    if reference.calibration.is_some() && calibration.is_none() {
        notes.push("the calibration is of another machine or model and is not used".into());
    }
    notes.extend(plausible::withdraw_implausible(&mut findings, baseline, current));
    let drift = release
        .filter(|release| !blocked && release.sessions != baseline.sessions)
        .map(|release| drift::since_release(release, current, policy));
    let drift = drift.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|why| {
        notes.push(format!("drift since the release is not known: {why}"));
        Vec::new()
    });
    // An undecided metric needs more measuring, not another baseline.
    let undecided = findings.iter().any(|one| matches!(one.verdict, Verdict::Inconclusive(_)));
    let outcome = overall_outcome(&findings, blocked || (judged == 0 && !undecided), policy);
    Judgement {
        schema: SCHEMA,
        outcome,
        reason: None,
        judged,
        differences,
        notes,
        findings,
        drift,
        policy: policy.clone(),
        baseline_commit: baseline.build.commit.clone(),
        pair: None,
        measured: MeasurementTimes::of_record(current),
        subject: Some(Box::new(Subject::from(current))),
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
