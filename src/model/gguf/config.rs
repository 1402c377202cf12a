//! A model's shape from GGUF metadata. Refuses keys that change the computation and are not
//! implemented: ignoring them would compute another model.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::value::{Metadata, display, number, unsigned};
use crate::error::{Error, Result};
use crate::model::config::{
    Config, DEFAULT_ROPE_THETA, Family, embedding_model_note, ignored_keys_note, yarn_context_note,
};
use crate::settings::RopeScaling;

/// Prefixes of keys that change the computation unless they are 0 or false; without the
/// architecture.
#[rustfmt::skip]
const MUST_BE_ZERO: &[&str] = &[
    "attention.clamp_kqv", "attention.max_alibi_bias", "attention.scale", "attn_logit_softcapping",
    "embedding_scale", "expert_", "final_logit_softcapping", "interleave_moe",
    "leading_dense_block_count", "logit_scale", "moe_", "nextn_predict_layers", "residual_scale",
    "rope.dimension_sections", "rope.scaling.yarn_log_multiplier",
];

/// ModelKeys that are read, or do not change the computation; without the architecture.
#[rustfmt::skip]
const KNOWN_KEYS: &[&str] = &[
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "block_count",
    "context_length", "embedding_length", "feed_forward_length", "rope.freq_base",
    "rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.factor",
    "rope.scaling.finetuned", "rope.scaling.original_context_length", "rope.scaling.type",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "tensor_data_layout",
    "vocab_size",
];

/// The keys of one architecture.
struct ModelKeys<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl ModelKeys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn invalid(&self, why: String) -> Error {
        Error::invalid(self.path, why)
    }

    fn unsupported(&self, key: &str, value: &Value, supported: &str) -> Error {
        let (value, path) = (display(value), self.path.display());
        Error::UnsupportedModel(format!("`{path}` has `{key}` {value}; supported: {supported}"))
    }

    fn missing(&self, name: &str) -> Error {
        self.invalid(format!("no number under the key `{}`", self.key(name)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        number(self.metadata, &self.key(name)).map_err(|why| self.invalid(why))
    }

    fn unsigned(&self, name: &str) -> Result<Option<u64>> {
        unsigned(self.metadata, &self.key(name)).map_err(|why| self.invalid(why))
    }

    fn required_size(&self, name: &str) -> Result<usize> {
        self.unsigned(name)?.map(|size| size as usize).ok_or_else(|| self.missing(name))
    }
}

/// The shape of a model. `vocab` is the number of rows of the embedding; `tied` says that there is
/// no output matrix, which is how GGUF stores tied embeddings. `notes` receives what was assumed or
/// ignored.
///
/// # Errors
/// When a key is missing, of another type or not supported.
pub(super) fn read(
    path: &Path,
    metadata: &Metadata,
    vocab: usize,
    tied: bool,
    notes: &mut Vec<String>,
) -> Result<Config> {
    let architecture = match metadata.get("general.architecture") {
        Some(Value::String(name)) => name.as_str(),
        _ => "",
    };
    let keys = ModelKeys { path, metadata, architecture };
    match metadata.get("general.type") {
        None => {}
        Some(Value::String(kind)) if kind == "model" => {}
        Some(kind) => return Err(keys.unsupported("general.type", kind, "`model`")),
    }
    if architecture.is_empty() {
        return Err(keys.invalid("no `general.architecture`".into()));
    }
    let family = Family::parse(architecture)?;
    let heads = keys.required_size("attention.head_count")?;
    let hidden = keys.required_size("embedding_length")?;
    let context = keys.required_size("context_length")?;
    let head_dim =
        keys.unsigned("attention.key_length")?.map_or(hidden / heads.max(1), |size| size as usize);
    check_keys(&keys, context, head_dim, notes)?;
    if tied {
        notes.push(format!(
            "{}: no `output.weight`, so the embedding is the output matrix too",
            path.display()
        ));
    }
    let rope_theta = match keys.number("rope.freq_base")? {
        Some(theta) => theta,
        None => {
            let name = keys.key("rope.freq_base");
            notes.push(format!("{}: no `{name}`: using {DEFAULT_ROPE_THETA}", path.display()));
            DEFAULT_ROPE_THETA
        }
    };
    let scaling = rope_scaling(&keys, context, notes)?;
    let kv_heads = keys.unsigned("attention.head_count_kv")?;
    let rms_eps = "attention.layer_norm_rms_epsilon";
    Config {
        family,
        layers: keys.required_size("block_count")?,
        hidden,
        intermediate: keys.required_size("feed_forward_length")?,
        heads,
        kv_heads: kv_heads.map_or(heads, |size| size as usize),
        head_dim,
        vocab,
        context,
        rope_theta,
        rms_eps: keys.number(rms_eps)?.ok_or_else(|| keys.missing(rms_eps))?,
        tied,
        rope_scaling: None,
    }
    .with_rope_scaling(scaling)
    .validate()
    .map_err(|why| keys.invalid(why))
}

/// Refuses keys of the architecture that change the computation; notes unknown ones.
fn check_keys(
    keys: &ModelKeys<'_>,
    context: usize,
    head_dim: usize,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut unknown = Vec::new();
    let prefix = keys.key("");
    let mut own: Vec<(&str, &Value)> = keys
        .metadata
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)))
        .collect();
    own.sort_by_key(|(name, _)| *name);
    for (name, value) in own {
        let is = |expected: f64| number(keys.metadata, &keys.key(name)) == Ok(Some(expected));
        let (fits, supported) = match name {
            "attention.value_length" | "rope.dimension_count" => {
                (is(head_dim as f64), format!("{head_dim}, the size of a head"))
            }
            "attention.causal" => (matches!(value, Value::Bool(true)), "true".into()),
            "attention.sliding_window" => {
                let size = keys.unsigned(name)?.unwrap_or(0);
                (size == 0 || size >= context as u64, "none".into())
            }
            "pooling_type" => match keys.unsigned(name)? {
                Some(0) => (true, String::new()),
                Some(1..=3) => {
                    notes.push(embedding_model_note(keys.path));
                    (true, String::new())
                }
                _ => (false, "0 to 3; this is a reranker with its own head".into()),
            },
            name if name.starts_with("classifier.") => {
                (false, "none; this is a reranker with its own head".into())
            }
            "rope.scaling.yarn_ext_factor" | "rope.scaling.yarn_attn_factor" => {
                (is(1.0), "1".into())
            }
            name if MUST_BE_ZERO.iter().any(|prefix| name.starts_with(prefix)) => {
                (is(0.0) || matches!(value, Value::Bool(false)), "0".into())
            }
            name => {
                if !KNOWN_KEYS.contains(&name) {
                    unknown.push(keys.key(name));
                }
                (true, String::new())
            }
        };
        if !fits {
            return Err(keys.unsupported(&keys.key(name), value, &supported));
        }
    }
    notes.extend(ignored_keys_note(keys.path, &unknown));
    Ok(())
}

