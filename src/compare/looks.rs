//! Interim looks at a pair: a group-sequential design with Bonferroni's correction over the looks
//! and the metrics, which bounds the family-wise error rate. Verdicts are given at planned numbers
//! of blocks only; testing after every block until something is significant would always find
//! something.
//!
//! All metrics of one kind are decided together, because a few blocks estimate a variance badly:
//! their variances are moderated by empirical Bayes ([`VariancePrior`], Smyth 2004).

use crate::compare::{BLOCKS_NEEDED, Evidence, Interval, Verdict, Why, judge_change};
use crate::record::calibration::SdEstimate;
use crate::stats;
use crate::stats::VariancePrior;

/// Numbers of blocks at which verdicts are given. The first allows a pass only: a regression is
/// never called from fewer than [`BLOCKS_NEEDED`] blocks.
pub(crate) const LOOKS: [usize; 6] = [5, 8, 12, 16, 24, 32];

/// Smallest standard deviation between processes, even where a few happened to agree: 0.4 %.
pub(crate) const BLOCK_FLOOR: f64 = 0.004;

/// Most degrees of freedom of the variance prior, d0. Simulated metrics whose standard deviations
/// differ by a third (20 of a kind, five blocks, level 1.4e-4) exceed their level 2.5 times at 10
/// and 5.7 times at 30; trimmed means without a prior do 1.6 times.
pub(crate) const PRIOR_FREEDOM: f64 = 10.0;

/// Confidence levels of the verdicts: 1 minus the significance level after Bonferroni's correction
/// (Dunn 1961) for m metrics and L looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Of a regression: 1 - α / (m L), so that the family-wise error rate over all metrics and
    /// looks is at most α.
    pub familywise: f64,
    /// Of a pass, a one-sided equivalence test: 1 - α / L. It needs no correction for m, because
    /// every metric has to pass.
    pub pass: f64,
}

impl Levels {
    /// For this many metrics judged together at this many looks.
    pub fn new(alpha: f64, metrics: usize, looks: usize) -> Self {
        let looks = looks.max(1) as f64;
        Self {
            familywise: 1.0 - alpha / (metrics.max(1) as f64 * looks),
            pass: 1.0 - alpha / looks,
        }
    }

    /// For this many metrics of a pair. A regression is corrected for the looks that may call one.
    pub(crate) fn for_pair(alpha: f64, metrics: usize) -> Self {
        let regression_looks = LOOKS.iter().filter(|look| **look >= BLOCKS_NEEDED).count();
        let Self { familywise, .. } = Self::new(alpha, metrics, regression_looks);
        Self { familywise, ..Self::new(alpha, metrics, LOOKS.len()) }
    }

    /// How precisely a change is known whose variance is the sum of these, each with its degrees of
    /// freedom (Welch–Satterthwaite).
    pub(super) fn evidence(
        self,
        theta: f64,
        variances: &[(f64, f64)],
        irreducible_error: f64,
    ) -> Evidence {
        let standard_error = variances.iter().map(|(variance, _)| variance).sum::<f64>().sqrt();
        let freedom = stats::welch_satterthwaite(variances);
        let half_width = |level: f64| stats::student_t_quantile(level, freedom) * standard_error;
        Evidence {
            standard_error,
            freedom,
            ci_90: Interval::around(theta, half_width(0.95)),
            pass_bound: theta + half_width(self.pass),
            ci_familywise: Interval::around(theta, half_width(self.familywise)),
            irreducible_error,
            smallest_detectable: half_width(self.familywise) + half_width(0.8),
        }
    }
}

/// The block effects of a metric, summarized by their trimmed mean with winsorized variance (Tukey
/// and McLaughlin 1963).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockSummary {
    /// The trimmed mean.
    pub theta: f64,
    /// The variance of the trimmed mean times the number of blocks, so that metrics with different
    /// numbers of blocks can be compared.
    pub variance: f64,
    /// Its degrees of freedom.
    pub freedom: f64,
}

