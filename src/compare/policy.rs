//! What counts as a regression: the specification's limits, or those of the configuration.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::settings::GateConfig;
use crate::workload::METRICS;
use crate::workload::Metric;

/// What counts as a regression, and what follows from one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Limits by metric name, as shares, in place of those of the metrics' table.
    pub limits: BTreeMap<String, f64>,
    /// What makes the outcome a regression.
    pub fail_on: FailOn,
    /// What a scenario does that the baseline has and the run has not.
    pub missing: Missing,
    /// Machine classes whose baselines may stand in for another's: this class, that class.
    pub allow_class: BTreeMap<String, String>,
    /// Probability that a suite without any slowdown has a false regression.
    pub alpha: f64,
    /// Standard deviation of ln cost between two builds of one source: code layout.
    pub layout_sd: f64,
    /// How often a run is planned to be looked at while it is measured further: each look pays for all.
    pub looks: usize,
}

/// What makes the outcome a regression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailOn {
    /// Any regression.
    Regression,
    /// One past twice its limit; the others are warnings.
    Critical,
}

/// What a missing scenario means for the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// It is named.
    Warns,
    /// The run is not comparable.
    Counts,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: BTreeMap::new(),
            fail_on: FailOn::Regression,
            missing: Missing::Warns,
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
    /// When a limit is of no gated metric or not between 0 and 1, or `fail_on` is unknown.
    pub fn new(config: &GateConfig) -> Result<Self> {
        for (name, limit) in &config.limits {
            let gated =
                METRICS.iter().filter(|metric| metric.limit.is_some()).map(|metric| metric.name);
            if !gated.clone().any(|known| known == name) {
                return Err(Error::unknown("gated metric", name, gated));
            }
            if !(*limit > 0.0 && *limit < 1.0) {
                return Err(Error::Failed(format!(
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
        let (limits, allow_class) = (config.limits.clone(), config.allow_class.clone());
        Ok(Self { limits, fail_on, allow_class, ..Self::default() })
    }

    pub(super) fn limit(&self, metric: &Metric) -> f64 {
        self.limits
            .get(metric.name)
            .copied()
            .or(metric.limit)
            .expect("only metrics with a limit are judged")
    }
}
