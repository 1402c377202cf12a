//! A matrix of targets as data: what a model of some quantisation is hoped to reach, in which
//! scenario, on which machine. Built in and from files of the user's own. Knows no record.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::batches;
use crate::error::{Error, Result};
use crate::workload::{Better, METRICS, Metric, metric};

/// Targets and the machine that they were set for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// The machine; without it nothing is scaled.
    pub reference: Option<Reference>,
    /// Names of models for which others stand in, for example because no model of that name
    /// exists.
    #[serde(default)]
    pub aliases: BTreeMap<String, Vec<String>>,
    /// The rows, in the order in which they are shown.
    #[serde(default, rename = "target")]
    pub rows: Vec<Target>,
}

/// The machine that targets were set for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// For people.
    pub machine: String,
    /// Bytes per second that it reads from memory.
    pub read_bytes_per_s: f64,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Unique; a row of a later file with the same id takes its place.
    pub id: String,
    /// The shape's name, `qwen3-1.7b`; `qwen3-*` is every name that begins so, `*` every model.
    pub model: String,
    /// Without it any.
    #[serde(default)]
    pub quant: Option<QuantClass>,
    /// What kind of target it is.
    pub topic: Topic,
    /// The scenario that measures it; `short/*` is the best of those. Without it nothing does.
    #[serde(default)]
    pub scenario: Option<String>,
    /// The metrics that measure it, by name: the first that has a value.
    #[serde(default)]
    pub metric: Vec<String>,
    /// The unit of the bounds.
    pub unit: Unit,
    /// Lower end of what is hoped for. Of rates it is what decides.
    #[serde(default)]
    pub min: Option<f64>,
    /// Upper end of what is hoped for. Of times, bytes and watts it is what decides.
    #[serde(default)]
    pub max: Option<f64>,
    /// What whoever set it expects, where that was said.
    #[serde(default)]
    pub expected: Option<Expected>,
    /// Anything else: the original wording of a converted bound, for example.
    #[serde(default)]
    pub note: Option<String>,
}

/// Bits that weights are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuantClass {
    /// `q4_*`.
    #[serde(rename = "4bit")]
    FourBit,
    /// `q8_*`.
    #[serde(rename = "8bit")]
    EightBit,
    /// `bf16` and `f16`.
    #[serde(rename = "16bit")]
    SixteenBit,
}

impl QuantClass {
    /// The class of what a record says weights are held as: of a mix that of its first, which most
    /// bytes are.
    pub fn of(quant: &str) -> Option<Self> {
        let first = quant.split('+').next().unwrap_or(quant);
        match first {
            "bf16" | "f16" => Some(QuantClass::SixteenBit),
            _ if first.starts_with("q4_") => Some(QuantClass::FourBit),
            _ if first.starts_with("q8_") => Some(QuantClass::EightBit),
            _ => None,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            QuantClass::FourBit => "4bit",
            QuantClass::EightBit => "8bit",
            QuantClass::SixteenBit => "16bit",
        }
    }
}

/// What kind of target a row is, for grouping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Tokens per second of one sequence.
    SingleRate,
    /// Tokens per second of the best batch.
    BestRate,
    /// Tokens per second of a batch.
    BatchRate,
    /// Time to the first token.
    FirstToken,
    /// Memory.
    Memory,
    /// Power.
    Power,
    /// A use of the model.
    UseCase,
    /// A set of documents.
    Pipeline,
    /// Retrieval with an answer.
    Rag,
    /// What the model is fit for.
    Suitability,
}

/// What whoever set a target expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// It is met.
    Achievable,
    /// It is met barely or not quite.
    Marginal,
    /// It is not met.
    Unsuitable,
}

/// The unit of a target's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "units are their names")]
pub enum Unit {
    #[serde(rename = "tok/s")]
    TokS,
    #[serde(rename = "s")]
    S,
    #[serde(rename = "ms")]
    Ms,
    /// 10^9 bytes.
    #[serde(rename = "GB")]
    Gb,
    #[serde(rename = "GiB")]
    Gib,
    #[serde(rename = "MiB")]
    Mib,
    #[serde(rename = "W")]
    W,
    #[serde(rename = "J")]
    J,
    #[serde(rename = "items/min")]
    ItemsMin,
    #[serde(rename = "chunks/min")]
    ChunksMin,
    /// Words are not what models count in: nothing measures them.
    #[serde(rename = "words/min")]
    WordsMin,
}

/// How a value follows the bandwidth of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// In proportion.
    Rate,
    /// Inversely.
    Time,
    /// Not at all.
    Nothing,
}

