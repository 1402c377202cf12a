//! `candlemark.toml` and the settings that a run was made with. Every key is optional; an unknown one is an error that
//! suggests the right one. Precedence (flag, environment, file, default) is settled by the binary.
//! Does not know what a setting does.

mod threads;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::workload::PromptFormat;

pub use threads::cpus;

/// The default model: the exact layer of Qwen3-0.6B, 4 layers, the vocabulary of `fixtures/tiny`.
pub const DEFAULT_MODEL: &str = "synthetic:mini";

/// The configuration file, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is run.
    pub model: ModelConfig,
    /// How tokens are chosen and how often.
    pub generation: Generation,
    /// Which scenarios.
    pub suite: SuiteConfig,
    /// When a change counts.
    pub gate: GateConfig,
    /// What is to be said of a run, `name = "value"`: flags of a server, for example. Kept in the record, shown by
    /// `candlemark compare`, ignored by verdicts.
    pub labels: BTreeMap<String, String>,
}

/// `[model]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// `synthetic:SHAPE`, a `.gguf` file, a folder, or `owner/name[@revision][:file]`.
    pub spec: Option<String>,
    /// `f32`, `bf16`, `q8_0` or `q4_k_m`: quantise at load what is not quantised yet.
    pub quant: Option<String>,
    /// `cpu`, `cuda[:N]` or `metal`.
    pub device: Option<String>,
    /// `native`, `candle` or `llama-cpp`.
    pub engine: Option<String>,
    /// Threads of the CPU engines; default: physical cores allowed to the process.
    pub threads: Option<usize>,
    /// Replaces the model's own RoPE scaling, for example `{ rope_type = "yarn", factor = 4.0, original_max_position_embeddings = 32768 }`.
    pub rope_scaling: Option<RopeScaling>,
}

/// YaRN, as `config.json` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// Only `yarn` is known.
    #[serde(alias = "type")]
    pub rope_type: String,
    /// How many times the original context.
    pub factor: f64,
    /// Context that the model was trained with.
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

/// `[generation]`: how tokens are chosen, and how often a generation is repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Generation {
    /// Seed of the sampler and of synthetic weights.
    pub seed: u64,
    /// Greedy, whatever the temperature says, and an error if two repetitions differ.
    pub deterministic: bool,
    /// 0 is greedy.
    pub temperature: f64,
    /// Only the k likeliest tokens.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Divides the logits of tokens already seen; 1 is off.
    pub repetition_penalty: f64,
    /// Off: every step computes the whole sequence again.
    pub use_kv_cache: bool,
    /// Tokens generated in a warm-up; default: as many as are measured, because a warm-up has the shape of the case.
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

/// Everything that has to be known to run a model: flags, environment, file and defaults, resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Name of the model, see `Spec` of the inference library.
    pub model: String,
    /// Quantisation at load, if any.
    pub quant: Option<String>,
    /// `cpu`, `cuda[:N]` or `metal`.
    pub device: String,
    /// `native`, `candle` or `llama-cpp`.
    pub engine: String,
    /// Threads of the CPU engines.
    pub threads: usize,
    /// Replaces the model's own RoPE scaling.
    pub rope_scaling: Option<RopeScaling>,
    /// Sampler and repetitions.
    pub generation: Generation,
    /// What the user says of the run, for records.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Setup {
    /// What a configuration asks for, with the defaults for the rest.
    pub fn new(config: &Config) -> Self {
        let model = &config.model;
        Self {
            model: model.spec.clone().unwrap_or_else(|| DEFAULT_MODEL.into()),
            quant: model.quant.clone(),
            device: model.device.clone().unwrap_or_else(|| "cpu".into()),
            engine: model.engine.clone().unwrap_or_else(|| "native".into()),
            threads: model.threads.unwrap_or_else(threads::default_threads),
            rope_scaling: model.rope_scaling.clone(),
            generation: config.generation.clone(),
            labels: config.labels.clone(),
        }
    }

    /// With what `CANDLEMARK_MODEL`, `_QUANT`, `_DEVICE`, `_ENGINE` and `_THREADS` say, for runs that have no flags.
    ///
    /// # Errors
    /// When the number of threads is none.
    pub fn with_variables(mut self, get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        self.model = get("CANDLEMARK_MODEL").unwrap_or(self.model);
        self.quant = get("CANDLEMARK_QUANT").or(self.quant);
        self.device = get("CANDLEMARK_DEVICE").unwrap_or(self.device);
        self.engine = get("CANDLEMARK_ENGINE").unwrap_or(self.engine);
        if let Some(text) = get("CANDLEMARK_THREADS") {
            self.threads = count(&text)
                .map_err(|why| Error::Usage(format!("CANDLEMARK_THREADS is `{text}`: {why}")))?;
        }
        Ok(self)
    }
}

/// How many of something that there has to be at least one of.
///
/// # Errors
/// When it is no whole number, or 0.
pub fn count(text: &str) -> Result<usize> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| Error::Usage("give a whole number, 1 or more".into()))
}

