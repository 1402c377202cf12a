//! `candlemark schema`: the JSON Schemas of stored files.

use std::io::Write;

use crate::cli::exit::{CommandResult, Exit};
use crate::record::Record;
use crate::record::pair::PairRecord;
use crate::settings::Config;

/// Print the JSON Schema of a stored file
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kind of file
    #[arg(value_enum, default_value_t)]
    form: Form,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Form {
    /// A run or a baseline
    #[default]
    Record,
    /// A pair of builds
    Pair,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let schema = match arguments.form {
        Form::Record => Record::json_schema(),
        Form::Pair => PairRecord::json_schema(),
    };
    out.write_all(schema.as_bytes())?;
    Ok(Exit::Pass)
}
