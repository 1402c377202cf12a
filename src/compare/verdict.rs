//! Verdicts, what they amount to, and the rule that turns a confidence interval into one.

use serde::{Deserialize, Serialize};

use crate::compare::{Evidence, FailOn, Policy};
use crate::workload::Better;

/// What is concluded about one metric of one scenario, or about a whole scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "detail", rename_all = "snake_case")]
pub enum Verdict {
    /// Not slower than the limit allows.
    Pass,
    /// Significantly slower, and significantly by less than the limit.
    SlowerWithin,
    /// Significantly faster or smaller.
    Improved,
    /// Slower by more than the limit.
    Regressed {
        /// The whole family-wise confidence interval lies beyond the limit.
        proven: bool,
        /// Past twice the limit.
        critical: bool,
    },
    /// The data allow neither a pass nor a regression.
    #[serde(rename = "inconclusive")]
    Undecided(Why),
    /// Not in the base.
    New,
    /// In the base, requested, and without a valid number in the run; the text says why.
    Missing(String),
    /// In the base only, and listed as removed in the configuration; the text is the reason there.
    Removed(String),
    /// In the base, and not requested from the run.
    NotSelected,
    /// The two sides did different work; the text names the difference.
    NotComparable(String),
    /// The numbers cannot be true; the text says why.
    Invalid(String),
    /// The greedy output changed, where it first differs; times of different answers are not
    /// compared.
    OutputChanged(Option<String>),
    /// Both binaries are equal byte for byte: nothing was measured.
    Identical,
    /// The run failed; the text says why.
    Failed(String),
}

/// Why a verdict is undecided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The confidence interval is wider than the limit.
    Noisy,
    /// The confidence interval is narrow and contains the limit.
    Borderline,
    /// There are too few blocks to estimate the variance between processes.
    TooFewBlocks,
    /// The baseline has too few sessions or blocks for a verdict.
    Uncalibrated,
    /// The null control, a copy of the base's binary, differed from the base: the machine did it.
    Contaminated,
    /// The verdict would be another one if rejected blocks counted.
    Rejected,
    /// The reference kernels changed as well, by enough to turn the verdict.
    Drifted,
    /// The time budget ended before it was measured.
    OutOfTime,
    /// Measuring was interrupted before it.
    Interrupted,
    /// The change is larger than a program makes, or the machine changed.
    Implausible,
}

/// What a verdict amounts to, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Passed or improved.
    Pass,
    /// The data do not decide.
    Undecided,
    /// Not comparable, or nothing was compared.
    NotComparable,
    /// Regressed.
    Regression,
    /// The run failed, its numbers cannot be true, or its output changed.
    Failed,
}

/// Largest half-width of the 90 % confidence interval, as a share of the limit, at which a
/// regression is called. Replayed on recorded blocks of a noisy host, 0.5 hides three of four
/// slowdowns of a tenth and prevents no false alarm; above 0.85 nothing more is gained.
const MAX_HALF_WIDTH: f64 = 0.85;

/// Gains of less than 2 % are not reported as improvements.
const SMALLEST_IMPROVEMENT: f64 = -0.02;

/// The verdict on a change. A regression is both significant and large; a pass is shown by a
/// one-sided equivalence test, not presumed.
pub(super) fn judge_change(theta: f64, evidence: &Evidence, margin: f64, critical: f64) -> Verdict {
    let Evidence { ci_90, pass_bound, ci_familywise, .. } = evidence;
    let narrow = ci_90.hi - theta <= MAX_HALF_WIDTH * margin;
    let proven = ci_familywise.lo > margin;
    if proven || (theta >= margin && narrow && ci_familywise.lo > 0.0) {
        Verdict::Regressed { proven, critical: theta >= critical }
    } else if *pass_bound < margin {
        match (ci_familywise.lo > 0.0, ci_familywise.hi < SMALLEST_IMPROVEMENT) {
            (true, _) => Verdict::SlowerWithin,
            (_, true) => Verdict::Improved,
            _ => Verdict::Pass,
        }
    } else {
        Verdict::Undecided(if narrow { Why::Borderline } else { Why::Noisy })
    }
}

impl Verdict {
    /// What it amounts to on its own.
    pub fn outcome(&self, policy: &Policy) -> Outcome {
        match self {
            Verdict::OutputChanged(_) | Verdict::Invalid(_) | Verdict::Failed(_) => Outcome::Failed,
            Verdict::Regressed { critical, .. }
                if *critical || policy.fail_on == FailOn::Regression =>
            {
                Outcome::Regression
            }
            Verdict::NotComparable(_) | Verdict::Missing(_) => Outcome::NotComparable,
            Verdict::Undecided(_) => Outcome::Undecided,
            _ => Outcome::Pass,
        }
    }
}

/// A change of ln cost as a share of the metric's own value, with the metric's own sign.
pub fn share(better: Better, theta: f64) -> f64 {
    match better {
        Better::Higher => (-theta).exp_m1(),
        Better::Lower => theta.exp_m1(),
    }
}
