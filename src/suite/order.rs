//! Which process measures which scenarios, and in which order.

use crate::measure::Sharing;
use crate::record::Record;
use crate::settings::{RopeScaling, Setup};
use crate::suite::Plan;
use crate::workload::Scenario;

/// The scenarios of each process still to be started.
///
/// Without a budget, the order within a block is drawn from the seed. With one, it is the order of
/// the plan, so that the scenarios listed last are skipped first, and a shared process measures
/// only one group, so that the budget is checked between groups.
pub(super) fn jobs(plan: &Plan, record: &Record) -> Vec<Vec<Scenario>> {
    let mut jobs = Vec::new();
    for block in 0..plan.blocks {
        let open = plan.scenarios.iter().filter(|scenario| {
            record
                .case(&scenario.id)
                .is_none_or(|case| case.blocks.len() <= block && !case.is_unsupported())
        });
        let mut open: Vec<Scenario> = open.cloned().collect();
        if plan.budget.is_none() {
            shuffle(&mut open, plan.setup.generation.seed.wrapping_add(block as u64));
        }
        let together =
            |scenario: &Scenario| plan.sharing == Sharing::Shared && scenario.shares_process();
        if plan.budget.is_some() {
            let one_process = |a: &Scenario, b: &Scenario| {
                together(a) && together(b) && group(&a.id) == group(&b.id)
            };
            jobs.extend(open.chunk_by(one_process).map(<[Scenario]>::to_vec));
            continue;
        }
        let (shared, alone): (Vec<_>, Vec<_>) = open.into_iter().partition(together);
        jobs.extend((!shared.is_empty()).then_some(shared));
        jobs.extend(alone.into_iter().map(|scenario| vec![scenario]));
    }
    jobs
}

/// The first segment of an id.
fn group(id: &str) -> &str {
    id.split('/').next().unwrap_or_default()
}

/// A Fisher–Yates shuffle. The seed makes a record's order follow from its settings.
fn shuffle<T>(items: &mut [T], seed: u64) {
    use rand::SeedableRng as _;
    use rand::seq::SliceRandom as _;
    items.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
}

/// The setup for a scenario. An extended one runs with YaRN at four times Qwen3's training context,
/// unless the user has set another RoPE scaling.
pub(super) fn scenario_setup(setup: &Setup, scenario: &Scenario) -> Setup {
    let mut setup = setup.clone();
    if scenario.extended && setup.rope_scaling.is_none() {
        setup.rope_scaling = Some(RopeScaling {
            rope_type: "yarn".into(),
            factor: 4.0,
            original_max_position_embeddings: 32768,
            attention_factor: None,
            beta_fast: None,
            beta_slow: None,
        });
    }
    setup
}

/// Ids of scenarios.
pub(super) fn ids(scenarios: &[Scenario]) -> Vec<String> {
    scenarios.iter().map(|scenario| scenario.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn the_seed_determines_the_order() {
        let order = |seed| {
            let mut ids: Vec<char> = "abcdef".chars().collect();
            shuffle(&mut ids, seed);
            ids
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert_eq!(sorted, "abcdef".chars().collect::<Vec<_>>(), "nothing is lost");
    }

    #[test]
    fn extended_scenarios_use_yarn_unless_the_user_sets_a_scaling() {
        let plain = Setup::new(&crate::settings::Config::default());
        let scenario = &workload::select(&["context/8192-yarn".to_string()]).unwrap()[0];
        let scaling = scenario_setup(&plain, scenario).rope_scaling.unwrap();
        assert_eq!((scaling.factor, scaling.original_max_position_embeddings), (4.0, 32768));
        let scenario = &workload::select(&["consistency".to_string()]).unwrap()[0];
        assert_eq!(scenario_setup(&plain, scenario).rope_scaling, None);
    }
}