impl Unit {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Unit::TokS => "tok/s",
            Unit::S => "s",
            Unit::Ms => "ms",
            Unit::Gb => "GB",
            Unit::Gib => "GiB",
            Unit::Mib => "MiB",
            Unit::W => "W",
            Unit::J => "J",
            Unit::ItemsMin => "items/min",
            Unit::ChunksMin => "chunks/min",
            Unit::WordsMin => "words/min",
        }
    }

    /// A stored value in this unit.
    pub fn show(self, stored: f64) -> f64 {
        match self {
            Unit::Ms => stored * 1e3,
            Unit::Gb => stored / 1e9,
            Unit::Gib => stored / (1u64 << 30) as f64,
            Unit::Mib => stored / (1u64 << 20) as f64,
            _ => stored,
        }
    }

    /// Whether values of a metric can be said in this unit.
    fn fits(self, metric: &str) -> bool {
        let rate = metric.contains("tok_s");
        match self {
            Unit::TokS => rate,
            Unit::S | Unit::Ms => !rate && metric.ends_with("_s"),
            Unit::Gb | Unit::Gib | Unit::Mib => metric.ends_with("_bytes"),
            Unit::W => metric.ends_with("_w"),
            Unit::J => metric == "energy_j_per_token",
            Unit::ItemsMin => metric == "items_per_min",
            Unit::ChunksMin => metric == "chunks_per_min",
            Unit::WordsMin => false,
        }
    }

    pub(super) fn follows(self) -> Follows {
        match self {
            Unit::TokS | Unit::ItemsMin | Unit::ChunksMin | Unit::WordsMin => Follows::Rate,
            Unit::S | Unit::Ms => Follows::Time,
            Unit::Gb | Unit::Gib | Unit::Mib | Unit::W | Unit::J => Follows::Nothing,
        }
    }
}

impl Target {
    /// The batch size of its scenario, where that says one.
    pub fn batch(&self) -> Option<usize> {
        batches::parts(self.scenario.as_deref()?).map(|(_, batch)| batch)
    }

    /// Which direction is good, as its unit has it.
    pub fn better(&self) -> Better {
        if self.unit.follows() == Follows::Rate { Better::Higher } else { Better::Lower }
    }

    /// The bound that decides, in its unit: the lower end of a range of rates, the upper end of
    /// anything else.
    pub fn bound(&self) -> Option<f64> {
        match self.better() {
            Better::Higher => self.min,
            Better::Lower => self.max,
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let Some(bound) = self.bound() else {
            let side = if self.better() == Better::Higher { "min" } else { "max" };
            return Err(format!("has no `{side}`, which decides in {}", self.unit.name()));
        };
        let bounds = || self.min.into_iter().chain(self.max);
        if bounds().any(|bound| !bound.is_finite() || bound <= 0.0) {
            return Err("has a bound that is not a positive number".into());
        }
        if self.min.unwrap_or(bound) > self.max.unwrap_or(bound) {
            return Err("has a `min` above its `max`".into());
        }
        if self.scenario.is_none() != self.metric.is_empty() {
            return Err("needs both `scenario` and `metric`, or neither".into());
        }
        for name in &self.metric {
            let known = || METRICS.iter().map(|metric| metric.name);
            let found: &Metric =
                metric(name).ok_or_else(|| Error::unknown("metric", name, known()).to_string())?;
            if !self.unit.fits(name) || found.better != self.better() {
                return Err(format!("cannot say `{name}` in {}", self.unit.name()));
            }
        }
        Ok(())
    }
}

impl Targets {
    /// The targets that come with this build.
    pub fn builtin() -> Self {
        Self::parse(include_str!("../../fixtures/targets.toml")).expect("tested with each build")
    }

    /// Targets of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a table of targets.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|why| Error::Invalid { path: path.into(), why })
    }

    /// Targets of the text of a file; the error says what is wrong with it.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let targets: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for (i, target) in targets.rows.iter().enumerate() {
            target.check().map_err(|why| format!("target `{}` {why}", target.id))?;
            if targets.rows[..i].iter().any(|other| other.id == target.id) {
                return Err(format!("target `{}` is there twice", target.id));
            }
        }
        let bandwidth = targets.reference.as_ref().map(|reference| reference.read_bytes_per_s);
        if bandwidth.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err("`reference.read_bytes_per_s` is not a positive number".into());
        }
        Ok(targets)
    }

    /// Both: rows of `later` with a known id take the old one's place, others follow; so with its
    /// machine and aliases.
    pub fn merge(mut self, later: Self) -> Self {
        self.reference = later.reference.or(self.reference);
        self.aliases.extend(later.aliases);
        for target in later.rows {
            match self.rows.iter_mut().find(|known| known.id == target.id) {
                Some(known) => *known = target,
                None => self.rows.push(target),
            }
        }
        self
    }
}
