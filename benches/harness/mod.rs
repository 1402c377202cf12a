//! What the benches share: scenarios in Criterion groups, the record of them, the verdict and the
//! page.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to the terminal")]

mod case;
mod sampled;
mod session;

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use candlemark::compare::Policy;
use candlemark::engine::Injection;
use candlemark::error::{Cause, Error, Result};
use candlemark::settings::{Config, Generation, Setup, oversubscription};
use candlemark::tokenizer::Tokenizer;
use candlemark::workload::{Scenario, select};
use candlemark::{engine, suite};
use case::{CaseRun, PAGES};
use criterion::{BenchmarkId, Criterion, PlottingBackend, SamplingMode, Throughput};
use sampled::Sampled;
use session::{Mode, Session};

/// Fewest samples that Criterion takes.
const SAMPLES: usize = 10;

/// Measures scenarios in groups, named by the first part of their ids; the words select them as on
/// the command line.
///
/// Ends with 0 when it ran, however slow it was, with 2 when it was configured in a way that cannot
/// be, and with 5 when something broke: to judge is `candlemark check`'s.
pub fn main(words: &[&str]) -> ExitCode {
    if std::env::var_os(suite::WORKER).is_some() {
        return done(suite::run_worker().map(|()| 0));
    }
    done(run(words))
}

fn run(words: &[&str]) -> Result<u8> {
    let path = Path::new("candlemark.toml");
    let config = Config::read(Some(path).filter(|path| path.exists()), std::env::vars_os())?;
    let mode = Mode::from_args();
    let mut setup = Setup::new(&config);
    if mode == Mode::Test && std::env::var_os("CANDLEMARK_MODEL").is_none_or(|set| set.is_empty()) {
        setup.model = "synthetic:nano".into(); // To see that a case runs takes no real layer.
    }
    // Criterion warms up once, and takes as many samples as it was told to.
    let Generation { warmups, iters, .. } = Generation::default();
    if (setup.generation.warmups, setup.generation.iters) != (warmups, iters) {
        eprintln!("warning: warmups and iters are Criterion's here; give `-- --sample-size N`");
    }
    if let Some(shared) = oversubscription(setup.threads) {
        eprintln!("warning: {shared}");
    }
    setup.generation.warmups = 1;
    engine::check(&setup)?;
    let policy = Policy::new(&config.gate)?;
    let injection = std::env::var(suite::INJECT).ok();
    injection.as_deref().map(Injection::parse).transpose()?;
    if let Some(status) = with_threads(setup.threads)? {
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

/// Pools of threads take their size from the environment before they start, so the bench starts
/// itself again with it.
fn with_threads(threads: usize) -> Result<Option<u8>> {
    let threads = threads.to_string();
    if std::env::var("RAYON_NUM_THREADS").is_ok_and(|set| set == threads) {
        return Ok(None);
    }
    let binary = binary()?;
    let status = Command::new(&binary)
        .args(std::env::args_os().skip(1))
        .env("RAYON_NUM_THREADS", &threads)
        .env("CANDLE_NUM_THREADS", &threads)
        .status()
        .map_err(|source| Error::Read { path: binary, source })?;
    Ok(Some(status.code().map_or(5, |code| code as u8)))
}

fn binary() -> Result<PathBuf> {
    std::env::current_exe().map_err(|source| Error::Read { path: "this binary".into(), source })
}

/// The exit status, of an error by its cause.
fn done(outcome: Result<u8>) -> ExitCode {
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::from(if error.cause() == Cause::Usage { 2 } else { 5 })
        }
    }
}

/// Scenarios by the first part of their ids, in their order. A bench has one model, so those that
/// extend its context are left out.
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
    // Whatever plotting program is installed, pages look alike.
    let mut criterion = Criterion::default()
        .with_measurement(Sampled)
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
        for page in PAGES {
            let mut group = criterion.benchmark_group(format!("{name}{}", page.suffix));
            group.sampling_mode(SamplingMode::Flat);
            let shown = scenarios.iter().zip(&runs).filter(|(scenario, _)| page.fits(scenario));
            for (scenario, run) in shown {
                // Replaying takes no time, and Criterion plans by the clock.
                let replays = !run.borrow().samples.is_empty();
                group.measurement_time(if replays {
                    Duration::from_micros(100)
                } else {
                    Duration::from_secs(1)
                });
                let new_tokens = scenario.length(session.setup.generation.gen_tokens);
                let prompts = session.prompt_tokens(scenario, &tokenizer)?;
                if let Some(tokens) = (page.tokens)(scenario, new_tokens, &prompts) {
                    group.throughput(Throughput::Elements(tokens as u64));
                }
                let parameter = scenario.id.split_once('/').map_or("", |(_, rest)| rest);
                group.bench_function(BenchmarkId::from_parameter(parameter), |b| {
                    let mut run = run.borrow_mut();
                    run.prepare();
                    b.iter_custom(|iterations| run.count(page, iterations));
                });
                run.borrow_mut().keep()?;
            }
            group.finish();
        }
    }
    criterion.final_summary();
    Ok(())
}
