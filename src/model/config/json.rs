//! A model's shape from `config.json`. Refuses keys that change the computation and are not
//! implemented: ignoring them would compute another model.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{Config, DEFAULT_ROPE_THETA, Family, ignored_keys_note, yarn_context_note};
use crate::error::{Error, Result};
use crate::settings::RopeScaling;

/// The value that a key of `config.json` must have.
#[derive(Clone, Copy)]
enum Required {
    /// Null, false, 0 or empty.
    Off,
    One,
    True,
}

/// ConfigJson that change the computation, with the value for which they do not.
const REQUIRED_VALUES: &[(&str, Required)] = &[
    ("audio_config", Required::Off),
    ("attn_logit_softcapping", Required::Off),
    ("compression_config", Required::Off),
    ("dual_chunk_attention_config", Required::Off),
    ("final_logit_softcapping", Required::Off),
    ("is_causal", Required::True),
    ("mlp_bias", Required::Off),
    ("moe_intermediate_size", Required::Off),
    ("n_routed_experts", Required::Off),
    ("num_experts", Required::Off),
    ("num_local_experts", Required::Off),
    ("num_nextn_predict_layers", Required::Off),
    ("partial_rotary_factor", Required::One),
    ("quantization_config", Required::Off),
    ("rotary_pct", Required::One),
    ("sparse_attention_config", Required::Off),
    ("text_config", Required::Off),
    ("use_bidirectional_attention", Required::Off),
    ("use_mrope", Required::Off),
    ("use_sliding_window", Required::Off),
    ("vision_config", Required::Off),
];

