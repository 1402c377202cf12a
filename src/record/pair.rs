//! Two builds measured in turns: what `candlemark pair` writes and every verdict of it is computed
//! from. Holds raw turns, rejected blocks and the seed of every draw, so that a verdict can be had
//! again without measuring.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::record::calibration::Spread;
use crate::record::{Absence, Build, Machine, Model, References, Session, Settings, Work, schema1};

/// Version of the format. Raised when an older reader would misread a newer file.
pub const SCHEMA: u32 = 2;

/// Two builds measured in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Paired {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Tells this file from a record.
    pub kind: PairedKind,
    /// When, and the machine before and after.
    pub session: Session,
    /// All orders are drawn from it.
    pub seed: u64,
    /// Where it ran.
    pub machine: Machine,
    /// What the candidate is compared with.
    pub base: Arm,
    /// What is judged.
    pub candidate: Arm,
    /// Whether both builds ran at once, each on half of the CPUs, in place of one after the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duet: bool,
    /// Why the candidate's output is another one, if that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_change: Option<String>,
    /// How much ln cost differs between two layouts of one source, by kind of metric, as
    /// `calibrate` measured it on this class of machine. Empty: not measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layout: BTreeMap<String, Spread>,
    /// Why measuring ended.
    pub ended: Ended,
    /// The blocks, in the order measured, rejected ones among them.
    pub blocks: Vec<PairedBlock>,
    /// The cases, in the order of the suite.
    pub scenarios: Vec<PairedCase>,
}

/// The one kind of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairedKind {
    /// Two builds.
    Pair,
}

/// One of the two builds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arm {
    /// As it was asked for: a git ref, or a binary.
    pub asked: String,
    /// A deliberate slowdown, as `CANDLEMARK_INJECT` gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<String>,
    /// The tool and how it was built, as the binary says of itself.
    pub build: Build,
    /// What was run.
    pub model: Model,
    /// How it was run.
    pub settings: Settings,
}

/// Why measuring ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "why", content = "detail")]
pub enum Ended {
    /// It goes on, or was cut off.
    Open,
    /// The binaries are equal byte for byte: there was nothing to measure.
    Identical,
    /// Every scenario is decided.
    Decided,
    /// The last planned look was reached.
    Looks,
    /// Too many blocks were rejected.
    Rejected,
    /// Out of time.
    Budget,
    /// By the user.
    Interrupted,
    /// By a failure, which is named.
    Failed(String),
}

/// A fresh process per arm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairedBlock {
    /// Starting the processes and loading the model, in seconds.
    pub load_s: f64,
    /// Warm-ups of all scenarios and arms, in seconds.
    pub warm_up_s: f64,
    /// The turns, in seconds.
    pub turns_s: f64,
    /// Everything, in seconds.
    pub total_s: f64,
    /// The letters of the arms in the order in which their processes were started.
    pub started: String,
    /// Share of CPU time that the hypervisor took during the block; `null` where the system does
    /// not tell.
    pub steal: Option<f64>,
    /// Share of the last ten seconds of the block in which some task waited for a CPU.
    pub cpu_pressure_10s: Option<f64>,
    /// Seconds of each reference kernel before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<[References; 2]>,
    /// Why the block does not count, by a rule that was fixed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// One scenario with both arms.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairedCase {
    /// The scenario's id.
    pub id: String,
    /// What the base does.
    pub base: Side,
    /// What the candidate does.
    pub candidate: Side,
    /// Where their greedy outputs part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parting: Option<Parting>,
    /// One per block in which the scenario was measured.
    pub blocks: Vec<PairedTurns>,
}

/// One arm of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Side {
    /// The exact work; `null` if it was never measured.
    pub work: Option<Work>,
    /// Why there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absence>,
    /// SHA-256 of the greedy token ids.
    pub output_sha256: Option<String>,
    /// Checks that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Why it has no value of a metric, by metric name: a turn did not report it, or a peak of
    /// memory was not read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub no_value: BTreeMap<String, String>,
}

/// The first token in which two outputs differ; a `null` token is an answer that had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parting {
    /// Which sequence of the batch, from 0.
    pub sequence: usize,
    /// Which of its new tokens, from 0.
    pub token: usize,
    /// What the base said.
    pub base: Option<u32>,
    /// What the candidate said.
    pub candidate: Option<u32>,
}

