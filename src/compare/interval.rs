//! Confidence intervals of a change.

use serde::Serialize;

/// A confidence interval (Neyman 1937) of a change of ln cost; positive is worse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Interval {
    /// The interval of this half-width around the estimate.
    pub(super) fn around(estimate: f64, half_width: f64) -> Self {
        Self { lo: estimate - half_width, hi: estimate + half_width }
    }
}

/// How precisely a change of ln cost is known. All intervals use Student t.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evidence {
    /// Standard error of the change of ln cost.
    #[serde(rename = "error")]
    pub standard_error: f64,
    /// Its degrees of freedom (Welch–Satterthwaite). Infinite ones, which come from assumed
    /// standard deviations only, are `null` in JSON.
    pub freedom: f64,
    /// 90 % confidence interval: each end errs with 5 %.
    #[serde(rename = "single")]
    pub ci_90: Interval,
    /// One-sided upper confidence bound at the level of a pass, `Levels::pass`.
    #[serde(rename = "pass")]
    pub pass_bound: f64,
    /// Confidence interval at the family-wise level, `Levels::familywise`.
    #[serde(rename = "family")]
    pub ci_familywise: Interval,
    /// The part of the standard error that more blocks of the run would not reduce: its session,
    /// the baseline, the code layout.
    #[serde(rename = "lasting")]
    pub irreducible_error: f64,
    /// The smallest detectable change: the slowdown that this run would have found with a power of
    /// 80 %.
    #[serde(rename = "smallest")]
    pub smallest_detectable: f64,
}
