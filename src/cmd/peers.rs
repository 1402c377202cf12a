//! `candlemark peers`: engines side by side on the same GGUF files, the same tokens in the same
//! passes. Each engine has a process of its own, because the pools of two in one process would take
//! each other's cores. The processes stay, are asked in turns, and sleep meanwhile.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

use anyhow::Context as _;
use candlemark::error::Error;
use candlemark::model;
use candlemark::model::{EngineKind, weights};
use candlemark::settings::{Config, Count, Setup, oversubscription};

use crate::cmd::{Exit, usage};

mod figures;
mod item;
mod seat;
mod worker;

use figures::{Row, Taken};
use item::{ITEMS, Item};
use seat::{Kind, Seat, Told};

/// Measure engines side by side on GGUF files: prefill, decode, a ragged batch, and decode behind a
/// long context
///
/// The last line is JSON: native divided by llama-cpp, by what was measured. llama-cpp is measured
/// with flash attention on and off, and the better one counts; engines that are not in this build
/// are left out.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// GGUF files, `candlemark synth` writes some
    #[arg(required = true, value_name = "FILE.gguf")]
    files: Vec<PathBuf>,
    /// Leave out what reads 4096 tokens
    #[arg(long)]
    quick: bool,
    /// Measure this alone; repeatable: prefill_512, decode_b1, decode_b16, prefill_4096 or
    /// decode_depth_4096, after the quantisation and `_` if it is for one file
    #[arg(long, value_name = "KEY")]
    only: Vec<String>,
    /// Engines to measure
    #[arg(long, value_name = "ENGINE", value_delimiter = ',', default_values_t = EngineKind::NAMES.map(String::from))]
    engines: Vec<String>,
    /// Turns of each engine
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = Count::ROUNDS.parser())]
    rounds: usize,
    /// An engine that has worked so long on one measurement gets no further turn at it
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Threads of the engines; default: CPUs allowed to the process
    #[arg(long, value_name = "N", value_parser = Count::THREADS.parser())]
    threads: Option<usize>,
    /// Be the process of this engine
    #[arg(long, value_name = "ENGINE", hide = true)]
    worker: Option<String>,
}

/// Pause between turns, in which the pool of who was asked goes to sleep: OpenMP's waits for 200
/// ms.
const REST: Duration = Duration::from_millis(400);

/// A configuration of llama.cpp that was this close to the best in the pilot is measured on with
/// it.
const CLOSE: f64 = 0.95;

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let setup = Setup::new(&Config::default());
    let threads = arguments.threads.or(config.model.threads).unwrap_or(setup.threads);
    if let (Some(engine), [file]) = (&arguments.worker, arguments.files.as_slice()) {
        let setup = Setup {
            model: file.display().to_string(),
            engine: engine.clone(),
            quant: None,
            device: "cpu".into(),
            threads,
            ..setup
        };
        worker::work(&setup)?;
        return Ok(Exit::Pass);
    }
    let unknown = arguments.engines.iter().find_map(|engine| match EngineKind::parse(engine) {
        Err(error @ Error::Unknown { .. }) => Some(error),
        _ => None,
    });
    if let Some(error) = unknown {
        return Err(error.into());
    }
    let held: Vec<String> =
        arguments.files.iter().map(|file| held_as(file)).collect::<anyhow::Result<_>>()?;
    check_names(&arguments.only, &held)?;
    if let Some(shared) = oversubscription(threads) {
        writeln!(io::stderr(), "warning: {shared}")?;
    }
    let mut rows = Vec::new();
    for (file, held) in arguments.files.iter().zip(&held) {
        let chosen: Vec<&Item> =
            ITEMS.iter().filter(|item| is_wanted(item, held, arguments)).collect();
        if chosen.is_empty() {
            continue;
        }
        let mut seats = seats(file, threads, &arguments.engines)?;
        if seats.is_empty() {
            return Err(Error::Failed(format!("no engine runs `{}`", file.display())).into());
        }
        for item in chosen {
            rows.push(measured(held, item, &mut seats, arguments)?);
        }
    }
    if rows.is_empty() {
        return Err(usage("`--quick` leaves out all that `--only` asks for"));
    }
    write!(out, "{}", figures::table(&rows))?;
    for row in &rows {
        for difference in &row.differences {
            writeln!(out, "{}: {difference}", row.key)?;
        }
    }
    writeln!(out, "{}", figures::ratios(&rows))?;
    Ok(Exit::Pass)
}

/// What a file's matrices are held as, in a word.
fn held_as(file: &Path) -> anyhow::Result<String> {
    let opened = model::open(&file.display().to_string(), 0, None, &mut ())?;
    let matrices = opened.config.tensors().into_iter().filter(|(_, shape)| shape.len() == 2);
    let types: Vec<_> = matrices
        .filter_map(|(name, shape)| Some((opened.source.info(&name)?.dtype, shape)))
        .map(|(dtype, shape)| (dtype, shape.iter().product::<usize>() as u64))
        .collect();
    Ok(weights::describe(&types))
}

