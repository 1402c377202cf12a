//! Judges a record against a baseline: records in, verdicts out. No file, no clock, no model: the
//! same two records always give the same verdict.
//!
//! Every metric is a cost, and a change is θ = ln(cost now / cost before): positive is always
//! worse, whatever the metric's own direction. The unit of statistics is the block, one fresh
//! process. `docs/gate.md` describes the design.

use crate::record::Record;
use crate::record::calibration::Calibration;
use crate::workload::metric;

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
pub use difference::{Difference, Severity};
pub(crate) use difference::{differences, record_differences};
pub(crate) use estimate::pool_by_kind;
pub use interval::{Evidence, Interval};
pub use judgement::{
    Change, Drift, Finding, Judgement, MeasurementTimes, NullControl, PairSummary, SCHEMA, Subject,
};
pub(crate) use policy::margin;
pub(crate) use policy::{BLOCKS_NEEDED, PLANNED_LOOKS, SESSIONS_NEEDED};
pub use policy::{FailOn, Policy};
pub use verdict::{Outcome, Verdict, Why, share};

use judgement::overall_outcome;
use missing::Entry;
use stored::{Comparison, RecordJudge};
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
            Entry::Finding(one) => matches!(one.verdict, Verdict::Failed(_) | Verdict::Invalid(_)),
            Entry::Comparison(_) => false,
        });
    }
    let binary = |record: &Record| record.build.binary_sha256.clone();
    let same_binary = binary(baseline).is_some() && binary(baseline) == binary(current);
    let comparisons: Vec<&Comparison> = entries.iter().filter_map(Entry::comparison).collect();
    let judge = RecordJudge::new(&comparisons, calibration, same_binary, policy);
    let judged = comparisons.len();
    let findings = entries.iter().map(|entry| match entry {
        Entry::Finding(finding) => (**finding).clone(),
        Entry::Comparison(comparison) => judge.finding(comparison),
    });
    let mut findings: Vec<Finding> = findings.collect();
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
    let seconds = current.scenarios.iter().map(|case| {
        let samples = case.blocks.iter().filter_map(|block| block.samples.get(metric::E2E_S));
        (&case.id, samples.flatten().sum())
    });
    let started = current.sessions.last().map(|last| &last.started);
    // An undecided metric needs more measuring, not another baseline.
    let undecided = findings.iter().any(|one| matches!(one.verdict, Verdict::Undecided(_)));
    let outcome = overall_outcome(&findings, blocked || (judged == 0 && !undecided), policy);
    Judgement {
        judged,
        differences,
        notes,
        findings,
        drift,
        baseline_commit: baseline.build.commit.clone(),
        measured: MeasurementTimes::new(started, seconds),
        subject: Some(Box::new(Subject::from(current))),
        other_tool: current.other_tool().map(|(tool, _)| tool),
        ..Judgement::new(outcome, policy)
    }
}

#[cfg(test)]
pub(crate) mod tests;
