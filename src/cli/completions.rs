//! `candlemark completions`: shell completions.

use std::io::Write;

use crate::cli::exit::Exit;

/// Print shell completions
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Shell to print completions for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// `command` is the whole command line.
pub(crate) fn run(
    arguments: &Arguments,
    command: &mut clap::Command,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    // clap_complete panics on a write error; writing to a buffer cannot fail.
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, command, "candlemark", &mut text);
    out.write_all(&text)?;
    Ok(Exit::Pass)
}
