//! A worker that takes turns: it loads once, stays, and measures a few generations each time it is
//! asked to. One line of JSON in, one line out, so that nothing runs while it is another's turn.

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead as _;

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Injection};
use crate::error::{Error, Result};
use crate::machine::memory;
use crate::machine::memory::Memory;
use crate::measure::{MemoryUse, Sample, Sharing, Trial};
use crate::record::{Absence, Build, Case, Model, Rates, Settings};
use crate::settings::Setup;
use crate::suite::process::say;
use crate::workload::{Scenario, Task};
use crate::{machine, measure, stats, workload};

/// The value of [`crate::suite::WORKER`] for a worker that takes turns.
pub const TURNS: &str = "turns";

/// Version of the messages below. The two builds of a pair have to speak the same.
pub const PROTOCOL: u32 = 2;

/// The first line that a worker reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opening {
    /// [`PROTOCOL`] of who asks.
    pub protocol: u32,
    /// How to load and run the model.
    pub setup: Setup,
    /// Words that select scenarios, as on the command line; each build knows its own.
    pub words: Vec<String>,
    /// The session that blocks belong to.
    pub session: String,
    /// A deliberate change for the worse, in all turns.
    pub injection: Option<String>,
}

/// What a worker answers to its opening, once the model is loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// [`PROTOCOL`] of the worker.
    pub protocol: u32,
    /// How it was built.
    pub build: Build,
    /// The model as it was loaded, without the hash of its weights.
    pub model: Model,
    /// How it will be run.
    pub settings: Settings,
    /// Ids of the scenarios that the words select here.
    pub scenarios: Vec<String>,
    /// Why the engine cannot run this model at all.
    pub unsupported: Option<String>,
}

/// What a worker is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Begin a scenario: its warm-ups.
    WarmUp {
        /// The scenario's id.
        scenario: String,
    },
    /// Measure.
    Turn {
        /// How many generations.
        generations: usize,
        /// A change for the worse in this turn only, in place of that of the opening.
        injection: Option<String>,
    },
    /// End the scenario.
    Finish {
        /// A change for the worse of memory, in place of that of the opening.
        injection: Option<String>,
    },
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Told {
    /// To a warm-up.
    Warm {
        /// Token ids per sequence, of the last warm-up.
        ids: Vec<Vec<u32>>,
    },
    /// To a turn: the median of its generations, by metric name.
    Values {
        /// By metric name.
        values: BTreeMap<String, f64>,
    },
    /// To the end: the scenario with one block, which holds memory, cold values and the checks.
    Case {
        /// The scenario.
        case: Box<Case>,
    },
    /// The scenario cannot be done. It is over.
    Cannot {
        /// Why.
        absent: Absence,
    },
}

/// Takes turns until standard input ends. For `main`, when [`crate::suite::WORKER`] is [`TURNS`].
///
/// # Errors
/// When the opening cannot be read, the model cannot be loaded, or an answer cannot be written.
/// What happens to a single scenario is part of an answer.
pub fn work() -> Result<()> {
    let mut lines = io::stdin().lock().lines();
    let mut next = || {
        lines
            .next()
            .transpose()
            .map_err(|source| Error::Read { path: "standard input".into(), source })
    };
    let opening: Opening = understood(&next()?.unwrap_or_default())?;
    if opening.protocol != PROTOCOL {
        let asked = opening.protocol;
        return Err(Error::Failed(format!(
            "this build takes turns by protocol {PROTOCOL}, not {asked}"
        )));
    }
    let scenarios = selected(&opening.words)?;
    let ready = |model, unsupported| Ready {
        protocol: PROTOCOL,
        build: machine::stamp(), // Who asked knows the hash.
        model,
        settings: measure::describe_settings(&opening.setup),
        scenarios: scenarios.iter().map(|scenario| scenario.id.clone()).collect(),
        unsupported,
    };
    let mut engine = match Engine::load(&opening.setup, &mut ()) {
        Ok(engine) => engine,
        Err(Error::Unsupported(why)) => return say(&ready(Model::default(), Some(why))),
        Err(error) => return Err(error),
    };
    say(&ready(measure::describe_model(&engine, None), None))?;
    let injection = opening.injection.as_deref().map(Injection::parse).transpose()?;
    let after_load = memory::read();
    let mut open: Option<Open> = None;
    while let Some(line) = next()? {
        let told = match understood(&line)? {
            Ask::WarmUp { scenario } => {
                let found = scenarios.iter().find(|known| known.id == scenario);
                let begun = found
                    .ok_or_else(|| Error::Unsupported(format!("no scenario `{scenario}`")))
                    .and_then(|found| {
                        Open::begin(&mut engine, found, &opening, injection, &after_load)
                    });
                begun.map(|(begun, ids)| {
                    open = Some(begun);
                    Told::Warm { ids }
                })
            }
            Ask::Turn { generations, injection: only } => {
                let scenario = open.as_mut().ok_or_else(not_begun);
                scenario.and_then(|open| {
                    let only = only.as_deref().map(Injection::parse).transpose()?;
                    open.turn(&mut engine, generations, only.or(injection))
                })
            }
            Ask::Finish { injection: only } => {
                let scenario = open.take().ok_or_else(not_begun);
                scenario.and_then(|open| {
                    let only = only.as_deref().map(Injection::parse).transpose()?;
                    Ok(open.finish(&engine, &opening.session, only.or(injection)))
                })
            }
        };
        let told = told.unwrap_or_else(|error| {
            open = None;
            Told::Cannot { absent: (&error).into() }
        });
        say(&told)?;
    }
    Ok(())
}

