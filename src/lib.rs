//! candlemark measures LLM inference and says honestly whether it got slower.
//!
//! `cargo bench` runs a small inference library (candle) over prompt categories and batch sizes,
//! every run becomes a [`record::Record`], and [`compare`] judges a record against a checked-in
//! baseline.
//!
//! The modules stand in reading order; a module uses only modules above it, and a test below checks
//! that.

/// The one error type of the library, and how it maps to an exit status.
pub mod error;
pub use error::{Error, Result};

/// Medians, percentiles, trimmed means and Student t, with tests of literal values.
pub mod stats;

/// What is run: categories, prompts, scenarios, metrics.
pub mod workload;

/// The configuration file and the settings that a run was made with.
pub mod settings;

/// Where files lie, how they are written, and locks on them.
pub mod files;

/// The stored form of a run and of a baseline.
pub mod record;

/// The machine: fingerprint, memory of this process, measured rates, load.
pub mod machine;

/// Text to token ids and back, chat templates, and the training of the tiny vocabulary.
#[cfg(feature = "engine")]
pub mod tokenizer;

#[cfg(feature = "engine")]
pub use candlemark_kernel as kernel;

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

/// Judges a record against a baseline: pure.
pub mod compare;

/// What follows from one record beyond single values: curves, ratios, advice, a score, targets:
/// pure.
pub mod analysis;

/// Replays rules for telling regressions on a recorded pool of blocks: pure.
pub mod evaluate;

/// Baselines: promoted from runs, stored by machine and model, found for a run.
pub mod baseline;

/// Two builds in turns, fresh processes, until judged or out of time.
#[cfg(feature = "engine")]
pub mod pair;

/// Records and verdicts as documents.
pub mod report;

/// Quick runs on an interval, their history, and a live page of it.
pub mod monitor;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// `src/<module>.rs` and everything in `src/<module>/`.
    fn files(module: &str) -> Vec<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = vec![source.join(format!("{module}.rs"))];
        let mut folders = vec![source.join(module)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.extension() {
                    _ if path.is_dir() => folders.push(path),
                    Some(extension) if extension == "rs" => files.push(path),
                    _ => {}
                }
            }
        }
        files
    }

    #[test]
    fn modules_use_only_modules_above_them() {
        let text = include_str!("lib.rs");
        let names =
            text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        let order: Vec<&str> = names.collect();
        assert!(order.len() > 5, "{order:?}");
        for (at, module) in order.iter().enumerate() {
            for other in order.iter().filter(|other| *other != module) {
                let mixed = "the search below would mix them up";
                assert!(!other.starts_with(module), "`{other}` begins with `{module}`: {mixed}");
            }
            for file in files(module) {
                let text = fs::read_to_string(&file).unwrap();
                assert!(text.starts_with("//!"), "{}: say what it is for", file.display());
                for below in &order[at + 1..] {
                    let used = text.contains(&format!("crate::{below}"));
                    assert!(!used, "{} uses {below}", file.display());
                }
            }
        }
    }
}
