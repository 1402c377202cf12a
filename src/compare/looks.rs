//! When verdicts on two builds in turns are given: at planned looks, each of which pays for all (a
//! group-sequential design with Bonferroni's correction). Looking until something is significant
//! would find something in the end.
//!
//! All metrics of one kind are decided together, because each says how much blocks of the others
//! differ: the variance of a few blocks is drawn towards what the kind has in common ([`Prior`]).

use crate::compare::{BLOCKS_NEEDED, Evidence, Interval, Verdict, Why, verdict};
use crate::record::calibration::Spread;
use crate::stats;
use crate::stats::Prior;

/// Numbers of blocks at which verdicts are given. The first allows a pass only: a regression is
/// never called from fewer than [`BLOCKS_NEEDED`] blocks.
pub const LOOKS: [usize; 6] = [5, 8, 12, 16, 24, 32];

/// One process differs from the next by at least 0.4 %, even where a few happened to agree.
pub(crate) const BLOCK_FLOOR: f64 = 0.004;

/// What the variances of a kind are worth beside a metric's own, at most, in degrees of freedom.
/// Simulated metrics whose standard deviations differ by a third (20 of a kind, five blocks, level
/// 1.4e-4) exceed their level 2.5 times at 10 and 5.7 times at 30; trimmed means without a prior do
/// 1.6 times.
pub(crate) const PRIOR_FREEDOM: f64 = 10.0;

/// The levels at which intervals have to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Of a regression: a union over all metrics of the suite and all looks, 1 - α / (m L).
    pub family: f64,
    /// Of a pass, which every metric has to have, at any look: 1 - α / L.
    pub pass: f64,
}

impl Levels {
    /// For so many metrics judged together at so many looks.
    pub fn new(alpha: f64, metrics: usize, looks: usize) -> Self {
        let looks = looks.max(1) as f64;
        Self { family: 1.0 - alpha / (metrics.max(1) as f64 * looks), pass: 1.0 - alpha / looks }
    }

    /// For so many metrics of two builds in turns. A regression pays for the looks that may call
    /// one.
    pub fn in_turns(alpha: f64, metrics: usize) -> Self {
        let blaming = LOOKS.iter().filter(|look| **look >= BLOCKS_NEEDED).count();
        let Self { family, .. } = Self::new(alpha, metrics, blaming);
        Self { family, ..Self::new(alpha, metrics, LOOKS.len()) }
    }
}

/// What some block values of a metric say: their trimmed mean (Tukey and McLaughlin 1963).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The trimmed mean.
    pub theta: f64,
    /// Its variance times the number of blocks, so that metrics with more and with fewer blocks
    /// compare.
    pub variance: f64,
    /// The degrees of freedom of that.
    pub freedom: f64,
}

impl Summary {
    /// Of at least five values.
    pub fn of(blocks: &[f64]) -> Self {
        let centre = stats::trimmed(blocks).expect("looks are at five blocks or more");
        let (error, freedom) = centre.error.expect("looks are at five blocks or more");
        Self { theta: centre.value, variance: error * error * blocks.len() as f64, freedom }
    }
}

/// The block values of one metric, in the order measured.
pub trait Track {
    /// How many there are.
    fn count(&self) -> usize;
    /// What the first `used` of them say, five or more.
    fn summary(&self, used: usize) -> Summary;
    /// The limit and the critical limit, as θ.
    fn limits(&self) -> (f64, f64);
}

/// By which rule the metrics of one kind are decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule<'a> {
    /// Numbers of blocks at which verdicts are given.
    pub looks: &'a [usize],
    /// A regression is called from so many blocks on.
    pub fewest_for_regression: usize,
    /// At which levels.
    pub levels: Levels,
    /// By how much two builds of one source differ in this kind of metric.
    pub layout: Spread,
    /// What the variances of the kind are worth at most, in degrees of freedom; 0: each metric
    /// stands alone.
    pub prior_freedom: f64,
    /// Whether no more blocks will come: then what lies beyond the last look that was reached is
    /// looked at once more, as long as no more looks are taken than were planned.
    pub over: bool,
}

/// What block values say, looked at as planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What is said.
    pub verdict: Verdict,
    /// The trimmed mean of the block values that were used; `None` below the first look.
    pub theta: Option<f64>,
    /// How well it is known; `None` below the first look.
    pub evidence: Option<Evidence>,
    /// How many blocks were used.
    pub used: usize,
}