impl BlockSummary {
    /// Of at least five block effects.
    pub fn new(effects: &[f64]) -> Self {
        let mean = stats::trimmed_mean(effects).expect("looks are at five blocks or more");
        let (error, freedom) = mean.error.expect("looks are at five blocks or more");
        Self { theta: mean.value, variance: error * error * effects.len() as f64, freedom }
    }

    /// The variance of `used` blocks, moderated by the prior, combined with that of the layout.
    pub(super) fn evidence(
        &self,
        used: usize,
        prior: Option<VariancePrior>,
        layout: SdEstimate,
        levels: Levels,
    ) -> Evidence {
        let variance = self.variance.max(BLOCK_FLOOR * BLOCK_FLOOR);
        let (variance, freedom) =
            prior.map_or((variance, self.freedom), |prior| prior.moderate(variance, self.freedom));
        let terms = [(variance / used as f64, freedom), (layout.sd * layout.sd, layout.freedom)];
        levels.evidence(self.theta, &terms, layout.sd)
    }
}

/// The block effects of one metric, in the order measured.
#[derive(Debug, Clone)]
pub struct EffectSeries {
    effects: Vec<f64>,
    /// The limit and the critical limit, as changes of ln cost.
    margins: (f64, f64),
    /// The summary of the first so many effects, at every planned look.
    summaries: Vec<(usize, BlockSummary)>,
}

impl EffectSeries {
    /// Summarizes the effects at the planned looks.
    pub fn new(
        effects: Vec<f64>,
        margins: (f64, f64),
        looks: &[usize],
        summarize: impl Fn(&[f64]) -> BlockSummary,
    ) -> Self {
        let reached = looks.iter().filter(|look| **look <= effects.len());
        let summaries = reached.map(|look| (*look, summarize(&effects[..*look]))).collect();
        Self { effects, margins, summaries }
    }

    /// Number of blocks.
    fn count(&self) -> usize {
        self.effects.len()
    }

    fn summary(&self, blocks: usize) -> BlockSummary {
        let known = self.summaries.iter().find(|(look, _)| *look == blocks);
        known.map_or_else(|| BlockSummary::new(&self.effects[..blocks]), |(_, summary)| *summary)
    }
}

/// The group-sequential design by which the metrics of one kind are decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequentialDesign<'a> {
    /// Numbers of blocks at which verdicts are given.
    pub looks: &'a [usize],
    /// Confidence levels.
    pub levels: Levels,
    /// Standard deviation between two builds of one source in this kind of metric.
    pub layout: SdEstimate,
    /// Most degrees of freedom of the variance prior; 0 turns moderation off.
    pub max_prior_freedom: f64,
    /// Whether no more blocks will come. Then the blocks after the last look that was reached get
    /// one more look, as long as no more looks are taken than planned.
    pub ended: bool,
}

/// The verdict on a metric at the look that decided it, or at the last one.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The trimmed mean of the block effects used; `None` below the first look.
    pub theta: Option<f64>,
    /// How precisely it is known; `None` below the first look.
    pub evidence: Option<Evidence>,
    /// Number of blocks used.
    pub used: usize,
}

impl Decision {
    /// Whether more blocks would change nothing.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.verdict, Verdict::Undecided(_))
    }

    /// Whether the decision with rejected blocks counted turns a regression into a pass, or a pass
    /// into a regression.
    pub(crate) fn is_contradicted_by(&self, with_rejected: &Self) -> bool {
        let regressed = |one: &Self| matches!(one.verdict, Verdict::Regressed { .. });
        self.is_final() && with_rejected.is_final() && regressed(self) != regressed(with_rejected)
    }
}

