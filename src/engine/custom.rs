//! Engines of other crates. A binary registers one before anything else; then every command, every
//! bench and every worker of that binary has it, as its default engine.

use std::sync::OnceLock;

use crate::error::Result;
use crate::model::{Decoder, EngineKind, ModelSource, Progress};
use crate::settings::{self, Setup};
use crate::tokenizer::Tokenizer;

/// An engine of another crate.
#[derive(Clone, Copy)]
pub struct CustomEngine {
    /// The name in `--engine` and in records; not that of a built-in engine.
    pub name: &'static str,
    /// Finds the model of a setup and its tokenizer, without loading weights. [`open`] reads what
    /// the built-in engines read; an engine of another model family or container has its own.
    ///
    /// [`open`]: crate::engine::open
    pub open: fn(&Setup, &mut dyn Progress) -> Result<(ModelSource, Tokenizer)>,
    /// Loads the model.
    pub load: fn(&ModelSource, &Setup) -> Result<Box<dyn Decoder>>,
}

static CUSTOM: OnceLock<CustomEngine> = OnceLock::new();

/// Registers an engine that runs the models that the built-in engines run.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use candlemark::model::{Decoder, EngineKind, ModelSource};
/// use candlemark::settings::Setup;
///
/// fn load(source: &ModelSource, setup: &Setup) -> candlemark::Result<Box<dyn Decoder>> {
///     // An implementation of `Decoder` of your own; here the built-in one.
///     let device = candlemark::model::device("cpu")?;
///     candlemark::model::load(source, EngineKind::Native, None, None, &device, setup.threads)
/// }
///
/// fn main() -> ExitCode {
///     candlemark::engine::register("mine", load);
///     candlemark::cli::main()
/// }
/// ```
///
/// # Panics
/// When an engine is registered already, or the name is that of a built-in engine.
pub fn register(name: &'static str, load: fn(&ModelSource, &Setup) -> Result<Box<dyn Decoder>>) {
    register_engine(CustomEngine { name, open: super::open, load });
}

/// Registers an engine that finds its models itself.
///
/// # Panics
/// As [`register`].
pub fn register_engine(engine: CustomEngine) {
    assert!(!EngineKind::NAMES.contains(&engine.name), "`{}` is a built-in engine", engine.name);
    assert!(CUSTOM.set(engine).is_ok(), "an engine is registered already");
    settings::set_default_engine(engine.name);
}

/// The registered engine, if its name is this.
pub(super) fn custom(name: &str) -> Option<&'static CustomEngine> {
    CUSTOM.get().filter(|engine| engine.name == name)
}

/// Whether this binary has an engine of its own.
pub(crate) fn is_custom() -> bool {
    CUSTOM.get().is_some()
}
