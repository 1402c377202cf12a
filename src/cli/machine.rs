//! `candlemark machine`: the machine's class, its measured rates, and its readable counters.

use std::io::Write;

use crate::cli::exit::{CommandResult, Exit};
use crate::measure::VariantRates;
use crate::settings::{Config, Count, Setup, oversubscription};
use crate::{machine, measure, model};

/// Print the machine's class, measured rates and readable counters
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Threads to measure with [default: physical cores allowed to the process]
    #[arg(long, value_name = "N", value_parser = Count::THREADS.parser())]
    threads: Option<usize>,
    /// Print the kernel plan, the variants of the CPU kernels that run, as a file for
    /// CANDLEMARK_KERNELS, with the measured rates of all variants
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "kernels")]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let setup = Setup::new(config);
    let threads = arguments.threads.unwrap_or(setup.threads);
    if arguments.kernels {
        print_kernels(threads, out)?;
        return Ok(Exit::Pass);
    }
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

/// The kernel plan as a TOML file. Comments say how fast each variant is here.
fn print_kernels(threads: usize, out: &mut dyn Write) -> anyhow::Result<()> {
    let isa = model::isa_from_env()?;
    let rates = measure::variant_rates(isa, threads)?;
    writeln!(
        out,
        "# Kernel plan of the tier {}. Rates of {threads} threads in GFLOP/s, of prefill of 512",
        isa.name()
    )?;
    writeln!(
        out,
        "# tokens or decode of one. CANDLEMARK_KERNELS=FILE forces the variants in a file like this."
    )?;
    if rates.is_empty() {
        writeln!(out, "# Each operation has one kernel.")?;
    }
    for (operation, variant) in isa.plan() {
        for VariantRates { kernel, rates, .. } in
            rates.iter().filter(|rates| rates.operation == operation)
        {
            let rates = rates.map(|(name, rate)| format!("{name} {:.0}", rate / 1e9));
            writeln!(out, "# {kernel}: {}", rates.join(", "))?;
        }
        writeln!(out, "{operation} = \"{variant}\"")?;
    }
    Ok(())
}
