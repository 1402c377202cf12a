//! Judges a record against a baseline: records in, verdicts out. No file, no clock, no model; the
//! same two records give the same verdict for ever.
//!
//! Every metric is a cost, and a change is θ = ln(cost now / cost before): positive is always bad
//! news, whatever the metric's own direction. The independent unit is the block, one process. The
//! design is `gate.md`, section 4.2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::record::calibration::Calibration;
use crate::workload::{Better, Metric};

mod drift;
mod estimate;
pub mod looks;
mod missing;
mod normalised;
pub mod paired;
mod plausible;
mod policy;
mod same;
mod stored;

pub use drift::Drift;
pub use estimate::{Evidence, Interval};
pub use policy::{FailOn, PLANNED_LOOKS, Policy};
pub(crate) use same::work as difference_of_work;
pub use same::{Difference, Weight, between, differences};

use stored::{Jury, Row};

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
    /// Not in the base.
    New,
    /// In the base, asked for, and without a valid number in the run: why.
    Missing(String),
    /// In the base only, as the configuration says that it is meant to be: why.
    Removed(String),
    /// In the base, and the run was not asked for it.
    NotSelected,
    /// The work differs, and how.
    NotComparable(String),
    /// The numbers cannot be true, and why.
    Invalid(String),
    /// The greedy output is another one, and where it parts; times of different answers are not
    /// compared.
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
    /// The reference kernels moved, too, and by so much that they would have turned the verdict.
    Drifted,
    /// There was no time left to measure it.
    OutOfTime,
    /// Measuring was interrupted before it.
    Interrupted,
    /// The change is larger than a program makes, or the machine changed.
    Implausible,
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
    /// What is left of it when what the reference kernels say of the machine is taken out; no
    /// verdict rests on it. `None` where not every block has them, and for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalised: Option<f64>,
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
    #[serde(serialize_with = "maybe_name")]
    pub metric: Option<&'static Metric>,
    /// What is said.
    pub verdict: Verdict,
    /// How the metric moved, where both sides have it.
    pub change: Option<Change>,
    /// Block values of the baseline, in the metric's stored unit.
    pub base_blocks: Vec<f64>,
    /// Block values of the run, in the metric's stored unit.
    pub current_blocks: Vec<f64>,
    /// What each pair of blocks says of the change of ln cost; empty where blocks are not in
    /// pairs.
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

fn maybe_name<S: serde::Serializer>(
    metric: &Option<&'static Metric>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    metric.map(|metric| metric.name).serialize(serializer)
}

fn name_of<S: serde::Serializer>(
    metric: &&'static Metric,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    metric.name.serialize(serializer)
}

/// When the numbers that are judged were measured, for documents that have a place for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// When the last session began: UTC, RFC 3339; `None` where nothing was measured.
    pub started: Option<String>,
    /// Seconds of all measured generations, by scenario; what has no end-to-end time is absent.
    pub seconds: BTreeMap<String, f64>,
}

impl Measured {
    fn of(record: &Record) -> Self {
        let mut seconds = BTreeMap::new();
        for case in &record.scenarios {
            let samples = case.blocks.iter().filter_map(|block| block.samples.get("e2e_s"));
            let all: f64 = samples.flatten().sum();
            if all > 0.0 && all.is_finite() {
                seconds.insert(case.id.clone(), all);
            }
        }
        Self { started: record.sessions.last().map(|last| last.started.clone()), seconds }
    }
}

/// Everything that is said of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// What everything amounts to.
    pub outcome: Outcome,
    /// Why nothing was judged; `None` where something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many metrics were judged together; each is held to a stricter level for it.
    pub judged: usize,
    /// What differs between the two beside the numbers.
    pub differences: Vec<Difference>,
    /// What a reader has to know: an injected slowdown, a baseline that is not calibrated, drift
    /// of the machine.
    pub notes: Vec<String>,
    /// In the order of the suite.
    pub findings: Vec<Finding>,
    /// How far metrics have come since the release, where that is beyond their limit: advice,
    /// which decides nothing.
    pub drift: Vec<Drift>,
    /// By which rules.
    pub policy: Policy,
    /// The commit that the baseline was built from, with which it can be built again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_commit: Option<String>,
    /// How two builds were measured in turns; `None` for a record against a baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub course: Option<paired::Course>,
    /// When, and for how long; the records have it.
    #[serde(skip)]
    pub measured: Measured,
}

