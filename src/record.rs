//! The stored form of a run and of a baseline: one versioned JSON document with one scenario per
//! line, so that a diff shows what changed. Values are in the unit of their metric's name. What was
//! not measured is `null` with a reason, never zero. Knows nothing of how a value was measured, nor
//! of verdicts.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::settings::{Generation, RopeScaling, Server};
use crate::workload::metric;
use crate::{files, workload};

pub use crate::workload::Work;

mod absence;
pub mod calibration;
mod import;
mod json;
mod machine;
pub mod pair;
pub mod pool;
pub(crate) mod schema1;

pub use absence::{Absence, AbsenceKind, Caveat};
pub(crate) use import::NOT_REPORTED;
pub use machine::{Build, Conditions, Machine, Rates};

/// Version of the format; incremented when an older reader would misread a newer file.
pub const SCHEMA: u32 = 2;

/// A run of scenarios, or a baseline promoted from several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// A run or a baseline.
    pub kind: RecordKind,
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
    /// A slowdown on purpose, as `CANDLEMARK_INJECT` gave it. Such a record can never become a
    /// baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<String>,
    /// The cases, in the order of the suite.
    pub scenarios: Vec<Case>,
    /// Ids of the scenarios that the build knows and that were not requested from the run. The
    /// build does not know any that is neither here nor among the cases. Absent in records of
    /// schema 1 and in baselines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_selected: Vec<String>,
}

/// Whether blocks have raw samples (a run) or only their medians (a baseline).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// Written while measuring.
    Run,
    /// Written by `candlemark promote`.
    Baseline,
}

/// A session: fresh processes of one commit, at one time of one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// `<utc>-<commit>`; blocks refer to it.
    pub id: String,
    /// UTC, RFC 3339.
    pub started: String,
    /// UTC, RFC 3339; absent while the run is going on or if it was cut off.
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
    /// As requested.
    pub spec: String,
    /// `qwen3` or `qwen2`.
    pub architecture: String,
    /// SHA-256 over the weights as stored and the configuration, or the generator's identity for
    /// synthetic ones.
    pub sha256: String,
    /// The commit of the hub's repository that a revision resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Number of weights; tied weights count once.
    pub parameters: u64,
    /// Bytes of all weights in memory.
    pub weight_bytes: u64,
    /// Format of the weights in memory: `f32`, `bf16`, `q8_0`, `q4_k_m`, or a mix such as
    /// `q4_k+q6_k`.
    pub quant: String,
    /// Number type of the KV cache (KV-cache dtype).
    pub kv_dtype: String,
    /// Number of layers.
    pub layers: usize,
    /// Hidden size, the width of the residual stream.
    pub hidden: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Head dimension.
    pub head_dim: usize,
    /// Vocabulary size, the rows of the embedding.
    pub vocab: usize,
    /// Context length in tokens.
    pub context: usize,
    /// YaRN, if used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// The kernel tier (CPU instruction set) that the engine used, where it has a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<String>,
    /// The kernel plan: which variants of the tier's kernels ran, `bf16=int16` for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_plan: Option<String>,
}

/// How it was run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// `native` or `candle`, with its variant; `server` for a server.
    pub engine: String,
    /// Device requested and used.
    pub device: String,
    /// Quantization requested at load; the model has the format of the weights in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<String>,
    /// Number format of the KV cache that was requested; the model has that which was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_dtype: Option<String>,
    /// Threads of the engine.
    pub threads: usize,
    /// The variants of CPU kernels that the user forced, instead of those of the CPU's plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    /// Sampler and repetitions.
    pub generation: Generation,
    /// Environment variables that affect speed: RAYON_NUM_THREADS, CANDLE_*, RUSTFLAGS.
    pub environment: BTreeMap<String, String>,
    /// Labels of the user (`--label name=value`), flags of a server for example. Not compared by
    /// verdicts, unless they are part of a server's class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The server that was measured instead of an engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
}

/// A scenario with all its measurements.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Case {
    /// The scenario's id, the same string everywhere.
    pub id: String,
    /// The exact work.
    pub work: Work,
    /// Settings that differ from those of the record, `rope_scaling` or `memory_limit` for example.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// SHA-256 of the greedy token ids of all sequences, of a server's answers of their text;
    /// `null` if nothing was generated or sampling was random.
    pub output_sha256: Option<String>,
    /// Checks that failed and warnings.
    pub validity: Validity,
    /// Why it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absence>,
    /// One block per process.
    pub blocks: Vec<Block>,
}

