//! The document that a comparison results in: findings, notes and what they amount to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{Difference, Evidence, Interval, Outcome, Policy, Verdict, Why};
use crate::record::pair::{Arm, Ended, KernelProfile, PairRecord};
use crate::record::{Machine, Model, Record, Settings};
use crate::workload::Metric;

/// Version of the JSON form of a [`Judgement`].
pub const SCHEMA: u32 = 1;

/// How a metric changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Centre of the base's blocks, in the metric's stored unit.
    pub base: f64,
    /// Centre of the run's blocks, in the metric's stored unit.
    pub current: f64,
    /// ln(cost now / cost before).
    pub theta: f64,
    /// θ after the change that the reference kernels show of the machine is subtracted; no verdict
    /// rests on it. `None` where some block lacks them, and for memory.
    #[serde(rename = "normalised", skip_serializing_if = "Option::is_none")]
    pub normalized: Option<f64>,
    /// The limit, as a share of the metric's own value.
    pub limit: f64,
    /// The limit as a change of ln cost.
    pub margin: f64,
    /// How precisely θ is known; `None` where the variance between processes cannot be estimated.
    pub evidence: Option<Evidence>,
}

/// The verdict on one metric, or on a whole scenario, with its numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The scenario's id.
    pub scenario: String,
    /// The metric; `None` when the verdict is on the whole scenario.
    pub metric: Option<&'static Metric>,
    /// The verdict.
    pub verdict: Verdict,
    /// How the metric changed, where both sides have it.
    pub change: Option<Change>,
    /// Block values of the base, in the metric's stored unit.
    pub base_blocks: Vec<f64>,
    /// Block values of the run, in the metric's stored unit.
    pub current_blocks: Vec<f64>,
    /// Block effects, changes of ln cost; empty for a stored baseline, whose blocks are not paired.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<f64>,
}

impl Finding {
    /// A verdict that rests on no numbers.
    pub(super) fn without_numbers(
        scenario: &str,
        metric: Option<&'static Metric>,
        verdict: Verdict,
    ) -> Self {
        Self {
            scenario: scenario.into(),
            metric,
            verdict,
            change: None,
            base_blocks: Vec::new(),
            current_blocks: Vec::new(),
            changes: Vec::new(),
        }
    }
}

/// When the judged numbers were measured, for report formats that have a field for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeasurementTimes {
    /// When the last session began: UTC, RFC 3339; `None` where nothing was measured.
    pub started: Option<String>,
    /// Seconds of all measured generations, by scenario; absent without end-to-end times.
    pub seconds: BTreeMap<String, f64>,
}

impl MeasurementTimes {
    /// From the seconds of the generations of each scenario.
    pub(super) fn new<'a>(
        started: Option<&String>,
        seconds: impl Iterator<Item = (&'a String, f64)>,
    ) -> Self {
        let measured = seconds.filter(|(_, all)| *all > 0.0 && all.is_finite());
        let seconds = measured.map(|(id, all)| (id.clone(), all)).collect();
        Self { started: started.cloned(), seconds }
    }
}

/// What was measured, and where.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subject {
    /// The model.
    pub model: Model,
    /// How it was run.
    pub settings: Settings,
    /// Where.
    pub machine: Machine,
}

impl From<&Record> for Subject {
    fn from(record: &Record) -> Self {
        let Record { model, settings, machine, .. } = record.clone();
        Self { model, settings, machine }
    }
}

impl From<&PairRecord> for Subject {
    /// The candidate; a build that did not start has no model.
    fn from(paired: &PairRecord) -> Self {
        let arms = [&paired.candidate, &paired.base];
        let arm = arms.into_iter().find(|arm| !arm.model.spec.is_empty()).unwrap_or(&paired.base);
        Self {
            model: arm.model.clone(),
            settings: arm.settings.clone(),
            machine: paired.machine.clone(),
        }
    }
}

/// A metric that has changed since the release by more than one change may. Baselines follow what
/// was accepted, so 4 % per change would always pass; the release stays where it is.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// The scenario's id.
    pub scenario: String,
    /// The metric.
    pub metric: &'static Metric,
    /// ln(cost now / cost at the release).
    pub theta: f64,
    /// The limit of one change, as a share of the metric's own value.
    pub limit: f64,
    /// The limit of one change, as a change of ln cost.
    pub margin: f64,
    /// Beyond twice the limit: a warning rather than a remark.
    pub warns: bool,
}

/// What a pair adds to a judgement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairSummary {
    /// The build that the candidate is compared with.
    pub base: Arm,
    /// The build that is judged.
    pub candidate: Arm,
    /// The command that measured.
    pub command: String,
    /// Seed of all random orders.
    pub seed: u64,
    /// Number of blocks that count.
    pub blocks: usize,
    /// Why blocks were rejected, one entry per rejected block.
    pub rejected: Vec<String>,
    /// The base against a copy of itself; empty where no null control was measured.
    pub null: Vec<NullControl>,
    /// Seconds of both builds in each kind of kernel, traced after a regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelProfile>,
    /// Why measuring ended.
    pub ended: Ended,
    /// Seconds spent starting processes and loading the model.
    pub load_s: f64,
    /// Seconds spent warming up.
    pub warm_up_s: f64,
    /// Seconds spent in turns.
    pub turns_s: f64,
    /// Seconds in all.
    pub total_s: f64,
    /// Undecided scenarios, which are measured further.
    pub open: Vec<String>,
}

