//! Judges a record against a baseline: records in, verdicts out. No file, no clock, no model; the same two records give the
//! same verdict for ever.
//!
//! Every metric is a cost, and a change is θ = ln(cost now / cost before): positive is always bad news, whatever the
//! metric's own direction. The independent unit is the block, one process. The design is `gate.md`, section 4.2.

use serde::Serialize;

use crate::record::Case;
use crate::record::Record;
use crate::workload::Better;
use crate::workload::METRICS;
use crate::workload::Metric;

mod estimate;
pub mod paired;
mod policy;
mod same;

pub use estimate::Evidence;
pub use estimate::Interval;
pub use policy::FailOn;
pub use policy::Missing;
pub use policy::Policy;
pub use same::Difference;
pub use same::Weight;
pub use same::differences;

use estimate::Series;
use estimate::Sessions;

/// Version of the JSON form of a [`Judgement`].
pub const SCHEMA: u32 = 1;

/// Fewer sessions than this cannot say how much one differs from the next.
pub const SESSIONS_NEEDED: usize = 3;

/// Fewer blocks than this cannot say how much one process differs from the next.
pub const BLOCKS_NEEDED: usize = 8;

/// What is said of one metric of one scenario, or of a whole scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "detail", rename_all = "snake_case")]
pub enum Verdict {
    /// Not slower than the limit allows.
    Pass,
    /// Certainly slower, and certainly by less than the limit.
    SlowerWithin,
    /// Certainly faster or smaller.
    Improved,
    /// Slower by more than the limit.
    Regressed {
        /// The whole interval lies beyond the limit.
        proven: bool,
        /// Past twice the limit.
        critical: bool,
    },
    /// The data allow neither a pass nor a regression.
    Inconclusive(Why),
    /// Not in the baseline.
    New,
    /// In the baseline only.
    Missing,
    /// The work differs, and how.
    NotComparable(String),
    /// The numbers cannot be true, and why.
    Invalid(String),
    /// The greedy output is another one, and where it parts; times of different answers are not compared.
    OutputChanged(Option<String>),
    /// Both builds are the same, byte for byte: nothing was measured.
    Identical,
    /// The run failed, and why.
    Failed(String),
}

/// Why nothing can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The interval is wider than the limit.
    Noisy,
    /// The interval is sharp and the limit lies in it.
    Borderline,
    /// Nothing says how much one process differs from the next.
    TooFewBlocks,
    /// The baseline has too few sessions or blocks for a verdict.
    Uncalibrated,
    /// A copy of the base's own binary differed from it: the machine did it.
    Contaminated,
    /// Rejected blocks would have turned the verdict.
    Rejected,
}

/// How a metric moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Centre of the baseline, in the metric's stored unit.
    pub base: f64,
    /// Centre of the run, in the metric's stored unit.
    pub current: f64,
    /// ln(cost now / cost before).
    pub theta: f64,
    /// The limit as a share, as it was asked for.
    pub limit: f64,
    /// The limit as θ.
    pub margin: f64,
    /// How well θ is known; `None` where nothing says how much one process differs from the next.
    pub evidence: Option<Evidence>,
}

/// One row of a verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The scenario's id.
    pub scenario: String,
    /// The metric; `None` when the whole scenario is meant.
    #[serde(serialize_with = "name_of")]
    pub metric: Option<&'static Metric>,
    /// What is said.
    pub verdict: Verdict,
    /// How the metric moved, where both sides have it.
    pub change: Option<Change>,
    /// Block values of the baseline, in the metric's stored unit.
    pub base_blocks: Vec<f64>,
    /// Block values of the run, in the metric's stored unit.
    pub current_blocks: Vec<f64>,
    /// What each pair of blocks says of the change of ln cost; empty where blocks are not in pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<f64>,
}

impl Finding {
    /// A finding without numbers.
    fn said(scenario: &str, metric: Option<&'static Metric>, verdict: Verdict) -> Self {
        let (base_blocks, current_blocks, changes) = (Vec::new(), Vec::new(), Vec::new());
        let scenario = scenario.into();
        Self { scenario, metric, verdict, change: None, base_blocks, current_blocks, changes }
    }
}

fn name_of<S: serde::Serializer>(
    metric: &Option<&'static Metric>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    metric.map(|metric| metric.name).serialize(serializer)
}

