//! `candlemark synth`: writes a synthetic model.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::usage;
use crate::files::Temporary;
use crate::model::{Quant, gguf, safetensors};
use crate::settings::Config;
use crate::tokenizer::Tokenizer;
use crate::{files, model};

/// Write a synthetic model: a GGUF file, which llama.cpp loads too, or a folder of safetensors
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Shape of a published model: mini, qwen3-0.6b, qwen2.5-1.5b, …
    #[arg(long, value_name = "SHAPE")]
    shape: String,
    /// f32, bf16, q8_0, q4_k_m, iq4_nl, iq4_xs or mxfp4; folders are always f32
    #[arg(long, value_name = "QUANT", default_value = "f32")]
    quant: String,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// A file that ends in .gguf, or a folder that does not exist yet
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Largest shard of a folder in MiB [default: one file]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=u64::MAX >> 20))]
    shard_mib: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let quant = Quant::parse(&arguments.quant)?;
    let path = &arguments.output;
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
    if !is_gguf && quant != Quant::F32 {
        return Err(usage(format!(
            "folders of safetensors are always f32; for {} name a file that ends in .gguf",
            quant.name()
        )));
    }
    if is_gguf {
        files::check(path)?;
    } else if path.exists() {
        return Err(usage(format!("`{}` exists; name a folder that does not", path.display())));
    }
    let spec = format!("synthetic:{}", arguments.shape);
    let opened = model::open(&spec, arguments.seed, None, &mut ())?;
    if is_gguf {
        let mut metadata = gguf::shape_metadata(&opened.config, &spec);
        let mut tokenizer = Tokenizer::tiny()?.to_gguf(opened.config.vocab)?;
        tokenizer.chat_template = Some(Tokenizer::TINY_CHAT_TEMPLATE.into());
        metadata.extend(gguf::tokenizer_metadata(&tokenizer));
        let tensors =
            gguf::quantized_tensors(&opened.config, opened.weights.as_ref(), Some(quant))?;
        gguf::write(path, &metadata, &tensors)?;
    } else {
        write_folder(path, &opened, arguments.shard_mib)?;
    }
    writeln!(out, "{}", path.display())?;
    Ok(Exit::Pass)
}

/// Writes a temporary folder and renames it, so that a folder of this name is complete.
fn write_folder(
    path: &Path,
    opened: &model::ModelSource,
    shard_mib: Option<u64>,
) -> anyhow::Result<()> {
    let written = || -> anyhow::Result<()> {
        let temporary = Temporary::folder(files::folder_of(path))?;
        let folder = temporary.path();
        let write = |name: &str, text: &[u8]| files::write(&folder.join(name), text);
        write("config.json", opened.config.to_json().as_bytes())?;
        write("tokenizer.json", Tokenizer::TINY_JSON)?;
        write("tokenizer_config.json", Tokenizer::TINY_CONFIG)?;
        write("chat_template.jinja", Tokenizer::TINY_CHAT_TEMPLATE.as_bytes())?;
        let shard = shard_mib.map(|mib| mib << 20);
        safetensors::write(folder, opened.weights.as_ref(), &opened.config.tensors(), shard)?;
        // safetensors creates files that only their owner can read.
        let usual = std::fs::metadata(folder.join("config.json"))?.permissions();
        for entry in std::fs::read_dir(folder)? {
            std::fs::set_permissions(entry?.path(), usual.clone())?;
        }
        Ok(temporary.rename(path)?)
    };
    written().with_context(|| format!("cannot write the folder `{}`", path.display()))
}
