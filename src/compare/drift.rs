//! Drift since the release, reported in addition to the verdicts. It decides nothing: many small steps that
//! were each accepted are no mistake by themselves.

use std::collections::BTreeMap;

use crate::compare::stored::RecordEntry;
use crate::compare::{Drift, Policy, Severity, differences, margin, stored};
use crate::record::Record;

/// The metrics that have drifted beyond their limit. The error says why the release cannot be
/// compared with this run.
pub(super) fn since_release(
    release: &Record,
    current: &Record,
    policy: &Policy,
) -> Result<Vec<Drift>, String> {
    let differences = differences(release, current, &BTreeMap::new());
    if let Some(one) = differences.iter().find(|one| one.severity == Severity::Blocking) {
        return Err(one.to_string());
    }
    let comparisons =
        stored::entries(release, current, policy).into_iter().filter_map(|entry| match entry {
            RecordEntry::Comparison(comparison) => Some(comparison),
            RecordEntry::Finding(_) => None,
        });
    let drifted = comparisons.filter_map(|comparison| {
        let limit = policy.limit(comparison.metric);
        let margin = margin(comparison.metric.better, limit);
        let theta = comparison.raw.current.centre() - comparison.raw.base.centre();
        (theta > margin).then_some(Drift {
            scenario: comparison.scenario,
            metric: comparison.metric,
            theta,
            limit,
            margin,
            warns: theta > 2.0 * margin,
        })
    });
    Ok(drifted.collect())
}