/// The scenarios that this build knows by these words; a word that it does not know selects none
/// here, and may well select some in the other build.
///
/// # Errors
/// As [`workload::select`], which knows a suite for no words.
pub fn selected(words: &[String]) -> Result<Vec<Scenario>> {
    if words.is_empty() {
        return workload::select(words);
    }
    let takes_turns = |scenario: &Scenario| {
        // Others are whole runs of their own, or want a model that is loaded in another way.
        matches!(scenario.task(), Task::Generate | Task::Depth) && !scenario.extended
    };
    let mut found: Vec<Scenario> = Vec::new();
    for scenario in
        words.iter().filter_map(|word| workload::select(std::slice::from_ref(word)).ok()).flatten()
    {
        if takes_turns(&scenario) && !found.contains(&scenario) {
            found.push(scenario);
        }
    }
    Ok(found)
}

fn not_begun() -> Error {
    Error::Failed("a turn without a warm-up before it".into())
}

fn understood<T: for<'a> Deserialize<'a>>(line: &str) -> Result<T> {
    serde_json::from_str(line)
        .map_err(|error| Error::Failed(format!("not understood on standard input: {error}")))
}

/// A scenario between its warm-ups and its end.
struct Open {
    trial: Trial,
    samples: Vec<Sample>,
    memory: MemoryUse,
}

impl Open {
    fn begin(
        engine: &mut Engine,
        scenario: &Scenario,
        opening: &Opening,
        injection: Option<Injection>,
        after_load: &Memory,
    ) -> Result<(Self, Vec<Vec<u32>>)> {
        let memory = MemoryUse::begin(after_load, Sharing::Shared);
        let generation = &opening.setup.generation;
        let mut trial = Trial::new(engine, scenario, generation, injection)?;
        for _ in 0..generation.warmups.max(1) {
            trial.warm_up(engine)?;
        }
        let ids = trial.warm_ids().unwrap_or_default().to_vec();
        Ok((Self { trial, samples: Vec::new(), memory }, ids))
    }

    fn turn(
        &mut self,
        engine: &mut Engine,
        generations: usize,
        injection: Option<Injection>,
    ) -> Result<Told> {
        self.trial.inject(injection);
        let samples =
            (0..generations).map(|_| self.trial.sample(engine)).collect::<Result<Vec<_>>>()?;
        let mut each: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, value) in samples.iter().flat_map(|sample| &sample.values) {
            each.entry((*name).into()).or_default().push(*value);
        }
        let median = |(name, values): (String, Vec<f64>)| Some((name, stats::median(&values)?));
        self.samples.extend(samples);
        Ok(Told::Values { values: each.into_iter().filter_map(median).collect() })
    }

    fn finish(mut self, engine: &Engine, session: &str, injection: Option<Injection>) -> Told {
        self.memory.end(injection);
        // Rates are not measured in every block: their checks belong to records.
        let rates = Rates::default();
        let mut case =
            self.trial.into_case(engine, session, &self.samples, Some(&self.memory), &rates);
        for block in &mut case.blocks {
            block.samples.clear(); // The turns have told them.
            block.steps_s.clear();
            block.ttft_seq_s.clear();
        }
        Told::Case { case: Box::new(case) }
    }
}
