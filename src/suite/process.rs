//! The worker's side of a job: load the model once, measure the scenarios one after the other, and
//! write one line of JSON for each.

use crate::engine::{Engine, Injection};
use crate::error::{Error, Result};
use crate::machine::memory::Memory;
use crate::machine::{Meter, memory};
use crate::measure::pipeline::Context;
use crate::measure::{MemoryUse, ReadBudget, Trial, pipeline};
use crate::record::{Case, KernelTimes, Model};
use crate::suite::job::{Job, ScenarioResult, absent_case};
#[cfg(feature = "server")]
use crate::suite::server::run_server_job;
use crate::suite::worker::{exit_with_host, first_request, respond};
use crate::workload::{Input, Scenario};
use crate::{machine, measure, settings, workload};

/// Runs the job on standard input and writes results to standard output. For `main`, when
/// [`WORKER`](crate::suite::WORKER) is set.
///
/// # Errors
/// When the job cannot be read, the model cannot be loaded, or a result cannot be written. The
/// failure of a single scenario is part of its result.
pub(crate) fn run_worker() -> Result<()> {
    let mut job: Job = first_request()?;
    exit_with_host()?;
    job.setup = job.setup.received();
    if job.setup.server.is_some() {
        return run_server_job(&job);
    }
    let references = || -> Result<Option<KernelTimes>> {
        let measure = || machine::measure_reference_kernels(job.setup.threads);
        let times = job.references.then(measure).transpose()?.flatten();
        if times.is_some() {
            // Their buffer is freed and must not count as the model's memory.
            let _ = memory::reset_peak();
        }
        Ok(times)
    };
    let mut before = references()?;
    let mut rates = job.rates.clone();
    let chosen = job.scenarios.iter().map(workload::find).collect::<Result<Vec<_>>>()?;
    if chosen.iter().any(|scenario| scenario.input == Input::Traced) {
        measure::profile::install()?; // Before the model is loaded: loading packs the weights.
    }
    let mut engine = match Engine::load(&job.setup, &mut ()) {
        Ok(engine) => engine,
        // An unsupported model is a result of each scenario; a model that does not load is not.
        Err(error @ Error::Unsupported(_)) => {
            for scenario in &chosen {
                let case = absent_case(scenario, &job.setup.generation, (&error).into());
                respond(&ScenarioResult { model: Model::default(), case, rates: None })?;
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let model = measure::describe_model(&engine, None);
    let after_load = memory::read();
    let meter = Meter::for_device(&job.setup.device, job.setup.threads);
    for scenario in chosen {
        let mut case = case(&mut engine, &scenario, &job, &after_load, &meter)
            .unwrap_or_else(|error| absent_case(&scenario, &job.setup.generation, (&error).into()));
        if case.absent.is_none() && job.setup.device == "cpu" {
            case.validity.warnings.extend(settings::oversubscription(job.setup.threads));
        }
        measure::rescale(&mut case, &job.rates, &rates);
        let exceeds = measure::exceeds_roofline(&case);
        if exceeds {
            let measured = measure::peak_rates(job.setup.threads, ReadBudget::EXTENDED)?;
            measure::update_peak_rates(&mut rates, std::slice::from_mut(&mut case), &measured);
        }
        let after = references()?;
        for block in &mut case.blocks {
            block.references = before.zip(after).map(<[_; 2]>::from);
        }
        before = after;
        respond(&ScenarioResult {
            model: model.clone(),
            case,
            rates: exceeds.then(|| rates.clone()),
        })?;
    }
    Ok(())
}

/// Refuses a job on a server.
#[cfg(not(feature = "server"))]
fn run_server_job(_: &Job) -> Result<()> {
    Err(Error::Usage("this build measures no servers: it lacks the feature `server`".into()))
}

fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    job: &Job,
    after_load: &Memory,
    meter: &Meter,
) -> Result<Case> {
    let (setup, session, generation) = (&job.setup, &job.session, &job.setup.generation);
    let injection = Injection::parse_if_any(&job.injection)?;
    let mut memory = MemoryUse::begin(after_load, job.sharing);
    match scenario.input {
        Input::Texts => {
            return measure::quality::case(engine, scenario, setup, session, job.text.as_deref());
        }
        Input::Traced => return measure::profile::case(engine, scenario, setup, session),
        Input::Documents(pipeline) => {
            let context = Context { generation, injection, session, memory, meter };
            return pipeline::case(engine, scenario, pipeline, context);
        }
        _ => {}
    }
    let mut trial = Trial::new(engine, scenario, generation, injection)?;
    for _ in 0..generation.warmups {
        trial.warm_up(engine)?;
    }
    let start = meter.begin();
    let iters = generation.iters.max(scenario.repetitions.unwrap_or(0));
    let samples = (0..iters).map(|_| trial.sample(engine)).collect::<Result<Vec<_>>>()?;
    let usage = meter.end(start);
    memory.end(injection);
    let tokens: usize = samples.iter().flat_map(|sample| &sample.ids).map(Vec::len).sum();
    let mut case = trial.into_case(engine, &job.session, &samples, Some(&memory), &job.rates);
    for block in &mut case.blocks {
        machine::store_usage(&usage, tokens as f64, block);
    }
    Ok(case)
}
