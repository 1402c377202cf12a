//! `candlemark schema`: the JSON Schema of what is stored.

use std::io::Write;

use candlemark::record::Record;
use candlemark::record::pair::PairRecord;

use crate::cmd::Exit;

/// Print the JSON Schema of a stored form
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which form
    #[arg(value_enum, default_value_t)]
    form: Form,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Form {
    /// A run or a baseline
    #[default]
    Record,
    /// Two builds measured in turns
    Pair,
}

pub(crate) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let schema = match arguments.form {
        Form::Record => Record::json_schema(),
        Form::Pair => PairRecord::json_schema(),
    };
    out.write_all(schema.as_bytes())?;
    Ok(Exit::Pass)
}
