//! A model's shape: by name, and the list of its tensors. `json` reads `config.json`; GGUF metadata
//! are read beside the GGUF files.

mod json;

use std::path::Path;

use crate::error::{Error, Result};
use crate::kernel::KvDtype;
use crate::settings::RopeScaling;

/// The model families. `Family::ALL` are those of the built-in engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Dense Qwen3: QK-norm, no biases.
    Qwen3,
    /// Qwen2 and Qwen2.5: biases on q, k and v, no QK-norm.
    Qwen2,
    /// Any other, for an engine of another crate; the built-in engines refuse it.
    Other(&'static str),
}

impl Family {
    const ALL: [Family; 2] = [Family::Qwen3, Family::Qwen2];

    /// The name in `config.json` and in GGUF metadata.
    pub fn name(self) -> &'static str {
        match self {
            Family::Qwen3 => "qwen3",
            Family::Qwen2 => "qwen2",
            Family::Other(name) => name,
        }
    }

    /// The class in transformers, without `ForCausalLM` or `Model`.
    fn class(self) -> &'static str {
        match self {
            Family::Qwen3 => "Qwen3",
            Family::Qwen2 => "Qwen2",
            Family::Other(name) => name,
        }
    }

    /// The context length of published models.
    fn context(self) -> usize {
        match self {
            Family::Qwen3 => 40960,
            Family::Qwen2 | Family::Other(_) => 32768,
        }
    }

    /// Whether the projections to queries, keys and values have biases.
    pub(super) fn has_qkv_bias(self) -> bool {
        self == Family::Qwen2
    }

    /// Whether RMSNorm is applied to every head of queries and keys.
    pub(super) fn has_qk_norm(self) -> bool {
        self == Family::Qwen3
    }

    pub(super) fn parse(name: &str) -> Result<Self> {
        let family = Self::ALL.into_iter().find(|family| family.name() == name);
        family.ok_or_else(|| Self::unsupported(name))
    }

    /// The error of the built-in engines about another family.
    pub(super) fn unsupported(name: &str) -> Error {
        let known = Self::ALL.map(Self::name).join(" and ");
        Error::UnsupportedModel(format!("architecture `{name}`; supported: {known}"))
    }
}

/// The shape and the constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Decides on biases and QK-norm.
    pub family: Family,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads (GQA); divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence in tokens, with RoPE scaling.
    pub context: usize,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f64,
    /// Whether embeddings are tied: the output matrix is the embedding.
    pub tied: bool,
    /// YaRN, if used.
    pub rope_scaling: Option<RopeScaling>,
}

/// A named shape, for synthetic weights: layers, hidden, intermediate, heads, kv_heads, head_dim,
/// vocab, tied.
type Shape = (&'static str, Family, [usize; 7], bool);

/// Rows of the embedding for the tokenizer of `fixtures/tiny`.
const TINY_VOCAB: usize = 3072;

/// Published shapes (config.json of Qwen/Qwen3-* and Qwen/Qwen2.5-*), `mini` (four layers of
/// Qwen3-0.6B with the tiny vocabulary), and two `nano` shapes for tests and dry runs, whose speed
/// means nothing.
#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    ("mini",          Family::Qwen3, [ 4, 1024,  3072, 16, 8, 128, TINY_VOCAB], true),
    ("qwen3-0.6b",    Family::Qwen3, [28, 1024,  3072, 16, 8, 128, 151936], true),
    ("qwen3-1.7b",    Family::Qwen3, [28, 2048,  6144, 16, 8, 128, 151936], true),
    ("qwen3-4b",      Family::Qwen3, [36, 2560,  9728, 32, 8, 128, 151936], true),
    ("qwen3-8b",      Family::Qwen3, [36, 4096, 12288, 32, 8, 128, 151936], false),
    ("qwen3-14b",     Family::Qwen3, [40, 5120, 17408, 40, 8, 128, 151936], false),
    ("qwen3-32b",     Family::Qwen3, [64, 5120, 25600, 64, 8, 128, 151936], false),
    ("qwen2.5-0.5b",  Family::Qwen2, [24,  896,  4864, 14, 2,  64, 151936], true),
    ("qwen2.5-1.5b",  Family::Qwen2, [28, 1536,  8960, 12, 2, 128, 151936], true),
    ("qwen2.5-7b",    Family::Qwen2, [28, 3584, 18944, 28, 4, 128, 152064], false),
    ("qwen2.5-32b",   Family::Qwen2, [64, 5120, 27648, 40, 8, 128, 152064], false),
    ("nano",          Family::Qwen3, [ 2,  256,   512,  4, 2,  64, TINY_VOCAB], true),
    ("nano-qwen2",    Family::Qwen2, [ 2,  256,   512,  4, 2,  64, TINY_VOCAB], false),
];

