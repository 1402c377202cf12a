//! How often unchanged code looks slower where a run is looked at, measured further, and looked at
//! again.

use super::{Host, Noise};
use crate::compare::{PLANNED_LOOKS, Policy, judge};

/// Blocks at each planned look: one process as it came, and after 2, 4, 8, 16 and 32 further ones.
const BLOCKS: [usize; PLANNED_LOOKS] = [1, 3, 5, 9, 17, 33];

/// Processes differ much and sessions do not, so that each look has its own chance to be wrong.
const RESTLESS: Host = Host {
    scenarios: 1,
    process: 0.05,
    session: 0.0,
    base: (3, 3),
    current: (1, 33),
    shared: true,
};

/// 5 % for each of the three metrics, so that what repeated looks do is seen in a few hundred runs.
const ALPHA: f64 = 0.15;

/// The share of unchanged runs in which some metric is slower for sure at some look, where verdicts
/// pay for so many looks.
fn alarms(looks: usize, runs: usize) -> f64 {
    let policy = Policy { looks, alpha: ALPHA, ..Policy::default() };
    let mut noise = Noise(crate::stats::Random::new(20_260_702));
    let mut alarms = 0;
    for _ in 0..runs {
        let base = RESTLESS.measure(&mut noise, RESTLESS.base, 0.0);
        let whole = RESTLESS.measure(&mut noise, RESTLESS.current, 0.0);
        let is_slower = |blocks: &usize| {
            let mut run = whole.clone();
            run.scenarios.iter_mut().for_each(|case| case.blocks.truncate(*blocks));
            judge(&base, &run, &policy).findings.iter().any(|finding| {
                let evidence = finding.change.as_ref().and_then(|change| change.evidence);
                evidence.is_some_and(|evidence| evidence.family.lo > 0.0)
            })
        };
        alarms += usize::from(BLOCKS.iter().any(is_slower));
    }
    alarms as f64 / runs as f64
}

#[test]
fn looking_again_keeps_the_level_where_the_first_look_pays_for_it() {
    let level = ALPHA * 2.0 / 3.0; // Memory does not move.
    let (paid, unpaid) = (alarms(PLANNED_LOOKS, 400), alarms(1, 400));
    assert!(paid <= level, "{paid} of unchanged runs look slower");
    assert!(unpaid > level, "{unpaid}: without it they would look slower too often");
}
