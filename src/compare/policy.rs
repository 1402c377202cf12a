//! The policy of the gate: limits, significance level and number of looks. Defaults are the
//! specification's; the configuration can change them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::record::calibration::SdEstimate;
use crate::settings::GateConfig;
use crate::workload::{Better, METRICS, Metric};

/// Limits, levels and exceptions of the gate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Limits by metric name, as shares; they override those of the metrics' table.
    pub limits: BTreeMap<String, f64>,
    /// Which regressions make the outcome one.
    pub fail_on: FailOn,
    /// Scenarios of the base that were removed on purpose, and why. Any other absent scenario is
    /// missing.
    pub removed: BTreeMap<String, String>,
    /// Machine classes that may use the baseline of another class: own class, other class.
    pub allow_class: BTreeMap<String, String>,
    /// Significance level: the family-wise error rate, the probability that a suite without any
    /// slowdown has a false regression.
    pub alpha: f64,
    /// Assumed standard deviation of ln cost between two builds of one source (code layout).
    pub layout_sd: f64,
    /// Planned looks at a run against a stored baseline, the L of Bonferroni's correction.
    pub looks: usize,
}

/// Fewest sessions from which the variance between sessions is estimated.
pub(crate) const SESSIONS_NEEDED: usize = 3;

/// Fewest blocks from which the variance between processes is estimated.
pub(crate) const BLOCKS_NEEDED: usize = 8;

/// Planned looks at a run against a stored baseline: at the run as recorded, and after each of five
/// further measurements. The first look is corrected for all six, because its result decides
/// whether others follow.
pub(crate) const PLANNED_LOOKS: usize = 6;

/// Which regressions make the outcome one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FailOn {
    /// Any regression.
    Regression,
    /// Only those past twice their limit; the others are warnings.
    Critical,
}

impl Default for Policy {
    /// The specification's limits and a single look.
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
    /// When a limit names no gated metric or is not between 0 and 1, `fail_on` is unknown, or a
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

    /// The standard deviation between two builds of one source: measured, or assumed. That of one
    /// binary is 0.
    pub(super) fn layout(&self, measured: Option<&SdEstimate>, same_binary: bool) -> SdEstimate {
        let assumed = |sd| SdEstimate { sd, freedom: f64::INFINITY };
        match measured {
            _ if same_binary => assumed(0.0),
            Some(measured) => *measured,
            None => assumed(self.layout_sd),
        }
    }

    /// The limit and the critical limit of a metric, as changes of ln cost.
    pub(super) fn margins(&self, metric: &Metric) -> (f64, f64) {
        let limit = self.limit(metric);
        (margin(metric.better, limit), margin(metric.better, 2.0 * limit))
    }

    pub(super) fn limit(&self, metric: &Metric) -> f64 {
        self.limits
            .get(metric.name)
            .copied()
            .or(metric.limit)
            .expect("only metrics with a limit are judged")
    }
}

/// A limit, a share of the metric's own value, as a change of ln cost.
pub(crate) fn margin(better: Better, limit: f64) -> f64 {
    match better {
        Better::Higher => -(-limit.min(0.99)).ln_1p(),
        Better::Lower => limit.ln_1p(),
    }
}
