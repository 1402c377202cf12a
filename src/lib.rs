//! candlemark measures LLM inference and says honestly whether it got slower.
//!
//! `cargo bench` runs a small inference library (candle) over prompt categories and batch sizes, every run
//! becomes a [`record::Record`], and [`compare`] judges a record against a checked-in baseline.
//!
//! The modules stand in reading order; a module uses only modules above it, and a test below checks that.

/// The one error type of the library, and how it maps to an exit status.
pub mod error;
pub use error::Error;
pub use error::Result;

/// Medians, percentiles, trimmed means and Student t, with tests of literal values.
pub mod stats;

/// What is run: categories, prompts, scenarios, metrics.
pub mod workload;

/// The configuration file and the settings that a run was made with.
pub mod settings;

/// The stored form of a run and of a baseline.
pub mod record;

/// The machine: fingerprint, memory of this process, measured rates, load.
pub mod machine;

/// Judges a record against a baseline: pure.
pub mod compare;

/// Baselines: promoted from runs, stored by machine and model, found for a run.
pub mod baseline;

/// Records and verdicts as documents.
pub mod report;