/// Whether the numbers are valid. An invalid case is shown struck out, never compared and never
/// promoted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Validity {
    /// Checks that failed; empty is VALID.
    pub failed: Vec<String>,
    /// Suspicious values that may be true.
    pub warnings: Vec<String>,
}

impl Validity {
    /// Whether no check failed.
    pub fn ok(&self) -> bool {
        self.failed.is_empty()
    }

    /// Adds a check that failed, once.
    #[cfg(feature = "engine")]
    pub(crate) fn fail(&mut self, finding: impl Into<String>) {
        self.merge(Self { failed: vec![finding.into()], warnings: Vec::new() });
    }

    /// Adds the findings of other checks, each once.
    #[cfg(feature = "engine")]
    pub(crate) fn merge(&mut self, other: Self) {
        for (known, more) in
            [(&mut self.failed, other.failed), (&mut self.warnings, other.warnings)]
        {
            for finding in more {
                if !known.contains(&finding) {
                    known.push(finding);
                }
            }
        }
    }
}

/// The samples of one scenario in one process: the unit of statistics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// Id of its session.
    pub session: String,
    /// The median of the samples of each metric, by metric name; `null` where there are none.
    pub values: BTreeMap<String, Option<f64>>,
    /// Why a value is `null`, or how it was read where there are several ways, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// Limitations of a value, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caveats: BTreeMap<String, Caveat>,
    /// Every sample in the order measured, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, Vec<f64>>,
    /// Seconds of every decode step, one list per sample; of a server one per answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps_s: Vec<Vec<f64>>,
    /// Time to first token of each sequence in seconds, one list per sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ttft_seq_s: Vec<Vec<f64>>,
    /// Values of the warm-ups, which are in no statistic, by metric name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cold: BTreeMap<String, Vec<f64>>,
    /// The requests of a stress scenario, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<StressRequest>,
    /// What the server itself says of the samples, by its own names: of its metrics counters by how
    /// much they grew and others as they were at the end; of the `timings` of answers the median.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub server: BTreeMap<String, f64>,
    /// Times of the reference kernels before and after the samples; absent where they were not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<[KernelTimes; 2]>,
}

/// A request of a stress scenario. One that could not be answered is a result, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressRequest {
    /// Number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// How it ended.
    pub outcome: StressOutcome,
    /// Why it was not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Seconds from the start to the last token.
    pub seconds: Option<f64>,
    /// Resident set size after it; `null` where the process died.
    pub rss_bytes: Option<u64>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StressOutcome {
    /// All tokens were generated.
    Answered,
    /// It was not started: too long for the context, for example.
    Refused,
    /// The process ran out of memory.
    OutOfMemory,
    /// It exceeded the time limit of a request.
    TimedOut,
    /// Anything else.
    #[default]
    Failed,
}

/// Times of the reference kernels, which never change: they tell a change of the machine from a
/// change of the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelTimes {
    /// Multiply-adds within the L1 cache.
    pub compute_s: f64,
    /// Reading a buffer larger than the last-level cache.
    pub stream_s: f64,
    /// Many small parallel regions.
    pub dispatch_s: f64,
}

impl Block {
    /// Stores that a metric has no value, and why.
    #[cfg(any(test, feature = "engine"))]
    pub(crate) fn set_missing(&mut self, metric: &str, reason: &str) {
        self.values.insert(metric.into(), None);
        self.notes.insert(metric.into(), reason.into());
    }

    /// Stores the value of a metric, or why there is none.
    #[cfg(feature = "engine")]
    pub(crate) fn set(&mut self, metric: &str, value: Option<f64>, why_none: &str) {
        match value {
            Some(value) => drop(self.values.insert(metric.into(), Some(value))),
            None => self.set_missing(metric, why_none),
        }
    }

    /// Adds a sample of a metric.
    #[cfg(feature = "engine")]
    pub(crate) fn add_sample(&mut self, metric: &str, value: f64) {
        self.samples.entry(metric.into()).or_default().push(value);
    }

    /// Stores the median of the samples of each metric as its value.
    #[cfg(feature = "engine")]
    pub(crate) fn set_medians(&mut self) {
        let median =
            |(name, values): (&String, &Vec<f64>)| (name.clone(), crate::stats::median(values));
        self.values = self.samples.iter().map(median).collect();
    }

