//! `candlemark peers`: engines on the same GGUF files, with the same tokens in the same passes.
//! Each engine has a process of its own, because two thread pools in one process compete for its
//! cores. The processes stay alive, take turns, and sleep between them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

use anyhow::Context as _;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::usage;
use crate::error::Error;
use crate::measure::ReadBudget;
use crate::model::EngineKind;
use crate::record::Rates;
use crate::settings::{Config, Count, Setup, oversubscription};
use crate::{measure, model, report};

mod cases;
mod external;
mod process;
mod results;
mod worker;

pub(super) use worker::work;

use cases::{CASES, PeerCase};
use external::{External, LlamaBench};
use process::{EngineProcess, Peer, Response, Turn, TurnKind};
use results::{CaseResult, EngineTurns, NATIVE};

/// Compare engines on the same GGUF files
///
/// Measures prefill, decode, a ragged batch, and decode after a long context. The last line is
/// JSON: native divided by each other engine, for every case.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// GGUF files; `candlemark synth` writes synthetic ones
    #[arg(required = true, value_name = "FILE.gguf")]
    files: Vec<PathBuf>,
    /// Skip the cases with 4096 prompt tokens
    #[arg(long)]
    quick: bool,
    /// Measure only this case: prefill_512, decode_b1, decode_b16, prefill_4096 or
    /// decode_depth_4096, preceded by a quantization and `_` for one file; repeatable
    /// [default: all]
    #[arg(long, value_name = "KEY")]
    only: Vec<String>,
    /// Engines to measure
    #[arg(long, value_name = "ENGINE", value_delimiter = ',', default_values_t = EngineKind::NAMES.map(String::from))]
    engines: Vec<String>,
    /// Another program that takes the flags of llama-bench and prints its JSON; repeatable. The
    /// batch is measured with llama-batched-bench in the same folder. Both run with flash attention
    /// on and off, and the faster one counts
    #[arg(long, value_name = "NAME=PATH")]
    external: Vec<External>,
    /// Turns of each engine per case
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = Count::ROUNDS.parser())]
    rounds: usize,
    /// Seconds after which an engine gets no further turn at a case
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Threads of the engines [default: physical cores allowed to the process]
    #[arg(long, value_name = "N", value_parser = Count::THREADS.parser())]
    threads: Option<usize>,
}

/// The value of [`suite::WORKER`](crate::suite::WORKER) for the process of an engine.
pub(super) const PEERS: &str = "peers";

/// Pause between turns in which the last engine's threads go to sleep.
const PAUSE: Duration = Duration::from_millis(400);

/// Configurations of an engine whose pilot reached this share of the fastest one's rate take turns.
const PILOT_THRESHOLD: f64 = 0.95;

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let mut setup = Setup::default();
    setup.threads = arguments.threads.or(config.model.threads).unwrap_or(setup.threads);
    for engine in &arguments.engines {
        EngineKind::parse(engine)?;
    }
    let models: Vec<ModelFile> =
        arguments.files.iter().map(|file| ModelFile::open(file)).collect::<Result<_, _>>()?;
    let quants: Vec<&str> = models.iter().map(|model| model.quant.as_str()).collect();
    check_names(&arguments.only, &quants)?;
    let selected = |model: &ModelFile| -> Vec<&PeerCase> {
        CASES.iter().filter(|case| is_selected(case, &model.quant, arguments)).collect()
    };
    if models.iter().all(|model| selected(model).is_empty()) {
        return Err(usage("`--quick` skips every case of `--only`; drop one of the two"));
    }
    if let Some(shared) = oversubscription(setup.threads) {
        writeln!(io::stderr(), "warning: {shared}")?;
    }
    let mut rates = measure::peak_rates(setup.threads, ReadBudget::FULL)?;
    let mut results = Vec::new();
    for model in &models {
        let cases = selected(model);
        if cases.is_empty() {
            continue;
        }
        setup.model.clone_from(&model.path);
        let mut processes = start_processes(&setup, arguments)?;
        if processes.is_empty() {
            return Err(Error::Failed(format!("no engine runs `{}`", setup.model)).into());
        }
        for case in cases {
            let key = key(&model.quant, case);
            let turns = measure_case(&key, case, &mut processes, arguments)?;
            let mut result = CaseResult::new(key, turns);
            result.read_fraction =
                result.rate(NATIVE).and_then(|rate| model.read_fraction(case, rate, &rates));
            let exceeds = result.read_fraction.is_some_and(|fraction| fraction > 1.0);
            results.push(result);
            // The machine was slower when its bandwidth was measured.
            if exceeds && let Ok(again) = measure::peak_rates(setup.threads, ReadBudget::EXTENDED) {
                let best = rates.best_of(&again);
                results::rescale(&mut results, &rates, &best);
                rates = best;
            }
        }
    }
    write!(out, "{}", results::table(&results))?;
    for result in &results {
        for note in &result.notes {
            writeln!(out, "{}: {note}", result.key)?;
        }
    }
    if let Some(read) = rates.best_read_bytes_per_s() {
        writeln!(out, "read bandwidth: {} GB/s", report::number(read / 1e9))?;
    }
    writeln!(out, "{}", results::ratios(&results))?;
    Ok(Exit::Pass)
}

