//! What counts as a regression: the specification's limits, or those of the configuration.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::settings::GateConfig;
use crate::workload::{METRICS, Metric};

/// What counts as a regression, and what follows from one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Limits by metric name, as shares, in place of those of the metrics' table.
    pub limits: BTreeMap<String, f64>,
    /// What makes the outcome a regression.
    pub fail_on: FailOn,
    /// Scenarios of the base that are meant to be gone, and why. Any other one that is gone is
    /// missing.
    pub removed: BTreeMap<String, String>,
    /// Machine classes whose baselines may stand in for another's: this class, that class.
    pub allow_class: BTreeMap<String, String>,
    /// Probability that a suite without any slowdown has a false regression.
    pub alpha: f64,
    /// Standard deviation of ln cost between two builds of one source: code layout.
    pub layout_sd: f64,
    /// How often a run against a stored baseline is planned to be looked at: each look pays for
    /// all.
    pub looks: usize,
}

/// The looks that are planned at such a run: as it came, and after each round in which it is
/// measured further. The first is held to the level of all, because whether others follow depends
/// on what it shows.
pub const PLANNED_LOOKS: usize = 6;

/// What makes the outcome a regression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailOn {
    /// Any regression.
    Regression,
    /// One past twice its limit; the others are warnings.
    Critical,
}

impl Default for Policy {
    /// The specification's limits, at a single look.
    fn default() -> Self {
        Self {
            limits: BTreeMap::new(),
            fail_on: FailOn::Regression,
            removed: BTreeMap::new(),
            allow_class: BTreeMap::new(),
            alpha: 0.05,
            layout_sd: 0.005,
            looks: 1,
        }
    }
}

impl Policy {
    /// The policy that `[gate]` asks for.
    ///
    /// # Errors
    /// When a limit is of no gated metric or not between 0 and 1, `fail_on` is unknown, or a
    /// removed scenario has no reason.
    pub fn new(config: &GateConfig) -> Result<Self> {
        for (name, limit) in &config.limits {
            let gated =
                METRICS.iter().filter(|metric| metric.limit.is_some()).map(|metric| metric.name);
            if !gated.clone().any(|known| known == name) {
                return Err(Error::unknown("gated metric", name, gated));
            }
            if !(*limit > 0.0 && *limit < 1.0) {
                return Err(Error::Usage(format!(
                    "limit of `{name}` is {limit}; it is a share, such as 0.05 for 5 %"
                )));
            }
        }
        let fail_on = match config.fail_on.as_deref() {
            None | Some("regression") => FailOn::Regression,
            Some("critical") => FailOn::Critical,
            Some(other) => {
                return Err(Error::unknown("fail_on", other, ["regression", "critical"]));
            }
        };
        for (id, why) in &config.removed {
            if why.trim().is_empty() {
                return Err(Error::Usage(format!(
                    "removed scenario `{id}` has no reason; say why it is gone"
                )));
            }
        }
        Ok(Self {
            limits: config.limits.clone(),
            fail_on,
            removed: config.removed.clone(),
            allow_class: config.allow_class.clone(),
            looks: PLANNED_LOOKS,
            ..Self::default()
        })
    }

    pub(super) fn limit(&self, metric: &Metric) -> f64 {
        self.limits
            .get(metric.name)
            .copied()
            .or(metric.limit)
            .expect("only metrics with a limit are judged")
    }
}
