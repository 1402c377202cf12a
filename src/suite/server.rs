//! A job on a server: the worker is a client process that measures the scenarios one after another.

use crate::error::{Error, Result};
use crate::measure::server::{Connection, ServerTrial, pipeline_case};
use crate::record::Case;
use crate::suite::job::{INJECT, Job, ScenarioResult, absent_case};
use crate::suite::worker::respond;
use crate::workload::{self, Input, Scenario};

/// Runs a job on its server and writes a result for each scenario.
///
/// # Errors
/// When the server does not answer at the start, a scenario is unknown, or a result cannot be
/// written. The failure of a single scenario is part of its result.
pub(super) fn run_server_job(job: &Job) -> Result<()> {
    refuse_injection(&job.injection)?;
    let mut connection = Connection::open(&job.setup)?;
    for id in &job.scenarios {
        let scenario = workload::find(id)?;
        let case = case(&mut connection, &scenario, job)
            .unwrap_or_else(|error| absent_case(&scenario, &job.setup.generation, (&error).into()));
        respond(&ScenarioResult { model: connection.model(), case, rates: None })?;
    }
    Ok(())
}

/// Refuses a slowdown on purpose: a client cannot slow a server down.
///
/// # Errors
/// When there is one.
pub(super) fn refuse_injection(injection: &Option<String>) -> Result<()> {
    match injection {
        Some(_) => Err(Error::Usage(format!("{INJECT} slows engines down, not servers"))),
        None => Ok(()),
    }
}

fn case(connection: &mut Connection, scenario: &Scenario, job: &Job) -> Result<Case> {
    let generation = &job.setup.generation;
    if let Input::Documents(pipeline) = scenario.input {
        return pipeline_case(connection, scenario, pipeline, generation, &job.session);
    }
    let mut trial = ServerTrial::new(connection, scenario, generation)?;
    for _ in 0..generation.warmups {
        trial.warm_up(connection)?;
    }
    let before = connection.scrape();
    let iters = generation.iters.max(scenario.repetitions.unwrap_or(0));
    let samples = (0..iters).map(|_| trial.sample(connection)).collect::<Result<Vec<_>>>()?;
    Ok(trial.into_case(connection, &job.session, &samples, before.as_ref()))
}
