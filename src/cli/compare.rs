//! `candlemark compare`: records side by side, without a verdict.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::{records, write};
use crate::record::Record;
use crate::report;
use crate::settings::Config;

/// Print records side by side, without a verdict: changed settings, their effect, every metric
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Two or more records; changes are relative to the first
    #[arg(num_args = 2.., required = true, value_name = "RECORD")]
    records: Vec<PathBuf>,
    /// Format of the document
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Output file [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    /// Markdown
    #[default]
    Md,
    /// JSON
    Json,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let names = arguments.records.iter().map(|path| path.display().to_string());
    let records: Vec<(String, Record)> = names.zip(records(&arguments.records)?).collect();
    let text = match arguments.format {
        Format::Md => report::comparison_markdown(&records),
        Format::Json => report::comparison_json(&records),
    };
    write(&text, arguments.output.as_deref(), out)?;
    Ok(Exit::Pass)
}
