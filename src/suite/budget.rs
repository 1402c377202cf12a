//! The time budget of a run: estimated costs of scenarios, how far the run is, and when it has to
//! stop. Estimates may be off by a factor; no measured number depends on them.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::settings::Generation;
use crate::workload::{Input, Pipeline, Scenario, StressKind};

/// Cost of a decode step of one sequence, in prefilled tokens; each further sequence adds one.
/// Measured with a small model on two cores.
const STEP_COST: f64 = 12.0;

/// Estimated cost of a scenario, in prefilled tokens.
fn cost(scenario: &Scenario, generation: &Generation) -> f64 {
    let repetitions =
        (generation.warmups + generation.iters.max(scenario.repetitions.unwrap_or(0))) as f64;
    let (batch, new_tokens) =
        (scenario.batch as f64, scenario.length(generation.gen_tokens) as f64);
    let answer = |depth: f64| new_tokens * (STEP_COST + batch) * (1.0 + depth / 4096.0);
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
        Input::SharedPrefix { prefix, read } => {
            let (prefix, read) = (prefix as f64, read as f64);
            prefix + repetitions * (read + answer(prefix))
        }
        Input::Turn { number } => {
            let characters: usize = scenario.prompts().iter().map(String::len).sum();
            let turn = characters as f64 / 4.0 + answer(0.0);
            (repetitions + number as f64 - 1.0) * turn
        }
        Input::Documents(Pipeline::Embedding) => 10_000.0,
        Input::Documents(_) => 15_000.0,
        Input::Requests(StressKind::Long) => 25_000.0,
        Input::Requests(_) => 5_000.0,
        Input::Texts => 2_000.0,
        Input::Traced => 2.0 * (64.0 + answer(0.0)),
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunProgress {
    /// Processes that have ended.
    pub processes: usize,
    /// Processes in all.
    pub all: usize,
    /// Estimated share of the whole cost that is done.
    pub share: f64,
}

/// Elapsed time against estimated costs.
pub(super) struct BudgetTracker {
    generation: Generation,
    started: Instant,
    total_cost: f64,
    measured_cost: f64,
    skipped_cost: f64,
    processes: usize,
    all_processes: usize,
}

impl BudgetTracker {
    pub(super) fn new<'a>(
        jobs: impl ExactSizeIterator<Item = &'a Vec<Scenario>>,
        generation: &Generation,
    ) -> Self {
        let all_processes = jobs.len();
        let total_cost = jobs.map(|job| total_cost(job, generation)).sum();
        Self {
            generation: generation.clone(),
            started: Instant::now(),
            total_cost,
            measured_cost: 0.0,
            skipped_cost: 0.0,
            processes: 0,
            all_processes,
        }
    }

    /// A process has measured these scenarios.
    pub(super) fn measured(&mut self, scenarios: &[Scenario]) {
        self.measured_cost += total_cost(scenarios, &self.generation);
        self.processes += 1;
    }

    /// A process is skipped.
    pub(super) fn skip(&mut self, scenarios: &[Scenario]) {
        self.skipped_cost += total_cost(scenarios, &self.generation);
        self.processes += 1;
    }

    /// One more process is needed, for the scenarios that a failed one left.
    pub(super) fn add_process(&mut self) {
        self.all_processes += 1;
    }

    pub(super) fn progress(&self) -> RunProgress {
        let cost = (self.total_cost - self.skipped_cost).max(f64::MIN_POSITIVE);
        let share = self.measured_cost / cost;
        RunProgress { processes: self.processes, all: self.all_processes, share }
    }

    /// The reason to skip scenarios whose expected time, extrapolated from those measured so far,
    /// exceeds what is left of the budget. The first process is always started.
    pub(super) fn exceeded_by(
        &self,
        budget: Option<Duration>,
        scenarios: &[Scenario],
    ) -> Option<Error> {
        let cost = total_cost(scenarios, &self.generation);
        self.exceeded_after(self.started.elapsed(), budget?, cost)
    }

    fn exceeded_after(&self, elapsed: Duration, budget: Duration, cost: f64) -> Option<Error> {
        let done = Some(self.measured_cost).filter(|done| *done > 0.0)?;
        let expected = elapsed.as_secs_f64() * (1.0 + cost / done);
        (expected > budget.as_secs_f64()).then(|| used_up(budget))
    }

    /// The instant at which a process started within the budget is killed, and the reason.
    pub(super) fn end(&self, budget: Duration) -> (Instant, Error) {
        (self.started + budget + GRACE, used_up(budget))
    }
}

/// How long a process may exceed the budget.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

fn used_up(budget: Duration) -> Error {
    Error::SkippedTime(format!("the time budget of {budget:?} was used up"))
}

fn total_cost(scenarios: &[Scenario], generation: &Generation) -> f64 {
    scenarios.iter().map(|scenario| cost(scenario, generation)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn longer_work_costs_more_and_shares_add_up() {
        let generation = Generation::default();
        let of = |id: &str| cost(&workload::select(&[id.to_string()]).unwrap()[0], &generation);
        assert!(of("grid/S6") > of("grid/S2"));
        assert!(of("context/8192") > of("context/512"));
        assert!(of("long/b16") > of("long/b1"));
        let jobs: Vec<Vec<Scenario>> =
            workload::select(&["grid".to_string()]).unwrap().into_iter().map(|s| vec![s]).collect();
        let mut budget = BudgetTracker::new(jobs.iter(), &generation);
        assert_eq!(budget.progress(), RunProgress { processes: 0, all: 6, share: 0.0 });
        jobs.iter().for_each(|job| budget.measured(job));
        assert!((budget.progress().share - 1.0).abs() < 1e-12);
    }

    #[test]
    fn skipped_scenarios_do_not_change_the_estimate() {
        let generation = Generation::default();
        let jobs: Vec<Vec<Scenario>> = workload::select(&["grid".to_string()])
            .unwrap()
            .into_iter()
            .map(|scenario| vec![scenario])
            .collect();
        let mut budget = BudgetTracker::new(jobs.iter(), &generation);
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert!(
            budget.exceeded_after(minutes(9), minutes(1), 1e9).is_none(),
            "nothing is known yet"
        );
        budget.measured(&jobs[0]);
        let one = total_cost(&jobs[0], &generation);
        assert!(budget.exceeded_after(minutes(1), minutes(3), one).is_none());
        assert!(budget.exceeded_after(minutes(1), minutes(3), 3.0 * one).is_some());
        budget.skip(&jobs[5]);
        assert!(budget.exceeded_after(minutes(1), minutes(3), 3.0 * one).is_some());
    }
}
