//! The turn protocol: a worker loads the model once and measures a few generations per request. One
//! line of JSON in, one line out, so that a worker is idle during the other arm's turn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Injection};
use crate::error::{Error, Result};
use crate::machine::memory;
use crate::machine::memory::Memory;
#[cfg(feature = "server")]
use crate::measure::server::{Connection, ServerSample, ServerTrial};
use crate::measure::{MemoryUse, Sample, Sharing, Trial};
use crate::record::{Absence, Build, Case, Model, Rates, Settings};
use crate::settings::Setup;
#[cfg(feature = "server")]
use crate::suite::server::refuse_injection;
use crate::suite::worker::{first_request, next_request, respond};
use crate::workload::{Scenario, Task};
use crate::{engine, machine, measure, stats, workload};

/// The value of [`WORKER`](crate::suite::WORKER) for a worker that speaks the turn protocol.
pub(crate) const TURNS: &str = "turns";

/// Version of the messages below. Both builds of a pair must speak the same one.
pub const PROTOCOL: u32 = 2;

/// The first request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`PROTOCOL`] of the host.
    pub protocol: u32,
    /// How to load and run the model.
    pub setup: Setup,
    /// Words that select scenarios, as on the command line; each build knows its own scenarios.
    pub words: Vec<String>,
    /// The session that blocks belong to.
    pub session: String,
    /// A deliberate regression in all turns.
    pub injection: Option<String>,
    /// Whether to hash the model, which takes time; a worker may ignore it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub identify: bool,
}

/// The response to `Hello`, once the model is loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloResponse {
    /// [`PROTOCOL`] of the worker.
    pub protocol: u32,
    /// The worker's build.
    pub build: Build,
    /// The loaded model, with the hash of its weights only if that was requested.
    pub model: Model,
    /// How the model is run.
    pub settings: Settings,
    /// Ids of the scenarios that the words select in this build.
    pub scenarios: Vec<String>,
    /// Why the engine cannot run this model.
    pub unsupported: Option<String>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Start a scenario and run its warm-ups.
    WarmUp {
        /// The scenario's id.
        scenario: String,
    },
    /// Measure a turn.
    Turn {
        /// How many generations.
        generations: usize,
        /// A deliberate regression in this turn only, in place of that of `Hello`.
        injection: Option<String>,
    },
    /// End the scenario.
    Finish {
        /// A deliberate regression of memory, in place of that of `Hello`.
        injection: Option<String>,
    },
}

/// The response to a `Request`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Response {
    /// To `Request::WarmUp`.
    Warm {
        /// Token ids of the last warm-up, per sequence.
        ids: Vec<Vec<u32>>,
    },
    /// To `Request::Turn`.
    Values {
        /// The median over the turn's generations, by metric name.
        values: BTreeMap<String, f64>,
    },
    /// To `Request::Finish`.
    Case {
        /// The scenario with one block, which holds memory, cold values and the checks.
        case: Box<Case>,
    },
    /// To any request: the scenario cannot be measured, and is over.
    Cannot {
        /// The reason.
        absent: Absence,
    },
}

/// Serves requests until standard input ends. For `main`, when
/// [`WORKER`](crate::suite::WORKER) is [`TURNS`].
///
/// # Errors
/// When `Hello` cannot be read, the model cannot be loaded, or a response cannot be written. The
/// failure of a single scenario is a response.
pub(crate) fn run_turn_worker() -> Result<()> {
    let mut hello: Hello = first_request()?;
    hello.setup = hello.setup.received();
    if hello.protocol != PROTOCOL {
        let theirs = hello.protocol;
        return Err(Error::Failed(format!(
            "this build uses turn protocol {PROTOCOL}, not {theirs}"
        )));
    }
    let scenarios = select(&hello.words)?;
    let response = |model, unsupported| HelloResponse {
        protocol: PROTOCOL,
        build: machine::stamp(), // The host knows the binary's hash.
        model,
        settings: measure::describe_settings(&hello.setup),
        scenarios: scenarios.iter().map(|scenario| scenario.id.clone()).collect(),
        unsupported,
    };
    if hello.setup.server.is_some() {
        return run_server_turns(&hello, &scenarios, response);
    }
    let mut engine = match Engine::load(&hello.setup, &mut ()) {
        Ok(engine) => engine,
        Err(Error::Unsupported(why)) => return respond(&response(Model::default(), Some(why))),
        Err(error) => return Err(error),
    };
    let identify = || engine::identify(&hello.setup, &mut ());
    let identity = hello.identify.then(identify).transpose()?;
    respond(&response(measure::describe_model(&engine, identity.as_ref()), None))?;
    let after_load = memory::read();
    answer(&mut EngineTurns { engine: &mut engine, after_load }, &hello, &scenarios)
}

