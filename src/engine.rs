//! From prompts to tokens, with the time of each. One generation gives every metric of time. Knows
//! nothing of scenarios or records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::Digest as _;

use crate::error::Result;
use crate::files::hex;
use crate::model::gguf::Gguf;
use crate::model::{Decoder, EngineKind, ModelSource, Progress, Quant, TokenizerSource};
use crate::settings::Setup;
use crate::tokenizer::{Message, Role, Thinking, Tokenizer};
use crate::workload::PromptFormat;
use crate::{machine, model};

mod custom;
mod generate;
mod injection;
mod sampler;

pub(crate) use custom::is_custom;
pub use custom::{CustomEngine, register, register_engine};
#[cfg(feature = "server")]
pub(crate) use generate::PREFILL_CHUNK;
pub use generate::{GenerationOutput, GenerationRequest, generate, prefill};
pub use injection::Injection;
#[cfg(feature = "server")]
pub(crate) use sampler::Sampler;

/// A loaded model with its tokenizer.
pub struct Engine {
    /// The loaded model.
    pub decoder: Box<dyn Decoder>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The model's shape, files and origin.
    pub source: ModelSource,
    /// The time of reading, dequantizing and quantizing the weights.
    pub load: Duration,
}

impl Engine {
    /// Finds and loads the model of a setup.
    ///
    /// # Errors
    /// When a name in the setup is unknown, the model is missing or damaged, its tokenizer has more
    /// tokens than its embedding has rows, or the device is absent.
    pub fn load(setup: &Setup, progress: &mut dyn Progress) -> Result<Self> {
        if let Some(custom) = custom::custom(&setup.engine) {
            let (source, tokenizer) = (custom.open)(setup, progress)?;
            let start = Instant::now();
            let decoder = (custom.load)(&source, setup)?;
            return Ok(Self { decoder, tokenizer, source, load: start.elapsed() });
        }
        let quant = setup.quant.as_deref().map(Quant::parse).transpose()?;
        let kind = EngineKind::parse(&setup.engine)?;
        let device = model::device(&setup.device)?;
        let (source, tokenizer) = open(setup, progress)?;
        let start = Instant::now();
        let kv_dtype = setup.kv_dtype.as_deref().map(model::parse_kv_dtype).transpose()?;
        let decoder = model::load(&source, kind, quant, kv_dtype, &device, setup.threads)?;
        Ok(Self { decoder, tokenizer, source, load: start.elapsed() })
    }

    /// The token ids of a prompt.
    ///
    /// # Errors
    /// When the chat template fails.
    pub fn encode(&self, prompt: &str, format: PromptFormat) -> Result<Vec<u32>> {
        let chat = |thinking| self.tokenizer.chat(&[Message::new(Role::User, prompt)], thinking);
        match format {
            PromptFormat::Raw => self.tokenizer.encode_prompt(prompt),
            PromptFormat::Chat => self.tokenizer.encode(&chat(Thinking::Off)?),
            PromptFormat::ChatThinking => self.tokenizer.encode(&chat(Thinking::On)?),
        }
    }
}

/// Finds the model of a setup and its tokenizer, as the built-in engines do, and checks that they
/// fit.
///
/// # Errors
/// When the model is missing or damaged, or its tokenizer has more tokens than its embedding has
/// rows.
pub fn open(setup: &Setup, progress: &mut dyn Progress) -> Result<(ModelSource, Tokenizer)> {
    let source =
        model::open(&setup.model, setup.generation.seed, setup.rope_scaling.clone(), progress)?;
    let tokenizer = match &source.tokenizer {
        TokenizerSource::Tiny => Tokenizer::tiny()?,
        TokenizerSource::Folder(folder) => Tokenizer::from_folder(folder)?,
        TokenizerSource::Gguf(path) => Tokenizer::from_gguf(Gguf::open(path)?.tokenizer()?)?,
    };
    tokenizer.check_rows(source.config.vocab)?;
    Ok((source, tokenizer))
}

/// Checks the names in a setup before a command begins. Reads no weights and downloads nothing.
///
/// # Errors
/// When a name is unknown or not built in, the model is missing or damaged, or a variable of the
/// native engine is invalid.
pub fn check(setup: &Setup) -> Result<()> {
    if setup.server.is_some() {
        return Ok(()); // It was asked when it was described.
    }
    if let Some(custom) = custom::custom(&setup.engine) {
        return (custom.open)(setup, &mut ()).map(drop);
    }
    setup.quant.as_deref().map(Quant::parse).transpose()?;
    let kind = EngineKind::parse(&setup.engine)?;
    model::check_device(&setup.device)?;
    let kv_dtype = setup.kv_dtype.as_deref().map(model::parse_kv_dtype).transpose()?;
    model::check_kv_dtype(kind, kv_dtype, setup.device == "cpu")?;
    if kind == EngineKind::Native && setup.device == "cpu" {
        model::check_variables(setup.threads)?;
    }
    model::check(&setup.model, setup.generation.seed, setup.rope_scaling.clone())
}

/// The identity of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// SHA-256 over the hashes of weights and tokenizer, and the shape.
    pub sha256: String,
    /// The hub's commit.
    pub commit: Option<String>,
}

/// Hashes a model without loading it; of a server's model what the server says.
///
/// # Errors
/// As [`Engine::load`], but for the device.
pub(crate) fn identify(setup: &Setup, progress: &mut dyn Progress) -> Result<Identity> {
    if let Some(server) = &setup.server {
        let sha256 = machine::class_id(&server.class_fields(&BTreeMap::new()));
        return Ok(Identity { sha256, commit: None });
    }
    let (source, tokenizer) = match custom::custom(&setup.engine) {
        Some(custom) => (custom.open)(setup, progress)?,
        None => {
            setup.quant.as_deref().map(Quant::parse).transpose()?;
            EngineKind::parse(&setup.engine)?;
            open(setup, progress)?
        }
    };
    let text = format!(
        "{}\n{}\n{}",
        source.weights.sha256()?,
        source.config.to_json(),
        tokenizer.sha256()?
    );
    Ok(Identity { sha256: hex(&sha2::Sha256::digest(text)), commit: source.commit })
}

#[cfg(test)]
mod tests;
