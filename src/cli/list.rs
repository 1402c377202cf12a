//! `candlemark list`: the scenarios and suites.

use std::io::Write;

use crate::cli::exit::{CommandResult, Exit};
use crate::error::counted;
use crate::settings::Config;
use crate::workload;
use crate::workload::{Input, SUITES, Scenario};

/// Print the selected scenarios, and what each reads and generates
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print the suites and their purposes instead
    #[arg(long, conflicts_with = "scenarios")]
    suites: bool,
    /// Suites or parts of scenario ids [default: the suite `default`]
    scenarios: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> CommandResult {
    let words =
        if arguments.scenarios.is_empty() { &config.suite.scenarios } else { &arguments.scenarios };
    if arguments.suites {
        for suite in SUITES {
            let count = counted((suite.scenarios)().len(), "scenario");
            writeln!(out, "{:<14} {count:>13}: {}", suite.name, suite.about)?;
        }
        return Ok(Exit::Pass);
    }
    for scenario in workload::select(words)? {
        writeln!(out, "{:<26} {}", scenario.id, work(&scenario))?;
    }
    Ok(Exit::Pass)
}

/// What a scenario reads and generates, in one line.
fn work(scenario: &Scenario) -> String {
    let Scenario { batch, new_tokens, .. } = scenario;
    match scenario.input {
        Input::Category { .. } => match scenario.repetitions {
            Some(times) => {
                format!("batch {batch}, {} tokens out, {times} times", batch * new_tokens)
            }
            None => format!("batch {batch}, {} tokens out", batch * new_tokens),
        },
        Input::Length { prompt_tokens } => format!("{prompt_tokens} tokens in, {new_tokens} out"),
        Input::Depth { depth, read } => {
            let yarn = if scenario.extended { ", with YaRN" } else { "" };
            format!("after {depth} tokens {read} in, {new_tokens} out{yarn}")
        }
        Input::Turn { number: 1 } => format!("the first message, {new_tokens} tokens out"),
        Input::Turn { .. } => {
            format!("a message after the conversation so far, {new_tokens} tokens out")
        }
        Input::SharedPrefix { prefix, read } => {
            format!("after a shared prefix of {prefix} tokens {read} in, {new_tokens} out")
        }
        Input::Documents(_) if *new_tokens == 0 => format!("documents, batch {batch}, no answers"),
        Input::Documents(_) => format!("documents, batch {batch}, {new_tokens} tokens out each"),
        Input::Requests(_) => {
            format!("requests under a memory limit, {new_tokens} tokens out each")
        }
        Input::Texts => "a text, every token scored".into(),
        Input::Traced => format!("{new_tokens} tokens out, kernels traced"),
    }
}