/// Decides metrics of one kind; of each, the first decisive look stands.
///
/// A look uses the first so many blocks of every open metric, and of a metric that was decided
/// earlier the blocks that decided it. So the same file gives the same verdicts whenever it is
/// judged.
pub fn decide(metrics: &[&EffectSeries], design: &SequentialDesign) -> Vec<Decision> {
    let undecided = |metric: &&EffectSeries| Decision {
        verdict: Verdict::Undecided(Why::TooFewBlocks),
        theta: None,
        evidence: None,
        used: metric.count(),
    };
    let mut decisions: Vec<Decision> = metrics.iter().map(undecided).collect();
    let mut looks_taken = vec![0; metrics.len()];
    for &blocks in design.looks {
        let prior = design.prior(metrics, &decisions, blocks);
        for (at, metric) in metrics.iter().enumerate() {
            if metric.count() >= blocks && !decisions[at].is_final() {
                decisions[at] = design.look(metric, blocks, prior);
                looks_taken[at] += 1;
            }
        }
    }
    for (at, metric) in metrics.iter().enumerate() {
        let count = metric.count();
        let has_more = count > decisions[at].used && !decisions[at].is_final();
        if design.ended && has_more && (1..design.looks.len()).contains(&looks_taken[at]) {
            decisions[at] = design.look(metric, count, design.prior(metrics, &decisions, count));
        }
    }
    decisions
}

