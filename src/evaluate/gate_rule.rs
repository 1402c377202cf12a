//! The rule of this gate, and the ablations that show what each of its parts contributes.

use crate::compare::looks::{
    BlockSummary, Decision, EffectSeries, LOOKS, Levels, PRIOR_FREEDOM, SequentialDesign, decide,
};
use crate::compare::{Interval, Policy, Verdict, Why};
use crate::evaluate::rule::{PairedBlock, RuleInput, RuleOutput, RuleVerdict};
use crate::record::calibration::SdEstimate;
use crate::stats;

/// The parts of this gate's rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateRule {
    unit: SampleUnit,
    /// Whether a verdict is withdrawn that rejected blocks contradict. They never count.
    heed_rejected: bool,
    /// Whether the centre is a trimmed mean.
    trimmed: bool,
    /// Whether significance is family-wise over all metrics of a suite.
    family: bool,
    /// Whether two builds of one source may differ by their code layout.
    layout: bool,
    /// Degrees of freedom of the prior that moderates variances of one kind of metric.
    prior_freedom: f64,
    /// Numbers of blocks at which a look is taken.
    looks: &'static [usize],
}

/// The unit of statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
enum SampleUnit {
    Block,
    /// A block, of which each arm's first turn per round counts.
    FirstTurns,
    Round,
}

/// The rule of `candlemark pair`, without the null control: a pool has no arm to spare for it.
pub(super) const WHOLE: GateRule = GateRule {
    unit: SampleUnit::Block,
    heed_rejected: true,
    trimmed: true,
    family: true,
    layout: true,
    prior_freedom: PRIOR_FREEDOM,
    looks: &LOOKS,
};
/// The ablations start here.
const ABLATION: GateRule = GateRule { heed_rejected: false, ..WHOLE };
pub(super) const OWN_VARIANCE: GateRule = GateRule { prior_freedom: 0.0, ..ABLATION };
pub(super) const FROM_EIGHT: GateRule = GateRule { looks: &[8, 12, 16, 20, 24, 32], ..ABLATION };
pub(super) const OWN_VARIANCE_FROM_EIGHT: GateRule = GateRule { prior_freedom: 0.0, ..FROM_EIGHT };
pub(super) const ONE_PROCESS: GateRule = GateRule { unit: SampleUnit::Round, ..ABLATION };
pub(super) const NO_ABBA: GateRule = GateRule { unit: SampleUnit::FirstTurns, ..ABLATION };
pub(super) const NO_LAYOUT: GateRule = GateRule { layout: false, ..ABLATION };
pub(super) const NO_FAMILY: GateRule = GateRule { family: false, ..ABLATION };
pub(super) const UNTRIMMED: GateRule = GateRule { trimmed: false, ..ABLATION };

/// One metric from one block on.
pub(super) struct GateInput<'a> {
    input: RuleInput<'a>,
    accepted: EffectSeries,
    /// Including rejected blocks, where there are any and they may contradict.
    all: Option<EffectSeries>,
}

impl GateRule {
    pub(super) fn prepare<'a>(&self, input: RuleInput<'a>) -> GateInput<'a> {
        let series = |with_rejected: bool| {
            let counted = input.blocks.iter().filter(|block| with_rejected || !block.rejected);
            let samples = counted.flat_map(|block| self.samples(block)).collect();
            EffectSeries::new(samples, input.limits(), self.looks, |effects| self.summary(effects))
        };
        let may_contradict = self.heed_rejected && input.blocks.iter().any(|block| block.rejected);
        let (accepted, all) = (series(false), may_contradict.then(|| series(true)));
        GateInput { input, accepted, all }
    }

    fn samples(&self, block: &PairedBlock) -> Vec<f64> {
        match self.unit {
            SampleUnit::Block => vec![block.effect],
            SampleUnit::FirstTurns => vec![block.first_turns],
            SampleUnit::Round => block.rounds.clone(),
        }
    }

    fn summary(&self, samples: &[f64]) -> BlockSummary {
        if self.trimmed {
            return BlockSummary::new(samples);
        }
        let theta = stats::mean(samples).expect("a look has samples");
        let freedom = (samples.len() - 1) as f64;
        BlockSummary { theta, variance: stats::sum_of_squares(samples) / freedom, freedom }
    }

    /// Judges metrics of one kind together, in a suite of `judged` metrics.
    pub(super) fn decide(&self, inputs: &[&GateInput], judged: usize) -> Vec<RuleOutput> {
        let Policy { alpha, layout_sd, .. } = Policy::default();
        let rule = SequentialDesign {
            looks: self.looks,
            levels: Levels::for_pair(alpha, if self.family { judged } else { 1 }),
            layout: SdEstimate {
                sd: if self.layout { layout_sd } else { 0.0 },
                freedom: f64::INFINITY,
            },
            max_prior_freedom: self.prior_freedom,
            ended: true,
        };
        let accepted: Vec<&EffectSeries> = inputs.iter().map(|input| &input.accepted).collect();
        let mut decisions = decide(&accepted, &rule);
        if inputs.iter().any(|input| input.all.is_some()) {
            let all = inputs.iter().map(|input| input.all.as_ref().unwrap_or(&input.accepted));
            let with_rejected = decide(&all.collect::<Vec<_>>(), &rule);
            for (at, decision) in decisions.iter_mut().enumerate() {
                if inputs[at].all.is_some() && decision.is_contradicted_by(&with_rejected[at]) {
                    decision.verdict = Verdict::Undecided(Why::Rejected);
                }
            }
        }
        let output = |(input, decision): (&&GateInput, &Decision)| self.output(input, decision);
        inputs.iter().zip(&decisions).map(output).collect()
    }

    fn output(&self, input: &GateInput, decision: &Decision) -> RuleOutput {
        let interval = decision.theta.zip(decision.evidence).map(|(theta, evidence)| {
            let half = stats::student_t_quantile(0.975, evidence.freedom) * evidence.standard_error;
            Interval { lo: theta - half, hi: theta + half }
        });
        let verdict = match decision.verdict {
            Verdict::Regressed { .. } => RuleVerdict::Regressed,
            Verdict::Undecided(_) => RuleVerdict::Undecided,
            _ => RuleVerdict::Pass,
        };
        // Blocks that had to be measured for so many samples.
        let mut samples = 0;
        let accepted = input.input.blocks.iter().filter(|block| !block.rejected);
        let used = accepted.take_while(|block| {
            let more = samples < decision.used;
            samples += self.samples(block).len();
            more
        });
        let blocks = input.input.blocks_measured(used.count());
        RuleOutput { verdict, theta: decision.theta, interval, blocks }
    }
}
