//! How far a run has come since the release. Baselines follow what was accepted, so that 4 % a
//! change would pass for ever: the release stays where it is. Advice only, because many small steps
//! that were each accepted are no mistake by themselves.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::stored::Row;
use crate::compare::{Policy, Weight, differences, margin, name_of, stored};
use crate::record::Record;
use crate::workload::Metric;

/// A metric that has come further since the release than one change may.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// The scenario's id.
    pub scenario: String,
    /// The metric.
    #[serde(serialize_with = "name_of")]
    pub metric: &'static Metric,
    /// ln(cost now / cost at the release).
    pub theta: f64,
    /// The limit of one change as a share.
    pub limit: f64,
    /// The limit of one change as θ.
    pub margin: f64,
    /// Beyond twice the limit: a warning, no longer a remark.
    pub warns: bool,
}

/// What has drifted beyond its limit, or why the release says nothing of this run.
pub(super) fn since(
    release: &Record,
    current: &Record,
    policy: &Policy,
) -> Result<Vec<Drift>, String> {
    let none = BTreeMap::new();
    let differences = differences(release, current, &none);
    if let Some(one) = differences.iter().find(|one| one.weight == Weight::Blocks) {
        return Err(format!("{} was `{}` and is `{}`", one.field, one.old, one.new));
    }
    let both = stored::rows(release, current, policy).into_iter().filter_map(|row| match row {
        Row::Both(both) => Some(both),
        Row::Said(_) => None,
    });
    let drifted = both.filter_map(|both| {
        let limit = policy.limit(both.metric);
        let margin = margin(both.metric.better, limit);
        let theta = both.raw.current.centre() - both.raw.base.centre();
        (theta > margin).then_some(Drift {
            scenario: both.scenario,
            metric: both.metric,
            theta,
            limit,
            margin,
            warns: theta > 2.0 * margin,
        })
    });
    Ok(drifted.collect())
}
