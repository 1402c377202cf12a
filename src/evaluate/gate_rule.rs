//! The rule of this gate, and the ablations that show what each of its parts contributes.

use crate::compare::looks::{
    BlockSummary, Decision, EffectSeries, LOOKS, Levels, PRIOR_FREEDOM, SequentialDesign, decide,
};
use crate::compare::{BLOCKS_NEEDED, Interval, Policy, Verdict};
use crate::evaluate::rule::{PairedBlock, RuleInput, RuleOutput, RuleVerdict};
use crate::record::calibration::SdEstimate;
use crate::stats;

/// The parts of this gate's rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateRule {
    unit: SampleUnit,
    rejected: RejectedBlocks,
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

#[derive(Debug, Clone, Copy, PartialEq)]
enum RejectedBlocks {
    /// Left out; the verdict is undecided if counting them turned a regression into a pass or a
    /// pass into a regression.
    MayContradict,
    LeftOut,
    Counted,
}

/// The rule of `candlemark pair`, without the null control: a pool has no arm to spare for it.
pub(super) const WHOLE: GateRule = GateRule {
    unit: SampleUnit::Block,
    rejected: RejectedBlocks::MayContradict,
    trimmed: true,
    family: true,
    layout: true,
    prior_freedom: PRIOR_FREEDOM,
    looks: &LOOKS,
};
/// The ablations start here: they leave rejected blocks out and do not check for contradictions.
const ABLATION: GateRule = GateRule { rejected: RejectedBlocks::LeftOut, ..WHOLE };
pub(super) const OWN_VARIANCE: GateRule = GateRule { prior_freedom: 0.0, ..ABLATION };
pub(super) const FROM_EIGHT: GateRule = GateRule { looks: &[8, 12, 16, 20, 24, 32], ..ABLATION };
pub(super) const OWN_VARIANCE_FROM_EIGHT: GateRule = GateRule { prior_freedom: 0.0, ..FROM_EIGHT };
pub(super) const ONE_PROCESS: GateRule = GateRule { unit: SampleUnit::Round, ..ABLATION };
pub(super) const NO_ABBA: GateRule = GateRule { unit: SampleUnit::FirstTurns, ..ABLATION };
pub(super) const NO_LAYOUT: GateRule = GateRule { layout: false, ..ABLATION };
pub(super) const NO_FAMILY: GateRule = GateRule { family: false, ..ABLATION };
pub(super) const NO_REJECTION: GateRule =
    GateRule { rejected: RejectedBlocks::Counted, ..ABLATION };
pub(super) const UNTRIMMED: GateRule = GateRule { trimmed: false, ..ABLATION };

/// One metric from one block on, with a summary for every look.
pub(super) struct GateInput<'a> {
    input: RuleInput<'a>,
    accepted: LookSeries,
    /// Including rejected blocks, where there are any and they may contradict.
    all: Option<LookSeries>,
}

/// Samples, and their summary at every look.
struct LookSeries {
    samples: Vec<f64>,
    limits: (f64, f64),
    looks: Vec<(usize, BlockSummary)>,
}

impl EffectSeries for &LookSeries {
    fn count(&self) -> usize {
        self.samples.len()
    }

    fn summary(&self, used: usize) -> BlockSummary {
        let known = self.looks.iter().find(|(look, _)| *look == used);
        known.map_or_else(|| BlockSummary::new(&self.samples[..used]), |(_, summary)| *summary)
    }

    fn margins(&self) -> (f64, f64) {
        self.limits
    }
}

impl GateRule {
    pub(super) fn prepare<'a>(&self, input: RuleInput<'a>) -> GateInput<'a> {
        let samples_of = |block: &PairedBlock| match self.unit {
            SampleUnit::Block => vec![block.effect],
            SampleUnit::FirstTurns => vec![block.first_turns],
            SampleUnit::Round => block.rounds.clone(),
        };
        let samples = |with_rejected: bool| -> Vec<f64> {
            let counted = input.blocks.iter().filter(|block| with_rejected || !block.rejected);
            counted.flat_map(|block| samples_of(block)).collect()
        };
        let contradict = self.rejected == RejectedBlocks::MayContradict
            && input.blocks.iter().any(|block| block.rejected);
        let accepted = self.series(&input, samples(self.rejected == RejectedBlocks::Counted));
        let all = contradict.then(|| self.series(&input, samples(true)));
        GateInput { input, accepted, all }
    }

    fn series(&self, input: &RuleInput, samples: Vec<f64>) -> LookSeries {
        let reached = self.looks.iter().filter(|look| **look <= samples.len());
        let looks = reached.map(|look| (*look, self.summary(&samples[..*look]))).collect();
        LookSeries { samples, limits: input.limits(), looks }
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
        let rule = SequentialDesign {
            looks: self.looks,
            min_blocks_for_regression: BLOCKS_NEEDED,
            levels: Levels::for_pair(Policy::default().alpha, if self.family { judged } else { 1 }),
            layout: SdEstimate {
                sd: if self.layout { Policy::default().layout_sd } else { 0.0 },
                freedom: f64::INFINITY,
            },
            max_prior_freedom: self.prior_freedom,
            ended: true,
        };
        let accepted: Vec<&LookSeries> = inputs.iter().map(|input| &input.accepted).collect();
        let decisions = decide(&accepted, &rule);
        let with_rejected = inputs.iter().any(|input| input.all.is_some()).then(|| {
            let all = inputs.iter().map(|input| input.all.as_ref().unwrap_or(&input.accepted));
            decide(&all.collect::<Vec<_>>(), &rule)
        });
        let outputs = decisions.iter().enumerate().map(|(at, decision)| {
            let output = output(decision, self.blocks_measured(inputs[at], decision.used));
            let contradicted = inputs[at].all.is_some()
                && with_rejected.as_ref().is_some_and(|with| contradict(decision, &with[at]));
            if contradicted {
                RuleOutput { verdict: RuleVerdict::Undecided, ..output }
            } else {
                output
            }
        });
        outputs.collect()
    }

    /// How many blocks had to be measured for so many samples.
    fn blocks_measured(&self, input: &GateInput, samples: usize) -> usize {
        match (self.unit, self.rejected) {
            (_, RejectedBlocks::Counted) => samples,
            (SampleUnit::Round, _) => {
                let mut seen = 0;
                let accepted = input.input.blocks.iter().filter(|block| !block.rejected);
                let begun = accepted.take_while(|block| {
                    let more = seen < samples;
                    seen += block.rounds.len();
                    more
                });
                input.input.blocks_measured(begun.count())
            }
            _ => input.input.blocks_measured(samples),
        }
    }
}

fn contradict(decision: &Decision, with_rejected: &Decision) -> bool {
    let regressed = |decision: &Decision| verdict(&decision.verdict) == RuleVerdict::Regressed;
    decision.is_final()
        && with_rejected.is_final()
        && regressed(decision) != regressed(with_rejected)
}

fn output(decision: &Decision, blocks: usize) -> RuleOutput {
    let interval = decision.theta.zip(decision.evidence).map(|(theta, evidence)| {
        let half = stats::student_t_quantile(0.975, evidence.freedom) * evidence.standard_error;
        Interval { lo: theta - half, hi: theta + half }
    });
    let verdict = verdict(&decision.verdict);
    RuleOutput { verdict, theta: decision.theta, interval, blocks }
}

fn verdict(verdict: &Verdict) -> RuleVerdict {
    match verdict {
        Verdict::Regressed { .. } => RuleVerdict::Regressed,
        Verdict::Inconclusive(_) => RuleVerdict::Undecided,
        _ => RuleVerdict::Pass,
    }
}