/// Connects to the server and answers requests.
#[cfg(feature = "server")]
fn run_server_turns(
    hello: &Hello,
    scenarios: &[Scenario],
    response: impl Fn(Model, Option<String>) -> HelloResponse,
) -> Result<()> {
    refuse_injection(&hello.injection)?;
    let mut connection = Connection::open(&hello.setup)?;
    respond(&response(connection.model(), None))?;
    answer(&mut ServerTurns { connection: &mut connection }, hello, scenarios)
}

#[cfg(not(feature = "server"))]
fn run_server_turns(
    _: &Hello,
    _: &[Scenario],
    _: impl Fn(Model, Option<String>) -> HelloResponse,
) -> Result<()> {
    Err(Error::Usage("this build measures no servers: it lacks the feature `server`".into()))
}

/// What takes turns: an engine or a server.
trait Turns {
    /// A scenario between its warm-ups and its end.
    type Active;

    /// Starts a scenario and runs its warm-ups; with it the token ids of the last one, if they are
    /// known.
    fn start(
        &mut self,
        scenario: &Scenario,
        hello: &Hello,
    ) -> Result<(Self::Active, Vec<Vec<u32>>)>;

    /// Measures a turn.
    fn turn(
        &mut self,
        active: &mut Self::Active,
        generations: usize,
        injection: &Option<String>,
    ) -> Result<Response>;

    /// Ends the scenario.
    fn finish(
        &mut self,
        active: Self::Active,
        session: &str,
        injection: &Option<String>,
    ) -> Result<Case>;
}

/// Answers requests until standard input ends.
fn answer<T: Turns>(turns: &mut T, hello: &Hello, scenarios: &[Scenario]) -> Result<()> {
    let mut active: Option<T::Active> = None;
    while let Some(request) = next_request()? {
        let response = match request {
            Request::WarmUp { scenario } => scenarios
                .iter()
                .find(|known| known.id == scenario)
                .ok_or_else(|| Error::Unsupported(format!("no scenario `{scenario}`")))
                .and_then(|scenario| {
                    let (started, ids) = turns.start(scenario, hello)?;
                    active = Some(started);
                    Ok(Response::Warm { ids })
                }),
            Request::Turn { generations, injection } => active
                .as_mut()
                .ok_or_else(no_warm_up)
                .and_then(|scenario| turns.turn(scenario, generations, &injection)),
            Request::Finish { injection } => active
                .take()
                .ok_or_else(no_warm_up)
                .and_then(|scenario| turns.finish(scenario, &hello.session, &injection))
                .map(|mut case| {
                    for block in &mut case.blocks {
                        block.samples.clear(); // Sent with the turns.
                        block.steps_s.clear();
                        block.ttft_seq_s.clear();
                    }
                    Response::Case { case: Box::new(case) }
                }),
        };
        let response = response.unwrap_or_else(|error| {
            active = None;
            Response::Cannot { absent: (&error).into() }
        });
        respond(&response)?;
    }
    Ok(())
}

/// The response to a turn: the median over its generations of each metric.
fn medians<'a>(values: impl Iterator<Item = (&'a &'static str, &'a f64)>) -> Response {
    let mut each: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in values {
        each.entry((*name).into()).or_default().push(*value);
    }
    let median = |(name, values): (String, Vec<f64>)| Some((name, stats::median(&values)?));
    Response::Values { values: each.into_iter().filter_map(median).collect() }
}

/// The scenarios that these words select in this build. An unknown word selects none: the other
/// build of a pair may know it. Without words, the default suite.
///
/// # Errors
/// As [`workload::select`] without words.
pub fn select(words: &[String]) -> Result<Vec<Scenario>> {
    if words.is_empty() {
        return workload::select(words);
    }
    let has_turns = |scenario: &Scenario| {
        // The others are whole runs of their own, or load the model in another way.
        matches!(scenario.task(), Task::Generate | Task::Depth) && !scenario.extended
    };
    let mut found: Vec<Scenario> = Vec::new();
    for scenario in
        words.iter().filter_map(|word| workload::select(std::slice::from_ref(word)).ok()).flatten()
    {
        if has_turns(&scenario) && !found.contains(&scenario) {
            found.push(scenario);
        }
    }
    Ok(found)
}