    /// The value of a metric, by name; `None` where it is `null` or was not measured.
    pub fn value(&self, metric: &str) -> Option<f64> {
        self.values.get(metric).copied().flatten()
    }

    /// Whether its peak memory is that of a process shared with other scenarios.
    pub fn has_shared_peak(&self) -> bool {
        let caveat = self.caveats.get(metric::PEAK_RSS_BYTES);
        self.value(metric::PEAK_RSS_BYTES).is_some() && caveat == Some(&Caveat::SharedProcess)
    }
}

impl Case {
    /// The kind of absence, if the scenario was not measured.
    pub fn absence(&self) -> Option<AbsenceKind> {
        self.absent.as_ref().map(|absent| absent.kind)
    }

    /// Whether the engine does not support this scenario, which is no failure.
    pub fn is_unsupported(&self) -> bool {
        self.absence() == Some(AbsenceKind::Unsupported)
    }

    /// Whether it was skipped for lack of time or memory; resuming the run tries again.
    pub fn is_skipped(&self) -> bool {
        matches!(self.absence(), Some(AbsenceKind::SkippedTime | AbsenceKind::SkippedMemory))
    }

    /// Whether the run has not reached it yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.absence() == Some(AbsenceKind::NotMeasuredYet)
    }

    /// The values of a metric, one per block; blocks without one are left out.
    pub fn values(&self, metric: &str) -> Vec<f64> {
        self.blocks.iter().filter_map(|block| block.value(metric)).collect()
    }

    /// What the server itself says, by its own names: a value per block that has it.
    pub(crate) fn server_values(&self) -> BTreeMap<&str, Vec<f64>> {
        let mut all = BTreeMap::<_, Vec<f64>>::new();
        for (name, value) in self.blocks.iter().flat_map(|block| &block.server) {
            all.entry(name.as_str()).or_default().push(*value);
        }
        all
    }
}

impl Record {
    /// The case of this id.
    pub fn case(&self, id: &str) -> Option<&Case> {
        self.scenarios.iter().find(|case| case.id == id)
    }

    /// Sets `not_selected` to the scenarios that this build knows and that have no case.
    pub(crate) fn set_not_selected(&mut self) {
        self.not_selected = workload::ids();
        self.not_selected.retain(|id| self.scenarios.iter().all(|case| case.id != *id));
    }

    /// Reads a record of this or an older schema, of a folder its `record.json`; or the result of
    /// another tool (vLLM's client, guidellm, llama-bench, aiperf) as a record with one block.
    ///
    /// # Errors
    /// When the file cannot be read, is neither, or has an unknown schema.
    pub fn load(path: &Path) -> Result<Self> {
        let form = json::Form {
            schema: SCHEMA,
            kinds: &["run", "baseline"],
            about: "a record is what `candlemark run` or `candlemark promote` writes",
            remedy: "make a new one with `candlemark run` and `candlemark promote`",
            upgrade: schema1::upgrade_record,
        };
        let within = path.join("record.json");
        let path = if path.is_dir() { &within } else { path };
        let text = files::read(path)?;
        let value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => import::lines(&text).ok_or_else(|| form.malformed(&error, path))?,
        };
        if let Some(record) = import::record(&value, &text) {
            return record.map_err(|why| Error::invalid(path, why));
        }
        if value.get("schema").is_none() && value.get("kind").is_none() {
            let why = format!("it is no record; {}; {}", form.about, import::FORMATS);
            return Err(Error::invalid(path, why));
        }
        form.accept(value, path, Self::check)
    }

    /// Checks that ids are unique.
    fn check(&self) -> std::result::Result<(), String> {
        let ids = self.scenarios.iter().map(|case| case.id.as_str());
        json::unique(ids).map_err(|id| format!("it has the scenario `{id}` twice"))?;
        let sessions = self.sessions.iter().map(|session| session.id.as_str());
        json::unique(sessions).map_err(|id| format!("it has the session `{id}` twice"))
    }

    /// Writes the record atomically: a reader sees the old file or the new one, never a part.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write(path, self.to_json().as_bytes())
    }

    /// The record as JSON, one line per field and one per scenario.
    pub fn to_json(&self) -> String {
        json::to_lines(self, &["scenarios"])
    }

    /// The format's JSON Schema.
    pub fn json_schema() -> String {
        json::schema::<Self>()
    }
}
