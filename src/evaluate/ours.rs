//! This gate, and this gate with one part taken out, to see what each part is for.

use crate::compare::looks::{
    BlockSummary, Decision, EffectSeries, LOOKS, Levels, PRIOR_FREEDOM, SequentialDesign, decide,
};
use crate::compare::{BLOCKS_NEEDED, Interval, Policy, Verdict};
use crate::evaluate::rules::{Answer, Pairing, Said, View, alpha};
use crate::record::calibration::SdEstimate;
use crate::stats;

/// This gate, part by part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ours {
    /// What the unit of statistics is.
    unit: Unit,
    /// What becomes of rejected blocks.
    rejected: Rejected,
    /// Whether the centre is a trimmed mean.
    trimmed: bool,
    /// Whether all metrics of a suite are judged together.
    family: bool,
    /// Whether two builds of one source may differ.
    layout: bool,
    /// What the variances of a kind are worth, in degrees of freedom.
    prior_freedom: f64,
    /// Numbers of blocks at which verdicts are given.
    looks: &'static [usize],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    /// A block's value.
    Block,
    /// That of the first turn of each arm in every round.
    FirstTurns,
    /// A round's value.
    Round,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rejected {
    /// Left out; where they would turn a regression into a pass or a pass into one, nothing is
    /// said.
    MayContradict,
    LeftOut,
    Counted,
}

/// As `candlemark pair` decides; the null control, for which a pool has no arm to spare, is left
/// out.
pub(super) const WHOLE: Ours = Ours {
    unit: Unit::Block,
    rejected: Rejected::MayContradict,
    trimmed: true,
    family: true,
    layout: true,
    prior_freedom: PRIOR_FREEDOM,
    looks: &LOOKS,
};
/// Of one part less each, blocks that were rejected are left out without a second look.
const PART: Ours = Ours { rejected: Rejected::LeftOut, ..WHOLE };
pub(super) const ALONE: Ours = Ours { prior_freedom: 0.0, ..PART };
pub(super) const FROM_EIGHT: Ours = Ours { looks: &[8, 12, 16, 20, 24, 32], ..PART };
pub(super) const BOTH: Ours = Ours { prior_freedom: 0.0, ..FROM_EIGHT };
pub(super) const ONE_PROCESS: Ours = Ours { unit: Unit::Round, ..PART };
pub(super) const NO_ABBA: Ours = Ours { unit: Unit::FirstTurns, ..PART };
pub(super) const NO_LAYOUT: Ours = Ours { layout: false, ..PART };
pub(super) const NO_FAMILY: Ours = Ours { family: false, ..PART };
pub(super) const NO_REJECTION: Ours = Ours { rejected: Rejected::Counted, ..PART };
pub(super) const UNTRIMMED: Ours = Ours { trimmed: false, ..PART };

/// One metric from one block on, ready for any look.
pub(super) struct Window<'a> {
    view: View<'a>,
    values: Values,
    /// The same with rejected blocks, where there are any and they may contradict.
    all: Option<Values>,
}

/// Values of one unit, with what they say at every look.
struct Values {
    units: Vec<f64>,
    limits: (f64, f64),
    looks: Vec<(usize, BlockSummary)>,
}

impl EffectSeries for &Values {
    fn count(&self) -> usize {
        self.units.len()
    }

    fn summary(&self, used: usize) -> BlockSummary {
        let known = self.looks.iter().find(|(look, _)| *look == used);
        known.map_or_else(|| BlockSummary::new(&self.units[..used]), |(_, summary)| *summary)
    }

    fn margins(&self) -> (f64, f64) {
        self.limits
    }
}

