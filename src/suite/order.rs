//! Which process measures what, in which order, and what that costs about. Costs only say how much
//! time is left, so they may be off by a factor; nothing that is measured depends on them.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::measure::Sharing;
use crate::record::Record;
use crate::settings::{Generation, RopeScaling, Setup};
use crate::suite::Plan;
use crate::workload::{Input, Pipeline, Scenario, Stress};

/// The scenarios of each process that is still to be started.
///
/// Within a block their order is drawn from the seed, unless there is a budget: then it is that of
/// the plan, so that what is left out is what was asked for last, and a shared process takes one
/// group of scenarios, so that there is an end between them.
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
            let one = |a: &Scenario, b: &Scenario| {
                together(a) && together(b) && group(&a.id) == group(&b.id)
            };
            jobs.extend(open.chunk_by(one).map(<[Scenario]>::to_vec));
            continue;
        }
        let (shared, alone): (Vec<_>, Vec<_>) = open.into_iter().partition(together);
        jobs.extend((!shared.is_empty()).then_some(shared));
        jobs.extend(alone.into_iter().map(|scenario| vec![scenario]));
    }
    jobs
}

/// The first part of an id.
fn group(id: &str) -> &str {
    id.split('/').next().unwrap_or_default()
}

/// Fisher and Yates, with the order drawn from a seed, so that a record's order can be told from
/// its settings.
fn shuffle<T>(items: &mut [T], seed: u64) {
    use rand::SeedableRng as _;
    use rand::seq::SliceRandom as _;
    items.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
}