impl Config {
    /// A shape by its name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn named(name: &str) -> Result<Self> {
        let Some((
            _,
            family,
            [layers, hidden, intermediate, heads, kv_heads, head_dim, vocab],
            tied,
        )) = SHAPES.iter().find(|shape| shape.0 == name)
        else {
            return Err(Error::unknown("shape", name, SHAPES.iter().map(|shape| shape.0)));
        };
        Ok(Self {
            family: *family,
            layers: *layers,
            hidden: *hidden,
            intermediate: *intermediate,
            heads: *heads,
            kv_heads: *kv_heads,
            head_dim: *head_dim,
            vocab: *vocab,
            context: family.context(),
            rope_theta: 1e6,
            rms_eps: 1e-6,
            tied: *tied,
            rope_scaling: None,
        })
    }

    /// The `config.json` that [`Config::from_json`] reads back.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::json!({
            "model_type": self.family.name(),
            "architectures": [format!("{}ForCausalLM", self.family.class())],
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_eps,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "use_sliding_window": false,
            "max_window_layers": self.layers,
            "sliding_window": self.context,
        });
        if let Some(scaling) = &self.rope_scaling {
            json["rope_scaling"] = serde_json::to_value(scaling).expect("plain data");
        }
        serde_json::to_string_pretty(&json).expect("plain data") + "\n"
    }

    /// Sets the RoPE scaling, if given, and extends the context to factor x original context.
    pub(super) fn with_rope_scaling(mut self, scaling: Option<RopeScaling>) -> Self {
        if let Some(scaling) = scaling {
            let scaled_context =
                (scaling.factor * scaling.original_max_position_embeddings as f64).round() as usize;
            self.context = self.context.max(scaled_context);
            self.rope_scaling = Some(scaling);
        }
        self
    }

    /// The number of weights; tied embeddings count once.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// The name in safetensors and the shape, `[out, in]` or `[n]`, of every tensor.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, ffn) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()))
            };
            add("input_layernorm.weight", &[hidden]);
            for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("self_attn.{name}_proj.weight"), &[rows, hidden]);
                if self.family.has_qkv_bias() {
                    add(&format!("self_attn.{name}_proj.bias"), &[rows]);
                }
            }
            if self.family.has_qk_norm() {
                add("self_attn.q_norm.weight", &[self.head_dim]);
                add("self_attn.k_norm.weight", &[self.head_dim]);
            }
            add("self_attn.o_proj.weight", &[hidden, q]);
            add("post_attention_layernorm.weight", &[hidden]);
            add("mlp.gate_proj.weight", &[ffn, hidden]);
            add("mlp.up_proj.weight", &[ffn, hidden]);
            add("mlp.down_proj.weight", &[hidden, ffn]);
        }
        all.push(("model.norm.weight".into(), vec![hidden]));
        if !self.tied {
            all.push(("lm_head.weight".into(), vec![self.vocab, hidden]));
        }
        all
    }

    /// Bytes of a token's keys and values in all layers.
    pub(crate) fn kv_bytes_per_token(&self, dtype: KvDtype) -> usize {
        2 * self.layers * self.kv_heads * dtype.bytes(self.head_dim)
    }

    /// Refuses a sequence longer than the context, in every engine.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with both lengths.
    pub fn check_length(&self, length: usize) -> Result<()> {
        if length > self.context {
            return Err(Error::Unsupported(format!(
                "a sequence of {length} tokens is beyond the model's context of {}",
                self.context
            )));
        }
        Ok(())
    }

    /// Checks all sizes and constants.
    ///
    /// # Errors
    /// When one is out of range; the text says which.
    pub(super) fn validate(self) -> std::result::Result<Self, String> {
        // First, because the context depends on it.
        if let Some(scaling) = &self.rope_scaling {
            check_scaling(scaling)?;
        }
        let sizes = [
            ("layers", self.layers, 1 << 10),
            ("hidden size", self.hidden, 1 << 17),
            ("intermediate size", self.intermediate, 1 << 19),
            ("heads", self.heads, 1 << 10),
            ("key-value heads", self.kv_heads, 1 << 10),
            ("head size", self.head_dim, 1 << 12),
            ("vocabulary", self.vocab, 1 << 22),
            ("context", self.context, 1 << 27),
        ];
        for (name, size, max) in sizes {
            if size == 0 || size > max {
                return Err(format!("{name} is {size}; it must be between 1 and {max}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} heads are not a multiple of {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head size {} is odd; RoPE rotates pairs", self.head_dim));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return Err(format!("the RoPE base is {}; it must be above 1", self.rope_theta));
        }
        if !(self.rms_eps > 0.0 && self.rms_eps < 1.0) {
            let eps = self.rms_eps;
            return Err(format!("the epsilon of RMSNorm is {eps}; it must be between 0 and 1"));
        }
        Ok(self)
    }
}

