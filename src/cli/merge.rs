//! `candlemark merge`: one record of the shards of a run.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::{records, write};
use crate::settings::Config;
use crate::{baseline, files, workload};

/// Merge records of one commit into one, for example the shards of `run --partition`
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Records to merge
    #[arg(required = true, value_name = "RECORD")]
    records: Vec<PathBuf>,
    /// Output file; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let mut merged = baseline::combine(&records(&arguments.records)?)?;
    let order = workload::ids();
    let place = |id: &str| order.iter().position(|known| known == id).unwrap_or(order.len());
    merged.scenarios.sort_by_key(|case| place(&case.id));
    files::check(&arguments.output)?;
    write(&merged.to_json(), Some(&arguments.output), out)?;
    Ok(Exit::Pass)
}