/// One scenario in one block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairedTurns {
    /// Index into the blocks.
    pub block: usize,
    /// The quads, in the order measured.
    pub quads: Vec<Quad>,
    /// What is measured once a process, by metric name and letter of the arm: peak memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub once: BTreeMap<String, BTreeMap<char, f64>>,
    /// Values of the warm-ups, by metric name and letter of the arm. They never enter statistics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cold: BTreeMap<String, BTreeMap<char, Vec<f64>>>,
}

/// Turns in an order that reads the same backwards, which cancels a linear drift of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quad {
    /// A letter a turn: `A` is the base, `B` the candidate, `N` a copy of the base's binary (the
    /// null control).
    pub order: String,
    /// The values of the turns in that order, by metric name, each the median of the turn's
    /// generations.
    pub values: BTreeMap<String, Vec<f64>>,
}

impl Quad {
    /// The mean of ln cost of one arm's turns, given what a value costs; `None` if it had no turn
    /// or a value is not a positive number.
    pub fn mean_ln(&self, metric: &str, arm: char, cost: impl Fn(f64) -> f64) -> Option<f64> {
        let values = self.values.get(metric)?;
        if values.len() != self.order.chars().count() {
            return None; // Whose turn the missing one was is not known.
        }
        let turns = self.order.chars().zip(values).filter(|(letter, _)| *letter == arm);
        let (mut sum, mut count) = (0.0, 0.0);
        for (_, value) in turns {
            if !(value.is_finite() && *value > 0.0) {
                return None;
            }
            sum += cost(*value).ln();
            count += 1.0;
        }
        (count > 0.0).then(|| sum / count)
    }
}

impl Paired {
    /// Reads a file of `candlemark pair`.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of a pair, or has a schema that this build does
    /// not know.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(&text, path)
    }

    /// [`Paired::load`] of text that was read from `path`.
    ///
    /// # Errors
    /// When it is not JSON of a pair, or has a schema that this build does not know.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let invalid = |error: serde_json::Error| Error::Invalid {
            path: path.into(),
            why: format!("{error}; a pair is what `candlemark pair` writes"),
        };
        let mut value: serde_json::Value = serde_json::from_str(text).map_err(invalid)?;
        let schema = value.get("schema").cloned().unwrap_or_default();
        if schema == 1 {
            schema1::lift_pair(&mut value);
        } else if schema != SCHEMA {
            let remedy = "measure again with `candlemark pair`";
            let found = schema.to_string();
            return Err(Error::Schema { path: path.into(), found, known: SCHEMA, remedy });
        }
        let paired: Self = serde_json::from_value(value).map_err(invalid)?;
        let ids = paired.scenarios.iter().map(|case| case.id.as_str());
        crate::record::unique(ids).map_err(|id| Error::Invalid {
            path: path.into(),
            why: format!("it has the scenario `{id}` twice"),
        })?;
        Ok(paired)
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = crate::record::lines(self, &["blocks", "scenarios"]);
        files::write(path, text.as_bytes())
    }

    /// The format's JSON Schema.
    pub fn json_schema() -> String {
        crate::record::schema_of::<Self>()
    }

    /// Whether text is JSON of a pair rather than of a record.
    pub fn is(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Head {
            kind: Option<String>,
        }
        serde_json::from_str::<Head>(text).is_ok_and(|head| head.kind.as_deref() == Some("pair"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_an_arm_s_turns_is_that_of_ln_cost() {
        let quad = Quad {
            order: "ABBA".into(),
            values: [
                ("short".into(), vec![1.0, 2.0]),
                ("ttft_s".into(), vec![1.0, 2.0, 8.0, 4.0]),
                ("bad".into(), vec![1.0, 0.0, f64::NAN, 1.0]),
            ]
            .into(),
        };
        let ln = |metric, arm| quad.mean_ln(metric, arm, |value| value);
        assert_eq!(ln("ttft_s", 'A'), Some(4f64.ln() / 2.0));
        assert_eq!(ln("ttft_s", 'B'), Some(16f64.ln() / 2.0));
        assert_eq!(ln("ttft_s", 'N'), None);
        assert_eq!(ln("bad", 'A'), Some(0.0));
        assert_eq!(ln("bad", 'B'), None, "zero and NaN are no measurements");
        assert_eq!(ln("decode_tok_s", 'A'), None);
        assert_eq!(ln("short", 'A'), None, "a missing turn may have been anyone's");
    }
}
