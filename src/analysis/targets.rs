//! Performance targets by model, quantization and scenario, built in and from files. Knows no
//! record.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::error::{Error, Result};
use crate::files;
use crate::workload::{Better, METRICS, Metric, metric};

/// Targets and their reference machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// The reference machine; without it nothing is scaled.
    pub(crate) reference: Option<Reference>,
    /// Models that stand in for others, for example because no model of that name exists.
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, Vec<String>>,
    /// In the order in which they are shown.
    #[serde(default, rename = "target")]
    pub(crate) rows: Vec<Target>,
}

/// The machine for which the targets were set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    pub(crate) machine: String,
    /// Read bandwidth of its memory in bytes per second.
    pub(crate) read_bytes_per_s: f64,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Unique; a target of a later file with the same id replaces it.
    pub(crate) id: String,
    /// Name of a shape, `qwen3-1.7b`; `qwen3-*` is every name with this prefix, `*` every model.
    pub(crate) model: String,
    /// Without it, any quantization.
    #[serde(default)]
    pub(crate) quant: Option<QuantClass>,
    /// Group of the target.
    pub(crate) topic: Topic,
    /// Scenario that measures it; `short/*` is the best of those. Without it, the target cannot be
    /// measured.
    #[serde(default)]
    pub(crate) scenario: Option<String>,
    /// Metrics that measure it: the first with a value counts.
    #[serde(default)]
    pub(crate) metric: Vec<String>,
    /// The unit of the bounds.
    #[serde(skip_serializing, deserialize_with = "unit")]
    pub(crate) unit: &'static TargetUnit,
    /// Lower end of the range; decides for rates.
    #[serde(default)]
    pub(crate) min: Option<f64>,
    /// Upper end of the range; decides for times, bytes and watts.
    #[serde(default)]
    pub(crate) max: Option<f64>,
    /// The expected result, if given.
    #[serde(default)]
    pub(crate) expected: Option<Expected>,
    /// Free text: the original wording of a converted bound, for example.
    #[serde(default)]
    pub(crate) note: Option<String>,
}

/// Bits per weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum QuantClass {
    /// `q4_*`.
    #[serde(rename = "4bit")]
    Four,
    /// `q8_*`.
    #[serde(rename = "8bit")]
    Eight,
    /// `bf16` and `f16`.
    #[serde(rename = "16bit")]
    Sixteen,
}

impl QuantClass {
    /// The class of a record's quantization; of a mix that of the first format, which has most
    /// bytes.
    pub(crate) fn of(quant: &str) -> Option<Self> {
        let first = quant.split('+').next().unwrap_or(quant);
        match first {
            "bf16" | "f16" => Some(QuantClass::Sixteen),
            _ if first.starts_with("q4_") => Some(QuantClass::Four),
            _ if first.starts_with("q8_") => Some(QuantClass::Eight),
            _ => None,
        }
    }

    /// As it is written in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            QuantClass::Four => "4bit",
            QuantClass::Eight => "8bit",
            QuantClass::Sixteen => "16bit",
        }
    }
}

/// Group of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Topic {
    /// Tokens per second of one sequence.
    SingleRate,
    /// Tokens per second of the best batch.
    BestRate,
    /// Tokens per second of a batch.
    BatchRate,
    /// Time to the first token.
    FirstToken,
    Memory,
    Power,
    /// A use case.
    UseCase,
    /// A pipeline over documents.
    Pipeline,
    /// Retrieval-augmented generation.
    Rag,
    /// Suitability of the model.
    Suitability,
}

/// The expected result of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expected {
    Achievable,
    /// Met or missed by little.
    Marginal,
    Unsuitable,
}

/// The unit of a target's bounds.
#[derive(Debug, PartialEq)]
pub(crate) struct TargetUnit {
    /// As it is written in files.
    name: &'static str,
    /// The units, in reports, of the metrics whose values can be given in it.
    metrics: &'static [&'static str],
    /// What a stored value is multiplied and divided by.
    scale: (f64, f64),
    pub(super) scaling: BandwidthScaling,
}

/// How a value scales with memory bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BandwidthScaling {
    Proportional,
    Inverse,
    Independent,
}

