//! The stored form of a pair: two builds measured in turns. `candlemark pair` writes it. It holds
//! raw turns, rejected blocks and the seed of every random order, so that the verdicts can be
//! computed again without measuring.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::files;
use crate::record::calibration::SdEstimate;
use crate::record::{
    Absence, Build, KernelTimes, Machine, Model, Session, Settings, Work, json, schema1,
};

/// Version of the format; incremented when an older reader would misread a newer file.
pub const SCHEMA: u32 = 2;

/// Two builds measured in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairRecord {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Tells this file from a record.
    pub kind: PairKind,
    /// When, and the machine before and after.
    pub session: Session,
    /// Seed of all random orders.
    pub seed: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The build that the candidate is compared with.
    pub base: Arm,
    /// The build that is judged.
    pub candidate: Arm,
    /// Duet: whether both builds ran at the same time, each on half of the CPUs, instead of one
    /// after the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duet: bool,
    /// The reason of an intended change of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_change: Option<String>,
    /// Standard deviation of ln cost between two code layouts of one source, by kind of metric, as
    /// `calibrate` measured it on this class of machine. Empty: not measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layout: BTreeMap<String, SdEstimate>,
    /// Where the time of both builds goes, traced after a regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelProfile>,
    /// Why measuring ended.
    pub ended: Ended,
    /// The blocks, in the order measured, rejected ones among them.
    pub blocks: Vec<PairBlock>,
    /// The cases, in the order of the suite.
    pub scenarios: Vec<PairCase>,
}

/// The one kind of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// Two builds.
    Pair,
}

/// One of the two builds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arm {
    /// As requested: a git ref, or a binary.
    pub asked: String,
    /// A slowdown on purpose, as `CANDLEMARK_INJECT` gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<String>,
    /// Default features of the program that measured which this build was made without, because
    /// its tree does not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_features: Vec<String>,
    /// The tool and how it was built, as the binary reports it.
    pub build: Build,
    /// What was run.
    pub model: Model,
    /// How it was run.
    pub settings: Settings,
}

/// Seconds of a traced generation in each kind of kernel, and between kernels (`rest`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelProfile {
    /// The base.
    pub base: BTreeMap<String, f64>,
    /// The candidate.
    pub candidate: BTreeMap<String, f64>,
}

/// Why measuring ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "why", content = "detail")]
pub enum Ended {
    /// Still measuring, or cut off.
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

/// A block: one fresh process per arm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairBlock {
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
    /// Share of CPU time that the hypervisor stole during the block; `null` where the system does
    /// not report it.
    pub steal: Option<f64>,
    /// Share of the last ten seconds of the block in which some task waited for a CPU (PSI).
    pub cpu_pressure_10s: Option<f64>,
    /// Seconds of each reference kernel before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<[KernelTimes; 2]>,
    /// Why the block does not count, by a rule that was fixed in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// One scenario with both arms.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairCase {
    /// The scenario's id.
    pub id: String,
    /// The base.
    pub base: Side,
    /// The candidate.
    pub candidate: Side,
    /// Where their greedy outputs differ first.
    #[serde(rename = "parting", default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// One per block in which the scenario was measured.
    pub blocks: Vec<PairTurns>,
}

/// One arm of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Side {
    /// The exact work; `null` if the side was never measured.
    pub work: Option<Work>,
    /// Why it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absence>,
    /// SHA-256 of the greedy token ids.
    pub output_sha256: Option<String>,
    /// Checks that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Why it has no value of a metric, by metric name: a turn did not report it, or peak memory
    /// was not read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub no_value: BTreeMap<String, String>,
}

/// The first token that differs between two outputs; a `null` token is an answer that had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Divergence {
    /// Which sequence of the batch, from 0.
    pub sequence: usize,
    /// Which of its new tokens, from 0.
    pub token: usize,
    /// The token of the base.
    pub base: Option<u32>,
    /// The token of the candidate.
    pub candidate: Option<u32>,
}

/// One scenario in one block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairTurns {
    /// Index into the blocks.
    pub block: usize,
    /// The rounds of counterbalanced turns, in the order measured.
    #[serde(rename = "quads")]
    pub rounds: Vec<Round>,
    /// What is measured once per process, by metric name and letter of the arm: peak memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub once: BTreeMap<String, BTreeMap<char, f64>>,
    /// Values of the warm-ups, by metric name and letter of the arm. They never enter statistics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cold: BTreeMap<String, BTreeMap<char, Vec<f64>>>,
}

/// A round of turns in counterbalanced order (ABBA or BAAB, a palindrome), which cancels a linear
/// drift of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Round {
    /// One letter per turn: `A` is the base, `B` the candidate, `N` a copy of the base's binary
    /// (the null control).
    pub order: String,
    /// The values of the turns in that order, by metric name, each the median of the turn's
    /// generations.
    pub values: BTreeMap<String, Vec<f64>>,
}

impl Round {
    /// The mean of ln cost over the turns of one arm; `cost` converts a value. `None` if the arm
    /// had no turn or a value is not a positive number.
    pub fn mean_ln(&self, metric: &str, arm: char, cost: impl Fn(f64) -> f64) -> Option<f64> {
        let values = self.values.get(metric)?;
        if values.len() != self.order.chars().count() {
            return None; // It is not known whose turn is missing.
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

impl PairRecord {
    /// Reads a file of `candlemark pair`.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of a pair, or has an unknown schema.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&files::read(path)?, path)
    }

    /// [`PairRecord::load`] of text that was read from `path`.
    ///
    /// # Errors
    /// When it is not JSON of a pair, or has a schema that this build does not know.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let form = json::Form {
            schema: SCHEMA,
            kinds: &["pair"],
            about: "a pair is what `candlemark pair` writes",
            remedy: "measure again with `candlemark pair`",
            upgrade: schema1::upgrade_pair,
        };
        form.parse(text, path, |paired: &Self| {
            let ids = paired.scenarios.iter().map(|case| case.id.as_str());
            json::unique(ids).map_err(|id| format!("it has the scenario `{id}` twice"))
        })
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = json::to_lines(self, &["blocks", "scenarios"]);
        files::write(path, text.as_bytes())
    }

    /// The format's JSON Schema.
    pub fn json_schema() -> String {
        json::schema::<Self>()
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
    fn the_mean_of_an_arm_is_that_of_ln_cost() {
        let round = Round {
            order: "ABBA".into(),
            values: [
                ("short".into(), vec![1.0, 2.0]),
                ("ttft_s".into(), vec![1.0, 2.0, 8.0, 4.0]),
                ("bad".into(), vec![1.0, 0.0, f64::NAN, 1.0]),
            ]
            .into(),
        };
        let ln = |metric, arm| round.mean_ln(metric, arm, |value| value);
        assert_eq!(ln("ttft_s", 'A'), Some(4f64.ln() / 2.0));
        assert_eq!(ln("ttft_s", 'B'), Some(16f64.ln() / 2.0));
        assert_eq!(ln("ttft_s", 'N'), None);
        assert_eq!(ln("bad", 'A'), Some(0.0));
        assert_eq!(ln("bad", 'B'), None, "zero and NaN are no measurements");
        assert_eq!(ln("decode_tok_s", 'A'), None);
        assert_eq!(ln("short", 'A'), None, "the missing turn may be of either arm");
    }
}