/// YaRN, if the metadata ask for it.
fn rope_scaling(
    keys: &ModelKeys<'_>,
    context: usize,
    notes: &mut Vec<String>,
) -> Result<Option<RopeScaling>> {
    // In older files a factor without a type means linear scaling.
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    match keys.metadata.get(&keys.key("rope.scaling.type")) {
        Some(Value::String(kind)) if kind == "none" => Ok(None),
        Some(Value::String(kind)) if kind == "yarn" => {
            let factor = factor.ok_or_else(|| keys.missing("rope.scaling.factor"))?;
            let original = keys.unsigned("rope.scaling.original_context_length")?;
            if original.is_none() {
                let note = yarn_context_note(context);
                notes.push(format!("{}: {note}", keys.path.display()));
            }
            // GGUF stores a multiplier on YaRN's own factor, config.json their product.
            let yarn_factor = 0.1 * factor.ln() + 1.0;
            let multiplier = keys.number("rope.scaling.attn_factor")?;
            Ok(Some(RopeScaling {
                rope_type: "yarn".into(),
                factor,
                original_max_position_embeddings: original.map_or(context, |size| size as usize),
                attention_factor: multiplier.map(|multiplier| multiplier * yarn_factor),
                beta_fast: keys.number("rope.scaling.yarn_beta_fast")?,
                beta_slow: keys.number("rope.scaling.yarn_beta_slow")?,
            }))
        }
        None if factor.is_none_or(|factor| factor == 0.0 || factor == 1.0) => Ok(None),
        Some(Value::String(kind)) if kind == "linear" && factor.is_none_or(|f| f == 1.0) => {
            Ok(None)
        }
        None => {
            let (key, path) = (keys.key("rope.scaling.factor"), keys.path.display());
            Err(Error::UnsupportedModel(format!(
                "`{path}` has `{key}` without a type, which means linear; supported: yarn"
            )))
        }
        Some(kind) => Err(keys.unsupported(&keys.key("rope.scaling.type"), kind, "`yarn`")),
    }
}

#[cfg(test)]
mod tests;
