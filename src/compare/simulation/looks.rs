//! False alarm rate of repeated looks at a run that is measured further between them.

use super::Host;
use crate::compare::{PLANNED_LOOKS, Policy, judge};
use crate::stats::Random;

/// Blocks at each planned look: one process as it came, and after 2, 4, 8, 16 and 32 further ones.
const BLOCKS: [usize; PLANNED_LOOKS] = [1, 3, 5, 9, 17, 33];

/// Much variance between processes and none between sessions: each look has its own chance of
/// error.
const NOISY_PROCESSES: Host = Host {
    scenarios: 1,
    process: 0.05,
    session: 0.0,
    base: (3, 3),
    current: (1, 33),
    shared: true,
};

/// 5 % for each of the three metrics, so that a few hundred runs show the effect of repeated looks.
const ALPHA: f64 = 0.15;

/// The share of unchanged runs in which some metric is significantly slower at some look, with
/// levels corrected for this many looks.
fn alarms(looks: usize, runs: usize) -> f64 {
    let policy = Policy { looks, alpha: ALPHA, ..Policy::default() };
    let mut random = Random::new(20_260_702);
    let mut alarms = 0;
    for _ in 0..runs {
        let base = NOISY_PROCESSES.measure(&mut random, NOISY_PROCESSES.base, 0.0);
        let whole = NOISY_PROCESSES.measure(&mut random, NOISY_PROCESSES.current, 0.0);
        let is_slower = |blocks: &usize| {
            let mut run = whole.clone();
            run.scenarios.iter_mut().for_each(|case| case.blocks.truncate(*blocks));
            judge(&base, &run, &policy).findings.iter().any(|finding| {
                let evidence = finding.change.as_ref().and_then(|change| change.evidence);
                evidence.is_some_and(|evidence| evidence.ci_familywise.lo > 0.0)
            })
        };
        alarms += usize::from(BLOCKS.iter().any(is_slower));
    }
    alarms as f64 / runs as f64
}

#[test]
fn repeated_looks_keep_the_level_if_all_are_corrected_for() {
    let level = ALPHA * 2.0 / 3.0; // Memory does not vary.
    let (corrected, uncorrected) = (alarms(PLANNED_LOOKS, 400), alarms(1, 400));
    assert!(corrected <= level, "{corrected} of unchanged runs look slower");
    assert!(uncorrected > level, "{uncorrected}: the correction is needed");
}
