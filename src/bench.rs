//! The Criterion harness: scenarios in Criterion groups, their record, the verdict and the page. A
//! bench is one call:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     candlemark::bench::main(&["short", "code/b1"])
//! }
//! ```
//!
//! It stands in `benches/NAME.rs`, with `harness = false` under `[[bench]]` in Cargo.toml.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to the terminal")]

mod case;
mod measurement;
mod session;

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::bench::case::{CaseRun, PHASES};
use crate::bench::measurement::SampleTime;
use crate::bench::session::{Mode, Session};
use crate::compare::Policy;
use crate::engine::Injection;
use crate::error::{Cause, Error, Result};
use crate::settings::{Config, Generation, Setup, oversubscription};
use crate::tokenizer::Tokenizer;
use crate::workload::{Scenario, select};
use crate::{engine, files, suite};
use criterion::{BenchmarkId, Criterion, PlottingBackend, SamplingMode, Throughput};

/// Minimum number of samples in Criterion.
const SAMPLES: usize = 10;

/// Measures the scenarios that `words` select (suites, categories, ids or their prefixes), grouped
/// by the first part of their ids. The settings come from `candlemark.toml` and the environment,
/// Criterion's options from the command line.
///
/// The exit status is 0 after a run, however slow, 2 for an invalid configuration, and 5 for a
/// failure. `candlemark check` judges the record. The same binary is also the worker that measures
/// memory in a fresh process, and that `candlemark pair` builds at two commits and runs in turns.
pub fn main(words: &[&str]) -> ExitCode {
    if let Some(done) = suite::work() {
        return exit_code(done.map(|()| 0));
    }
    exit_code(run(words))
}

fn run(words: &[&str]) -> Result<u8> {
    let path = Path::new("candlemark.toml");
    let config = Config::read(Some(path).filter(|path| path.exists()), std::env::vars_os())?;
    let mode = Mode::from_args();
    let mut setup = Setup::new(&config);
    if mode == Mode::Test && std::env::var_os("CANDLEMARK_MODEL").is_none_or(|set| set.is_empty()) {
        setup.model = "synthetic:nano".into(); // A smoke test needs no real layer.
    }
    // Criterion decides on warm-ups and samples.
    let Generation { warmups, iters, .. } = Generation::default();
    if (setup.generation.warmups, setup.generation.iters) != (warmups, iters) {
        eprintln!("warning: warmups and iters have no effect here; use `-- --sample-size N`");
    }
    if let Some(shared) = oversubscription(setup.threads) {
        eprintln!("warning: {shared}");
    }
    setup.generation.warmups = 1;
    engine::check(&setup)?;
    let policy = Policy::new(&config.gate)?;
    let injection = std::env::var(suite::INJECT).ok();
    Injection::parse_if_any(&injection)?;
    if let Some(status) = restart_with_threads(setup.threads)? {
        return Ok(status);
    }
    let groups = groups(words)?;
    let session = Session {
        setup,
        mode,
        injection,
        scenarios: groups.iter().flat_map(|(_, scenarios)| scenarios).cloned().collect(),
        loaded: OnceCell::new(),
    };
    bench(&session, &groups)?;
    session.conclude(&policy)?;
    Ok(0)
}

/// Restarts the bench with the number of threads in the environment, from which thread pools take
/// their size.
fn restart_with_threads(threads: usize) -> Result<Option<u8>> {
    let threads = threads.to_string();
    if std::env::var("RAYON_NUM_THREADS").is_ok_and(|set| set == threads) {
        return Ok(None);
    }
    let binary = files::this_binary()?;
    let status = Command::new(&binary)
        .args(std::env::args_os().skip(1))
        .env("RAYON_NUM_THREADS", &threads)
        .env("CANDLE_NUM_THREADS", &threads)
        .status()
        .map_err(|source| Error::Read { path: binary, source })?;
    Ok(Some(status.code().map_or(5, |code| code as u8)))
}

fn exit_code(outcome: Result<u8>) -> ExitCode {
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::from(if error.cause() == Cause::Usage { 2 } else { 5 })
        }
    }
}

/// Groups scenarios by the first part of their ids, in order. Without scenarios of an extended
/// context, because a bench has one model.
fn groups(words: &[&str]) -> Result<Vec<(String, Vec<Scenario>)>> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut groups: Vec<(String, Vec<Scenario>)> = Vec::new();
    for scenario in select(&words)?.into_iter().filter(|scenario| !scenario.extended) {
        let name = scenario.id.split('/').next().unwrap_or_default().to_owned();
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, group)) => group.push(scenario),
            None => groups.push((name, vec![scenario])),
        }
    }
    Ok(groups)
}

fn bench(session: &Session, groups: &[(String, Vec<Scenario>)]) -> Result<()> {
    // Not gnuplot: pages must look the same on every machine.
    let mut criterion = Criterion::default()
        .with_measurement(SampleTime)
        .plotting_backend(PlottingBackend::Plotters)
        .sample_size(SAMPLES)
        .nresamples(2_000)
        .warm_up_time(Duration::from_nanos(1))
        .configure_from_args();
    let tokenizer = Tokenizer::tiny()?;
    for (name, scenarios) in groups {
        let runs: Vec<RefCell<CaseRun<'_>>> = scenarios
            .iter()
            .map(|scenario| RefCell::new(CaseRun::new(session, scenario)))
            .collect();
        for phase in PHASES {
            let mut group = criterion.benchmark_group(format!("{name}{}", phase.suffix));
            group.sampling_mode(SamplingMode::Flat);
            let shown =
                scenarios.iter().zip(&runs).filter(|(scenario, _)| phase.applies_to(scenario));
            for (scenario, run) in shown {
                // Criterion plans by the clock, and replaying takes no time.
                let replays = !run.borrow().samples.is_empty();
                group.measurement_time(if replays {
                    Duration::from_micros(100)
                } else {
                    Duration::from_secs(1)
                });
                let new_tokens = scenario.length(session.setup.generation.gen_tokens);
                let prompts = session.prompt_tokens(scenario, &tokenizer)?;
                if let Some(tokens) = (phase.tokens)(scenario, new_tokens, &prompts) {
                    group.throughput(Throughput::Elements(tokens as u64));
                }
                let parameter = scenario.id.split_once('/').map_or("", |(_, rest)| rest);
                group.bench_function(BenchmarkId::from_parameter(parameter), |b| {
                    let mut run = run.borrow_mut();
                    run.prepare();
                    b.iter_custom(|iterations| run.run(phase, iterations));
                });
                run.borrow_mut().store()?;
            }
            group.finish();
        }
    }
    criterion.final_summary();
    Ok(())
}
