//! Flags that say which model is run and how, shared by the commands that run one. Flag,
//! environment, file, default.

use candlemark::engine::Injection;
use candlemark::settings::{Config, Count, Setup, oversubscription, temperature};
use candlemark::workload::PromptFormat;
use candlemark::{Error, engine, suite, workload};

use crate::cmd::interrupt::say;

#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// `synthetic:SHAPE`, a .gguf file, a folder, or `owner/name[@revision][:file]`; default:
    /// synthetic:mini
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Quantise at load: f32, bf16, q8_0 or q4_k_m
    #[arg(long, value_name = "QUANT")]
    quant: Option<String>,
    /// native, candle, or llama-cpp where it is built in (CANDLEMARK_LLAMA_FA, _UBATCH and _MMAP
    /// set it up)
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// cpu, cuda[:N] or metal
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads of the CPU engines; default: physical cores allowed to the process
    #[arg(long, value_name = "N", value_parser = Count::THREADS.parser())]
    threads: Option<usize>,
    /// Seed of the sampler and of synthetic weights
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Tokens generated per sequence; default: the category's
    #[arg(long, value_name = "N", value_parser = Count::TOKENS.parser())]
    gen_tokens: Option<usize>,
    /// Measured generations per scenario and process
    #[arg(long, value_name = "N", value_parser = Count::ITERS.parser())]
    iters: Option<usize>,
    /// Warm-up generations per scenario and process
    #[arg(long, value_name = "N", value_parser = Count::WARMUPS.parser())]
    warmups: Option<usize>,
    /// 0 is greedy; above, sampling is random but repeatable by its seed
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f64>,
    /// Compute the whole sequence again at every step
    #[arg(long)]
    no_kv_cache: bool,
    /// Stop at the model's end-of-text tokens instead of at an exact length
    #[arg(long)]
    natural_stop: bool,
    /// What is done to a prompt before it is tokenized
    #[arg(long, value_enum, value_name = "FORMAT")]
    prompt_format: Option<Format>,
    /// What is to be said of the run, a server's flag for example; repeatable, the last of a name
    /// stands. Kept in the record
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// A label as it is written: the name ends at the first `=`, and the value may be empty.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    match name.trim() {
        "" => Err("the name before `=` is empty".into()),
        name => Ok((name.into(), value.into())),
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Nothing
    Raw,
    /// The model's chat template, thinking off
    Chat,
    /// The model's chat template, thinking on
    ChatThinking,
}

impl ModelArguments {
    /// For workers that take turns: one warm-up, unless more were asked for, because what repeats
    /// is the block.
    pub(crate) fn setup_for_turns(&self, config: &Config) -> candlemark::Result<Setup> {
        let mut setup = self.setup(config)?;
        setup.generation.warmups = self.warmups.unwrap_or(1);
        Ok(setup)
    }

    /// The flags over the configuration, with names that were checked.
    pub(crate) fn setup(&self, config: &Config) -> candlemark::Result<Setup> {
        let mut setup = Setup::new(config);
        let generation = &mut setup.generation;
        generation.seed = self.seed.unwrap_or(generation.seed);
        generation.gen_tokens = self.gen_tokens.or(generation.gen_tokens);
        generation.iters = self.iters.unwrap_or(generation.iters);
        generation.warmups = self.warmups.unwrap_or(generation.warmups);
        if let Some(temperature) = self.temperature {
            generation.temperature = temperature;
            generation.deterministic = temperature == 0.0;
        }
        generation.use_kv_cache &= !self.no_kv_cache;
        generation.natural_stop |= self.natural_stop;
        generation.prompt_format = match self.prompt_format {
            Some(Format::Raw) => PromptFormat::Raw,
            Some(Format::Chat) => PromptFormat::Chat,
            Some(Format::ChatThinking) => PromptFormat::ChatThinking,
            None => generation.prompt_format,
        };
        let over = |flag: &Option<String>, value: String| flag.clone().unwrap_or(value);
        setup.model = over(&self.model, setup.model);
        setup.engine = over(&self.engine, setup.engine);
        setup.device = over(&self.device, setup.device);
        setup.quant = self.quant.clone().or(setup.quant);
        setup.labels.extend(self.labels.iter().cloned());
        setup.threads = self.threads.unwrap_or(setup.threads);
        engine::check(&setup)?;
        if let Some(shared) = oversubscription(setup.threads) {
            say(&format!("warning: {shared}: give fewer with `--threads` or CANDLEMARK_THREADS"));
        }
        Ok(setup)
    }
}

/// Refuses words that select no scenario, or none that can be measured in turns.
pub(crate) fn check_words_for_turns(words: &[String]) -> candlemark::Result<()> {
    workload::select(words)?;
    if suite::turns::select(words)?.is_empty() {
        let why = format!("no scenario of `{}` can be measured in turns", words.join(" "));
        return Err(Error::Usage(why));
    }
    Ok(())
}

/// The deliberate slowdown that the environment asks for, if it does.
pub(crate) fn injection() -> candlemark::Result<Option<String>> {
    let asked = std::env::var(suite::INJECT).ok();
    asked.as_deref().map(Injection::parse).transpose()?;
    Ok(asked)
}