impl SequentialDesign<'_> {
    /// The prior of the variances of all metrics at a look.
    fn prior(
        &self,
        metrics: &[&EffectSeries],
        decisions: &[Decision],
        blocks: usize,
    ) -> Option<VariancePrior> {
        if self.max_prior_freedom == 0.0 {
            return None;
        }
        let fewest = self.looks.first().copied()?;
        let measured = metrics.iter().zip(decisions).filter(|(metric, _)| metric.count() >= fewest);
        let variances = measured.map(|(metric, decision)| {
            let used = if decision.is_final() { decision.used } else { blocks.min(metric.count()) };
            let BlockSummary { variance, freedom, .. } = metric.summary(used);
            (variance.max(BLOCK_FLOOR * BLOCK_FLOOR), freedom)
        });
        VariancePrior::fit(&variances.collect::<Vec<_>>(), self.max_prior_freedom)
    }

    fn look(&self, metric: &EffectSeries, used: usize, prior: Option<VariancePrior>) -> Decision {
        let summary = metric.summary(used);
        let evidence = summary.evidence(used, prior, self.layout, self.levels);
        let (margin, critical) = metric.margins;
        let verdict = match judge_change(summary.theta, &evidence, margin, critical) {
            Verdict::Regressed { .. } if used < BLOCKS_NEEDED => {
                Verdict::Undecided(Why::TooFewBlocks)
            }
            verdict => verdict,
        };
        Decision { verdict, theta: Some(summary.theta), evidence: Some(evidence), used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Random;

    /// A metric whose limits are 5 and 10 % of cost.
    fn series(effects: Vec<f64>) -> EffectSeries {
        EffectSeries::new(effects, (0.05, 0.10), &LOOKS, BlockSummary::new)
    }

    fn decide(all: &[EffectSeries], design: &SequentialDesign) -> Vec<Decision> {
        super::decide(&all.iter().collect::<Vec<_>>(), design)
    }

    fn design(metrics: usize, layout: SdEstimate) -> SequentialDesign<'static> {
        SequentialDesign {
            looks: &LOOKS,
            levels: Levels::for_pair(0.05, metrics),
            layout,
            max_prior_freedom: PRIOR_FREEDOM,
            ended: true,
        }
    }

    const NONE: SdEstimate = SdEstimate { sd: 0.0, freedom: f64::INFINITY };

    /// Effects that alternate around this mean.
    fn blocks(mean: f64, deviation: f64, count: usize) -> EffectSeries {
        series((0..count).map(|at| mean + deviation * [1.0, -1.0][at % 2]).collect())
    }

    #[test]
    fn five_blocks_may_pass_and_eight_may_call_a_regression() {
        for (mean, count, verdict, used) in [
            (0.0, 5, Verdict::Pass, 5),
            (0.0, 32, Verdict::Pass, 5),
            (0.2, 5, Verdict::Undecided(Why::TooFewBlocks), 5),
            (0.2, 7, Verdict::Undecided(Why::TooFewBlocks), 7),
            (0.2, 8, Verdict::Regressed { proven: true, critical: true }, 8),
            (0.2, 32, Verdict::Regressed { proven: true, critical: true }, 8),
            (0.0, 4, Verdict::Undecided(Why::TooFewBlocks), 4),
        ] {
            let all: Vec<EffectSeries> = (0..10).map(|_| blocks(mean, 0.004, count)).collect();
            let decision = &decide(&all, &design(30, NONE))[3];
            assert_eq!((&decision.verdict, decision.used), (&verdict, used), "{mean} {count}");
        }
    }

    #[test]
    fn few_measured_layouts_widen_the_interval() {
        let width = |freedom: f64| {
            let layout = SdEstimate { sd: 0.02, freedom };
            let all = [blocks(0.0, 0.004, 32)];
            let decision = decide(&all, &design(3, layout)).remove(0);
            decision.evidence.unwrap().ci_familywise.hi
        };
        // With 5 degrees of freedom of the layout alone, t(1 - 0.05/15) is 4.2 and not 2.9.
        assert!(width(5.0) > 1.3 * width(f64::INFINITY), "{} {}", width(5.0), width(f64::INFINITY));
        assert!(width(2.0) > 2.0 * width(f64::INFINITY));
    }

    #[test]
    fn moderated_variances_decide_more_metrics() {
        let mut random = Random::new(3);
        let all: Vec<EffectSeries> =
            (0..20).map(|_| series((0..8).map(|_| 0.045 * random.normal()).collect())).collect();
        let alone = SequentialDesign { max_prior_freedom: 0.0, ..design(60, NONE) };
        let passed = |design: &SequentialDesign| {
            let decisions = decide(&all, design);
            decisions.iter().filter(|decision| decision.is_final()).count()
        };
        assert_eq!((passed(&design(60, NONE)), passed(&alone)), (15, 11));
    }

    #[test]
    fn a_suite_without_a_change_rarely_raises_an_alarm_at_any_look() {
        // The worst case for the correction: noise as large as the limit, and unequal variances.
        let mut random = Random::new(20_260_701);
        let (runs, mut alarms) = (400, 0);
        for _ in 0..runs {
            let all: Vec<EffectSeries> = (0..20)
                .map(|_| {
                    let deviation = 0.06 * (0.4 * random.normal()).exp();
                    let mut block = || {
                        let outlier =
                            if random.uniform() < 0.05 { 0.2 * random.normal() } else { 0.0 };
                        deviation * random.normal() + outlier
                    };
                    series((0..32).map(|_| block()).collect())
                })
                .collect();
            let decisions = decide(&all, &design(20, NONE));
            let regressed = |one: &Decision| matches!(one.verdict, Verdict::Regressed { .. });
            alarms += usize::from(decisions.iter().any(regressed));
        }
        assert!(alarms as f64 / f64::from(runs) <= 0.05, "{alarms} of {runs}");
    }

    #[test]
    fn a_later_judgement_of_the_same_blocks_is_the_same() {
        let mut random = Random::new(11);
        let mut all: Vec<EffectSeries> = (0..12)
            .map(|at| {
                let noise = 0.01 * (1 + at) as f64;
                series((0..32).map(|_| noise * random.normal()).collect())
            })
            .collect();
        let whole = decide(&all, &design(36, NONE));
        // As if scenarios had not been measured further once they were decided.
        for (metric, decision) in all.iter_mut().zip(&whole) {
            *metric = series(metric.effects[..decision.used].to_vec());
        }
        assert_eq!(decide(&all, &design(36, NONE)), whole);
    }
}