/// The setup that a scenario is measured with: YaRN with four times the context that Qwen3 was
/// trained with, where that is asked for and the user has not asked for another scaling.
pub(super) fn setup(of: &Setup, scenario: &Scenario) -> Setup {
    let mut setup = of.clone();
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

/// A decode step of one sequence costs as much as reading so many prompt tokens, and each further
/// sequence of it one more: what a small model takes on two cores.
const STEP: f64 = 12.0;

/// What a scenario costs about, in prompt tokens.
pub(super) fn cost(scenario: &Scenario, generation: &Generation) -> f64 {
    let repetitions =
        (generation.warmups + generation.iters.max(scenario.repetitions.unwrap_or(0))) as f64;
    let (batch, new_tokens) =
        (scenario.batch as f64, scenario.length(generation.gen_tokens) as f64);
    let answer = |depth: f64| new_tokens * (STEP + batch) * (1.0 + depth / 4096.0);
    match scenario.input {
        Input::Category { .. } => {
            let characters: usize = scenario.prompts().iter().map(String::len).sum();
            repetitions * (characters as f64 / 4.0 + answer(0.0))
        }
        Input::Length { prompt_tokens } => {
            repetitions * (prompt_tokens as f64 + answer(prompt_tokens as f64))
        }
        Input::Depth { depth, read } => {
            let (depth, read) = (depth as f64, read as f64);
            depth * (1.0 + depth / 8192.0) + repetitions * (read + answer(depth))
        }
        Input::Documents(Pipeline::Embedding) => 10_000.0,
        Input::Documents(_) => 15_000.0,
        Input::Requests(Stress::Long) => 25_000.0,
        Input::Requests(_) => 5_000.0,
        Input::Texts => 2_000.0,
        Input::Traced => 2.0 * (64.0 + answer(0.0)),
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    /// Processes that are through.
    pub processes: usize,
    /// Processes in all.
    pub all: usize,
    /// Share of the whole cost that is through, about.
    pub share: f64,
}

/// What a run has taken, against what its scenarios cost.
pub(super) struct Pace {
    generation: Generation,
    began: Instant,
    all: f64,
    /// Of what was measured.
    measured: f64,
    /// Of what was left out.
    skipped: f64,
    processes: usize,
    all_processes: usize,
}

impl Pace {
    pub(super) fn new<'a>(
        jobs: impl ExactSizeIterator<Item = &'a Vec<Scenario>>,
        generation: &Generation,
    ) -> Self {
        let all_processes = jobs.len();
        let all = jobs.map(|job| costs(job, generation)).sum();
        let generation = generation.clone();
        Self {
            generation,
            began: Instant::now(),
            all,
            measured: 0.0,
            skipped: 0.0,
            processes: 0,
            all_processes,
        }
    }

    /// A process is through.
    pub(super) fn measured(&mut self, scenarios: &[Scenario]) {
        self.measured += costs(scenarios, &self.generation);
        self.processes += 1;
    }

    /// A process is not started.
    pub(super) fn skip(&mut self, scenarios: &[Scenario]) {
        self.skipped += costs(scenarios, &self.generation);
        self.processes += 1;
    }

    /// What a process left undone gets another.
    pub(super) fn one_more(&mut self) {
        self.all_processes += 1;
    }

    /// How far the run is.
    pub(super) fn done(&self) -> Done {
        let share = self.measured / (self.all - self.skipped).max(f64::MIN_POSITIVE);
        Done { processes: self.processes, all: self.all_processes, share }
    }

    /// Why scenarios are not begun: what they would take, told from those before, is not left of
    /// the budget. What the first take is not known before them.
    pub(super) fn beyond(&self, budget: Option<Duration>, scenarios: &[Scenario]) -> Option<Error> {
        self.beyond_after(self.began.elapsed(), budget?, costs(scenarios, &self.generation))
    }

    fn beyond_after(&self, spent: Duration, budget: Duration, cost: f64) -> Option<Error> {
        let done = Some(self.measured).filter(|done| *done > 0.0)?;
        let expected = spent.as_secs_f64() * (1.0 + cost / done);
        (expected > budget.as_secs_f64()).then(|| used_up(budget))
    }

    /// When a process that was begun within a budget is ended, and why. What the first one takes is
    /// not known before, and what others take is an estimate.
    pub(super) fn end(&self, budget: Duration) -> (Instant, Error) {
        (self.began + budget + GRACE, used_up(budget))
    }
}

/// How long a process may go on after the budget.
pub const GRACE: Duration = Duration::from_secs(30);

fn used_up(budget: Duration) -> Error {
    Error::SkippedTime(format!("the time budget of {budget:?} was used up"))
}

fn costs(scenarios: &[Scenario], generation: &Generation) -> f64 {
    scenarios.iter().map(|scenario| cost(scenario, generation)).sum()
}

/// Ids of scenarios, for what is told and sent.
pub(super) fn ids(scenarios: &[Scenario]) -> Vec<String> {
    scenarios.iter().map(|scenario| scenario.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn an_order_is_told_by_its_seed() {
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
    fn longer_work_costs_more_and_shares_add_up() {
        let generation = Generation::default();
        let of = |id: &str| cost(&workload::select(&[id.to_string()]).unwrap()[0], &generation);
        assert!(of("grid/S6") > of("grid/S2"));
        assert!(of("context/8192") > of("context/512"));
        assert!(of("long/b16") > of("long/b1"));
        let jobs: Vec<Vec<Scenario>> =
            workload::select(&["grid".to_string()]).unwrap().into_iter().map(|s| vec![s]).collect();
        let mut pace = Pace::new(jobs.iter(), &generation);
        assert_eq!(pace.done(), Done { processes: 0, all: 6, share: 0.0 });
        jobs.iter().for_each(|job| pace.measured(job));
        assert!((pace.done().share - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_was_skipped_says_nothing_of_the_pace() {
        let generation = Generation::default();
        let jobs: Vec<Vec<Scenario>> = workload::select(&["grid".to_string()])
            .unwrap()
            .into_iter()
            .map(|scenario| vec![scenario])
            .collect();
        let mut pace = Pace::new(jobs.iter(), &generation);
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert!(pace.beyond_after(minutes(9), minutes(1), 1e9).is_none(), "nothing is known yet");
        pace.measured(&jobs[0]);
        let one = costs(&jobs[0], &generation);
        assert!(pace.beyond_after(minutes(1), minutes(3), one).is_none());
        assert!(pace.beyond_after(minutes(1), minutes(3), 3.0 * one).is_some());
        pace.skip(&jobs[5]);
        assert!(pace.beyond_after(minutes(1), minutes(3), 3.0 * one).is_some());
    }

    #[test]
    fn yarn_is_asked_for_where_a_scenario_wants_it_and_the_user_has_none() {
        let plain = Setup::new(&crate::settings::Config::default());
        let scenario = &workload::select(&["context/8192-yarn".to_string()]).unwrap()[0];
        let scaling = setup(&plain, scenario).rope_scaling.unwrap();
        assert_eq!((scaling.factor, scaling.original_max_position_embeddings), (4.0, 32768));
        let scenario = &workload::select(&["consistency".to_string()]).unwrap()[0];
        assert_eq!(setup(&plain, scenario).rope_scaling, None);
    }
}