/// Checks a RoPE scaling.
///
/// # Errors
/// When a value is out of range or the type is not supported; the text says which.
pub(super) fn check_scaling(scaling: &RopeScaling) -> std::result::Result<(), String> {
    if scaling.rope_type != "yarn" {
        return Err(format!(
            "rope scaling type `{}` is not supported; supported: yarn",
            scaling.rope_type
        ));
    }
    if !(scaling.factor.is_finite() && scaling.factor >= 1.0)
        || scaling.original_max_position_embeddings == 0
    {
        return Err(format!(
            "rope scaling needs a factor of at least 1 and an original context, not {} and {}",
            scaling.factor, scaling.original_max_position_embeddings
        ));
    }
    for (name, value) in [
        ("attention_factor", scaling.attention_factor),
        ("beta_fast", scaling.beta_fast),
        ("beta_slow", scaling.beta_slow),
    ] {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
            return Err(format!(
                "`{name}` of rope scaling is {value}; it must be positive and finite"
            ));
        }
    }
    let (fast, slow) = (scaling.beta_fast.unwrap_or(32.0), scaling.beta_slow.unwrap_or(1.0));
    if fast < slow {
        return Err(format!("`beta_fast` {fast} of rope scaling is below `beta_slow` {slow}"));
    }
    Ok(())
}

/// The base of RoPE if a model does not give it, as in transformers and llama.cpp.
pub(super) const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// The note on an embedding model.
pub(super) fn embedding_model_note(path: &Path) -> String {
    format!(
        "{}: an embedding model: the text that it generates is meaningless, and its embeddings are \
         mean pooled, whatever pooling it was trained for",
        path.display()
    )
}

/// The note on unknown keys, if there are any.
pub(super) fn ignored_keys_note(path: &Path, keys: &[String]) -> Option<String> {
    let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    (!keys.is_empty())
        .then(|| format!("{}: unknown keys ignored: {}", path.display(), names.join(", ")))
}

/// The note on YaRN without its original context, after the path.
pub(super) fn yarn_context_note(context: impl std::fmt::Display) -> String {
    format!("YaRN without an original context: using the model's own, {context}")
}

#[cfg(test)]
mod tests;
