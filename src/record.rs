//! The stored form of a run and of a baseline: one versioned JSON document, one scenario a line, so
//! that a diff shows what moved. Values are in the unit of their metric's name. What was not
//! measured is `null` with a reason, never zero. Knows nothing of how a value was measured, nor of
//! verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::settings::{Generation, RopeScaling};
use crate::{files, workload};

pub use crate::workload::Work;

mod absence;
pub mod calibration;
mod machine;
pub mod pair;
pub mod pool;
pub(crate) mod schema1;

pub use absence::{Absence, AbsenceKind, Caveat};
pub use machine::{Build, Conditions, Machine, Rates};

/// Version of the format. Raised when an older reader would misread a newer file.
pub const SCHEMA: u32 = 2;

/// A run of scenarios, or a baseline promoted from several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// A run or a baseline.
    pub kind: Kind,
    /// When and from which commit: one entry for a run, several for a baseline.
    pub sessions: Vec<Session>,
    /// The tool and how it was built.
    pub build: Build,
    /// Where it ran.
    pub machine: Machine,
    /// What was run.
    pub model: Model,
    /// How it was run.
    pub settings: Settings,
    /// A deliberate slowdown, as `CANDLEMARK_INJECT` gave it. Such a record can never become a
    /// baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<String>,
    /// The cases, in the order of the suite.
    pub scenarios: Vec<Case>,
    /// Ids of the scenarios that the build knows and that the run was not asked for. What is
    /// neither here nor among the cases, the build does not know; records of schema 1 and
    /// baselines do not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_selected: Vec<String>,
}

/// Whether blocks carry raw samples (a run) or only their centres (a baseline).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Written while measuring.
    Run,
    /// Written by `candlemark promote`.
    Baseline,
}

/// One stretch of measuring: fresh processes, one time, one commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// `<utc>-<commit>`; blocks refer to it.
    pub id: String,
    /// UTC, RFC 3339.
    pub started: String,
    /// UTC, RFC 3339; absent while the run goes on or when it was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// What measured: `criterion` (cargo bench) or `run`.
    pub harness: String,
    /// The machine before and after.
    pub conditions: Vec<Conditions>,
}

/// What was run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// As it was asked for.
    pub spec: String,
    /// `qwen3` or `qwen2`.
    pub architecture: String,
    /// SHA-256 over the weights as stored and the configuration, or the generator's identity for
    /// synthetic ones.
    pub sha256: String,
    /// The hub's commit that a revision resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Number of weights; tied ones count once.
    pub parameters: u64,
    /// Bytes of all weights as they are held in memory.
    pub weight_bytes: u64,
    /// What the weights are held as: `f32`, `bf16`, `q8_0`, `q4_k_m`, or a mix such as
    /// `q4_k+q6_k`.
    pub quant: String,
    /// Number type of the KV cache.
    pub kv_dtype: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// YaRN, if in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// The tier of CPU instructions that the engine computed it with, where it has a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<String>,
}

/// How it was run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// `native` or `candle`, with its variant.
    pub engine: String,
    /// Device asked for and used.
    pub device: String,
    /// Quantisation that was asked for at load; the model says what the weights are held as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<String>,
    /// Threads of the engine.
    pub threads: usize,
    /// Sampler and repetitions.
    pub generation: Generation,
    /// Environment variables that change speed, as found: RAYON_NUM_THREADS, CANDLE_*, RUSTFLAGS.
    pub environment: BTreeMap<String, String>,
    /// What the user says of the run (`--label name=value`): flags of a server, for example. Not
    /// compared by verdicts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One scenario with everything that was measured of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Case {
    /// The scenario's id, the same string everywhere.
    pub id: String,
    /// The exact work.
    pub work: Work,
    /// How it was run where that differs from the record's settings, `rope_scaling` or
    /// `memory_limit` for example.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// SHA-256 of the greedy token ids of all sequences; `null` if nothing was generated or
    /// sampling was random.
    pub output_sha256: Option<String>,
    /// Checks that failed and warnings.
    pub validity: Validity,
    /// Why there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absence>,
    /// One per process.
    pub blocks: Vec<Block>,
}

/// Whether numbers can be true. An invalid case is shown struck out, never compared, never
/// promoted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Validity {
    /// Checks that failed; empty is VALID.
    pub failed: Vec<String>,
    /// What looks odd but can be true.
    pub warnings: Vec<String>,
}

impl Validity {
    /// VALID: no check failed.
    pub fn ok(&self) -> bool {
        self.failed.is_empty()
    }
}

/// One process's samples of one scenario: the unit of statistics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// Which of the record's sessions.
    pub session: String,
    /// The centre of each metric, the median of its samples, by metric name; `null` where there is
    /// none.
    pub values: BTreeMap<String, Option<f64>>,
    /// Why a value is `null`, and how one was read where there are several ways, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// How a value falls short of what its metric says, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caveats: BTreeMap<String, Caveat>,
    /// Every sample in the order measured, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, Vec<f64>>,
    /// Every step's time in seconds, a list per sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps_s: Vec<Vec<f64>>,
    /// Time to first token of each sequence in seconds, a list per sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ttft_seq_s: Vec<Vec<f64>>,
    /// Values of the warm-ups, which never enter statistics, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cold: BTreeMap<String, Vec<f64>>,
    /// What became of each request of a stress scenario, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Request>,
    /// Seconds of each reference kernel before and after the samples; absent where they were not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<[References; 2]>,
}

