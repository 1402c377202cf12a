//! A model's shape: from `config.json`, from GGUF metadata, or by name. Refuses what it does not
//! understand rather than ignoring it, because an ignored key is a model that answers wrongly at
//! full speed.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::model::gguf::{plain, whole};
use crate::settings::RopeScaling;

/// The model families that the library runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Qwen3 dense: RMSNorm on every head of q and k, no biases.
    Qwen3,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
}

impl Family {
    /// The name in `config.json` and in GGUF metadata.
    pub fn name(self) -> &'static str {
        match self {
            Family::Qwen3 => "qwen3",
            Family::Qwen2 => "qwen2",
        }
    }

    fn parse(name: &str) -> Result<Self> {
        match name {
            "qwen3" => Ok(Family::Qwen3),
            "qwen2" => Ok(Family::Qwen2),
            other => Err(Error::UnsupportedModel(format!(
                "architecture `{other}`; known are qwen3 and qwen2"
            ))),
        }
    }
}

/// The numbers that a forward pass needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which family.
    pub family: Family,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence in tokens, scaling included.
    pub context: usize,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f64,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// YaRN, if in force.
    pub rope_scaling: Option<RopeScaling>,
}

/// A named shape, for synthetic weights: layers, hidden, intermediate, heads, kv_heads, head_dim,
/// vocab, tied.
type Shape = (&'static str, Family, [usize; 7], bool);

/// Rows of the embedding that the tiny vocabulary of `fixtures/tiny` needs.
pub const TINY_VOCAB: usize = 3072;

/// Published shapes (config.json of Qwen/Qwen3-* and Qwen/Qwen2.5-*), `mini` (the exact layer of Qwen3-0.6B, 4 layers, the
/// tiny vocabulary), and two `nano` ones for tests and dry runs, whose speed means nothing.
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
            context: if *family == Family::Qwen3 { 40960 } else { 32768 },
            rope_theta: 1e6,
            rms_eps: 1e-6,
            tied: *tied,
            rope_scaling: None,
        })
    }

    /// From the text of a `config.json`. `notes` gets what was assumed or left out of account.
    ///
    /// # Errors
    /// When it is not JSON, lacks a key, or asks for something that is not implemented.
    pub fn from_json(path: &Path, text: &str, notes: &mut Vec<String>) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { path: path.into(), why };
        // Read the architecture first: a foreign model should be told so, not that some key is
        // missing.
        let value: Map<String, Json> =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let architecture = value.get("model_type").and_then(|name| name.as_str());
        let family = Family::parse(architecture.ok_or_else(|| invalid("no `model_type`".into()))?)?;
        refuse_others(&value, family)
            .map_err(|what| Error::UnsupportedModel(format!("`{}` has {what}", path.display())))?;
        let unknown: Vec<String> = value
            .keys()
            .filter(|key| !KNOWN.contains(&key.as_str()) && !ONLY.iter().any(|only| only.0 == *key))
            .map(|key| format!("`{key}`"))
            .collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            notes.push(format!("{}: not known and left out: {unknown}", path.display()));
        }
        let context = value.get("max_position_embeddings").and_then(Json::as_u64);
        let rope = Rope::from_json(&value, context).map_err(invalid)?;
        notes.extend(rope.notes.iter().map(|note| format!("{}: {note}", path.display())));
        // transformers takes 128 for a Qwen3 that does not say, and divides where it says null.
        let given = value.contains_key("head_dim") || family == Family::Qwen2;
        let json: Keys = serde_json::from_value(Json::Object(value))
            .map_err(|error| invalid(error.to_string()))?;
        let divided = json.hidden_size / json.num_attention_heads.max(1);
        let head_dim = json.head_dim.unwrap_or(if given { divided } else { 128 });
        Self {
            family,
            layers: json.num_hidden_layers,
            hidden: json.hidden_size,
            intermediate: json.intermediate_size,
            heads: json.num_attention_heads,
            kv_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
            head_dim,
            vocab: json.vocab_size,
            context: json.max_position_embeddings,
            rope_theta: rope.theta,
            rms_eps: json.rms_norm_eps,
            tied: json.tie_word_embeddings.unwrap_or(false),
            rope_scaling: None,
        }
        .scaled(rope.scaling)
        .checked()
        .map_err(invalid)
    }

    /// The `config.json` that [`Config::from_json`] reads back.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::json!({
            "model_type": self.family.name(),
            "architectures": [match self.family { Family::Qwen3 => "Qwen3ForCausalLM", Family::Qwen2 => "Qwen2ForCausalLM" }],
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

    /// From GGUF metadata; `vocab` is the number of rows of the embedding, `tied` says that there
    /// is no output matrix, which is how this format ties it to the embedding. `notes` gets
    /// what was assumed or left out of account.
    ///
    /// # Errors
    /// When a key is missing or has another type, or it asks for something that is not implemented.
    pub fn from_gguf(
        path: &Path,
        metadata: &HashMap<String, Value>,
        vocab: usize,
        tied: bool,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { path: path.into(), why };
        let refuse = |key: &str, value: &Value, known: &str| {
            let (value, path) = (plain(value), path.display());
            let what = format!("`{path}` has `{key}` {value}; known is {known}");
            Err(Error::UnsupportedModel(what))
        };
        match metadata.get("general.type") {
            None => {}
            Some(Value::String(kind)) if kind == "model" => {}
            Some(kind) => return refuse("general.type", kind, "`model`"),
        }
        let architecture = match metadata.get("general.architecture") {
            Some(Value::String(name)) => name.as_str(),
            _ => return Err(invalid("no `general.architecture`".into())),
        };
        let family = Family::parse(architecture)?;
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |name: &str| number(metadata, &key(name)).map_err(invalid);
        let whole = |name: &str| whole(metadata, &key(name)).map_err(invalid);
        let missing = |name: &str| invalid(format!("no number under the key `{}`", key(name)));
        let required = |name: &str| number(name)?.ok_or_else(|| missing(name));
        let count =
            |name: &str| whole(name)?.map(|size| size as usize).ok_or_else(|| missing(name));
        let (heads, hidden) = (count("attention.head_count")?, count("embedding_length")?);
        let context = count("context_length")?;
        let head_dim =
            whole("attention.key_length")?.map_or(hidden / heads.max(1), |size| size as usize);

        let mut unknown = Vec::new();
        let prefix = key("");
        let mut ours: Vec<(&str, &Value)> = metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)))
            .collect();
        ours.sort_by_key(|(name, _)| *name);
        for (name, value) in ours {
            let is = |number: f64| self::number(metadata, &key(name)) == Ok(Some(number));
            let head = head_dim as f64;
            let (fits, known) = match name {
                "attention.value_length" | "rope.dimension_count" => {
                    (is(head), format!("{head}, the size of a head"))
                }
                "attention.causal" => (matches!(value, Value::Bool(true)), "true".into()),
                "attention.sliding_window" => {
                    let size = whole(name)?.unwrap_or(0);
                    (size == 0 || size >= context as u64, "none".into())
                }
                "pooling_type" => match whole(name)? {
                    Some(0) => (true, String::new()),
                    Some(1..=3) => {
                        notes.push(embedding_model(path));
                        (true, String::new())
                    }
                    _ => (false, "0 to 3: this is a reranker, with a head of its own".into()),
                },
                name if name.starts_with("classifier.") => {
                    (false, "none: this is a reranker, with a head of its own".into())
                }
                "rope.scaling.yarn_ext_factor" | "rope.scaling.yarn_attn_factor" => {
                    (is(1.0), "1".into())
                }
                name if ZERO.iter().any(|zero| name.starts_with(zero)) => {
                    let off = is(0.0) || matches!(value, Value::Bool(false));
                    (off, "0".into())
                }
                name => {
                    if !GGUF_KNOWN.contains(&name) {
                        unknown.push(format!("`{}`", key(name)));
                    }
                    (true, String::new())
                }
            };
            if !fits {
                return refuse(&key(name), value, &known);
            }
        }
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            notes.push(format!("{}: not known and left out: {unknown}", path.display()));
        }
        if tied {
            notes.push(format!(
                "{}: no `output.weight`, so the embedding is the output matrix, too",
                path.display()
            ));
        }
        let rope_theta = match number("rope.freq_base")? {
            Some(theta) => theta,
            None => {
                let name = key("rope.freq_base");
                notes.push(format!("{}: no `{name}`: {THETA} is taken", path.display()));
                THETA
            }
        };
        // Before there were types, a factor was linear.
        let factor = match number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => number("rope.scale_linear")?,
        };
        let rope_scaling = match metadata.get(&key("rope.scaling.type")) {
            Some(Value::String(kind)) if kind == "none" => None,
            Some(Value::String(kind)) if kind == "yarn" => {
                let factor = factor.ok_or_else(|| missing("rope.scaling.factor"))?;
                let original = whole("rope.scaling.original_context_length")?;
                if original.is_none() {
                    notes.push(format!(
                        "{}: YaRN from an original context that is not named: {context}, the \
                         model's own, is taken",
                        path.display()
                    ));
                }
                // GGUF stores a multiplier on YaRN's own factor, config.json the product.
                let own = 0.1 * factor.ln() + 1.0;
                Some(RopeScaling {
                    rope_type: "yarn".into(),
                    factor,
                    original_max_position_embeddings: original
                        .map_or(context, |size| size as usize),
                    attention_factor: number("rope.scaling.attn_factor")?.map(|times| times * own),
                    beta_fast: number("rope.scaling.yarn_beta_fast")?,
                    beta_slow: number("rope.scaling.yarn_beta_slow")?,
                })
            }
            None if factor.is_none_or(|factor| factor == 0.0 || factor == 1.0) => None,
            Some(Value::String(kind)) if kind == "linear" && factor.is_none_or(|f| f == 1.0) => {
                None
            }
            None => {
                let (key, path) = (key("rope.scaling.factor"), path.display());
                return Err(Error::UnsupportedModel(format!(
                    "`{path}` has `{key}` without a type, which is linear; known is yarn"
                )));
            }
            Some(kind) => return refuse(&key("rope.scaling.type"), kind, "`yarn`"),
        };
        Self {
            family,
            layers: count("block_count")?,
            hidden,
            intermediate: count("feed_forward_length")?,
            heads,
            kv_heads: whole("attention.head_count_kv")?.map_or(heads, |size| size as usize),
            head_dim,
            vocab,
            context,
            rope_theta,
            rms_eps: required("attention.layer_norm_rms_epsilon")?,
            tied,
            rope_scaling: None,
        }
        .scaled(rope_scaling)
        .checked()
        .map_err(invalid)
    }

    /// With another RoPE scaling, which also sets the context to factor x original context.
    pub fn scaled(mut self, scaling: Option<RopeScaling>) -> Self {
        if let Some(scaling) = scaling {
            let reach =
                (scaling.factor * scaling.original_max_position_embeddings as f64).round() as usize;
            self.context = self.context.max(reach);
            self.rope_scaling = Some(scaling);
        }
        self
    }

    /// The number of weights, tied ones once.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// Every tensor of the model, by its name in safetensors, with its shape `[out, in]` or `[n]`.
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
                if self.family == Family::Qwen2 {
                    add(&format!("self_attn.{name}_proj.bias"), &[rows]);
                }
            }
            if self.family == Family::Qwen3 {
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

    /// Says what is wrong with the sizes and the numbers, if anything.
    ///
    /// # Errors
    /// When one of them cannot be.
    pub fn checked(self) -> std::result::Result<Self, String> {
        // First, because the context follows from it.
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
        for (name, size, most) in sizes {
            if size == 0 || size > most {
                return Err(format!("{name} is {size}, which is not between 1 and {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} heads cannot share {} key-value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head size {} is odd, RoPE turns pairs", self.head_dim));
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

/// Says what is wrong with a RoPE scaling, if anything.
pub fn check_scaling(scaling: &RopeScaling) -> std::result::Result<(), String> {
    if scaling.rope_type != "yarn" {
        return Err(format!(
            "rope scaling type `{}` is not known; known is yarn",
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

/// A number, if there is the key.
fn number(
    metadata: &HashMap<String, Value>,
    key: &str,
) -> std::result::Result<Option<f64>, String> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    Ok(Some(match value {
        Value::U8(v) => f64::from(*v),
        Value::I8(v) => f64::from(*v),
        Value::U16(v) => f64::from(*v),
        Value::I16(v) => f64::from(*v),
        Value::U32(v) => f64::from(*v),
        Value::I32(v) => f64::from(*v),
        Value::U64(v) => *v as f64,
        Value::I64(v) => *v as f64,
        Value::F32(v) => decimal(*v),
        Value::F64(v) => *v,
        other => return Err(format!("`{key}` is {}, which is no number", plain(other))),
    }))
}

/// The f64 that the decimal text of an f32 names: 1e-6 stored in 32 bits comes back as 1e-6.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The base of RoPE where a model does not say: transformers and llama.cpp take the same.
const THETA: f64 = 10_000.0;

/// What is said of a model for embeddings.
pub fn embedding_model(path: &Path) -> String {
    format!(
        "{}: an embedding model: the text that it generates means nothing, and its states are \
         averaged here, whatever pooling it was trained for",
        path.display()
    )
}

/// How a value of `config.json` has to be, so that what is computed is what is implemented.
#[derive(Clone, Copy)]
enum Only {
    /// Null, false, 0 or empty.
    Off,
    One,
    True,
}

/// Keys of `config.json` that change the computation, with the value that changes nothing.
const ONLY: &[(&str, Only)] = &[
    ("audio_config", Only::Off),
    ("attn_logit_softcapping", Only::Off),
    ("compression_config", Only::Off),
    ("dual_chunk_attention_config", Only::Off),
    ("final_logit_softcapping", Only::Off),
    ("is_causal", Only::True),
    ("mlp_bias", Only::Off),
    ("moe_intermediate_size", Only::Off),
    ("n_routed_experts", Only::Off),
    ("num_experts", Only::Off),
    ("num_local_experts", Only::Off),
    ("num_nextn_predict_layers", Only::Off),
    ("partial_rotary_factor", Only::One),
    ("quantization_config", Only::Off),
    ("rotary_pct", Only::One),
    ("sparse_attention_config", Only::Off),
    ("text_config", Only::Off),
    ("use_bidirectional_attention", Only::Off),
    ("use_mrope", Only::Off),
    ("use_sliding_window", Only::Off),
    ("vision_config", Only::Off),
];

/// Keys of `config.json` that are read, or that change nothing about what is computed.
#[rustfmt::skip]
const KNOWN: &[&str] = &[
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures",
    "attention_bias", "attention_dropout", "attn_implementation", "bos_token_id",
    "chunk_size_feed_forward", "dtype", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "head_dim", "hidden_act", "hidden_dropout", "hidden_size",
    "initializer_range", "intermediate_size", "is_decoder", "keys_to_ignore_at_inference",
    "layer_types", "max_position_embeddings", "max_window_layers", "model_type", "name",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "original_max_position_embeddings", "output_attentions", "output_hidden_states",
    "pad_token_id", "pretraining_tp", "resid_pdrop", "return_dict", "rms_norm_eps",
    "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings",
    "tokenizer_class", "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version",
    "use_cache", "vocab_size",
];

/// Beginnings of GGUF keys that change the computation unless they are 0 or false.
#[rustfmt::skip]
const ZERO: &[&str] = &[
    "attention.clamp_kqv", "attention.max_alibi_bias", "attention.scale", "attn_logit_softcapping",
    "embedding_scale", "expert_", "final_logit_softcapping", "interleave_moe",
    "leading_dense_block_count", "logit_scale", "moe_", "nextn_predict_layers", "residual_scale",
    "rope.dimension_sections", "rope.scaling.yarn_log_multiplier",
];

/// GGUF keys that are read, or that change nothing about what is computed; without the architecture.
#[rustfmt::skip]
const GGUF_KNOWN: &[&str] = &[
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "block_count",
    "context_length", "embedding_length", "feed_forward_length", "rope.freq_base",
    "rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.factor",
    "rope.scaling.finetuned", "rope.scaling.original_context_length", "rope.scaling.type",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "tensor_data_layout",
    "vocab_size",
];

/// Says what a `config.json` asks for that is not implemented, if anything.
fn refuse_others(json: &Map<String, Json>, family: Family) -> std::result::Result<(), String> {
    let models: [&str; 2] = match family {
        Family::Qwen3 => ["Qwen3ForCausalLM", "Qwen3Model"],
        Family::Qwen2 => ["Qwen2ForCausalLM", "Qwen2Model"],
    };
    let names = json.get("architectures").and_then(Json::as_array).into_iter().flatten();
    for name in names {
        if !name.as_str().is_some_and(|name| models.contains(&name)) {
            let what = if name.as_str().is_some_and(|name| name.contains("Classification")) {
                " (a classifier or reranker)"
            } else {
                ""
            };
            let name = shortened(name);
            return Err(format!("the architecture {name}{what}; known is `{}`", models[0]));
        }
    }
    for (key, only) in ONLY {
        let Some(value) = json.get(*key).filter(|value| !value.is_null()) else { continue };
        let (fits, known) = match only {
            Only::Off => (is_off(value), "none"),
            Only::One => (value.as_f64() == Some(1.0), "1"),
            Only::True => (*value == Json::Bool(true), "true"),
        };
        if *key == "quantization_config" && !fits {
            return Err("`quantization_config`; take a GGUF for quantised weights".into());
        }
        if !fits {
            return Err(format!("`{key}` {}; known is {known}", shortened(value)));
        }
    }
    if let Some(act) = json.get("hidden_act").filter(|act| !act.is_null())
        && !["silu", "swish"].contains(&act.as_str().unwrap_or_default())
    {
        return Err(format!("`hidden_act` {}; known is `silu`", shortened(act)));
    }
    if family == Family::Qwen3 && json.get("attention_bias").is_some_and(|bias| !is_off(bias)) {
        return Err("`attention_bias`, which is not known of qwen3".into());
    }
    let layers = json.get("layer_types").filter(|layers| !layers.is_null());
    let Some(layers) = layers else { return Ok(()) };
    let other = match layers.as_array() {
        Some(layers) => layers.iter().find(|kind| *kind != "full_attention"),
        None => Some(layers),
    };
    match other {
        Some(kind) => {
            let kind = shortened(kind);
            Err(format!("`layer_types` with {kind}; known is `full_attention`"))
        }
        None => Ok(()),
    }
}

fn is_off(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(on) => !on,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(all) => all.is_empty(),
        Json::Object(all) => all.is_empty(),
    }
}

/// A value in a message: a whole section of a file would hide what it says.
fn shortened(value: &Json) -> String {
    match value {
        Json::Object(_) => "(a section)".into(),
        Json::Array(_) => "(a list)".into(),
        Json::String(text) => format!("`{text}`"),
        plain => plain.to_string(),
    }
}

/// What a `config.json` says of RoPE.
struct Rope {
    theta: f64,
    scaling: Option<RopeScaling>,
    notes: Vec<String>,
}

impl Rope {
    /// Reads `rope_theta`, and `rope_scaling` or what newer files call `rope_parameters`, where
    /// theta is among the others. `context` is `max_position_embeddings`, the original context
    /// of a scaling that names none, as in transformers.
    fn from_json(
        json: &Map<String, Json>,
        context: Option<u64>,
    ) -> std::result::Result<Self, String> {
        let mut notes = Vec::new();
        let section = |name: &str| match json.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Object(section)) => Ok(Some(section)),
            Some(other) => Err(format!("`{name}` is {}, not a section", shortened(other))),
        };
        let (name, section) = match (section("rope_scaling")?, section("rope_parameters")?) {
            (Some(scaling), Some(parameters)) if scaling != parameters => {
                return Err("`rope_scaling` and `rope_parameters` differ; keep one of them".into());
            }
            (Some(section), _) => ("rope_scaling", section.clone()),
            (None, Some(section)) => ("rope_parameters", section.clone()),
            (None, None) => ("rope_scaling", Map::new()),
        };
        let mut section = section;
        section.retain(|_, value| !value.is_null());
        let number = |value: &Json| {
            value.as_f64().ok_or_else(|| format!("`rope_theta` is {value}, which is no number"))
        };
        let outer = json.get("rope_theta").filter(|theta| !theta.is_null());
        let theta = match (outer.map(number).transpose()?, section.remove("rope_theta")) {
            (Some(outer), Some(inner)) if number(&inner)? != outer => {
                let which = format!("`rope_theta` {outer} and that of `{name}`, {inner}");
                return Err(format!("{which}, differ; keep one of them"));
            }
            (Some(theta), _) => theta,
            (None, Some(inner)) => number(&inner)?,
            (None, None) => {
                notes.push(format!("no `rope_theta`: {THETA} is taken"));
                THETA
            }
        };
        type Fits = fn(&Json) -> bool;
        let ignored: [(&str, Fits); 2] = [
            ("partial_rotary_factor", |share| share.as_f64() == Some(1.0)),
            ("truncate", |on| *on == Json::Bool(true)),
        ];
        for (key, fits) in ignored {
            if let Some(value) = section.remove(key).filter(|value| !fits(value)) {
                return Err(format!("`{key}` {} of `{name}` is not known", shortened(&value)));
            }
        }
        if section.is_empty() {
            return Ok(Self { theta, scaling: None, notes });
        }
        let (old, new) = (section.remove("type"), section.remove("rope_type"));
        let kind = match (old, new) {
            (Some(old), Some(new)) if old != new => {
                return Err(format!("`type` {old} and `rope_type` {new} of `{name}` differ"));
            }
            (old, new) => new.or(old),
        };
        match kind.as_ref().map(|kind| kind.as_str().unwrap_or_default()) {
            Some("default") => return Ok(Self { theta, scaling: None, notes }),
            Some("yarn") => {}
            None => return Err(format!("`{name}` names no `rope_type`; known is yarn")),
            Some(_) => {
                let kind = shortened(&kind.unwrap_or_default());
                return Err(format!("`{name}` of type {kind} is not known; known is yarn"));
            }
        }
        const ORIGINAL: &str = "original_max_position_embeddings";
        let outer = json.get(ORIGINAL).filter(|size| !size.is_null());
        match (outer, section.get(ORIGINAL)) {
            (Some(outer), Some(inner)) if outer != inner => {
                let which = format!("`{ORIGINAL}` {outer} and that of `{name}`, {inner}");
                return Err(format!("{which}, differ; keep one of them"));
            }
            (_, Some(_)) => {}
            (Some(outer), None) => drop(section.insert(ORIGINAL.into(), outer.clone())),
            (None, None) => {
                if let Some(context) = context {
                    notes.push(format!(
                        "YaRN from an original context that is not named: {context}, the model's \
                         own, is taken"
                    ));
                    section.insert(ORIGINAL.into(), context.into());
                }
            }
        }
        section.insert("rope_type".into(), "yarn".into());
        let scaling = serde_json::from_value(Json::Object(section))
            .map_err(|error| format!("`{name}`: {error}"))?;
        Ok(Self { theta, scaling: Some(scaling), notes })
    }
}

/// The keys of `config.json` that give sizes.
#[derive(Deserialize)]
struct Keys {
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: Option<bool>,
}

#[cfg(test)]
mod tests;
