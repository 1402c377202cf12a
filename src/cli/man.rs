//! `candlemark man`: manual pages.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::exit::{CommandResult, Exit};
use crate::settings::Config;
use crate::{Error, files};

/// Write the manual pages, one per command
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the pages, for example ~/.local/share/man/man1
    folder: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let mut root = super::parser();
    root.build();
    pages(&root, "candlemark", &mut |name, page| {
        let path = arguments.folder.join(format!("{name}.1"));
        files::write(&path, page)?;
        Ok(writeln!(out, "{}", path.display())?)
    })?;
    Ok(Exit::Pass)
}

/// Renders the pages of a command and its subcommands.
fn pages(
    command: &clap::Command,
    name: &str,
    write: &mut dyn FnMut(&str, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut page = Vec::new();
    let source = |source| Error::Write { path: format!("{name}.1").into(), source };
    clap_mangen::Man::new(command.clone().display_name(name)).render(&mut page).map_err(source)?;
    write(name, &page)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        pages(command, &format!("{name}-{}", command.get_name()), write)?;
    }
    Ok(())
}
