//! The verdicts on the metrics of a pair, and its null control.

use std::collections::BTreeMap;

use super::Comparison;
use super::effects::{arm_value, block_effect, gated_metrics};
use crate::compare::looks::{
    BlockSummary, Decision, EffectSeries, LOOKS, Levels, PRIOR_FREEDOM, SequentialDesign, decide,
};
use crate::compare::{Change, Finding, NullControl, Policy, Verdict, Why};
use crate::record::calibration::SdEstimate;
use crate::record::pair::{Arm, Ended, PairCase, PairRecord, PairTurns};
use crate::stats;
use crate::workload::Metric;

/// Gives the verdicts on all metrics of a pair.
pub(super) struct PairJudge<'a> {
    paired: &'a PairRecord,
    levels: Levels,
    same_binary: bool,
    /// The largest effect of a contaminated null control, 0 if none is.
    bias: f64,
    policy: &'a Policy,
}

/// Whether rejected blocks count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rejected {
    LeftOut,
    Counted,
}

impl<'a> PairJudge<'a> {
    pub(super) fn new(
        paired: &'a PairRecord,
        judged: usize,
        null: &[NullControl],
        policy: &'a Policy,
    ) -> Self {
        let sha256 = |arm: &Arm| arm.build.binary_sha256.clone();
        let base = sha256(&paired.base);
        let bias = null
            .iter()
            .filter(|null| null.contaminated)
            .map(|null| null.theta.abs())
            .fold(0.0, f64::max);
        Self {
            paired,
            levels: Levels::for_pair(policy.alpha, judged),
            same_binary: base.is_some() && base == sha256(&paired.candidate),
            bias,
            policy,
        }
    }

    /// The decision on each metric, in their order.
    pub(super) fn decisions(&self, metrics: &[Comparison]) -> Vec<Decision> {
        let mut decisions = self.decide(metrics, Rejected::LeftOut);
        if self.paired.blocks.iter().any(|block| block.rejected.is_some()) {
            let all = self.decide(metrics, Rejected::Counted);
            for (decision, with_rejected) in decisions.iter_mut().zip(&all) {
                if decision.is_contradicted_by(with_rejected) {
                    decision.verdict = Verdict::Undecided(Why::Rejected);
                }
            }
        }
        decisions
    }

    fn decide(&self, metrics: &[Comparison], rejected: Rejected) -> Vec<Decision> {
        let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, (_, metric)) in metrics.iter().enumerate() {
            kinds.entry(metric.kind()).or_default().push(at);
        }
        let mut decisions = vec![None; metrics.len()];
        for (kind, members) in kinds {
            let design = SequentialDesign {
                looks: &LOOKS,
                levels: self.levels,
                layout: self.policy.layout(self.paired.layout.get(kind), self.same_binary),
                max_prior_freedom: PRIOR_FREEDOM,
                ended: self.paired.ended != Ended::Open,
            };
            let series = |at: &usize| {
                let (case, metric) = metrics[*at];
                let effects = effects(self.paired, case, metric, 'B', rejected);
                let margins = self.policy.margins(metric);
                EffectSeries::new(effects, margins, &LOOKS, BlockSummary::new)
            };
            let series: Vec<EffectSeries> = members.iter().map(series).collect();
            let decided = decide(&series.iter().collect::<Vec<_>>(), &design);
            for (at, decision) in members.into_iter().zip(decided) {
                decisions[at] = Some(decision);
            }
        }
        decisions.into_iter().map(|one| one.expect("every metric has a kind")).collect()
    }

    pub(super) fn finding(
        &self,
        case: &PairCase,
        metric: &'static Metric,
        decision: Decision,
    ) -> Finding {
        let Decision { mut verdict, theta, evidence, used } = decision;
        let (margin, _) = self.policy.margins(metric);
        let mut changes = effects(self.paired, case, metric, 'B', Rejected::LeftOut);
        // Below the first look there is no verdict, but the centre is reported.
        let theta = theta.or_else(|| stats::trimmed_mean(&changes).map(|mean| mean.value));
        if matches!(verdict, Verdict::Regressed { .. })
            && metric.kind() != "memory"
            && theta.is_some_and(|theta| self.bias > 0.0 && theta - self.bias < margin)
        {
            verdict = Verdict::Undecided(Why::Contaminated);
        }
        // Only blocks that have an effect, so that the lists match `changes` entry by entry.
        let values = |arm: char| -> Vec<f64> {
            let counted = counted(self.paired, case, Rejected::LeftOut)
                .filter(|turns| block_effect(turns, metric, 'B').is_some());
            counted.take(used).filter_map(|turns| arm_value(turns, metric, arm)).collect()
        };
        let (base_blocks, current_blocks) = (values('A'), values('B'));
        let centre = |values: &[f64]| {
            let ln: Vec<f64> = values.iter().map(|value| value.ln()).collect();
            stats::trimmed_mean(&ln).map(|mean| mean.value.exp())
        };
        let sides = centre(&base_blocks).zip(centre(&current_blocks)).zip(theta);
        let change = sides.map(|((base, current), theta)| Change {
            base,
            current,
            theta,
            normalized: None, // Both builds ran on the same machine at the same time.
            limit: self.policy.limit(metric),
            margin,
            evidence,
        });
        changes.truncate(used);
        Finding {
            scenario: case.id.clone(),
            metric: Some(metric),
            verdict,
            change,
            base_blocks,
            current_blocks,
            changes,
        }
    }
}

/// The blocks of a scenario that count.
fn counted<'a>(
    paired: &PairRecord,
    case: &'a PairCase,
    rejected: Rejected,
) -> impl Iterator<Item = &'a PairTurns> {
    let counts = move |turns: &&PairTurns| {
        rejected == Rejected::Counted
            || paired.blocks.get(turns.block).is_none_or(|block| block.rejected.is_none())
    };
    case.blocks.iter().filter(counts)
}

/// The block effects of an arm on a metric.
fn effects(
    paired: &PairRecord,
    case: &PairCase,
    metric: &Metric,
    arm: char,
    rejected: Rejected,
) -> Vec<f64> {
    let counted = counted(paired, case, rejected);
    counted.filter_map(|turns| block_effect(turns, metric, arm)).collect()
}

/// The null control in every scenario and time metric in which the copy had turns.
pub(super) fn null_controls(paired: &PairRecord) -> Vec<NullControl> {
    const SMALLEST: f64 = 0.01;
    const LEVELS: Levels = Levels { familywise: 0.995, pass: 0.995 };
    const NO_LAYOUT: SdEstimate = SdEstimate { sd: 0.0, freedom: f64::INFINITY };
    let null_control = |case: &PairCase, metric: &'static Metric| {
        let effects = effects(paired, case, metric, 'N', Rejected::LeftOut);
        if effects.len() < LOOKS[0] {
            return None;
        }
        let summary = BlockSummary::new(&effects);
        let theta = summary.theta;
        let interval = summary.evidence(effects.len(), None, NO_LAYOUT, LEVELS).ci_familywise;
        let contaminated = theta.abs() > SMALLEST && (interval.lo > 0.0 || interval.hi < 0.0);
        let scenario = case.id.clone();
        Some(NullControl { scenario, metric: metric.name, theta, interval, contaminated })
    };
    let of_case = |case| {
        let timed = gated_metrics(case).filter(|metric| metric.kind() != "memory");
        timed.filter_map(move |metric| null_control(case, metric))
    };
    paired.scenarios.iter().flat_map(of_case).collect()
}