/// The null control: the base against a copy of its own binary. Any change is the machine's doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NullControl {
    /// The scenario's id.
    pub scenario: String,
    /// The metric's name.
    pub metric: &'static str,
    /// ln(cost of the copy / cost of the base).
    pub theta: f64,
    /// Its 99 % confidence interval.
    pub interval: Interval,
    /// Significant and more than 1 %.
    pub contaminated: bool,
}

/// The result of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// What all verdicts amount to.
    pub outcome: Outcome,
    /// Why nothing was judged; `None` where something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many metrics were judged together, the m of Bonferroni's correction.
    pub judged: usize,
    /// What differs between the two sides beside the numbers.
    pub differences: Vec<Difference>,
    /// What a reader has to know: an injected slowdown, an uncalibrated baseline, drift of the
    /// machine.
    pub notes: Vec<String>,
    /// In the order of the suite.
    pub findings: Vec<Finding>,
    /// Metrics that have drifted beyond their limit since the release. Decides nothing.
    pub drift: Vec<Drift>,
    /// The limits and levels that were applied.
    pub policy: Policy,
    /// The commit that the baseline was built from, with which it can be built again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_commit: Option<String>,
    /// How two builds were measured in turns; `None` for a record against a baseline.
    #[serde(rename = "course", skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairSummary>,
    /// Not in the JSON form: the records have it.
    #[serde(skip)]
    pub measured: MeasurementTimes,
    /// Not in the JSON form either; `None` where nothing was judged.
    #[serde(skip)]
    pub subject: Option<Box<Subject>>,
    /// The tool that measured, if it was not candlemark; the notes have it.
    #[serde(skip)]
    pub other_tool: Option<&'static str>,
}

impl Judgement {
    /// Without anything that was judged.
    pub(super) fn new(outcome: Outcome, policy: &Policy) -> Self {
        Self {
            schema: SCHEMA,
            outcome,
            reason: None,
            judged: 0,
            differences: Vec::new(),
            notes: Vec::new(),
            findings: Vec::new(),
            drift: Vec::new(),
            policy: policy.clone(),
            baseline_commit: None,
            pair: None,
            measured: MeasurementTimes::default(),
            subject: None,
            other_tool: None,
        }
    }

    /// A judgement that judges nothing. The first line of `why` is the reason, all of them are
    /// notes.
    pub(crate) fn without_findings(outcome: Outcome, why: &str, policy: &Policy) -> Self {
        let lines = why.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let notes: Vec<String> = lines.map(str::to_owned).collect();
        let reason = notes.first().map_or("", |line| line.trim_end_matches(':')).to_owned();
        Self { reason: Some(reason), notes, ..Self::new(outcome, policy) }
    }

    /// Scenarios that further blocks of the run may decide. More blocks do not help where the
    /// baseline has too few, nor where sessions vary by so much that the irreducible part of the
    /// interval alone exceeds the limit.
    pub fn open(&self) -> Vec<&str> {
        let is_hopeless = |finding: &Finding| {
            let change = finding.change.as_ref();
            let evidence = change.and_then(|change| Some((change, change.evidence?)));
            evidence.is_some_and(|(change, evidence)| {
                let half_width = (evidence.pass_bound - change.theta) / evidence.standard_error
                    * evidence.irreducible_error;
                half_width > change.margin
            })
        };
        undecided(&self.findings, |finding, why| match why {
            Why::Uncalibrated => false,
            Why::Noisy => !is_hopeless(finding),
            _ => true,
        })
    }
}

/// The scenarios with an undecided metric that more blocks `may_decide`. They make no implausible
/// change plausible.
pub(super) fn undecided(
    findings: &[Finding],
    may_decide: impl Fn(&Finding, Why) -> bool,
) -> Vec<&str> {
    let mut undecided: Vec<&str> = Vec::new();
    for finding in findings {
        let open = match finding.verdict {
            Verdict::Undecided(why) => why != Why::Implausible && may_decide(finding, why),
            _ => false,
        };
        if open && !undecided.contains(&finding.scenario.as_str()) {
            undecided.push(&finding.scenario);
        }
    }
    undecided
}

/// What the findings amount to together.
pub(super) fn overall_outcome(
    findings: &[Finding],
    incomparable: bool,
    policy: &Policy,
) -> Outcome {
    let each = findings.iter().map(|finding| finding.verdict.outcome(policy));
    each.chain(incomparable.then_some(Outcome::NotComparable)).max().unwrap_or(Outcome::Pass)
}