/// Everything that is said of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// What everything amounts to.
    pub outcome: Outcome,
    /// How many metrics were judged together; each is held to a stricter level for it.
    pub judged: usize,
    /// What differs between the two beside the numbers.
    pub differences: Vec<Difference>,
    /// What a reader has to know: an injected slowdown, a baseline that is not calibrated, drift of the machine.
    pub notes: Vec<String>,
    /// In the order of the suite.
    pub findings: Vec<Finding>,
    /// By which rules.
    pub policy: Policy,
    /// The commit that the baseline was built from, with which it can be built again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_commit: Option<String>,
    /// How two builds were measured in turns; `None` for a record against a baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub course: Option<paired::Course>,
}

/// What a verdict amounts to, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Passed or improved.
    Pass,
    /// Cannot decide.
    Undecided,
    /// Not comparable, or nothing was compared.
    NotComparable,
    /// Regressed.
    Regression,
    /// The run failed, its numbers cannot be true, or its output changed.
    Failed,
}

/// Judges a run against a baseline.
pub fn judge(baseline: &Record, current: &Record, policy: &Policy) -> Judgement {
    let differences = differences(baseline, current, &policy.allow_class);
    let blocked = differences.iter().any(|difference| difference.weight == Weight::Blocks);
    let mut pairs = pairs(baseline, current);
    if blocked {
        // A run that failed has failed on any machine.
        pairs.retain(|pair| match pair {
            Pair::Said(one) => matches!(one.verdict, Verdict::Failed(_) | Verdict::Invalid(_)),
            Pair::Both(_) => false,
        });
    }
    let both = || {
        pairs.iter().filter_map(|pair| match pair {
            Pair::Both(both) => Some(both),
            Pair::Said(_) => None,
        })
    };
    let judged = both().count();
    let sessions = Sessions::of(both().map(|both| (both.metric, &both.base)));
    let binary = |record: &Record| record.build.binary_sha256.clone();
    let same_binary = binary(baseline).is_some() && binary(baseline) == binary(current);
    let layout_sd = if same_binary { 0.0 } else { policy.layout_sd };
    let level = 1.0 - policy.alpha / judged as f64;

    let finding = |pair| match pair {
        Pair::Said(finding) => finding,
        Pair::Both(both) => both.judge(&sessions, layout_sd, level, policy),
    };
    let findings: Vec<Finding> = pairs.into_iter().map(finding).collect();
    let notes = same::notes(baseline, current, &findings);
    let outcome = outcome(&findings, blocked || judged == 0, policy);
    let policy = policy.clone();
    Judgement {
        schema: SCHEMA,
        outcome,
        judged,
        differences,
        notes,
        findings,
        policy,
        baseline_commit: baseline.build.commit.clone(),
        course: None,
    }
}

/// Either both sides of a metric, to be judged, or what is said without numbers.
enum Pair {
    Both(Both),
    Said(Finding),
}

/// Both sides of one metric of one scenario.
struct Both {
    scenario: String,
    metric: &'static Metric,
    base: Series,
    current: Series,
}

impl Both {
    fn judge(self, sessions: &Sessions, layout_sd: f64, level: f64, policy: &Policy) -> Finding {
        let Self { scenario, metric, base, current } = self;
        let limit = policy.limit(metric);
        let calibrated = base.sessions.len() >= SESSIONS_NEEDED && base.count() >= BLOCKS_NEEDED;
        let noise = if calibrated { sessions.noise(metric) } else { estimate::UNCALIBRATED };
        let evidence = estimate::evidence(&base, &current, noise, layout_sd, level);
        let change = change(metric, limit, &base, &current, evidence);
        let critical = margin(metric.better, 2.0 * limit);
        let verdict = match &change.evidence {
            None => Verdict::Inconclusive(Why::TooFewBlocks),
            Some(evidence) => verdict(change.theta, evidence, change.margin, critical),
        };
        let undecided = matches!(verdict, Verdict::Regressed { .. } | Verdict::Inconclusive(_));
        let verdict = match (&change.evidence, calibrated) {
            (Some(_), false) if undecided => Verdict::Inconclusive(Why::Uncalibrated),
            _ => verdict,
        };
        let (base_blocks, current_blocks) =
            (base.values(metric.better), current.values(metric.better));
        let (metric, change) = (Some(metric), Some(change));
        let changes = Vec::new();
        Finding { scenario, metric, verdict, change, base_blocks, current_blocks, changes }
    }
}

