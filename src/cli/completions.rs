//! `candlemark completions`: shell completions.

use std::io::Write;

use crate::cli::exit::{CommandResult, Exit};
use crate::settings::Config;

/// Print shell completions
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Shell to print completions for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let mut command = super::parser();
    // clap_complete panics on a write error; writing to a buffer cannot fail.
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "candlemark", &mut text);
    out.write_all(&text)?;
    Ok(Exit::Pass)
}