/// What is known of a file before an engine loads it.
struct ModelFile {
    path: String,
    /// The types of its matrices, in a word.
    quant: String,
    /// Bytes of weights that a decode step reads.
    step_bytes: u64,
    /// With keys and values of 16 bits.
    kv_bytes_per_token: usize,
}

impl ModelFile {
    fn open(file: &Path) -> Result<Self, Error> {
        let path = file.display().to_string();
        let opened = model::open(&path, 0, None, &mut ())?;
        let footprint = opened.stored_footprint();
        Ok(Self {
            path,
            quant: footprint.quant_name(),
            step_bytes: footprint.step_bytes,
            kv_bytes_per_token: opened.config.kv_bytes_per_token(footprint.kv_dtype),
        })
    }

    /// The fraction of the read bandwidth that decoding so many tokens per second takes; `None` for
    /// a prefill, and where weights may stay in caches.
    fn read_fraction(&self, case: &PeerCase, rate: f64, rates: &Rates) -> Option<f64> {
        let caches = (self.kv_bytes_per_token * case.cached_tokens()) as f64;
        let step_s = case.sequences as f64 / rate;
        let fraction = measure::read_fraction(self.step_bytes, caches, step_s, rates);
        fraction.ok().filter(|_| case.steps > 0)
    }
}

/// The key of a case in the JSON line.
fn key(quant: &str, case: &PeerCase) -> String {
    format!("{quant}_{}", case.name)
}

/// Refuses unknown names before anything is measured.
fn check_names(only: &[String], quants: &[&str]) -> Result<(), Error> {
    let mut known: Vec<String> = CASES.iter().map(|case| case.name.into()).collect();
    for quant in quants {
        known.extend(CASES.iter().map(|case| key(quant, case)));
    }
    match only.iter().find(|only| !known.contains(only)) {
        Some(other) => {
            let known = known.iter().map(String::as_str);
            Err(Error::unknown("case", other, known))
        }
        None => Ok(()),
    }
}

fn is_selected(case: &PeerCase, quant: &str, arguments: &Arguments) -> bool {
    let named = |only: &String| only == case.name || *only == key(quant, case);
    (arguments.only.is_empty() || arguments.only.iter().any(named))
        && !(arguments.quick && case.tokens > 512)
}

/// Starts a process for each engine, and tries the other programs in each configuration.
fn start_processes(setup: &Setup, arguments: &Arguments) -> anyhow::Result<Vec<Box<dyn Peer>>> {
    let file = &setup.model;
    let binary = std::env::current_exe().context("cannot find this binary to start it again")?;
    let mut err = io::stderr();
    let mut processes: Vec<Box<dyn Peer>> = Vec::new();
    for engine in &arguments.engines {
        let setup = Setup { engine: engine.clone(), ..setup.clone() };
        match EngineProcess::start(&binary, &setup) {
            Ok(process) => processes.push(Box::new(process)),
            Err(error) => writeln!(err, "{engine} on {file}: {error}")?,
        }
    }
    for external in &arguments.external {
        for flash_attention in [true, false] {
            let started =
                LlamaBench::start(external, file.as_ref(), setup.threads, flash_attention);
            let process = started.map_err(Error::of_named_file)?;
            writeln!(err, "{}: {}", process.name(), process.build())?;
            processes.push(Box::new(process));
        }
    }
    Ok(processes)
}