impl Ours {
    pub(super) fn window<'a>(&self, view: View<'a>) -> Window<'a> {
        let of = |block: &Pairing| match self.unit {
            Unit::Block => vec![block.value],
            Unit::FirstTurns => vec![block.first],
            Unit::Round => block.rounds.clone(),
        };
        let units = |with_rejected: bool| -> Vec<f64> {
            let counted = view.blocks.iter().filter(|block| with_rejected || !block.rejected);
            counted.flat_map(|block| of(block)).collect()
        };
        let contradict = self.rejected == Rejected::MayContradict
            && view.blocks.iter().any(|block| block.rejected);
        let values = self.values(&view, units(self.rejected == Rejected::Counted));
        let all = contradict.then(|| self.values(&view, units(true)));
        Window { view, values, all }
    }

    fn values(&self, view: &View, units: Vec<f64>) -> Values {
        let reached = self.looks.iter().filter(|look| **look <= units.len());
        let looks = reached.map(|look| (*look, self.summary(&units[..*look]))).collect();
        Values { units, limits: view.limits(), looks }
    }

    fn summary(&self, values: &[f64]) -> BlockSummary {
        if self.trimmed {
            return BlockSummary::new(values);
        }
        let theta = stats::mean(values).expect("a look has values");
        let freedom = (values.len() - 1) as f64;
        BlockSummary { theta, variance: stats::sum_of_squares(values) / freedom, freedom }
    }

    /// What is said of metrics of one kind that are judged together in a suite of `judged` metrics.
    pub(super) fn decide(&self, windows: &[&Window], judged: usize) -> Vec<Answer> {
        let rule = SequentialDesign {
            looks: self.looks,
            min_blocks_for_regression: BLOCKS_NEEDED,
            levels: Levels::for_pair(alpha(), if self.family { judged } else { 1 }),
            layout: SdEstimate {
                sd: if self.layout { Policy::default().layout_sd } else { 0.0 },
                freedom: f64::INFINITY,
            },
            max_prior_freedom: self.prior_freedom,
            ended: true,
        };
        let values: Vec<&Values> = windows.iter().map(|window| &window.values).collect();
        let decisions = decide(&values, &rule);
        let with = windows.iter().any(|window| window.all.is_some()).then(|| {
            let all = windows.iter().map(|one| one.all.as_ref().unwrap_or(&one.values));
            decide(&all.collect::<Vec<_>>(), &rule)
        });
        let answers = decisions.iter().enumerate().map(|(at, decision)| {
            let answer = answer(decision, self.span(windows[at], decision.used));
            let contradicted = windows[at].all.is_some()
                && with.as_ref().is_some_and(|with| contradict(decision, &with[at]));
            if contradicted { Answer { said: Said::Undecided, ..answer } } else { answer }
        });
        answers.collect()
    }

    /// How many blocks had to be measured to have so many units.
    fn span(&self, window: &Window, used: usize) -> usize {
        match (self.unit, self.rejected) {
            (_, Rejected::Counted) => used,
            (Unit::Round, _) => {
                let mut seen = 0;
                let counted = window.view.blocks.iter().filter(|block| !block.rejected);
                let begun = counted.take_while(|block| {
                    let more = seen < used;
                    seen += block.rounds.len();
                    more
                });
                let blocks = begun.count();
                window.view.span(blocks)
            }
            _ => window.view.span(used),
        }
    }
}

fn contradict(decision: &Decision, with: &Decision) -> bool {
    let regressed = |decision: &Decision| said(&decision.verdict) == Said::Regressed;
    decision.is_final() && with.is_final() && regressed(decision) != regressed(with)
}

fn answer(decision: &Decision, blocks: usize) -> Answer {
    let interval = decision.theta.zip(decision.evidence).map(|(theta, evidence)| {
        let half = stats::student_t_quantile(0.975, evidence.freedom) * evidence.standard_error;
        Interval { lo: theta - half, hi: theta + half }
    });
    Answer { said: said(&decision.verdict), theta: decision.theta, interval, blocks }
}

fn said(verdict: &Verdict) -> Said {
    match verdict {
        Verdict::Regressed { .. } => Said::Regressed,
        Verdict::Inconclusive(_) => Said::Undecided,
        _ => Said::Pass,
    }
}
