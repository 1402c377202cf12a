//! The configuration: `candlemark.toml`, environment variables, and the settings of a run. Every
//! key is optional; an unknown one is an error that suggests the nearest. A flag overrides a
//! variable, which overrides the file. Does not know what a setting does.

mod ranges;
mod server;
mod threads;
mod variables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::workload::PromptFormat;

pub(crate) use ranges::duration;
pub use ranges::{Count, interval, temperature};
pub(crate) use server::SERVER_ENGINE;
pub use server::{Server, ServerBlocks};
pub use threads::cpus_by_core;
pub(crate) use threads::oversubscription;
pub(crate) use threads::parse_cpu_list;
pub use variables::variables;

use ranges::{TEMPERATURES, is_temperature};

/// The default model: 4 layers of Qwen3-0.6B's shape, with the vocabulary of `fixtures/tiny`.
pub(crate) const DEFAULT_MODEL: &str = "synthetic:mini";

static REGISTERED_ENGINE: OnceLock<&str> = OnceLock::new();

/// Makes a registered engine the default.
#[cfg(feature = "engine")]
pub(crate) fn set_default_engine(name: &'static str) {
    let _ = REGISTERED_ENGINE.set(name);
}

/// The engine without a setting: the registered one, or `native`.
fn default_engine() -> &'static str {
    REGISTERED_ENGINE.get().copied().unwrap_or("native")
}

/// The configuration file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model and its engine.
    pub model: ModelConfig,
    /// Sampling and repetitions.
    pub generation: Generation,
    /// Which scenarios to measure.
    pub suite: SuiteConfig,
    /// When a change is a regression.
    pub gate: GateConfig,
    /// What `candlemark pair` builds.
    pub build: BuildConfig,
    /// Labels of a run, `name = "value"`: flags of a server, for example. Kept in the record, shown
    /// by `candlemark compare`, ignored by verdicts.
    pub labels: BTreeMap<String, String>,
}

/// `[model]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// `synthetic:SHAPE`, a `.gguf` file, a folder, or `owner/name[@revision][:file]`.
    pub spec: Option<String>,
    /// `f32`, `bf16`, `q8_0`, `q4_k_m`, `iq4_nl`, `iq4_xs` or `mxfp4`: quantize unquantized weights
    /// at load.
    pub quant: Option<String>,
    /// `bf16`, `q8_0` or `f32`: numbers of the KV cache of the native engine on the CPU.
    pub kv_dtype: Option<String>,
    /// `cpu`, `cuda[:N]` or `metal`.
    pub device: Option<String>,
    /// `native` or `candle`.
    pub engine: Option<String>,
    /// Threads of the CPU engines; default: physical cores that the process may use.
    pub threads: Option<usize>,
    /// Replaces the model's own RoPE scaling, for example `{ rope_type = "yarn", factor = 4.0,
    /// original_max_position_embeddings = 32768 }`.
    pub rope_scaling: Option<RopeScaling>,
}

/// YaRN, as `config.json` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// Only `yarn` is known.
    #[serde(alias = "type")]
    pub rope_type: String,
    /// Context length as a multiple of the original one.
    pub factor: f64,
    /// Context length of the training.
    pub original_max_position_embeddings: usize,
    /// Scale of cos and sin; default 0.1 ln(factor) + 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    /// Rotations beyond which a pair is not interpolated; default 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_fast: Option<f64>,
    /// Rotations below which a pair is fully interpolated; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_slow: Option<f64>,
}

/// `[generation]`: sampling, and how often a generation is repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Generation {
    /// Seed of the sampler and of synthetic weights.
    pub seed: u64,
    /// Greedy at any temperature; repetitions that differ make the case INVALID.
    pub deterministic: bool,
    /// 0 is greedy.
    pub temperature: f64,
    /// Sample from the k most likely tokens.
    pub top_k: Option<usize>,
    /// Sample from the most likely tokens with this total probability.
    pub top_p: Option<f64>,
    /// Divides the logits of tokens already seen; 1 is off.
    pub repetition_penalty: f64,
    /// If off, every step recomputes the whole sequence.
    pub use_kv_cache: bool,
    /// Tokens generated in a warm-up; default: as many as in a measured generation.
    pub warmup_tokens: Option<usize>,
    /// Tokens generated per sequence; default: the category's.
    pub gen_tokens: Option<usize>,
    /// Warm-up generations per scenario and process.
    pub warmups: usize,
    /// Measured generations per scenario and process.
    pub iters: usize,
    /// Whether prompts are wrapped in the model's chat template.
    pub prompt_format: PromptFormat,
    /// Stop at the model's end-of-text tokens instead of generating an exact length.
    pub natural_stop: bool,
}

impl Generation {
    /// Whether the likeliest token is taken, so that output repeats.
    pub(crate) fn is_greedy(&self) -> bool {
        self.deterministic || self.temperature == 0.0
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            seed: 42,
            deterministic: true,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            repetition_penalty: 1.0,
            use_kv_cache: true,
            warmup_tokens: None,
            gen_tokens: None,
            warmups: 3,
            iters: 5,
            prompt_format: PromptFormat::Raw,
            natural_stop: false,
        }
    }
}