/// Measures one case on all engines: a pilot each, then timed turns.
fn measure_case(
    key: &str,
    case: &PeerCase,
    processes: &mut [Box<dyn Peer>],
    arguments: &Arguments,
) -> anyhow::Result<Vec<EngineTurns>> {
    let mut all: Vec<EngineTurns> = Vec::new();
    for at in 0..processes.len() {
        let response = take_turn(key, case, TurnKind::Pilot, at, processes)?;
        all.push(EngineTurns::new(processes[at].engine(), processes[at].configuration(), response));
    }
    results::keep_fastest(&mut all, PILOT_THRESHOLD);
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..processes.len()).collect();
        if round % 2 == 1 {
            order.reverse(); // So that no engine always follows the same one.
        }
        for at in order {
            if all[at].takes_turn(arguments.seconds as f64) {
                all[at].add(take_turn(key, case, TurnKind::Timed, at, processes)?);
            }
        }
    }
    Ok(all)
}

/// Requests a turn of one engine while the others sleep, and warns if they do not.
fn take_turn(
    key: &str,
    case: &PeerCase,
    kind: TurnKind,
    at: usize,
    processes: &mut [Box<dyn Peer>],
) -> anyhow::Result<Response> {
    thread::sleep(PAUSE);
    let before: Vec<_> = processes.iter().map(|process| process.cpu()).collect();
    let response = processes[at].request(case, kind)?;
    let mut err = io::stderr();
    let name = processes[at].name();
    match &response {
        Ok(Turn { rate, seconds, .. }) => {
            let what = if kind == TurnKind::Pilot { " (pilot)" } else { "" };
            writeln!(err, "{key} {name}{what}: {rate:.2} tok/s in {seconds:.1} s")?;
            let others = processes.iter().zip(before).filter(|(other, _)| other.name() != name);
            for (other, before) in others {
                let used =
                    other.cpu().zip(before).map_or(Duration::ZERO, |(now, before)| now - before);
                let used = used.as_secs_f64();
                if used > 0.05 * seconds + 0.05 {
                    let other = other.name();
                    writeln!(err, "warning: {other} used {used:.2} s of CPU during that turn")?;
                }
            }
        }
        Err(absent) => writeln!(err, "{key} {name}: {absent}")?,
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_case_is_refused_with_the_nearest_name() {
        let check = |only: &str| check_names(&["decode_b1".into(), only.into()], &["q8_0", "bf16"]);
        for name in ["prefill_512", "q8_0_decode_b16", "bf16_decode_depth_4096"] {
            assert!(check(name).is_ok(), "{name}");
        }
        let error = check("q8_0_prefill_51").unwrap_err().to_string();
        assert!(error.contains("did you mean `q8_0_prefill_512`?"), "{error}");
        let error = check("q4_k_m_decode_b1").unwrap_err().to_string();
        assert!(error.contains("no case `q4_k_m_decode_b1`"), "{error}");
    }

    #[test]
    fn a_decoded_token_reads_the_weights_once_per_step_and_the_caches() {
        let (path, quant) = (String::new(), "q8_0".into());
        let mut model =
            ModelFile { path, quant, step_bytes: 600_000_000, kv_bytes_per_token: 100_000 };
        let mut rates = Rates { read_bytes_per_s: Some(30e9), ..Rates::default() };
        rates.last_level_cache_bytes = Some(32 << 20);
        let fraction = |model: &ModelFile, name: &str, rate: f64| {
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            model.read_fraction(case, rate, &rates)
        };
        // 128 + 64 / 2 tokens: 616 MB in each of 40 steps per second.
        assert_eq!(fraction(&model, "decode_b1", 40.0), Some(616e6 * 40.0 / 30e9));
        // 16 prompts of 2038 tokens and 16 · 32 / 2: 829.4 MB in each of 10 steps per second.
        assert_eq!(fraction(&model, "decode_b16", 160.0), Some(829.4e6 * 10.0 / 30e9));
        assert_eq!(fraction(&model, "prefill_512", 500.0), None);
        model.step_bytes = 60_000_000;
        assert_eq!(fraction(&model, "decode_b1", 40.0), None, "the weights may stay in the cache");
    }
}