/// The key of what is measured on a file, in the JSON line.
fn key(held: &str, item: &Item) -> String {
    format!("{held}_{}", item.name)
}

/// Refuses a name that would measure nothing: its number would be missed only at the end.
fn check_names(only: &[String], held: &[String]) -> Result<(), Error> {
    let mut known: Vec<String> = ITEMS.iter().map(|item| item.name.into()).collect();
    for held in held {
        known.extend(ITEMS.iter().map(|item| key(held, item)));
    }
    match only.iter().find(|only| !known.contains(only)) {
        Some(other) => {
            let known = known.iter().map(String::as_str);
            Err(Error::unknown("measurement of these files", other, known))
        }
        None => Ok(()),
    }
}

fn is_wanted(item: &Item, held: &str, arguments: &Arguments) -> bool {
    let named = |only: &String| only == item.name || *only == key(held, item);
    (arguments.only.is_empty() || arguments.only.iter().any(named))
        && !(arguments.quick && item.tokens > 512)
}

/// Starts a process for each engine, and for each configuration of llama.cpp that may be the best.
fn seats(file: &Path, threads: usize, engines: &[String]) -> anyhow::Result<Vec<Seat>> {
    let binary = std::env::current_exe().context("finding this binary, to start it again")?;
    let mut err = io::stderr();
    let mut seats = Vec::new();
    for engine in engines {
        let configurations: &[&[(&str, &str)]] = match EngineKind::parse(engine) {
            Ok(EngineKind::LlamaCpp) => {
                &[&[("CANDLEMARK_LLAMA_FA", "on")], &[("CANDLEMARK_LLAMA_FA", "off")]]
            }
            Ok(_) => &[&[]],
            Err(error) => {
                writeln!(err, "left out: {error}")?;
                continue;
            }
        };
        for variables in configurations {
            match Seat::take(&binary, file, engine, threads, variables) {
                Ok(seat) => {
                    writeln!(err, "{engine} on {}: {}", file.display(), seat.setup)?;
                    seats.push(seat);
                }
                Err(error) => writeln!(err, "{engine} on {}: {error}", file.display())?,
            }
        }
    }
    Ok(seats)
}

/// One measurement of all engines: a pilot that warms up and shows the scores, then turns.
fn measured(
    held: &str,
    item: &Item,
    seats: &mut [Seat],
    arguments: &Arguments,
) -> anyhow::Result<Row> {
    let key = key(held, item);
    let mut takens: Vec<Taken> = Vec::new();
    for at in 0..seats.len() {
        let told = turn(&key, item, Kind::Pilot, at, seats)?;
        takens.push(Taken::new(&seats[at].engine, &seats[at].setup, told));
    }
    figures::keep_the_best(&mut takens, CLOSE);
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..seats.len()).collect();
        if round % 2 == 1 {
            order.reverse(); // Nobody always comes after the same one.
        }
        for at in order {
            let taken = &mut takens[at];
            if taken.is_in(arguments.seconds as f64) {
                taken.add(turn(&key, item, Kind::Timed, at, seats)?);
            }
        }
    }
    Ok(Row::new(key, takens))
}

/// Asks one engine while the others sleep, and says so if they do not.
fn turn(key: &str, item: &Item, kind: Kind, at: usize, seats: &mut [Seat]) -> anyhow::Result<Told> {
    thread::sleep(REST);
    let before: Vec<_> = seats.iter().map(Seat::cpu_s).collect();
    let told = seats[at].ask(item, kind)?;
    let mut err = io::stderr();
    let name = seats[at].name();
    match &told {
        Told::Measured { rate, seconds, .. } => {
            let what = if kind == Kind::Pilot { " (pilot)" } else { "" };
            writeln!(err, "{key} {name}{what}: {rate:.2} tok/s in {seconds:.1} s")?;
            for (other, before) in
                seats.iter().zip(before).filter(|(other, _)| other.name() != name)
            {
                let took = other.cpu_s().zip(before).map_or(0.0, |(now, before)| now - before);
                if took > 0.05 * seconds + 0.05 {
                    writeln!(err, "warning: {} took {took:.2} s of CPU meanwhile", other.name())?;
                }
            }
        }
        Told::Cannot { absent } => writeln!(err, "{key} {name}: {absent}")?,
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_measures_nothing_is_refused_with_the_nearest() {
        let held = ["q8_0".to_owned(), "bf16".into()];
        let check = |only: &str| check_names(&["decode_b1".into(), only.into()], &held);
        for name in ["prefill_512", "q8_0_decode_b16", "bf16_decode_depth_4096"] {
            assert!(check(name).is_ok(), "{name}");
        }
        let error = check("q8_0_prefill_51").unwrap_err().to_string();
        assert!(error.contains("did you mean `q8_0_prefill_512`?"), "{error}");
        let error = check("q4_k_m_decode_b1").unwrap_err().to_string();
        assert!(error.contains("no measurement of these files `q4_k_m_decode_b1`"), "{error}");
    }
}
