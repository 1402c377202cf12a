//! Measures LLM inference with Criterion and judges regressions.
//!
//! A *scenario* is a prompt category at a batch size, such as `code/b4`. Measuring it yields a
//! record: samples of every metric, peak memory of a fresh process, a hash of the generated tokens,
//! the machine and the build. The crate has three uses; the binary `candlemark` and the benches are
//! built on them.
//!
//! # Measure an engine
//!
//! [`measure::Trial`] runs one scenario on a loaded engine. [`suite::run`] runs a whole suite in
//! worker processes and returns a [`record::Record`].
//!
//! ```no_run
//! # #[cfg(feature = "engine")]
//! # fn main() -> candlemark::Result<()> {
//! use candlemark::engine::Engine;
//! use candlemark::measure::Trial;
//! use candlemark::settings::{Config, Setup};
//! use candlemark::workload::{metric, select};
//!
//! let setup = Setup::new(&Config::default());
//! let mut engine = Engine::load(&setup, &mut ())?;
//! let scenario = &select(&["code/b1".into()])?[0];
//! let mut trial = Trial::new(&engine, scenario, &setup.generation, None)?;
//! trial.warm_up(&mut engine)?;
//! let sample = trial.sample(&mut engine)?;
//! println!("{:.1} tok/s", sample.values[metric::DECODE_TOK_S]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "engine"))]
//! # fn main() {}
//! ```
//!
//! # Judge records
//!
//! [`compare::judge`] compares a record with a baseline: pure, so that the same two records always
//! give the same verdicts. A regression must be both significant and larger than the metric's
//! limit.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use candlemark::compare::{Policy, judge};
//! use candlemark::record::Record;
//!
//! # fn main() -> candlemark::Result<()> {
//! let baseline = Record::load(Path::new("baseline.json"))?;
//! let current = Record::load(Path::new("record.json"))?;
//! let judgement = judge(&baseline, &current, &Policy::default());
//! println!("{:?}", judgement.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! # Compare two builds
//!
//! [`pair::run`] measures two binaries in counterbalanced turns of fresh processes until every
//! scenario is decided or the time budget is used up; `candlemark pair --base main` builds both
//! first. The stored pair is judged again at any time:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use candlemark::compare::{Policy, paired};
//! use candlemark::record::pair::PairRecord;
//!
//! # fn main() -> candlemark::Result<()> {
//! let pair = PairRecord::load(Path::new("pair.json"))?;
//! let judgement = paired::judge(&pair, &Policy::default());
//! println!("{:?}", judgement.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! The modules are listed in reading order. A module uses only modules above it; a test checks
//! that.

#![cfg_attr(
    not(feature = "engine"),
    expect(dead_code, unused_imports, reason = "some of what judges is shared with what measures")
)]

/// The error type of the library, and the classes that exit statuses follow from.
pub mod error;
pub use error::{Error, Result};

/// Medians, percentiles, trimmed means and Student t, with tests of literal values.
pub mod stats;

/// Workloads and metrics: categories, prompts, scenarios, suites.
pub mod workload;

/// The configuration file, environment variables, and the settings of a run.
pub mod settings;

/// Folders, atomic writes, locks and hashes of files.
pub mod files;

/// Records, baselines and pairs as they are stored.
pub mod record;

/// The machine: fingerprint, memory of this process, load, energy, reference kernels.
pub mod machine;

/// A client of OpenAI-compatible servers that measures them.
#[cfg(feature = "server")]
pub mod client;

/// Load on a server: closed and open loops, and what came of them.
#[cfg(feature = "server")]
pub mod load;

/// Tokenization, chat templates, and the training of the tiny vocabulary.
#[cfg(feature = "engine")]
pub mod tokenizer;

#[cfg(feature = "engine")]
pub use candlemark_kernel as kernel;

/// The inference library: configuration, weights, forward passes.
#[cfg(feature = "engine")]
pub mod model;

/// Generation: from prompts to tokens, with the time of each.
#[cfg(feature = "engine")]
pub mod engine;

/// One scenario on one engine: samples, memory, plausibility checks.
#[cfg(feature = "engine")]
pub mod measure;

/// Suites of scenarios in worker processes, and their record.
#[cfg(feature = "engine")]
pub mod suite;

/// Judges a record against a baseline: pure.
pub mod compare;

/// Analysis of one record: curves, ratios, advice, a score, targets: pure.
pub mod analysis;

/// Replays rules for detecting regressions on a recorded pool of blocks: pure.
pub mod evaluate;

/// Baselines: promoted from runs, stored by machine and model, found for a run.
pub mod baseline;

/// Two builds in counterbalanced turns, until judged or out of time.
#[cfg(feature = "engine")]
pub mod pair;

/// Records and verdicts as documents.
pub mod report;

/// The Criterion harness of `cargo bench`.
#[cfg(feature = "bench")]
pub mod bench;

/// Quick runs at an interval, their history, and a live page of it.
pub mod monitor;

/// The engine behind an OpenAI-compatible API.
#[cfg(all(feature = "engine", feature = "server"))]
pub mod serve;

/// The command line: what the binary runs.
pub mod cli;

#[cfg(test)]
mod layers;

// The inputs of tests name the library as the tests of the binary do.
#[cfg(test)]
extern crate self as candlemark;
#[cfg(test)]
#[path = "../tests/inputs/mod.rs"]
mod inputs;