/// How to run a model: flags, environment, file and defaults, resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The model; see [`ModelConfig::spec`].
    pub model: String,
    /// Quantization at load, if any.
    pub quant: Option<String>,
    /// Number format of the KV cache, if not that which fits the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_dtype: Option<String>,
    /// `cpu`, `cuda[:N]` or `metal`.
    pub device: String,
    /// `native`, `candle`, or a registered engine.
    pub engine: String,
    /// Whether `engine` is the default of the binary that made this setup. A worker of another
    /// binary then runs its own default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub engine_is_default: bool,
    /// Threads of the CPU engines.
    pub threads: usize,
    /// Replaces the model's own RoPE scaling.
    pub rope_scaling: Option<RopeScaling>,
    /// Sampler and repetitions.
    pub generation: Generation,
    /// The user's labels, for records.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The server that is measured instead of an engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// The file of the server's API key; without it CANDLEMARK_API_KEY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Setup {
    /// The configuration, with defaults for what it leaves out.
    pub fn new(config: &Config) -> Self {
        let model = &config.model;
        Self {
            model: model.spec.clone().unwrap_or_else(|| DEFAULT_MODEL.into()),
            quant: model.quant.clone(),
            kv_dtype: model.kv_dtype.clone(),
            device: model.device.clone().unwrap_or_else(|| "cpu".into()),
            engine: model.engine.clone().unwrap_or_else(|| default_engine().into()),
            engine_is_default: model.engine.is_none(),
            threads: model.threads.unwrap_or_else(threads::default_threads),
            rope_scaling: model.rope_scaling.clone(),
            generation: config.generation.clone(),
            labels: config.labels.clone(),
            server: None,
            api_key_file: None,
        }
    }
}

#[cfg(feature = "engine")]
impl Setup {
    /// The setup as a worker runs it that received it from another binary.
    pub(crate) fn received(mut self) -> Self {
        if self.engine_is_default && REGISTERED_ENGINE.get().is_some() {
            self.engine = default_engine().into();
        }
        self
    }
}

/// `[suite]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuiteConfig {
    /// Suites or parts of scenario ids; default: the suite `default`.
    pub scenarios: Vec<String>,
    /// Fresh processes per scenario.
    pub blocks: Option<usize>,
}

/// `[build]`: what `candlemark pair` builds at both commits: a bench whose `main` calls
/// `candlemark::bench::main`, or a binary whose `main` calls `candlemark::cli::main`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuildConfig {
    /// The package; default: that of the current folder.
    pub package: Option<String>,
    /// The bench, if it is one.
    pub bench: Option<String>,
    /// The binary; default: the one that runs.
    pub binary: Option<String>,
    /// Its Cargo features, beside its default ones.
    pub features: Vec<String>,
}

/// `[gate]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Limits by metric name, as shares (`decode_tok_s = 0.05`).
    pub limits: BTreeMap<String, f64>,
    /// `regression` (default) or `critical`: the verdict from which the exit status is 1.
    pub fail_on: Option<String>,
    /// Machine classes whose baselines are accepted for another class, `this = "that"`.
    pub allow_class: BTreeMap<String, String>,
    /// Scenarios of the base that were removed on purpose, with the reason: `"code/b16" = "merged
    /// into code/b8"`. Any other missing scenario makes the exit status 4.
    pub removed: BTreeMap<String, String>,
}

impl Config {
    /// Reads a configuration file, overridden by environment variables.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML, or the file or a variable has an unknown key
    /// (the message suggests the nearest) or a value out of its range.
    pub fn read(
        path: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let mut table = toml::Table::new();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path)
                .map_err(|source| Error::Read { path: path.into(), source }.of_named_file())?;
            let invalid = |why| Error::Invalid { path: path.into(), why }.of_named_file();
            // Without variables, so that errors quote the file's lines.
            Self::parse(&text).map_err(invalid)?;
            table = toml::from_str(&text).expect("it was parsed before");
        }
        variables::overlay(&mut table, variables)?;
        Self::from_table(table).map_err(Error::Usage)
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let message = without_rust_types(&error.to_string());
            match suggestion(error.message()) {
                Some(near) => format!("{message}did you mean `{near}`?"),
                None => message,
            }
        })?;
        config.check()?;
        Ok(config)
    }

    fn from_table(table: toml::Table) -> std::result::Result<Self, String> {
        let config: Self = table
            .try_into()
            .map_err(|error: toml::de::Error| without_rust_types(error.message()))?;
        config.check()?;
        Ok(config)
    }

    /// Checks ranges; the error names the first value out of its range, and the range.
    fn check(&self) -> std::result::Result<(), String> {
        let Generation { temperature, top_k, top_p, repetition_penalty, .. } = self.generation;
        let Generation { warmup_tokens, gen_tokens, iters, warmups, .. } = self.generation;
        for (count, key, range) in [
            (self.model.threads, "model.threads", Count::THREADS),
            (self.suite.blocks, "suite.blocks", Count::BLOCKS),
            (Some(iters), "generation.iters", Count::ITERS),
            (Some(warmups), "generation.warmups", Count::WARMUPS),
            (gen_tokens, "generation.gen_tokens", Count::TOKENS),
            (warmup_tokens, "generation.warmup_tokens", Count::TOKENS),
        ] {
            if count.is_some_and(|count| !range.contains(count)) {
                return Err(format!("`{key}` is out of its range: {range}"));
            }
        }
        for (is_in_range, key, range) in [
            (top_k != Some(0), "generation.top_k", "1 or more"),
            (is_temperature(temperature), "generation.temperature", TEMPERATURES),
            (
                top_p.is_none_or(|share| share > 0.0 && share <= 1.0),
                "generation.top_p",
                "above 0 and at most 1",
            ),
            (
                repetition_penalty > 0.0 && repetition_penalty.is_finite(),
                "generation.repetition_penalty",
                "above 0",
            ),
        ] {
            if !is_in_range {
                return Err(format!("`{key}` is out of its range: {range}"));
            }
        }
        Ok(())
    }
}

