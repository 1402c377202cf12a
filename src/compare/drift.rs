//! Drift since the release, reported in addition to the verdicts. It decides nothing: many small
//! steps that were each accepted are no mistake by themselves.

use std::collections::BTreeMap;

use crate::compare::missing::Entry;
use crate::compare::{Drift, Policy, Severity, differences, stored};
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
    let entries = stored::entries(release, current, policy);
    let drifted = entries.iter().filter_map(Entry::comparison).filter_map(|comparison| {
        let (margin, _) = policy.margins(comparison.metric);
        let theta = comparison.raw.theta();
        (theta > margin).then(|| Drift {
            scenario: comparison.scenario.clone(),
            metric: comparison.metric,
            theta,
            limit: policy.limit(comparison.metric),
            margin,
            warns: theta > 2.0 * margin,
        })
    });
    Ok(drifted.collect())
}