/// One request of a stress scenario. One that could not be answered is a result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Token ids of the prompt.
    pub prompt_tokens: usize,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// From the start to the last token.
    pub seconds: Option<f64>,
    /// Resident set after it; `null` where the process died.
    pub rss_bytes: Option<u64>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every token was generated.
    Answered,
    /// It was not begun: too long for the context, for example.
    Refused,
    /// The process had no memory for it, and died.
    OutOfMemory,
    /// It took longer than a request may.
    TimedOut,
    /// Anything else.
    #[default]
    Failed,
}

/// Seconds that the frozen reference kernels take: they tell a machine that changed from a program
/// that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct References {
    /// Multiply-adds within the first-level cache.
    pub compute_s: f64,
    /// Reading memory beyond the last-level cache.
    pub stream_s: f64,
    /// Many small parallel regions.
    pub dispatch_s: f64,
}

impl Block {
    /// The value of a metric, by name; none where it is `null` or was not measured.
    pub fn value(&self, metric: &str) -> Option<f64> {
        self.values.get(metric).copied().flatten()
    }

    /// Whether its peak of memory is that of a process which other scenarios were measured in, too.
    pub fn has_shared_peak(&self) -> bool {
        let caveat = self.caveats.get("peak_rss_bytes");
        self.value("peak_rss_bytes").is_some() && caveat == Some(&Caveat::SharedProcess)
    }
}

impl Case {
    /// What kind of absence it is, where there is nothing.
    pub fn absence(&self) -> Option<AbsenceKind> {
        self.absent.as_ref().map(|absent| absent.kind)
    }

    /// Whether the engine cannot do this scenario, which is an answer and no failure.
    pub fn is_unsupported(&self) -> bool {
        self.absence() == Some(AbsenceKind::Unsupported)
    }

    /// Whether it was left out for lack of time or memory; resuming the run tries again.
    pub fn is_skipped(&self) -> bool {
        matches!(self.absence(), Some(AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory))
    }

    /// Whether the run has not come to it.
    pub fn is_pending(&self) -> bool {
        self.absence() == Some(AbsenceKind::NotMeasuredYet)
    }

    /// The values of a metric, one a block, leaving out blocks that have none.
    pub fn values(&self, metric: &str) -> Vec<f64> {
        self.blocks.iter().filter_map(|block| block.value(metric)).collect()
    }
}

impl Record {
    /// The case of this id.
    pub fn case(&self, id: &str) -> Option<&Case> {
        self.scenarios.iter().find(|case| case.id == id)
    }

    /// Writes down which of the scenarios that this build knows the run was not asked for: those
    /// that it has no case of.
    pub fn set_not_selected(&mut self) {
        self.not_selected = workload::ids();
        self.not_selected.retain(|id| self.scenarios.iter().all(|case| case.id != *id));
    }

    /// Reads a record of this or an older schema.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of a record, or has a schema that this build does
    /// not know.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let invalid = |error: serde_json::Error| Error::Invalid {
            path: path.into(),
            why: format!(
                "{error}; a record is what `candlemark run` or `candlemark promote` writes"
            ),
        };
        let mut value: serde_json::Value = serde_json::from_str(&text).map_err(invalid)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(1) => schema1::lift_record(&mut value),
            other => {
                let (found, remedy) = match (value.get("schema"), other) {
                    (_, Some(newer)) if newer > u64::from(SCHEMA) => {
                        (newer.to_string(), "update candlemark to the version that wrote it")
                    }
                    (Some(found), _) => (
                        found.to_string(),
                        "make a new one with `candlemark run` and `candlemark promote`",
                    ),
                    (None, _) => ("none".into(), "is this a record of candlemark?"),
                };
                return Err(Error::Schema { path: path.into(), found, known: SCHEMA, remedy });
            }
        }
        let record: Self = serde_json::from_value(value).map_err(invalid)?;
        record.check().map_err(|why| Error::Invalid { path: path.into(), why })?;
        Ok(record)
    }

    /// What contradicts itself, if anything does.
    fn check(&self) -> std::result::Result<(), String> {
        let ids = self.scenarios.iter().map(|case| case.id.as_str());
        unique(ids).map_err(|id| format!("it has the scenario `{id}` twice"))?;
        let sessions = self.sessions.iter().map(|session| session.id.as_str());
        unique(sessions).map_err(|id| format!("it has the session `{id}` twice"))
    }

    /// Writes the record atomically: a reader sees the old file or the new one, never half of one.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write(path, self.to_json().as_bytes())
    }

    /// The record as text: one line a field, one line a scenario.
    pub fn to_json(&self) -> String {
        lines(self, &["scenarios"])
    }

    /// The format's JSON Schema.
    pub fn json_schema() -> String {
        schema_of::<Self>()
    }
}

/// The JSON Schema of a stored form.
fn schema_of<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// Whether every one of these is there once; the error is one that is not.
fn unique<'a>(ids: impl Iterator<Item = &'a str>) -> std::result::Result<(), &'a str> {
    let mut seen = BTreeSet::new();
    ids.into_iter().find(|id| !seen.insert(*id)).map_or(Ok(()), Err)
}

/// A struct as JSON that can be reviewed: one line a field, and one an item of the fields that are
/// `lists`.
fn lines<T: Serialize>(value: &T, lists: &[&str]) -> String {
    let serde_json::Value::Object(fields) = serde_json::to_value(value).expect("plain data") else {
        unreachable!("a struct is an object")
    };
    let mut lines = Vec::new();
    for (key, value) in &fields {
        match value {
            serde_json::Value::Array(items)
                if lists.contains(&key.as_str()) && !items.is_empty() =>
            {
                let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
                lines.push(format!("  \"{key}\": [\n{}\n  ]", items.join(",\n")));
            }
            _ => lines.push(format!("  \"{key}\": {value}")),
        }
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}
