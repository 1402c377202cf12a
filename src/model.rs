//! The inference library: `open` finds and checks a model, `load` makes a `Decoder` of it.
//!
//! Reading order: `decoder` (the interface of engines), `config` (shapes), `weights` and `quant`
//! (tensors and their types), the sources of weights (`safetensors`, `gguf`, `synthetic`, `hub`),
//! `source` (opening a model), then the engines: `cpu` and `gpu` are `native`, `candle` is
//! a reference to compare with.

mod candle;
/// Shapes of models.
pub mod config;
mod cpu;
mod decoder;
mod device;
mod file;
/// GGUF files.
pub mod gguf;
mod gpu;
#[cfg(feature = "hub")]
mod hub;
mod kernels;
mod layer;
mod progress;
mod quant;
mod rope;
/// safetensors files.
pub mod safetensors;
mod source;
mod spec;
mod synthetic;
mod weights;

use std::io;

use candle_core::Device;

use crate::error::{Error, Result};
use crate::kernel::{KvDtype, Pool};
use crate::model::config::Family;
use crate::settings;

#[cfg(feature = "server")]
pub(crate) use decoder::argmax;
pub use decoder::{Decoder, Footprint, Logits, Step};
pub(crate) use device::check_device;
pub use device::device;
pub(crate) use kernels::{describe_plan, forced_kernels, isa_from_env};
pub use progress::Progress;
pub use quant::Quant;
pub use source::{ModelSource, TokenizerSource, check, open};
pub(crate) use weights::TRACE_TARGET;
pub use weights::{StoredRows, TensorInfo, WeightSource};

/// The implementation that runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// This crate's own forward pass.
    Native,
    /// candle-transformers as published: a reference.
    Candle,
}

impl EngineKind {
    /// The names that `--engine` takes.
    pub(crate) const NAMES: [&str; 2] = ["native", "candle"];

    /// The engine of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "native" => Ok(EngineKind::Native),
            "candle" => Ok(EngineKind::Candle),
            "llama-cpp" | "llama.cpp" => Err(Error::Usage(
                "llama.cpp is not an engine of candlemark: measure its programs with `candlemark \
                 peers FILE.gguf --external llama.cpp=PATH/llama-bench`, its server with \
                 `candlemark run --url`"
                    .into(),
            )),
            other => Err(Error::unknown("engine", other, Self::NAMES)),
        }
    }
}

/// Loads a model. `kv_dtype` is the number format of the KV cache, of which only the native engine
/// on the CPU has a choice; `threads` is the size of the CPU engines' thread pools.
///
/// # Errors
/// When a tensor is missing or damaged, the engine does not support the model
/// ([`Error::Unsupported`]), the device fails, or the system refuses a thread.
pub fn load(
    source: &ModelSource,
    engine: EngineKind,
    quant: Option<Quant>,
    kv_dtype: Option<KvDtype>,
    device: &Device,
    threads: usize,
) -> Result<Box<dyn Decoder>> {
    check_kv_dtype(engine, kv_dtype, device.is_cpu())?;
    let (config, weights) = (&source.config, source.weights.as_ref());
    if let Family::Other(name) = config.family {
        return Err(Family::unsupported(name));
    }
    match engine {
        EngineKind::Native if device.is_cpu() => {
            let pool = thread_pool(threads, pin_variable().as_deref(), settings::cpus_by_core())?;
            start_rayon(threads)?;
            Ok(Box::new(cpu::CpuDecoder::load(
                config,
                weights,
                quant,
                kv_dtype,
                isa_from_env()?,
                pool,
            )?))
        }
        EngineKind::Native => {
            start_rayon(threads)?;
            Ok(Box::new(gpu::GpuDecoder::load(config, weights, quant, device)?))
        }
        EngineKind::Candle => {
            // candle starts as many threads as rayon, beside it, and panics where the system
            // refuses one. Starting both here turns that into an error.
            let pool = Pool::new(threads)?;
            start_rayon(threads)?;
            drop(pool);
            Ok(Box::new(candle::CandleDecoder::load(source, quant, device)?))
        }
    }
}

/// The number format of a KV cache of this name.
///
/// # Errors
/// When there is none of this name.
pub(crate) fn parse_kv_dtype(name: &str) -> Result<KvDtype> {
    let known = || KvDtype::ALL.into_iter();
    let unknown = || Error::unknown("KV-cache dtype", name, known().map(KvDtype::name));
    known().find(|dtype| dtype.name() == name).ok_or_else(unknown)
}

/// Refuses a KV-cache dtype where the engine has no choice.
pub(crate) fn check_kv_dtype(
    engine: EngineKind,
    dtype: Option<KvDtype>,
    on_cpu: bool,
) -> Result<()> {
    if dtype.is_none() || engine == EngineKind::Native && on_cpu {
        return Ok(());
    }
    Err(Error::Unsupported("`--kv-dtype` needs the native engine on the CPU".into()))
}

/// The environment variable that pins each worker thread of the native engine to a physical core,
/// if it is 1.
const PIN: &str = "CANDLEMARK_PIN";

fn pin_variable() -> Option<String> {
    std::env::var(PIN).ok()
}

/// Checks the environment variables of the native engine on the CPU.
///
/// # Errors
/// When the kernel tier is unknown or the CPU lacks it, the file of variants is wrong, or threads
/// cannot be pinned.
pub(crate) fn check_variables(threads: usize) -> Result<()> {
    isa_from_env()?;
    cpus_to_pin(threads, pin_variable().as_deref(), settings::cpus_by_core()).map(drop)
}

/// The thread pool of the native engine on the CPU. `pin` is the value of [`PIN`]; `cpus` are
/// those of the process, one of each core first, if the system tells.
fn thread_pool(threads: usize, pin: Option<&str>, cpus: Option<Vec<usize>>) -> Result<Pool> {
    let Some(cpus) = cpus_to_pin(threads, pin, cpus)? else {
        return Ok(Pool::new(threads)?);
    };
    Pool::pinned(threads, &cpus).map_err(|error| match Error::from(error) {
        Error::Failed(why) => Error::Failed(format!("{PIN}: {why}")),
        error => error,
    })
}

/// The CPUs to pin threads to; `None` if they are not to be pinned.
fn cpus_to_pin(
    threads: usize,
    pin: Option<&str>,
    cpus: Option<Vec<usize>>,
) -> Result<Option<Vec<usize>>> {
    match pin {
        None | Some("" | "0") => return Ok(None),
        Some("1") => {}
        Some(other) => {
            return Err(Error::Usage(format!("{PIN} is `{other}`; write 1 to pin threads, or 0")));
        }
    }
    let cpus = cpus.ok_or_else(|| {
        Error::Usage(format!("{PIN}: this system does not say which CPUs share a core; unset it"))
    })?;
    let count = cpus.len();
    if threads > count {
        return Err(Error::Usage(format!(
            "{PIN}: {count} CPUs are not enough for {threads} threads; set `--threads {count}`, or \
             unset it"
        )));
    }
    Ok(Some(cpus))
}

/// Starts rayon's threads, which dequantize weights and run candle's kernels. On its first use,
/// rayon would panic where the system refuses a thread.
fn start_rayon(threads: usize) -> Result<()> {
    let Err(error) = rayon::ThreadPoolBuilder::new().build_global() else { return Ok(()) };
    // An error without a cause means that they run already.
    let Some(cause) = std::error::Error::source(&error) else { return Ok(()) };
    let source = io::Error::other(cause.to_string());
    let variable = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    Err(Error::Threads { threads: variable.unwrap_or(threads), source })
}

#[cfg(test)]
mod tests;