fn no_warm_up() -> Error {
    Error::Failed("a turn was requested before a warm-up".into())
}

/// An engine in this process.
struct EngineTurns<'a> {
    engine: &'a mut Engine,
    after_load: Memory,
}

/// A scenario on an engine between its warm-ups and its end.
struct ActiveScenario {
    trial: Trial,
    samples: Vec<Sample>,
    memory: MemoryUse,
    /// Of all turns that have none of their own.
    injection: Option<Injection>,
}

impl Turns for EngineTurns<'_> {
    type Active = ActiveScenario;

    fn start(
        &mut self,
        scenario: &Scenario,
        hello: &Hello,
    ) -> Result<(Self::Active, Vec<Vec<u32>>)> {
        let memory = MemoryUse::begin(&self.after_load, Sharing::Shared);
        let injection = Injection::parse_if_any(&hello.injection)?;
        let generation = &hello.setup.generation;
        let mut trial = Trial::new(self.engine, scenario, generation, injection)?;
        for _ in 0..generation.warmups.max(1) {
            trial.warm_up(self.engine)?;
        }
        let ids = trial.warm_ids().unwrap_or_default().to_vec();
        Ok((ActiveScenario { trial, samples: Vec::new(), memory, injection }, ids))
    }

    fn turn(
        &mut self,
        active: &mut Self::Active,
        generations: usize,
        injection: &Option<String>,
    ) -> Result<Response> {
        active.trial.inject(Injection::parse_if_any(injection)?.or(active.injection));
        let sample = |_| active.trial.sample(self.engine);
        let samples = (0..generations).map(sample).collect::<Result<Vec<_>>>()?;
        let response = medians(samples.iter().flat_map(|sample| &sample.values));
        active.samples.extend(samples);
        Ok(response)
    }

    fn finish(
        &mut self,
        mut active: Self::Active,
        session: &str,
        injection: &Option<String>,
    ) -> Result<Case> {
        active.memory.end(Injection::parse_if_any(injection)?.or(active.injection));
        // Peak rates are not measured in every block; only a run's record is checked against them.
        let rates = Rates::default();
        let ActiveScenario { trial, samples, memory, .. } = active;
        Ok(trial.into_case(self.engine, session, &samples, Some(&memory), &rates))
    }
}

/// A server, of which this process is a client.
#[cfg(feature = "server")]
struct ServerTurns<'a> {
    connection: &'a mut Connection,
}

/// A scenario on a server between its warm-ups and its end.
#[cfg(feature = "server")]
struct ActiveServerScenario {
    trial: ServerTrial,
    samples: Vec<ServerSample>,
}

#[cfg(feature = "server")]
impl Turns for ServerTurns<'_> {
    type Active = ActiveServerScenario;

    fn start(
        &mut self,
        scenario: &Scenario,
        hello: &Hello,
    ) -> Result<(Self::Active, Vec<Vec<u32>>)> {
        let generation = &hello.setup.generation;
        let mut trial = ServerTrial::new(self.connection, scenario, generation)?;
        for _ in 0..generation.warmups.max(1) {
            trial.warm_up(self.connection)?;
        }
        // The answers' text is compared when the scenario ends.
        Ok((ActiveServerScenario { trial, samples: Vec::new() }, Vec::new()))
    }

    fn turn(
        &mut self,
        active: &mut Self::Active,
        generations: usize,
        _: &Option<String>,
    ) -> Result<Response> {
        let sample = |_| active.trial.sample(self.connection);
        let samples = (0..generations).map(sample).collect::<Result<Vec<_>>>()?;
        let response = medians(samples.iter().flat_map(|sample| &sample.values));
        active.samples.extend(samples);
        Ok(response)
    }

    fn finish(&mut self, active: Self::Active, session: &str, _: &Option<String>) -> Result<Case> {
        let ActiveServerScenario { trial, samples } = active;
        Ok(trial.into_case(self.connection, session, &samples, None))
    }
}
