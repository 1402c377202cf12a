//! `candlemark promote`: the only way to a baseline.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::{records, usage, write};
use crate::settings::Config;
use crate::{baseline, files};

/// Make a baseline from runs of one commit in three or more sessions
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Records of the runs
    #[arg(required = true, value_name = "RECORD")]
    records: Vec<PathBuf>,
    /// Output file; `-` is stdout [default: baselines/<machine class>/<model>.json]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Pin it as the release, against which `check` reports drift; the first baseline always is
    #[arg(long)]
    release: bool,
    /// Runs that begin less than this after the end of the previous one count as the same session
    #[arg(long, value_name = "TIME", default_value = "1h",
        value_parser = crate::settings::duration)]
    session_gap: Duration,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let stream = arguments.output.as_deref().is_some_and(files::is_stream);
    if arguments.release && stream {
        return Err(usage(
            "a release needs a baseline in a file; name one with `-o`, or leave `-o` out",
        ));
    }
    let promoted = baseline::promote(&records(&arguments.records)?, arguments.session_gap)?;
    let default = || baseline::path("baselines".as_ref(), &promoted.machine.class, &promoted);
    let path = arguments.output.clone().unwrap_or_else(default);
    files::check(&path)?;
    write(&promoted.to_json(), Some(&path), out)?;
    if stream {
        return Ok(Exit::Pass);
    }
    writeln!(out, "{}", path.display())?;
    let release = baseline::release_path(&path);
    if arguments.release || !release.exists() {
        promoted.save(&release)?;
        writeln!(out, "{}", release.display())?;
        let what = if arguments.release { "pinned" } else { "the first baseline, pinned" };
        writeln!(
            std::io::stderr(),
            "release: {what}; `check` reports drift against it until the next `promote --release`"
        )?;
    }
    Ok(Exit::Pass)
}