/// A temperature of the sampler.
///
/// # Errors
/// When it is no number, negative or infinite.
pub fn temperature(text: &str) -> Result<f64> {
    let number = text.parse().ok().filter(|temperature| is_temperature(*temperature));
    number.ok_or_else(|| Error::Usage("give a number, 0 or more; 0 is greedy".into()))
}

fn is_temperature(number: f64) -> bool {
    number >= 0.0 && number.is_finite()
}

/// A time as people write it: `90s`, `10m`, `1h 30m`.
///
/// # Errors
/// When it is of another form or negative.
pub fn duration(text: &str) -> Result<Duration> {
    let parsed =
        text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    parsed.ok_or_else(|| {
        Error::Usage(format!("`{text}` is not a time; write `90s`, `10m` or `1h 30m`"))
    })
}

/// A time between things that happen again and again.
///
/// # Errors
/// When it is no time, or less than a second.
pub fn interval(text: &str) -> Result<Duration> {
    let time = duration(text)?;
    if time < Duration::from_secs(1) {
        return Err(Error::Usage("give a second or more".into()));
    }
    Ok(time)
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

/// `[gate]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Limits by metric name, as shares (`decode_tok_s = 0.05`).
    pub limits: BTreeMap<String, f64>,
    /// `regression` (default) or `critical`: what makes the exit status 1.
    pub fail_on: Option<String>,
    /// Baselines by machine class that may stand in for another class, `this = "that"`.
    pub allow_class: BTreeMap<String, String>,
    /// Scenarios of the base that are meant to be gone, and why, `"code/b16" = "merged into
    /// code/b8"`. Any other one that is gone makes the exit status 4.
    pub removed: BTreeMap<String, String>,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has a key that is not known (the message suggests
    /// one that is), or a value out of its range.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.into(), source }.of_named_file())?;
        Self::parse(&text).map_err(|why| Error::Invalid { path: path.into(), why }.of_named_file())
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let message = error.to_string();
            match suggestion(error.message()) {
                Some(near) => format!("{message}did you mean `{near}`?"),
                None => message,
            }
        })?;
        config.check()?;
        Ok(config)
    }

    /// The first value that is out of its range, with the range.
    fn check(&self) -> std::result::Result<(), String> {
        let Generation { temperature, top_k, top_p, repetition_penalty, .. } = self.generation;
        let Generation { warmup_tokens, gen_tokens, iters, .. } = self.generation;
        let one = "1 or more";
        for (is_sound, key, range) in [
            (self.model.threads != Some(0), "model.threads", one),
            (self.suite.blocks != Some(0), "suite.blocks", one),
            (iters > 0, "generation.iters", one),
            (gen_tokens != Some(0), "generation.gen_tokens", one),
            (warmup_tokens != Some(0), "generation.warmup_tokens", one),
            (top_k != Some(0), "generation.top_k", one),
            (is_temperature(temperature), "generation.temperature", "0 or more"),
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
            if !is_sound {
                return Err(format!("`{key}` is out of its range: {range}"));
            }
        }
        Ok(())
    }
}

/// Finds the nearest known key in serde's own message: unknown field `x`, expected one of `a`, `b`.
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
    fn a_time_has_a_unit() {
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
            ("[model]\nthreads = 0", "`model.threads` is out of its range: 1 or more"),
            ("[suite]\nblocks = 0", "`suite.blocks` is out of its range: 1 or more"),
            ("[generation]\niters = 0", "`generation.iters` is out of its range: 1 or more"),
            ("[generation]\ngen_tokens = 0", "`generation.gen_tokens`"),
            ("[generation]\nwarmup_tokens = 0", "`generation.warmup_tokens`"),
            ("[generation]\ntop_k = 0", "`generation.top_k`"),
            ("[generation]\ntemperature = nan", "out of its range: 0 or more"),
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
    fn what_is_typed_is_held_to_its_range() {
        for (text, expected) in [("1", Some(1)), ("0", None), ("-1", None), ("1.5", None)] {
            assert_eq!(count(text).ok(), expected, "{text}");
        }
        for (text, expected) in [("0", Some(0.0)), ("0.7", Some(0.7)), ("-0.1", None)] {
            assert_eq!(temperature(text).ok(), expected, "{text}");
        }
        for text in ["nan", "inf", "warm"] {
            let error = temperature(text).unwrap_err().to_string();
            assert_eq!(error, "give a number, 0 or more; 0 is greedy", "{text}");
        }
        let setup = Setup::new(&Config::default());
        let threads = |text: &str| {
            let text = text.to_owned();
            let get = |name: &str| (name == "CANDLEMARK_THREADS").then(|| text.clone());
            setup.clone().with_variables(get)
        };
        assert_eq!(threads("3").unwrap().threads, 3);
        let error = threads("0").unwrap_err().to_string();
        assert_eq!(error, "CANDLEMARK_THREADS is `0`: give a whole number, 1 or more");
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
