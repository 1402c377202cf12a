//! Flags for the model and its settings, shared by the commands that run a model. A flag overrides
//! the environment, which overrides the configuration file.

use std::path::Path;
#[cfg(feature = "server")]
use std::path::PathBuf;

use crate::cli::interrupt::say;
#[cfg(feature = "server")]
use crate::client::Api;
use crate::engine::Injection;
#[cfg(feature = "server")]
use crate::measure::server::describe_server;
use crate::pair::target::Target;
#[cfg(feature = "server")]
use crate::settings::SERVER_ENGINE;
use crate::settings::{BuildConfig, Config, Count, Setup, oversubscription, temperature};
use crate::workload::PromptFormat;
use crate::{Error, engine, suite, workload};

/// The model, and the engine that runs it.
#[derive(clap::Args)]
pub(crate) struct EngineArguments {
    /// `synthetic:SHAPE`, a .gguf file, a folder, or `owner/name[@revision][:file]` on the Hugging
    /// Face hub [default: synthetic:mini]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Quantize at load: f32, bf16, q8_0, q4_k_m, iq4_nl, iq4_xs or mxfp4 [default: as stored]
    #[arg(long, value_name = "QUANT")]
    quant: Option<String>,
    /// KV cache of the native engine on the CPU: bf16, q8_0 or f32 [default: bf16; f32 for weights
    /// in f32]
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<String>,
    /// native or candle [default: native]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// cpu, cuda[:N] or metal [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads of the CPU engines [default: physical cores allowed to the process]
    #[arg(long, value_name = "N", value_parser = Count::THREADS.parser())]
    threads: Option<usize>,
    /// Seed of the sampler and of synthetic weights [default: 42]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Whose builds the workers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// Those of this program, which knows their engines.
    Own,
    /// Those of other programs, which may have engines and read models that this one does not know:
    /// they check the setup themselves when they load the model.
    Foreign,
}

impl Workers {
    /// Of arms that are binaries, or built as the configuration says.
    pub(crate) fn of<'a>(build: &BuildConfig, arms: impl IntoIterator<Item = &'a String>) -> Self {
        let given = arms.into_iter().any(|arm| Path::new(arm).is_file());
        if given || !Target::is_this_program(build) { Self::Foreign } else { Self::Own }
    }
}

#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// Tokens generated per sequence [default: the category's]
    #[arg(long, value_name = "N", value_parser = Count::TOKENS.parser())]
    gen_tokens: Option<usize>,
    /// Measured generations per scenario and process [default: 5]
    #[arg(long, value_name = "N", value_parser = Count::ITERS.parser())]
    iters: Option<usize>,
    /// Warm-up generations per scenario and process [default: 3; in pairs 1]
    #[arg(long, value_name = "N", value_parser = Count::WARMUPS.parser())]
    warmups: Option<usize>,
    /// Sampling temperature; 0 is greedy, above 0 the seed makes sampling repeatable [default: 0]
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f64>,
    /// Recompute the whole sequence at every step
    #[arg(long)]
    no_kv_cache: bool,
    /// Stop at the model's end-of-text tokens instead of an exact length
    #[arg(long)]
    natural_stop: bool,
    /// Format of prompts before they are tokenized [default: raw]
    #[arg(long, value_enum, value_name = "FORMAT")]
    prompt_format: Option<PromptFormat>,
    /// Label stored in the record, a server's flag for example; repeatable, the last value of a
    /// name counts
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// How a server is asked.
#[cfg(feature = "server")]
#[derive(clap::Args)]
pub(crate) struct ServerArguments {
    /// The model's name on the server [default: its only one]
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Option<String>,
    /// API to ask: chat is the prompt format `chat`, in the server's own template [default:
    /// completions]
    #[arg(long, value_enum, conflicts_with = "prompt_format")]
    api: Option<Api>,
    /// File that holds the server's API key; CANDLEMARK_API_KEY otherwise
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

#[cfg(feature = "server")]
impl ServerArguments {
    /// The setup of the server at an address, in place of an engine's: it is asked what it is.
    pub(crate) fn setup(&self, setup: Setup, url: &str) -> crate::Result<Setup> {
        let mut setup = self.unasked(setup);
        let server = describe_server(url, self.served_model_name.as_deref(), &setup)?;
        for (field, message) in &server.refused {
            say(&format!("warning: {url} refuses `{field}`: {message}"));
        }
        setup.model.clone_from(&server.model);
        setup.server = Some(server);
        Ok(setup)
    }

    /// The setup of a server that is not asked yet.
    pub(crate) fn unasked(&self, setup: Setup) -> Setup {
        let mut generation = setup.generation;
        if self.api == Some(Api::Chat) {
            generation.prompt_format = PromptFormat::Chat;
        }
        Setup {
            quant: None,
            kv_dtype: None,
            device: SERVER_ENGINE.into(),
            engine: SERVER_ENGINE.into(),
            engine_is_default: false,
            threads: 1,
            rope_scaling: None,
            api_key_file: self.api_key_file.clone(),
            generation,
            ..setup
        }
    }

