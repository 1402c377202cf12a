//! `candlemark serve`: the engine behind an OpenAI-compatible API.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::download::ProgressBars;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::interrupt::{interruptible, say};
use crate::cli::setup::{EngineArguments, injection};
use crate::engine::{Engine, Injection};
use crate::serve::{Options, Server};
use crate::settings::{Config, Count};
use crate::{Error, files};

/// Serve a model with candlemark's engine behind an OpenAI-compatible API
///
/// For tests of clients and for measuring what transport costs. Answers /v1/completions,
/// /v1/chat/completions, /v1/embeddings, /v1/models, /health and /metrics until Ctrl-C; then
/// requests that run have 30 seconds. Requests without a temperature are greedy, unless the
/// configuration has one
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// Name of the model in the API [default: the value of `--model`]
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Address or name to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// Sequences that run together
    #[arg(long, value_name = "N", default_value = "8", value_parser = BATCH.parser())]
    max_batch: usize,
    /// Sequences that wait for a place; further ones get status 429
    #[arg(long, value_name = "N", default_value = "64", value_parser = WAITING.parser())]
    max_waiting: usize,
    /// File with the key that requests to /v1 must have, in `Authorization: Bearer KEY`
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

const BATCH: Count = Count { min: 1, max: 256 };
const WAITING: Count = Count { min: 0, max: 100_000 };

/// Bytes of a request's body: a prompt of 500,000 token ids.
const MAX_BODY: usize = 4 << 20;

/// Time that requests have left after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: &Arguments, config: &Config, _: &mut dyn Write) -> CommandResult {
    let setup = arguments.engine.setup(config)?;
    let api_key = arguments.api_key_file.as_deref().map(api_key).transpose()?;
    let injection = Injection::parse_if_any(&injection()?)?;
    let stop = interruptible("requests that run have 30 s to end")?;
    let has_key = api_key.is_some();
    let engine = Engine::load(&setup, &mut ProgressBars::default())?;
    let options = Options {
        host: arguments.host.clone(),
        port: arguments.port,
        model: arguments.served_model_name.clone().unwrap_or(setup.model),
        api_key,
        max_batch: arguments.max_batch,
        max_waiting: arguments.max_waiting,
        max_body: MAX_BODY,
        sampling: setup.generation,
        injection,
    };
    let server = Server::start(engine, options)?;
    let address = server.address();
    if cfg!(debug_assertions) {
        say("warning: this is a debug build; its times mean nothing");
    }
    if !has_key && !address.ip().is_loopback() {
        say("warning: other machines can use this server without a key; see `--api-key-file`");
    }
    say(&format!("serving on http://{address}"));
    while !stop.load(Ordering::Relaxed) && server.is_running() {
        std::thread::sleep(Duration::from_millis(50));
    }
    server.stop(PATIENCE)?;
    Ok(Exit::Pass)
}

/// The key in a file, without white space around it.
fn api_key(path: &Path) -> crate::Result<String> {
    let read = files::read(path).map_err(Error::of_named_file)?;
    let key = read.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::Usage(format!("`{}` must hold one key and no more", path.display())));
    }
    Ok(key.into())
}
