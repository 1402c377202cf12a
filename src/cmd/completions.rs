//! `candlemark completions`: what a shell needs to complete our arguments.

use std::io::Write;

use clap::CommandFactory as _;

use crate::cmd::Exit;

/// Print completions for a shell
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    // clap_complete panics when it cannot write: a buffer always can.
    let mut text = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut crate::Arguments::command(),
        "candlemark",
        &mut text,
    );
    out.write_all(&text)?;
    Ok(Exit::Pass)
}
