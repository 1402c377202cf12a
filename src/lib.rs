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

/// Text to token ids and back, chat templates, and the training of the tiny vocabulary.
#[cfg(feature = "engine")]
pub mod tokenizer;

/// CPU kernels, each beside its definition.
#[cfg(feature = "engine")]
pub mod kernel;

/// The inference library: configuration, weights, forward passes.
#[cfg(feature = "engine")]
pub mod model;

/// From prompts to tokens, with the instant of each.
#[cfg(feature = "engine")]
pub mod engine;

/// One scenario on one engine: samples, memory, checks.
#[cfg(feature = "engine")]
pub mod measure;

/// Scenarios in worker processes, and the record of them.
#[cfg(feature = "engine")]
pub mod suite;
