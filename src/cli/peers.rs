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
use crate::model;
use crate::model::EngineKind;
use crate::settings::{Config, Count, Setup, oversubscription};

mod cases;
mod external;
mod process;
mod results;
mod worker;

pub(super) use worker::work;

use cases::{CASES, PeerCase};
use external::{External, LlamaBench};
use process::{EngineProcess, Peer, Response, Turn, TurnKind};
use results::{CaseResult, EngineTurns};

/// Compare engines on the same GGUF files
///
/// Measures prefill, decode, a ragged batch, and decode after a long context. The last line is
/// JSON: native divided by each other engine, for every case. llama.cpp runs with flash attention
/// on and off, and the faster one counts. Engines that this build does not include are skipped.
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
    /// Another program that takes the flags of llama-bench and prints its JSON; repeatable
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

/// Pause between turns in which the last engine's threads go to sleep: those of OpenMP spin for
/// 200 ms.
const PAUSE: Duration = Duration::from_millis(400);

/// Configurations of an engine whose pilot reached this share of the fastest one's rate take turns.
const PILOT_THRESHOLD: f64 = 0.95;

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let mut setup = Setup::default();
    setup.threads = arguments.threads.or(config.model.threads).unwrap_or(setup.threads);
    for engine in &arguments.engines {
        if let Err(error @ Error::Unknown { .. }) = EngineKind::parse(engine) {
            return Err(error.into());
        }
    }
    let quants: Vec<String> =
        arguments.files.iter().map(|file| quantization(file)).collect::<anyhow::Result<_>>()?;
    check_names(&arguments.only, &quants)?;
    if let Some(shared) = oversubscription(setup.threads) {
        writeln!(io::stderr(), "warning: {shared}")?;
    }
    let mut results = Vec::new();
    for (file, quant) in arguments.files.iter().zip(&quants) {
        let selected: Vec<&PeerCase> =
            CASES.iter().filter(|case| is_selected(case, quant, arguments)).collect();
        if selected.is_empty() {
            continue;
        }
        setup.model = file.display().to_string();
        let mut processes = start_processes(&setup, arguments)?;
        if processes.is_empty() {
            return Err(Error::Failed(format!("no engine runs `{}`", setup.model)).into());
        }
        for case in selected {
            results.push(measure(quant, case, &mut processes, arguments)?);
        }
    }
    if results.is_empty() {
        return Err(usage("`--quick` skips every case of `--only`; drop one of the two"));
    }
    write!(out, "{}", results::table(&results))?;
    for result in &results {
        for difference in &result.differences {
            writeln!(out, "{}: {difference}", result.key)?;
        }
    }
    writeln!(out, "{}", results::ratios(&results))?;
    Ok(Exit::Pass)
}

/// The format of a file's matrices, in a word.
fn quantization(file: &Path) -> anyhow::Result<String> {
    let opened = model::open(&file.display().to_string(), 0, None, &mut ())?;
    let matrices = opened.config.tensors().into_iter().filter(|(_, shape)| shape.len() == 2);
    let types: Vec<_> = matrices
        .filter_map(|(name, shape)| Some((opened.weights.info(&name)?.dtype, shape)))
        .map(|(dtype, shape)| (dtype, shape.iter().product::<usize>() as u64))
        .collect();
    Ok(model::mix_name(&types))
}

/// The key of a case in the JSON line.
fn key(quant: &str, case: &PeerCase) -> String {
    format!("{quant}_{}", case.name)
}

/// Refuses unknown names before anything is measured.
fn check_names(only: &[String], quants: &[String]) -> Result<(), Error> {
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

/// Starts a process for each engine, and one for each configuration of llama.cpp.
fn start_processes(setup: &Setup, arguments: &Arguments) -> anyhow::Result<Vec<Box<dyn Peer>>> {
    let file = &setup.model;
    let binary = std::env::current_exe().context("cannot find this binary to start it again")?;
    let mut err = io::stderr();
    let mut processes: Vec<Box<dyn Peer>> = Vec::new();
    for engine in &arguments.engines {
        let configurations: &[&[(&str, &str)]] = match EngineKind::parse(engine) {
            Ok(EngineKind::LlamaCpp) => {
                &[&[("CANDLEMARK_LLAMA_FA", "on")], &[("CANDLEMARK_LLAMA_FA", "off")]]
            }
            Ok(_) => &[&[]],
            Err(error) => {
                writeln!(err, "skipped: {error}")?;
                continue;
            }
        };
        let setup = Setup { engine: engine.clone(), ..setup.clone() };
        for variables in configurations {
            match EngineProcess::start(&binary, &setup, variables) {
                Ok(process) => {
                    writeln!(err, "{engine} on {file}: {}", process.setup())?;
                    processes.push(Box::new(process));
                }
                Err(error) => writeln!(err, "{engine} on {file}: {error}")?,
            }
        }
    }
    for external in &arguments.external {
        for flash_attention in [true, false] {
            let started =
                LlamaBench::start(external, file.as_ref(), setup.threads, flash_attention);
            let process = started.map_err(Error::of_named_file)?;
            writeln!(err, "{} on {file}: {}", process.engine(), process.setup())?;
            processes.push(Box::new(process));
        }
    }
    Ok(processes)
}

/// Measures one case on all engines: a pilot each, then timed turns.
fn measure(
    quant: &str,
    case: &PeerCase,
    processes: &mut [Box<dyn Peer>],
    arguments: &Arguments,
) -> anyhow::Result<CaseResult> {
    let key = key(quant, case);
    let mut all: Vec<EngineTurns> = Vec::new();
    for at in 0..processes.len() {
        let response = take_turn(&key, case, TurnKind::Pilot, at, processes)?;
        all.push(EngineTurns::new(processes[at].engine(), processes[at].setup(), response));
    }
    results::keep_fastest(&mut all, PILOT_THRESHOLD);
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..processes.len()).collect();
        if round % 2 == 1 {
            order.reverse(); // So that no engine always follows the same one.
        }
        for at in order {
            if all[at].takes_turn(arguments.seconds as f64) {
                all[at].add(take_turn(&key, case, TurnKind::Timed, at, processes)?);
            }
        }
    }
    Ok(CaseResult::new(key, all))
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
        let quants = ["q8_0".to_owned(), "bf16".into()];
        let check = |only: &str| check_names(&["decode_b1".into(), only.into()], &quants);
        for name in ["prefill_512", "q8_0_decode_b16", "bf16_decode_depth_4096"] {
            assert!(check(name).is_ok(), "{name}");
        }
        let error = check("q8_0_prefill_51").unwrap_err().to_string();
        assert!(error.contains("did you mean `q8_0_prefill_512`?"), "{error}");
        let error = check("q4_k_m_decode_b1").unwrap_err().to_string();
        assert!(error.contains("no case `q4_k_m_decode_b1`"), "{error}");
    }
}
