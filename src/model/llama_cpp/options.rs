//! Settings of llama.cpp from environment variables.

use crate::error::{Error, Result};

/// Tokens per call (`n_batch`). llama.cpp splits a call into its own passes (`n_ubatch`), as
/// `llama-bench` lets it.
pub(super) const MAX_BATCH: usize = 2048;

/// Settings of llama.cpp; docs/peers.md explains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LlamaOptions {
    pub(super) flash_attention: FlashAttention,
    pub(super) ubatch: u32,
    pub(super) mmap: bool,
}

/// `llama_flash_attn_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlashAttention {
    Auto = -1,
    Off = 0,
    On = 1,
}

impl FlashAttention {
    pub(super) fn name(self) -> &'static str {
        match self {
            FlashAttention::Auto => "auto",
            FlashAttention::Off => "off",
            FlashAttention::On => "on",
        }
    }
}

impl LlamaOptions {
    pub(super) fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = |name: &str, text: &str, values: &str| {
            Error::Usage(format!("{name} is `{text}`; write {values}"))
        };
        let (name, values) = ("CANDLEMARK_LLAMA_FA", "`on`, `off` or `auto`");
        let flash_attention = match get(name).as_deref() {
            Some("on") => FlashAttention::On,
            Some("off") => FlashAttention::Off,
            Some("auto") | None => FlashAttention::Auto,
            Some(other) => return Err(wrong(name, other, values)),
        };
        let (name, values) = ("CANDLEMARK_LLAMA_MMAP", "`on` or `off`");
        let mmap = match get(name).as_deref() {
            Some("on") | None => true,
            Some("off") => false,
            Some(other) => return Err(wrong(name, other, values)),
        };
        let (name, values) = ("CANDLEMARK_LLAMA_UBATCH", "a number from 1 to 2048");
        let ubatch = match get(name) {
            Some(text) => {
                let number = text.parse().ok().filter(|rows| (1..=MAX_BATCH as u32).contains(rows));
                number.ok_or_else(|| wrong(name, &text, values))?
            }
            None => 512,
        };
        Ok(Self { flash_attention, ubatch, mmap })
    }
}
