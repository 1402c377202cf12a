//! `candlemark gate-eval`: how often rules for telling regressions are right, on recorded data.

use std::io::Write;

use candlemark::settings::Config;

use crate::cmd::Exit;

#[cfg(feature = "engine")]
mod record;

/// Evaluate the gate: record blocks of known changes, replay every rule on them
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    #[cfg(feature = "engine")]
    Record(record::Arguments),
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    match &arguments.command {
        #[cfg(feature = "engine")]
        Command::Record(arguments) => record::run(arguments, config, out),
    }
}