fn pairs(baseline: &Record, current: &Record) -> Vec<Pair> {
    let said = |case: &Case, metric, verdict| Pair::Said(Finding::said(&case.id, metric, verdict));
    let mut pairs = Vec::new();
    for case in &current.scenarios {
        let base = baseline.case(&case.id);
        let never = base.is_none_or(|base| base.absent.is_some());
        if never && case.is_unsupported() {
            continue; // Neither side ever could.
        }
        if let Some(verdict) = whole_case(base, case) {
            pairs.push(said(case, None, verdict));
            continue;
        }
        let base = base.expect("a case without a baseline has its verdict");
        for metric in
            METRICS.iter().filter(|metric| metric.gated(case.work.batch, case.work.new_tokens))
        {
            let (before, now) = (Series::of(base, metric), Series::of(case, metric));
            match (before.count(), now.count()) {
                (0, 0) => {}
                (0, _) => pairs.push(said(case, Some(metric), Verdict::New)),
                (_, 0) => pairs.push(said(case, Some(metric), Verdict::Missing)),
                _ => {
                    let scenario = case.id.clone();
                    pairs.push(Pair::Both(Both { scenario, metric, base: before, current: now }));
                }
            }
        }
    }
    let gone = baseline
        .scenarios
        .iter()
        .filter(|case| case.absent.is_none() && current.case(&case.id).is_none());
    pairs.extend(gone.map(|case| said(case, None, Verdict::Missing)));
    pairs
}

/// What is said of a scenario before any number is looked at.
fn whole_case(base: Option<&Case>, case: &Case) -> Option<Verdict> {
    if let Some(why) = &case.absent {
        return Some(if case.is_unsupported() {
            Verdict::Missing
        } else {
            Verdict::Failed(why.clone())
        });
    }
    if !case.validity.ok() {
        return Some(Verdict::Invalid(case.validity.failed.join("; ")));
    }
    let Some(base) = base.filter(|base| base.absent.is_none()) else { return Some(Verdict::New) };
    if !base.validity.ok() {
        return Some(Verdict::NotComparable(format!(
            "the baseline is INVALID: {}",
            base.validity.failed.join("; ")
        )));
    }
    if let Some(difference) = same::work(&base.work, &case.work) {
        return Some(Verdict::NotComparable(difference));
    }
    match (&base.output_sha256, &case.output_sha256) {
        (Some(before), Some(now)) if before != now => Some(Verdict::OutputChanged(None)),
        _ => None,
    }
}

fn change(
    metric: &Metric,
    limit: f64,
    base: &Series,
    current: &Series,
    evidence: Option<Evidence>,
) -> Change {
    let (before, now) = (base.centre(), current.centre());
    let value = |ln_cost: f64| metric.better.cost(ln_cost.exp());
    Change {
        base: value(before),
        current: value(now),
        theta: now - before,
        limit,
        margin: margin(metric.better, limit),
        evidence,
    }
}

/// A limit, given as a share of the metric's own value, as a change of ln cost.
pub(crate) fn margin(better: Better, limit: f64) -> f64 {
    match better {
        Better::Higher => -(-limit.min(0.99)).ln_1p(),
        Better::Lower => limit.ln_1p(),
    }
}

/// A change of ln cost as a share of the metric's own value, with the metric's own sign.
pub fn share(better: Better, theta: f64) -> f64 {
    match better {
        Better::Higher => (-theta).exp_m1(),
        Better::Lower => theta.exp_m1(),
    }
}

/// What a change means. A regression is both real and large; a pass is proven, not presumed.
pub(crate) fn verdict(theta: f64, evidence: &Evidence, margin: f64, critical: f64) -> Verdict {
    let Evidence { single, pass, family, .. } = evidence;
    let sharp = single.hi - theta <= margin / 2.0;
    let proven = family.lo > margin;
    if proven || (theta >= margin && sharp && family.lo > 0.0) {
        Verdict::Regressed { proven, critical: theta >= critical }
    } else if *pass < margin {
        match (family.lo > 0.0, family.hi < IMPROVED) {
            (true, _) => Verdict::SlowerWithin,
            (_, true) => Verdict::Improved,
            _ => Verdict::Pass,
        }
    } else {
        Verdict::Inconclusive(if sharp { Why::Borderline } else { Why::Noisy })
    }
}

/// Gains of less than 2 % are not worth a word.
const IMPROVED: f64 = -0.02;

fn outcome(findings: &[Finding], incomparable: bool, policy: &Policy) -> Outcome {
    let each = findings.iter().map(|finding| finding.verdict.outcome(policy));
    each.chain(incomparable.then_some(Outcome::NotComparable)).max().unwrap_or(Outcome::Pass)
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
            Verdict::NotComparable(_) => Outcome::NotComparable,
            Verdict::Missing if policy.missing == Missing::Counts => Outcome::NotComparable,
            Verdict::Inconclusive(_) => Outcome::Undecided,
            _ => Outcome::Pass,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
