//! `candlemark train-tokenizer`: trains the tiny vocabulary of the synthetic models.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::usage;
use crate::settings::{Config, Count};
use crate::{files, tokenizer};

/// Train a byte-level BPE tokenizer on the .txt files of a folder
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of .txt files
    corpus: PathBuf,
    /// Number of tokens, including special ones
    #[arg(long, value_name = "N", default_value_t = 3072, value_parser = Count::TOKENS.parser())]
    vocab: usize,
    /// Output file, tokenizer.json
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let unreadable = |what: &str, path: &Path, error: std::io::Error| {
        usage(format!("cannot read {what}`{}`: {error}", path.display()))
    };
    let corpus = &arguments.corpus;
    let entries =
        std::fs::read_dir(corpus).map_err(|error| unreadable("the folder ", corpus, error))?;
    let mut texts = Vec::new();
    for entry in entries {
        let path = entry.context("cannot read the folder")?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let text = std::fs::read_to_string(&path);
            texts.push(text.map_err(|error| unreadable("", &path, error))?);
        }
    }
    if texts.is_empty() {
        return Err(usage(format!("no .txt file in `{}`", corpus.display())));
    }
    files::check(&arguments.output)?;
    let json = tokenizer::train(&texts, arguments.vocab)?;
    files::write(&arguments.output, json.as_bytes())?;
    writeln!(
        out,
        "{}: {} tokens from {} texts",
        arguments.output.display(),
        arguments.vocab,
        texts.len()
    )?;
    Ok(Exit::Pass)
}
