//! `candlemark machine`: the machine's class, its measured rates, and its readable counters.

use std::io::Write;

use crate::cli::exit::{CommandResult, Exit};
use crate::settings::{Config, Count, Setup, oversubscription};
use crate::{machine, measure};

/// Print the machine's class, measured rates and readable counters
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Threads to measure with [default: physical cores allowed to the process]
    #[arg(long, value_name = "N", value_parser = Count::THREADS.parser())]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let setup = Setup::new(config);
    let threads = arguments.threads.unwrap_or(setup.threads);
    let mut found = machine::fingerprint(threads, &setup.device);
    found.rates = measure::peak_rates(threads, measure::ReadBudget::FULL)?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        let counters = machine::Meter::for_device(&setup.device, threads).counters();
        write!(out, "{}", machine::describe(&found, &counters, &machine::build()))?;
    }
    let shared = oversubscription(threads).into_iter();
    for warning in shared.chain(machine::warnings(&machine::conditions())) {
        writeln!(std::io::stderr(), "warning: {warning}")?;
    }
    Ok(Exit::Pass)
}