    /// Refuses these flags where no server is measured.
    pub(crate) fn check_unused(&self) -> crate::Result<()> {
        let given = [
            ("--served-model-name", self.served_model_name.is_some()),
            ("--api", self.api.is_some()),
            ("--api-key-file", self.api_key_file.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(Error::Usage(format!("`{flag}` needs the address of a server"))),
            None => Ok(()),
        }
    }
}

/// Parses a label: the name ends at the first `=`, and the value may be empty.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    match name.trim() {
        "" => Err("the name before `=` is empty".into()),
        name => Ok((name.into(), value.into())),
    }
}

impl EngineArguments {
    /// The setup from the flags and the configuration, with its names checked.
    #[cfg(feature = "server")]
    pub(crate) fn setup(&self, config: &Config) -> crate::Result<Setup> {
        self.checked(Setup::new(config), Workers::Own)
    }

    /// Applies the flags to a setup, and checks its names unless foreign workers do.
    fn checked(&self, mut setup: Setup, workers: Workers) -> crate::Result<Setup> {
        setup.generation.seed = self.seed.unwrap_or(setup.generation.seed);
        let or = |flag: &Option<String>, value: String| flag.clone().unwrap_or(value);
        setup.model = or(&self.model, setup.model);
        setup.engine_is_default &= self.engine.is_none();
        setup.engine = or(&self.engine, setup.engine);
        setup.device = or(&self.device, setup.device);
        setup.quant = self.quant.clone().or(setup.quant);
        setup.kv_dtype = self.kv_dtype.clone().or(setup.kv_dtype);
        setup.threads = self.threads.unwrap_or(setup.threads);
        if workers == Workers::Own {
            engine::check(&setup)?;
        }
        if let Some(shared) = oversubscription(setup.threads) {
            say(&format!("warning: {shared}; give fewer with `--threads` or CANDLEMARK_THREADS"));
        }
        Ok(setup)
    }
}

impl ModelArguments {
    /// The setup for workers that take turns: one warm-up by default, because blocks are what
    /// repeats.
    pub(crate) fn setup_for_turns(
        &self,
        config: &Config,
        workers: Workers,
    ) -> crate::Result<Setup> {
        self.engine.checked(self.unchecked_for_turns(config), workers)
    }

    /// As [`Self::unchecked`], for workers that take turns.
    pub(crate) fn unchecked_for_turns(&self, config: &Config) -> Setup {
        let mut setup = self.unchecked(config);
        setup.generation.warmups = self.warmups.unwrap_or(1);
        setup
    }

    /// The setup from the flags and the configuration, with its names checked.
    pub(crate) fn setup(&self, config: &Config) -> crate::Result<Setup> {
        self.engine.checked(self.unchecked(config), Workers::Own)
    }

    /// The setup from the configuration and the flags, without those of the engine.
    pub(crate) fn unchecked(&self, config: &Config) -> Setup {
        let mut setup = Setup::new(config);
        setup.generation.seed = self.engine.seed.unwrap_or(setup.generation.seed);
        let generation = &mut setup.generation;
        generation.gen_tokens = self.gen_tokens.or(generation.gen_tokens);
        generation.iters = self.iters.unwrap_or(generation.iters);
        generation.warmups = self.warmups.unwrap_or(generation.warmups);
        if let Some(temperature) = self.temperature {
            generation.temperature = temperature;
            generation.deterministic = temperature == 0.0;
        }
        generation.use_kv_cache &= !self.no_kv_cache;
        generation.natural_stop |= self.natural_stop;
        generation.prompt_format = self.prompt_format.unwrap_or(generation.prompt_format);
        setup.labels.extend(self.labels.iter().cloned());
        setup
    }
}

/// Refuses words that select no scenario, or none that can be measured in turns.
pub(crate) fn check_words_for_turns(words: &[String]) -> crate::Result<()> {
    workload::select(words)?;
    if suite::turns::select(words)?.is_empty() {
        let why = format!("no scenario of `{}` can be measured in turns", words.join(" "));
        return Err(Error::Usage(why));
    }
    Ok(())
}

/// The slowdown to inject, from the environment.
pub(crate) fn injection() -> crate::Result<Option<String>> {
    let injection = std::env::var(suite::INJECT).ok();
    Injection::parse_if_any(&injection)?;
    Ok(injection)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;

    #[test]
    fn the_help_prints_the_defaults() {
        let setup = Setup::new(&Config::default());
        let generation = &setup.generation;
        let help = ModelArguments::augment_args(Command::new("run")).render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (flag, default) in [
            ("--model", setup.model.clone()),
            ("--engine", setup.engine.clone()),
            ("--device", setup.device.clone()),
            ("--seed", generation.seed.to_string()),
            ("--iters", generation.iters.to_string()),
            ("--warmups", format!("{}; in pairs 1", generation.warmups)),
            ("--temperature", generation.temperature.to_string()),
        ] {
            let (_, text) = help.split_once(&format!("{flag} <")).unwrap();
            let text = text.split(" --").next().unwrap();
            assert!(text.contains(&format!("[default: {default}]")), "{flag}: {text}");
        }
    }
}
