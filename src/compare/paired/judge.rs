//! The verdicts on the metrics of a pair, and its null control.

use std::collections::BTreeMap;

use super::effects::{arm_value, block_effect, gated_metrics};
use crate::compare::looks::{
    BlockSummary, Decision, EffectSeries, LOOKS, Levels, PRIOR_FREEDOM, SequentialDesign, decide,
};
use crate::compare::{BLOCKS_NEEDED, Change, Finding, NullControl, Policy, Verdict, Why, margin};
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
    pub(super) fn decisions(&self, metrics: &[(&PairCase, &'static Metric)]) -> Vec<Decision> {
        let mut decisions = self.decide(metrics, Rejected::LeftOut);
        if self.paired.blocks.iter().any(|block| block.rejected.is_some()) {
            let all = self.decide(metrics, Rejected::Counted);
            for (decision, with) in decisions.iter_mut().zip(all) {
                let regressed = |one: &Decision| matches!(one.verdict, Verdict::Regressed { .. });
                let both = decision.is_final() && with.is_final();
                if both && regressed(decision) != regressed(&with) {
                    decision.verdict = Verdict::Inconclusive(Why::Rejected);
                }
            }
        }
        decisions
    }

    fn decide(
        &self,
        metrics: &[(&PairCase, &'static Metric)],
        rejected: Rejected,
    ) -> Vec<Decision> {
        let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, (_, metric)) in metrics.iter().enumerate() {
            kinds.entry(metric.kind()).or_default().push(at);
        }
        let mut decisions = vec![None; metrics.len()];
        for members in kinds.into_values() {
            let design = SequentialDesign {
                looks: &LOOKS,
                min_blocks_for_regression: BLOCKS_NEEDED,
                levels: self.levels,
                layout: self.layout(metrics[members[0]].1),
                max_prior_freedom: PRIOR_FREEDOM,
                ended: self.paired.ended != Ended::Open,
            };
            let series = |at: &usize| {
                let (case, metric) = metrics[*at];
                MetricEffects {
                    effects: self.effects(case, metric, rejected),
                    margins: self.margins(metric),
                }
            };
            let series: Vec<MetricEffects> = members.iter().map(series).collect();
            for (at, decision) in members.into_iter().zip(decide(&series, &design)) {
                decisions[at] = Some(decision);
            }
        }
        decisions.into_iter().map(|one| one.expect("every metric has a kind")).collect()
    }

    /// The limit and the critical limit, as changes of ln cost.
    fn margins(&self, metric: &Metric) -> (f64, f64) {
        let limit = self.policy.limit(metric);
        (margin(metric.better, limit), margin(metric.better, 2.0 * limit))
    }

    fn counts(&self, turns: &PairTurns) -> bool {
        self.paired.blocks.get(turns.block).is_none_or(|block| block.rejected.is_none())
    }

    /// The block effects of a metric.
    fn effects(&self, case: &PairCase, metric: &Metric, rejected: Rejected) -> Vec<f64> {
        let counted =
            case.blocks.iter().filter(|turns| rejected == Rejected::Counted || self.counts(turns));
        counted.filter_map(|turns| block_effect(turns, metric, 'B')).collect()
    }

    pub(super) fn finding(
        &self,
        case: &PairCase,
        metric: &'static Metric,
        mut decision: Decision,
    ) -> Finding {
        let (margin, _) = self.margins(metric);
        let mut changes = self.effects(case, metric, Rejected::LeftOut);
        // Below the first look there is no verdict, but the centre is reported.
        decision.theta =
            decision.theta.or_else(|| stats::trimmed_mean(&changes).map(|mean| mean.value));
        let timed = metric.kind() != "memory";
        if matches!(decision.verdict, Verdict::Regressed { .. })
            && timed
            && decision.theta.is_some_and(|theta| self.bias > 0.0 && theta - self.bias < margin)
        {
            decision.verdict = Verdict::Inconclusive(Why::Contaminated);
        }
        // Only blocks that have an effect, so that the lists match `changes` entry by entry.
        let counts =
            |turns: &&PairTurns| self.counts(turns) && block_effect(turns, metric, 'B').is_some();
        let values = |arm: char| -> Vec<f64> {
            let counted = case.blocks.iter().filter(counts).take(decision.used);
            counted.filter_map(|turns| arm_value(turns, metric, arm)).collect()
        };
        let (base_blocks, current_blocks) = (values('A'), values('B'));
        let centre = |values: &[f64]| {
            let ln: Vec<f64> = values.iter().map(|value| value.ln()).collect();
            stats::trimmed_mean(&ln).map(|mean| mean.value.exp())
        };
        let sides = centre(&base_blocks).zip(centre(&current_blocks)).zip(decision.theta);
        let change = sides.map(|((base, current), theta)| Change {
            base,
            current,
            theta,
            normalized: None, // Both builds ran on the same machine at the same time.
            limit: self.policy.limit(metric),
            margin,
            evidence: decision.evidence,
        });
        changes.truncate(decision.used);
        Finding {
            scenario: case.id.clone(),
            metric: Some(metric),
            verdict: decision.verdict,
            change,
            base_blocks,
            current_blocks,
            changes,
        }
    }

    /// The standard deviation between two builds of one source: calibrated, or assumed.
    fn layout(&self, metric: &Metric) -> SdEstimate {
        let assumed = |sd| SdEstimate { sd, freedom: f64::INFINITY };
        match self.paired.layout.get(metric.kind()) {
            _ if self.same_binary => assumed(0.0),
            Some(measured) => *measured,
            None => assumed(self.policy.layout_sd),
        }
    }
}

/// The block effects of one metric.
struct MetricEffects {
    effects: Vec<f64>,
    margins: (f64, f64),
}

impl EffectSeries for MetricEffects {
    fn count(&self) -> usize {
        self.effects.len()
    }

    fn summary(&self, blocks: usize) -> BlockSummary {
        BlockSummary::new(&self.effects[..blocks])
    }

    fn margins(&self) -> (f64, f64) {
        self.margins
    }
}

/// The null control in every scenario and time metric in which the copy had turns.
pub(super) fn null_controls(paired: &PairRecord) -> Vec<NullControl> {
    const SMALLEST: f64 = 0.01;
    let design = SequentialDesign {
        looks: &LOOKS,
        min_blocks_for_regression: BLOCKS_NEEDED,
        levels: Levels { familywise: 0.995, pass: 0.995 },
        layout: SdEstimate { sd: 0.0, freedom: f64::INFINITY },
        max_prior_freedom: 0.0,
        ended: true,
    };
    let mut found = Vec::new();
    for case in &paired.scenarios {
        for metric in gated_metrics(case).filter(|metric| metric.kind() != "memory") {
            let counted = case.blocks.iter().filter(|turns| {
                paired.blocks.get(turns.block).is_some_and(|block| block.rejected.is_none())
            });
            let effects: Vec<f64> =
                counted.filter_map(|turns| block_effect(turns, metric, 'N')).collect();
            if effects.len() < LOOKS[0] {
                continue;
            }
            let summary = BlockSummary::new(&effects);
            let theta = summary.theta;
            let interval = design.evidence(&summary, effects.len(), None).ci_familywise;
            let contaminated = theta.abs() > SMALLEST && (interval.lo > 0.0 || interval.hi < 0.0);
            let scenario = case.id.clone();
            found.push(NullControl {
                scenario,
                metric: metric.name,
                theta,
                interval,
                contaminated,
            });
        }
    }
    found
}
