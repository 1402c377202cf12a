//! `candlemark promote`: the only way to a baseline.

use std::io::Write;
use std::path::PathBuf;

use candlemark::baseline;
use candlemark::record::Record;

use crate::cmd::Exit;
use crate::cmd::write;

/// Make a baseline of runs of one commit in three or more sessions
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Records of the runs
    #[arg(required = true, value_name = "RECORD")]
    records: Vec<PathBuf>,
    /// File to write; default: `baselines/<machine class>/<model>.json`; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Make it the release, too, which later drift is told against; the first baseline is one in any case
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let records = arguments
        .records
        .iter()
        .map(|path| Record::load(path))
        .collect::<candlemark::Result<Vec<_>>>()?;
    let promoted = baseline::promote(&records)?;
    let default = || baseline::path("baselines".as_ref(), &promoted.machine.class, &promoted);
    let path = arguments.output.clone().unwrap_or_else(default);
    anyhow::ensure!(
        !(arguments.release && path.as_os_str() == "-"),
        "a release is pinned beside a baseline; name a file with `-o`, or none"
    );
    write(&promoted.to_json(), Some(&path), out)?;
    if path.as_os_str() == "-" {
        return Ok(Exit::Pass);
    }
    writeln!(out, "{}", path.display())?;
    let release = baseline::release_path(&path);
    if arguments.release || !release.exists() {
        promoted.save(&release)?;
        writeln!(out, "{}", release.display())?;
        let what = if arguments.release { "pinned" } else { "the first one, pinned" };
        writeln!(
            std::io::stderr(),
            "release: {what}; `check` tells drift against it until `promote --release`"
        )?;
    }
    Ok(Exit::Pass)
}