impl Decision {
    /// Whether more blocks would change nothing.
    pub fn is_final(&self) -> bool {
        !matches!(self.verdict, Verdict::Inconclusive(_))
    }
}

/// Decides metrics of one kind, in their order: of each the first decisive look stands.
///
/// What a look knows are the first so many blocks of every metric that is open, and of one that was
/// decided earlier the blocks that decided it, so that the same file gives the same verdicts
/// whenever it is judged.
pub fn decide<T: Track>(tracks: &[T], rule: &Rule) -> Vec<Decision> {
    let undecided = |track: &T| Decision {
        verdict: Verdict::Inconclusive(Why::TooFewBlocks),
        theta: None,
        evidence: None,
        used: track.count(),
    };
    let mut decisions: Vec<Decision> = tracks.iter().map(undecided).collect();
    let mut taken = vec![0; tracks.len()];
    for &used in rule.looks {
        let prior = rule.prior(tracks, &decisions, used);
        for (at, track) in tracks.iter().enumerate() {
            if track.count() >= used && !decisions[at].is_final() {
                decisions[at] = rule.look(track, used, prior);
                taken[at] += 1;
            }
        }
    }
    for (at, track) in tracks.iter().enumerate() {
        let beyond = track.count() > decisions[at].used && !decisions[at].is_final();
        if rule.over && beyond && (1..rule.looks.len()).contains(&taken[at]) {
            let count = track.count();
            decisions[at] = rule.look(track, count, rule.prior(tracks, &decisions, count));
        }
    }
    decisions
}