/// ConfigJson that are read, or do not change the computation.
#[rustfmt::skip]
const KNOWN_KEYS: &[&str] = &[
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

impl Config {
    /// The shape in a `config.json`. `notes` receives what was assumed or ignored.
    ///
    /// # Errors
    /// When it is not JSON, lacks a key, or needs something that is not supported.
    pub fn from_json(path: &Path, text: &str, notes: &mut Vec<String>) -> Result<Self> {
        let invalid = |why: String| Error::invalid(path, why);
        // The architecture first: for a foreign model that is the error, not some missing key.
        let value: Map<String, Json> =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let architecture = value.get("model_type").and_then(|name| name.as_str());
        let family = Family::parse(architecture.ok_or_else(|| invalid("no `model_type`".into()))?)?;
        check_keys(&value, family)
            .map_err(|what| Error::UnsupportedModel(format!("`{}` has {what}", path.display())))?;
        let unknown: Vec<String> = value
            .keys()
            .filter(|key| !KNOWN_KEYS.contains(&key.as_str()))
            .filter(|key| !REQUIRED_VALUES.iter().any(|(required, _)| required == key))
            .cloned()
            .collect();
        notes.extend(ignored_keys_note(path, &unknown));
        let context = value.get("max_position_embeddings").and_then(Json::as_u64);
        let rope = RopeKeys::from_json(&value, context).map_err(invalid)?;
        notes.extend(rope.notes.iter().map(|note| format!("{}: {note}", path.display())));
        // As in transformers: without the key, 128 for Qwen3; null means hidden size / heads.
        let divide = value.contains_key("head_dim") || family == Family::Qwen2;
        let json: ConfigJson = serde_json::from_value(Json::Object(value))
            .map_err(|error| invalid(error.to_string()))?;
        let quotient = json.hidden_size / json.num_attention_heads.max(1);
        let head_dim = json.head_dim.unwrap_or(if divide { quotient } else { 128 });
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
        .with_rope_scaling(rope.scaling)
        .validate()
        .map_err(invalid)
    }
}

/// Refuses keys that change the computation; the error is the rest of a sentence.
fn check_keys(json: &Map<String, Json>, family: Family) -> std::result::Result<(), String> {
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
            let name = display(name);
            return Err(format!("the architecture {name}{what}; supported: `{}`", models[0]));
        }
    }
    for (key, required) in REQUIRED_VALUES {
        let Some(value) = json.get(*key).filter(|value| !value.is_null()) else { continue };
        let (fits, supported) = match required {
            Required::Off => (is_off(value), "none"),
            Required::One => (value.as_f64() == Some(1.0), "1"),
            Required::True => (*value == Json::Bool(true), "true"),
        };
        if *key == "quantization_config" && !fits {
            return Err("`quantization_config`; use a GGUF file for quantized weights".into());
        }
        if !fits {
            return Err(format!("`{key}` {}; supported: {supported}", display(value)));
        }
    }
    if let Some(act) = json.get("hidden_act").filter(|act| !act.is_null())
        && !["silu", "swish"].contains(&act.as_str().unwrap_or_default())
    {
        return Err(format!("`hidden_act` {}; supported: `silu`", display(act)));
    }
    if family == Family::Qwen3 && json.get("attention_bias").is_some_and(|bias| !is_off(bias)) {
        return Err("`attention_bias`, which is not supported for qwen3".into());
    }
    let layers = json.get("layer_types").filter(|layers| !layers.is_null());
    let Some(layers) = layers else { return Ok(()) };
    let other = match layers.as_array() {
        Some(layers) => layers.iter().find(|kind| *kind != "full_attention"),
        None => Some(layers),
    };
    match other {
        Some(kind) => {
            let kind = display(kind);
            Err(format!("`layer_types` with {kind}; supported: `full_attention`"))
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

/// A value in a message, short.
fn display(value: &Json) -> String {
    match value {
        Json::Object(_) => "(a section)".into(),
        Json::Array(_) => "(a list)".into(),
        Json::String(text) => format!("`{text}`"),
        scalar => scalar.to_string(),
    }
}

/// The RoPE settings of a `config.json`.
struct RopeKeys {
    theta: f64,
    scaling: Option<RopeScaling>,
    notes: Vec<String>,
}

impl RopeKeys {
    /// Reads `rope_theta`, and `rope_scaling` or its newer form `rope_parameters`, which has
    /// `rope_theta` too. `context` is `max_position_embeddings`: the default of YaRN's original
    /// context, as in transformers.
    fn from_json(
        json: &Map<String, Json>,
        context: Option<u64>,
    ) -> std::result::Result<Self, String> {
        let mut notes = Vec::new();
        let section = |name: &str| match json.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Object(section)) => Ok(Some(section)),
            Some(other) => Err(format!("`{name}` is {}, not a section", display(other))),
        };
        let (name, mut section) = match (section("rope_scaling")?, section("rope_parameters")?) {
            (Some(scaling), Some(parameters)) if scaling != parameters => {
                return Err("`rope_scaling` and `rope_parameters` differ; keep one of them".into());
            }
            (Some(section), _) => ("rope_scaling", section.clone()),
            (None, Some(section)) => ("rope_parameters", section.clone()),
            (None, None) => ("rope_scaling", Map::new()),
        };
        section.retain(|_, value| !value.is_null());
        // A number of the section or beside it.
        let number = |key: &str, inner: Option<Json>| {
            let outer = json.get(key).filter(|outer| !outer.is_null());
            match (outer, &inner) {
                (Some(outer), Some(inner)) if outer.as_f64() != inner.as_f64() => Err(format!(
                    "`{key}` {outer} and that of `{name}`, {inner}, differ; keep one of them"
                )),
                _ => match inner.as_ref().or(outer) {
                    Some(value) if !value.is_number() => {
                        Err(format!("`{key}` is {value}, not a number"))
                    }
                    found => Ok(found.cloned()),
                },
            }
        };
        let theta = number("rope_theta", section.remove("rope_theta"))?;
        let theta = theta.and_then(|theta| theta.as_f64()).unwrap_or_else(|| {
            notes.push(format!("no `rope_theta`: using {DEFAULT_ROPE_THETA}"));
            DEFAULT_ROPE_THETA
        });
        type Fits = fn(&Json) -> bool;
        let neutral: [(&str, Fits); 2] = [
            ("partial_rotary_factor", |share| share.as_f64() == Some(1.0)),
            ("truncate", |on| *on == Json::Bool(true)),
        ];
        for (key, fits) in neutral {
            if let Some(value) = section.remove(key).filter(|value| !fits(value)) {
                return Err(format!("`{key}` {} of `{name}` is not supported", display(&value)));
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
            None => return Err(format!("`{name}` has no `rope_type`; supported: yarn")),
            Some(_) => {
                let kind = display(&kind.unwrap_or_default());
                return Err(format!("`{name}` of type {kind} is not supported; supported: yarn"));
            }
        }
        const ORIGINAL: &str = "original_max_position_embeddings";
        let original = number(ORIGINAL, section.remove(ORIGINAL))?.or_else(|| {
            notes.push(yarn_context_note(context?));
            context.map(Json::from)
        });
        section.extend(original.map(|original| (ORIGINAL.into(), original)));
        section.insert("rope_type".into(), "yarn".into());
        let scaling = serde_json::from_value(Json::Object(section))
            .map_err(|error| format!("`{name}`: {error}"))?;
        Ok(Self { theta, scaling: Some(scaling), notes })
    }
}

/// The keys of sizes and constants.
#[derive(Deserialize)]
struct ConfigJson {
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
