//! The worker's side of a job: load the model once, measure the scenarios one after the other, and
//! write one line of JSON for each.

use std::io;
use std::io::{Read as _, Write as _};

use serde::Serialize;

use crate::engine::{Engine, Injection};
use crate::error::{Error, Result};
use crate::machine::memory::Memory;
use crate::machine::{Meter, memory};
use crate::measure::pipeline::Context;
use crate::measure::{MemoryUse, ReadBudget, Trial, pipeline};
use crate::record::{Absence, Case, KernelTimes, Model, Work};
use crate::settings::Generation;
use crate::suite::job::{Job, STDIN_STAYS_OPEN, ScenarioResult};
use crate::workload::{Input, Scenario};
use crate::{machine, measure, settings, suite, workload};

/// Runs the job on standard input and writes results to standard output. For `main`, when
/// [`WORKER`](crate::suite::WORKER) is set.
///
/// # Errors
/// When the job cannot be read, the model cannot be loaded, or a result cannot be written. The
/// failure of a single scenario is part of its result.
pub fn run_worker() -> Result<()> {
    let text = read_request()?;
    let mut job: Job = serde_json::from_str(&text)
        .map_err(|error| Error::Failed(format!("no job on standard input: {error}")))?;
    job.setup = job.setup.received();
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
    let chosen = job.scenarios.iter().map(|id| scenario_by_id(id)).collect::<Result<Vec<_>>>()?;
    if chosen.iter().any(|scenario| scenario.input == Input::Traced) {
        measure::profile::install()?; // Before the model is loaded: loading packs the weights.
    }
    let mut engine = match Engine::load(&job.setup, &mut ()) {
        Ok(engine) => engine,
        // An unsupported model is a result of each scenario; a model that does not load is not.
        Err(error @ Error::Unsupported(_)) => {
            for id in &job.scenarios {
                let case =
                    absent_case(&scenario_by_id(id)?, &job.setup.generation, (&error).into());
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
            let measured = measure::peak_rates(job.setup.threads, ReadBudget::Extended)?;
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

/// The request on standard input: all of it, or its first line where the host keeps the stream
/// open. The process then exits when the host closes the stream: an orphaned worker would disturb
/// the next measurement.
///
/// # Errors
/// When standard input cannot be read.
pub(super) fn read_request() -> Result<String> {
    let mut text = String::new();
    let read = |source| Error::Read { path: "standard input".into(), source };
    if std::env::var_os(STDIN_STAYS_OPEN).is_none() {
        io::stdin().read_to_string(&mut text).map_err(read)?;
        return Ok(text);
    }
    io::stdin().read_line(&mut text).map_err(read)?;
    suite::spawn_thread(|| {
        // Blocked until then: it takes no CPU time.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    })?;
    Ok(text)
}

/// Writes a response to standard output, as one line of JSON, and flushes it.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn respond(response: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(response).expect("plain data") + "\n";
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::Write { path: "standard output".into(), source })
}

fn case(
    engine: &mut Engine,
    scenario: &Scenario,
    job: &Job,
    after_load: &Memory,
    meter: &Meter,
) -> Result<Case> {
    match scenario.input {
        Input::Texts => {
            return measure::quality::case(
                engine,
                scenario,
                &job.setup,
                &job.session,
                job.text.as_deref(),
            );
        }
        Input::Traced => return measure::profile::case(engine, scenario, &job.setup, &job.session),
        _ => {}
    }
    let injection = job.injection.as_deref().map(Injection::parse).transpose()?;
    let mut memory = MemoryUse::begin(after_load, job.sharing);
    let generation = &job.setup.generation;
    if let Input::Documents(_) = scenario.input {
        let context = Context { generation, injection, session: &job.session, memory, meter };
        return pipeline::case(engine, scenario, context);
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

fn scenario_by_id(id: &str) -> Result<Scenario> {
    let found = workload::select(&[id.into()])?;
    found
        .into_iter()
        .find(|scenario| scenario.id == id)
        .ok_or_else(|| Error::Failed(format!("no scenario `{id}`")))
}

/// A scenario that could not be measured, with the reason in place of numbers.
pub fn absent_case(scenario: &Scenario, generation: &Generation, reason: Absence) -> Case {
    Case {
        id: scenario.id.clone(),
        work: Work {
            task: scenario.task(),
            batch: scenario.batch,
            new_tokens: scenario.length(generation.gen_tokens),
            ..Work::default()
        },
        absent: Some(reason),
        ..Case::default()
    }
}