impl Rule<'_> {
    /// What the blocks of all metrics have in common at a look.
    fn prior<T: Track>(&self, tracks: &[T], decisions: &[Decision], used: usize) -> Option<Prior> {
        if self.prior_freedom == 0.0 {
            return None;
        }
        let fewest = self.looks.first().copied()?;
        let known = tracks.iter().zip(decisions).filter(|(track, _)| track.count() >= fewest);
        let variances = known.map(|(track, decision)| {
            let used = if decision.is_final() { decision.used } else { used.min(track.count()) };
            let Summary { variance, freedom, .. } = track.summary(used);
            (variance.max(BLOCK_FLOOR * BLOCK_FLOOR), freedom)
        });
        Prior::fit(&variances.collect::<Vec<_>>(), self.prior_freedom)
    }

    fn look(&self, track: &impl Track, used: usize, prior: Option<Prior>) -> Decision {
        let summary = track.summary(used);
        let evidence = self.evidence(&summary, used, prior);
        let (margin, critical) = track.limits();
        let verdict = match verdict(summary.theta, &evidence, margin, critical) {
            Verdict::Regressed { .. } if used < self.fewest_for_regression => {
                Verdict::Inconclusive(Why::TooFewBlocks)
            }
            verdict => verdict,
        };
        Decision { verdict, theta: Some(summary.theta), evidence: Some(evidence), used }
    }

    /// How well the change is known: what blocks say, and the layout of the two builds.
    pub(crate) fn evidence(
        &self,
        summary: &Summary,
        used: usize,
        prior: Option<Prior>,
    ) -> Evidence {
        let Summary { theta, variance, freedom } = *summary;
        let variance = variance.max(BLOCK_FLOOR * BLOCK_FLOOR);
        let (variance, freedom) =
            prior.map_or((variance, freedom), |prior| prior.moderate(variance, freedom));
        let layout = self.layout.sd * self.layout.sd;
        let terms = [(variance / used as f64, freedom), (layout, self.layout.freedom)];
        let error = (terms[0].0 + layout).sqrt();
        let freedom = stats::welch_satterthwaite(&terms);
        let half = |level: f64| stats::student_t(level, freedom) * error;
        let around = |half: f64| Interval { lo: theta - half, hi: theta + half };
        Evidence {
            error,
            freedom,
            single: around(half(0.95)),
            pass: theta + half(self.levels.pass),
            family: around(half(self.levels.family)),
            lasting: self.layout.sd,
            smallest: half(self.levels.family) + half(0.8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Random;

    /// A metric whose limits are 5 and 10 % of cost.
    struct Blocks(Vec<f64>);

    impl Track for Blocks {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn summary(&self, used: usize) -> Summary {
            Summary::of(&self.0[..used])
        }

        fn limits(&self) -> (f64, f64) {
            (0.05, 0.10)
        }
    }

    fn rule(metrics: usize, layout: Spread) -> Rule<'static> {
        Rule {
            looks: &LOOKS,
            fewest_for_regression: BLOCKS_NEEDED,
            levels: Levels::in_turns(0.05, metrics),
            layout,
            prior_freedom: PRIOR_FREEDOM,
            over: true,
        }
    }

    const NONE: Spread = Spread { sd: 0.0, freedom: f64::INFINITY };

    /// Values of this mean that alternate about it.
    fn blocks(mean: f64, deviation: f64, count: usize) -> Blocks {
        Blocks((0..count).map(|at| mean + deviation * [1.0, -1.0][at % 2]).collect())
    }

    #[test]
    fn five_blocks_may_pass_and_eight_may_blame() {
        for (mean, count, verdict, used) in [
            (0.0, 5, Verdict::Pass, 5),
            (0.0, 32, Verdict::Pass, 5),
            (0.2, 5, Verdict::Inconclusive(Why::TooFewBlocks), 5),
            (0.2, 7, Verdict::Inconclusive(Why::TooFewBlocks), 7),
            (0.2, 8, Verdict::Regressed { proven: true, critical: true }, 8),
            (0.2, 32, Verdict::Regressed { proven: true, critical: true }, 8),
            (0.0, 4, Verdict::Inconclusive(Why::TooFewBlocks), 4),
        ] {
            let all: Vec<Blocks> = (0..10).map(|_| blocks(mean, 0.004, count)).collect();
            let decision = &decide(&all, &rule(30, NONE))[3];
            assert_eq!((&decision.verdict, decision.used), (&verdict, used), "{mean} {count}");
        }
    }

    #[test]
    fn few_measured_layouts_are_known_less_well_than_many() {
        let width = |freedom: f64| {
            let layout = Spread { sd: 0.02, freedom };
            let all = [blocks(0.0, 0.004, 32)];
            let decision = decide(&all, &rule(3, layout)).remove(0);
            decision.evidence.unwrap().family.hi
        };
        // With 5 degrees of freedom of the layout alone, t(1 - 0.05/15) is 4.2 and not 2.9.
        assert!(width(5.0) > 1.3 * width(f64::INFINITY), "{} {}", width(5.0), width(f64::INFINITY));
        assert!(width(2.0) > 2.0 * width(f64::INFINITY));
    }

    #[test]
    fn metrics_of_a_kind_lend_each_other_what_they_know() {
        let mut random = Random::new(3);
        let all: Vec<Blocks> =
            (0..20).map(|_| Blocks((0..8).map(|_| 0.045 * random.normal()).collect())).collect();
        let alone = Rule { prior_freedom: 0.0, ..rule(60, NONE) };
        let passed = |rule: &Rule| {
            let decisions = decide(&all, rule);
            decisions.iter().filter(|decision| decision.is_final()).count()
        };
        assert_eq!((passed(&rule(60, NONE)), passed(&alone)), (15, 11));
    }

    #[test]
    fn a_suite_without_a_change_rarely_raises_an_alarm_at_any_look() {
        // As noisy as can be against the limit, and unlike each other: where the correction has to
        // hold.
        let mut random = Random::new(20_260_701);
        let (runs, mut alarms) = (400, 0);
        for _ in 0..runs {
            let all: Vec<Blocks> = (0..20)
                .map(|_| {
                    let deviation = 0.06 * (0.4 * random.normal()).exp();
                    let mut block = || {
                        let outlier =
                            if random.uniform() < 0.05 { 0.2 * random.normal() } else { 0.0 };
                        deviation * random.normal() + outlier
                    };
                    Blocks((0..32).map(|_| block()).collect())
                })
                .collect();
            let decisions = decide(&all, &rule(20, NONE));
            let regressed = |one: &Decision| matches!(one.verdict, Verdict::Regressed { .. });
            alarms += usize::from(decisions.iter().any(regressed));
        }
        assert!(alarms as f64 / f64::from(runs) <= 0.05, "{alarms} of {runs}");
    }

    #[test]
    fn what_is_judged_later_is_judged_as_it_was() {
        let mut random = Random::new(11);
        let mut all: Vec<Blocks> = (0..12)
            .map(|at| {
                let noise = 0.01 * (1 + at) as f64;
                Blocks((0..32).map(|_| noise * random.normal()).collect())
            })
            .collect();
        let whole = decide(&all, &rule(36, NONE));
        // As if scenarios had not been measured any more once they were decided.
        for (track, decision) in all.iter_mut().zip(&whole) {
            track.0.truncate(decision.used);
        }
        assert_eq!(decide(&all, &rule(36, NONE)), whole);
    }
}