/// A serde message without names of Rust types.
fn without_rust_types(message: &str) -> String {
    ["usize", "u64"].iter().fold(message.to_owned(), |message, name| {
        message.replace(&format!("expected {name}"), "expected a whole number")
    })
}

/// The nearest known key in serde's message "unknown field `x`, expected one of `a`, `b`".
fn suggestion(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let name = quoted.next()?;
    crate::error::nearest(name, &quoted.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_suggests_the_right_one() {
        let error = Config::parse("[generation]\ntemprature = 0.7\n").unwrap_err();
        assert!(error.contains("did you mean `temperature`?"), "{error}");
        assert!(error.contains("temprature"), "{error}");
        let error = Config::parse("[modle]\n").unwrap_err();
        assert!(error.contains("did you mean `model`?"), "{error}");
    }

    #[test]
    fn a_duration_has_a_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h", 3600), ("1h 30m", 5400)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "10", "m", "-1s", "10 parsecs"] {
            let error = duration(text).unwrap_err().to_string();
            assert!(error.contains("write `90s`"), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_out_of_its_range_is_an_error_that_names_the_range() {
        for (text, range) in [
            ("[model]\nthreads = 0", "`model.threads` is out of its range: 1 to 8192"),
            ("[suite]\nblocks = 0", "`suite.blocks` is out of its range: 1 to 10000"),
            ("[generation]\niters = 0", "`generation.iters` is out of its range: 1 to 10000"),
            ("[generation]\ngen_tokens = 0", "`generation.gen_tokens`"),
            ("[generation]\nwarmups = 1001", "out of its range: 0 to 1000"),
            ("[generation]\niters = 9223372036854775807", "out of its range: 1 to 10000"),
            ("[generation]\nwarmup_tokens = 0", "`generation.warmup_tokens`"),
            ("[generation]\ntop_k = 0", "`generation.top_k`"),
            ("[generation]\ntemperature = nan", "out of its range: from 0 to 1000"),
            ("[generation]\ntemperature = -0.1", "`generation.temperature`"),
            ("[generation]\ntop_p = 1.5", "above 0 and at most 1"),
            ("[generation]\nrepetition_penalty = inf", "out of its range: above 0"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(range), "{text}: {error}");
        }
        Config::parse("[generation]\nwarmups = 0\ntemperature = 0.0\ntop_p = 1.0").unwrap();
    }

    #[test]
    fn a_flag_out_of_its_range_is_an_error() {
        for (text, expected) in [
            ("1", Some(1)),
            ("8192", Some(8192)),
            ("8193", None),
            ("18446744073709551616", None),
            ("0", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(Count::THREADS.parse(text).ok(), expected, "{text}");
        }
        let error = Count::WARMUPS.parse("1001").unwrap_err().to_string();
        assert_eq!(error, "give a whole number, 0 to 1000");
        for (text, expected) in [("0", Some(0.0)), ("0.7", Some(0.7)), ("-0.1", None)] {
            assert_eq!(temperature(text).ok(), expected, "{text}");
        }
        for text in ["nan", "inf", "1001", "warm"] {
            let error = temperature(text).unwrap_err().to_string();
            assert_eq!(error, "give a number from 0 to 1000; 0 is greedy", "{text}");
        }
        assert!(duration("8760h").is_ok() && duration("8761h").is_err());
        assert_eq!(interval("1s").unwrap().as_secs(), 1);
        assert!(interval("0s").is_err() && interval("999ms").is_err());
    }

    #[test]
    fn keys_are_read() {
        let config = Config::parse(
            "[model]\nspec = \"m.gguf\"\nrope_scaling = { rope_type = \"yarn\", factor = 4.0, original_max_position_embeddings = 32768 }\n\
             [gate.limits]\nttft_s = 0.2\n[gate.removed]\n\"code/b16\" = \"merged into code/b8\"\n",
        )
        .unwrap();
        assert_eq!(config.model.spec.as_deref(), Some("m.gguf"));
        assert_eq!(config.model.rope_scaling.unwrap().factor, 4.0);
        assert_eq!(config.gate.limits["ttft_s"], 0.2);
        assert_eq!(config.gate.removed["code/b16"], "merged into code/b8");
    }
}
