//! `candlemark train-tokenizer`: makes the tiny vocabulary of the synthetic models from texts.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use candlemark::record::write_atomically;
use candlemark::tokenizer;

use crate::cmd::Exit;

/// Train a byte-level BPE tokenizer on the .txt files of a folder
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of .txt files
    corpus: PathBuf,
    /// Tokens, special ones included
    #[arg(long, value_name = "N", default_value_t = 3072)]
    vocab: usize,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let entries = std::fs::read_dir(&arguments.corpus)
        .with_context(|| format!("reading the folder {}", arguments.corpus.display()))?;
    let mut texts = Vec::new();
    for entry in entries {
        let path = entry.context("reading the folder")?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let text = std::fs::read_to_string(&path);
            texts.push(text.with_context(|| format!("reading {}", path.display()))?);
        }
    }
    anyhow::ensure!(!texts.is_empty(), "no .txt file in {}", arguments.corpus.display());
    let json = tokenizer::train(&texts, arguments.vocab)?;
    write_atomically(&arguments.output, json.as_bytes())?;
    writeln!(
        out,
        "{}: {} tokens from {} texts",
        arguments.output.display(),
        arguments.vocab,
        texts.len()
    )?;
    Ok(Exit::Pass)
}
