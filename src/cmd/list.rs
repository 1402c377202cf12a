//! `candlemark list`: what can be run.

use std::io::Write;

use candlemark::settings::Config;
use candlemark::workload;

use crate::cmd::Exit;

/// Print the scenarios that words select, and what each generates
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites or parts of scenario ids; default: the configuration's, or the suite `default`
    words: Vec<String>,
}

pub(crate) fn run(
    arguments: &Arguments,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let words = if arguments.words.is_empty() { &config.suite.scenarios } else { &arguments.words };
    for scenario in workload::select(words)? {
        let tokens = scenario.batch * scenario.new_tokens;
        writeln!(out, "{:<24} batch {:<3} {tokens:>5} tokens", scenario.id, scenario.batch)?;
    }
    Ok(Exit::Pass)
}
