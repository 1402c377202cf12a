//! Output of the commands, and the records that they read.

use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, command, command_words};
use crate::files;
use crate::record::Record;

/// A usage error.
pub(super) fn usage(why: impl Into<String>) -> anyhow::Error {
    Error::Usage(why.into()).into()
}

/// Writes to the file, or to stdout; `-` is stdout, too.
pub(super) fn write(text: &str, file: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<()> {
    match file {
        Some(path) if !files::is_stdout(path) => files::write(path, text.as_bytes())?,
        _ => out.write_all(text.as_bytes())?,
    }
    Ok(())
}

/// The command line as it was typed, for reports, without the folder of the binary.
pub(super) fn command_line() -> String {
    command(&[vec!["candlemark".to_owned()], command_words()].concat())
}

/// Loads the records that the user named.
pub(super) fn records(paths: &[PathBuf]) -> Result<Vec<Record>, Error> {
    paths.iter().map(|path| Record::load(path).map_err(Error::of_named_file)).collect()
}

/// The record of the newest run.
pub(super) fn newest() -> Result<PathBuf, Error> {
    files::run_records().pop().ok_or_else(|| {
        let runs = files::runs();
        let runs = runs.display();
        Error::NotComparable(format!(
            "no record under `{runs}`; make one with `cargo bench` or `candlemark run`"
        ))
    })
}

/// Stdout that drops its text once the reader, `head` for example, has closed the pipe, so that the
/// exit status stays the answer.
pub(super) struct IgnoreBrokenPipe(pub(super) io::StdoutLock<'static>);

impl Write for IgnoreBrokenPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ignore_broken_pipe(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        ignore_broken_pipe(self.0.flush(), ())
    }
}

fn ignore_broken_pipe<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        result => result,
    }
}
