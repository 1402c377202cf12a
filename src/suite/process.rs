//! What a worker process does with a job: it loads the model once, measures its scenarios in turn,
//! and answers with one line of JSON for each.

use std::io;
use std::io::{Read as _, Write as _};

use serde::Serialize;

use crate::engine::{Engine, Injection};
use crate::error::{Error, Result};
use crate::machine::memory::Memory;
use crate::machine::{Meter, memory};
use crate::measure::pipeline::Means;
use crate::measure::{MemoryUse, Trial, pipeline};
use crate::record::{Absence, Case, KernelTimes, Model, Work};
use crate::settings::Generation;
use crate::suite::{Answer, HELD, Job};
use crate::workload::{Input, Scenario};
use crate::{machine, measure, settings, suite, workload};

/// Works on the job that standard input holds, and answers on standard output. For `main`, when
/// `WORKER` is set.
///
/// # Errors
/// When the job cannot be read, the model cannot be loaded, or the answer cannot be written. What
/// happens to a single scenario is part of its answer.
pub fn work() -> Result<()> {
    let text = asked()?;
    let job: Job = serde_json::from_str(&text)
        .map_err(|error| Error::Failed(format!("no job on standard input: {error}")))?;
    let references = || -> Result<Option<KernelTimes>> {
        let found = job.references.then(|| machine::references(job.setup.threads));
        let found = found.transpose()?.flatten();
        if found.is_some() {
            // Their memory is given back, and must not count as the model's.
            let _ = memory::reset_peak();
        }
        Ok(found)
    };
    let mut before = references()?;
    let mut rates = job.rates.clone();
    let chosen = job.scenarios.iter().map(|id| exactly(id)).collect::<Result<Vec<_>>>()?;
    if chosen.iter().any(|scenario| scenario.input == Input::Traced) {
        measure::profile::install()?; // Before loading, which packs.
    }
    let mut engine = match Engine::load(&job.setup, &mut ()) {
        Ok(engine) => engine,
        // An engine that cannot run this model is an answer; a model that cannot be loaded is none.
        Err(error @ Error::Unsupported(_)) => {
            for id in &job.scenarios {
                let case = absent(&exactly(id)?, &job.setup.generation, (&error).into());
                say(&Answer { model: Model::default(), case, rates: None })?;
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
            .unwrap_or_else(|error| absent(&scenario, &job.setup.generation, (&error).into()));
        if case.absent.is_none() && job.setup.device == "cpu" {
            case.validity.warnings.extend(settings::too_many(job.setup.threads));
        }
        measure::restate(&mut case, &job.rates, &rates);
        let exceeds = measure::exceeds(&case);
        if exceeds {
            let seen = measure::patient_rates(job.setup.threads)?;
            measure::raise(&mut rates, std::slice::from_mut(&mut case), &seen);
        }
        let after = references()?;
        for block in &mut case.blocks {
            block.references = before.zip(after).map(<[_; 2]>::from);
        }
        before = after;
        say(&Answer { model: model.clone(), case, rates: exceeds.then(|| rates.clone()) })?;
    }
    Ok(())
}

/// What a worker is asked to do: standard input, or its first line where it stays open for as long
/// as somebody waits for answers. When nobody does any more, the process ends: a worker that went
/// on alone would disturb the next.
///
/// # Errors
/// When standard input cannot be read.
pub(super) fn asked() -> Result<String> {
    let mut text = String::new();
    let read = |source| Error::Read { path: "standard input".into(), source };
    if std::env::var_os(HELD).is_none() {
        io::stdin().read_to_string(&mut text).map_err(read)?;
        return Ok(text);
    }
    io::stdin().read_line(&mut text).map_err(read)?;
    suite::thread(|| {
        // It sleeps until then, and takes nothing from what is measured.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    })?;
    Ok(text)
}

/// Tells whoever asked, in one line of JSON that is there at once.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn say<T: Serialize>(told: &T) -> Result<()> {
    let line = serde_json::to_string(told).expect("plain data") + "\n";
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
        let means = Means { generation, injection, session: &job.session, memory, meter };
        return pipeline::case(engine, scenario, means);
    }
    let mut trial = Trial::new(engine, scenario, generation, injection)?;
    for _ in 0..generation.warmups {
        trial.warm_up(engine)?;
    }
    let begun = meter.begin();
    let iters = generation.iters.max(scenario.repetitions.unwrap_or(0));
    let samples = (0..iters).map(|_| trial.sample(engine)).collect::<Result<Vec<_>>>()?;
    let spent = meter.end(begun);
    memory.end(injection);
    let tokens: usize = samples.iter().flat_map(|sample| &sample.ids).map(Vec::len).sum();
    let mut case = trial.into_case(engine, &job.session, &samples, Some(&memory), &job.rates);
    for block in &mut case.blocks {
        machine::store(&spent, tokens as f64, block);
    }
    Ok(case)
}

pub(super) fn exactly(id: &str) -> Result<Scenario> {
    let found = workload::select(&[id.into()])?;
    found
        .into_iter()
        .find(|scenario| scenario.id == id)
        .ok_or_else(|| Error::Failed(format!("no scenario `{id}`")))
}

/// A scenario that could not be measured, with its reason in the place of numbers.
pub fn absent(scenario: &Scenario, generation: &Generation, absent: Absence) -> Case {
    Case {
        id: scenario.id.clone(),
        work: Work {
            task: scenario.task(),
            batch: scenario.batch,
            new_tokens: scenario.length(generation.gen_tokens),
            ..Work::default()
        },
        absent: Some(absent),
        ..Case::default()
    }
}