use BandwidthScaling::{Independent, Inverse, Proportional};

/// Every unit. No metric counts words.
#[rustfmt::skip]
const UNITS: &[TargetUnit] = &[
    TargetUnit { name: "tok/s", metrics: &["tok/s"], scale: (1.0, 1.0), scaling: Proportional },
    TargetUnit { name: "s", metrics: &["ms", "µs"], scale: (1.0, 1.0), scaling: Inverse },
    TargetUnit { name: "ms", metrics: &["ms", "µs"], scale: (1e3, 1.0), scaling: Inverse },
    TargetUnit { name: "GB", metrics: &["MiB"], scale: (1.0, 1e9), scaling: Independent },
    TargetUnit { name: "GiB", metrics: &["MiB"], scale: (1.0, (1u64 << 30) as f64), scaling: Independent },
    TargetUnit { name: "MiB", metrics: &["MiB"], scale: (1.0, (1u64 << 20) as f64), scaling: Independent },
    TargetUnit { name: "W", metrics: &["W"], scale: (1.0, 1.0), scaling: Independent },
    TargetUnit { name: "J", metrics: &["J"], scale: (1.0, 1.0), scaling: Independent },
    TargetUnit { name: "items/min", metrics: &["items/min"], scale: (1.0, 1.0), scaling: Proportional },
    TargetUnit { name: "chunks/min", metrics: &["chunks/min"], scale: (1.0, 1.0), scaling: Proportional },
    TargetUnit { name: "words/min", metrics: &[], scale: (1.0, 1.0), scaling: Proportional },
];

/// The unit of this name.
fn unit<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<&'static TargetUnit, D::Error> {
    let name = String::deserialize(from)?;
    let known = || UNITS.iter().map(|unit| unit.name);
    let found = UNITS.iter().find(|unit| unit.name == name);
    found.ok_or_else(|| de::Error::custom(Error::unknown("unit", &name, known())))
}

impl TargetUnit {
    /// As it is written in files.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Converts a stored value to this unit.
    pub(crate) fn convert(&self, stored: f64) -> f64 {
        stored * self.scale.0 / self.scale.1
    }
}

impl Target {
    /// The better direction, by its unit.
    pub(crate) fn better(&self) -> Better {
        if self.unit.scaling == Proportional { Better::Higher } else { Better::Lower }
    }

    /// The bound that decides, in its unit: the lower end for rates, otherwise the upper end.
    pub(crate) fn bound(&self) -> Option<f64> {
        match self.better() {
            Better::Higher => self.min,
            Better::Lower => self.max,
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let Some(bound) = self.bound() else {
            let side = if self.better() == Better::Higher { "min" } else { "max" };
            return Err(format!("has no `{side}`, which targets in {} need", self.unit.name()));
        };
        let bounds = || self.min.into_iter().chain(self.max);
        if bounds().any(|bound| !bound.is_finite() || bound <= 0.0) {
            return Err("has a bound that is not positive and finite".into());
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
            let fits = self.unit.metrics.contains(&found.unit);
            if !fits || found.better != self.better() {
                return Err(format!("cannot have `{name}` in {}", self.unit.name()));
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

    /// Reads a file of targets.
    ///
    /// # Errors
    /// When the file cannot be read or is invalid.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&files::read(path)?).map_err(|why| Error::Invalid { path: path.into(), why })
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let targets: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for (i, target) in targets.rows.iter().enumerate() {
            target.check().map_err(|why| format!("target `{}` {why}", target.id))?;
            if targets.rows[..i].iter().any(|other| other.id == target.id) {
                return Err(format!("target `{}` appears twice", target.id));
            }
        }
        let bandwidth = targets.reference.as_ref().map(|reference| reference.read_bytes_per_s);
        if bandwidth.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err("`reference.read_bytes_per_s` is not positive and finite".into());
        }
        Ok(targets)
    }

    /// Merges both: targets of `later` with a known id replace the old ones, others are appended;
    /// its reference machine and aliases take precedence.
    pub(crate) fn merge(mut self, later: Self) -> Self {
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