impl Judgement {
    /// What is said where nothing came to be judged. The first line of `why` is the reason, all of
    /// them are notes.
    pub fn without_findings(outcome: Outcome, why: &str, policy: &Policy) -> Self {
        let lines = why.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let notes: Vec<String> = lines.map(str::to_owned).collect();
        Self {
            schema: SCHEMA,
            outcome,
            reason: Some(notes.first().map_or("", |line| line.trim_end_matches(':')).to_owned()),
            judged: 0,
            differences: Vec::new(),
            notes,
            findings: Vec::new(),
            drift: Vec::new(),
            policy: policy.clone(),
            baseline_commit: None,
            course: None,
            measured: Measured::default(),
        }
    }

    /// Scenarios with something that further blocks of the run may decide. They cannot where the
    /// baseline is too thin, nor where sessions differ by so much that no number of blocks
    /// would tell a pass from a regression.
    pub fn open(&self) -> Vec<&str> {
        let mut open: Vec<&str> = Vec::new();
        for finding in &self.findings {
            let why = match finding.verdict {
                Verdict::Inconclusive(Why::Uncalibrated | Why::Implausible) => continue,
                Verdict::Inconclusive(why) => why,
                _ => continue,
            };
            let hopeless = finding.change.as_ref().is_some_and(|change| {
                change.evidence.is_some_and(|evidence| {
                    let half = (evidence.pass - change.theta) / evidence.error * evidence.lasting;
                    why == Why::Noisy && half > change.margin
                })
            });
            if !hopeless && !open.contains(&finding.scenario.as_str()) {
                open.push(&finding.scenario);
            }
        }
        open
    }
}

/// What a verdict amounts to, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What a run is held against.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// What verdicts are given against: the last promotion.
    pub baseline: &'a Record,
    /// What drift is told against, beside all verdicts: the release.
    pub release: Option<&'a Record>,
    /// What the machine is known to differ by without a change.
    pub calibration: Option<&'a Calibration>,
}

impl<'a> From<&'a Record> for Grounds<'a> {
    /// A baseline alone.
    fn from(baseline: &'a Record) -> Self {
        Self { baseline, release: None, calibration: None }
    }
}

/// Judges a run against a baseline, or against everything that is known beside it.
pub fn judge<'a>(grounds: impl Into<Grounds<'a>>, current: &Record, policy: &Policy) -> Judgement {
    let grounds = grounds.into();
    let Grounds { baseline, release, .. } = grounds;
    let calibration = grounds.calibration.filter(|calibration| calibration.is_of(current));
    let differences = differences(baseline, current, &policy.allow_class);
    let blocked = differences.iter().any(|difference| difference.weight == Weight::Blocks);
    let mut rows = stored::rows(baseline, current, policy);
    if blocked {
        // A run that failed has failed on any machine.
        rows.retain(|row| match row {
            Row::Said(one) => matches!(one.verdict, Verdict::Failed(_) | Verdict::Invalid(_)),
            Row::Both(_) => false,
        });
    }
    let binary = |record: &Record| record.build.binary_sha256.clone();
    let same_binary = binary(baseline).is_some() && binary(baseline) == binary(current);
    let jury = Jury::new(&rows, calibration, same_binary, policy);
    let judged = jury.judged;
    let mut findings: Vec<Finding> = rows.iter().map(|row| jury.finding(row)).collect();
    let mut notes = same::notes(&Grounds { calibration, ..grounds }, current, &findings);
    notes.extend(stored::missing_notes(current, &findings, policy));
    if grounds.calibration.is_some() && calibration.is_none() {
        notes.push("the calibration is of another machine or model and is not used".into());
    }
    notes.extend(plausible::doubt_stored(&mut findings, baseline, current));
    let drift = release
        .filter(|release| !blocked && release.sessions != baseline.sessions)
        .map(|release| drift::since(release, current, policy));
    let drift = drift.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|why| {
        notes.push(format!("drift since the release is not known: {why}"));
        Vec::new()
    });
    // What is undecided is decided by more measuring, not by another baseline.
    let undecided = findings.iter().any(|one| matches!(one.verdict, Verdict::Inconclusive(_)));
    let outcome = outcome(&findings, blocked || (judged == 0 && !undecided), policy);
    let policy = policy.clone();
    Judgement {
        schema: SCHEMA,
        outcome,
        reason: None,
        judged,
        differences,
        notes,
        findings,
        drift,
        policy,
        baseline_commit: baseline.build.commit.clone(),
        course: None,
        measured: Measured::of(current),
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
    let sharp = single.hi - theta <= SHARP * margin;
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

/// Half an interval may be as wide as this share of the limit for a regression to be called.
/// Replayed on recorded blocks of a restless host, half of the limit hides three of four slowdowns
/// of a tenth and prevents no false alarm; from 0.85 on nothing is gained any more.
const SHARP: f64 = 0.85;

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
            Verdict::NotComparable(_) | Verdict::Missing(_) => Outcome::NotComparable,
            Verdict::Inconclusive(_) => Outcome::Undecided,
            _ => Outcome::Pass,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
