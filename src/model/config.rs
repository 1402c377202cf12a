//! A model's shape: from `config.json`, from GGUF metadata, or by name. Refuses what it does not understand rather than
//! ignoring it, because an ignored key is a model that answers wrongly at full speed.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde::Deserialize;

use crate::error::Error;
use crate::error::Result;
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

/// A named shape, for synthetic weights: layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, tied.
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

    /// From the text of a `config.json`.
    ///
    /// # Errors
    /// When it is not JSON, lacks a key, or asks for something that is not implemented.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { path: path.into(), why };
        // Read the architecture first: a foreign model should be told so, not that some key is missing.
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let architecture = value.get("model_type").and_then(|name| name.as_str());
        let family = Family::parse(architecture.ok_or_else(|| invalid("no `model_type`".into()))?)?;
        let json: Json =
            serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        let refuse =
            |what: &str| Err(Error::UnsupportedModel(format!("{what} in `{}`", path.display())));
        if json.use_sliding_window {
            return refuse("`use_sliding_window`");
        }
        if json.hidden_act.as_deref().is_some_and(|act| act != "silu") {
            return refuse("a `hidden_act` other than `silu`");
        }
        if json.quantization_config.is_some() {
            return refuse("`quantization_config` (use a GGUF for quantised weights)");
        }
        if family == Family::Qwen3 && json.attention_bias {
            return refuse("`attention_bias` of qwen3");
        }
        let parameters = json.rope_parameters.unwrap_or_default();
        let rope_theta = json.rope_theta.or(parameters.theta()).unwrap_or(1e6);
        let rope_scaling = scaling(json.rope_scaling.or(parameters.scaling())).map_err(invalid)?;
        Self {
            family,
            layers: json.num_hidden_layers,
            hidden: json.hidden_size,
            intermediate: json.intermediate_size,
            heads: json.num_attention_heads,
            kv_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
            head_dim: json.head_dim.unwrap_or(json.hidden_size / json.num_attention_heads.max(1)),
            vocab: json.vocab_size,
            context: json.max_position_embeddings,
            rope_theta,
            rms_eps: json.rms_norm_eps,
            tied: json.tie_word_embeddings,
            rope_scaling: None,
        }
        .scaled(rope_scaling)
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

    /// From GGUF metadata; `vocab` is the number of rows of the embedding, `tied` says that there is no output matrix.
    ///
    /// # Errors
    /// When a key is missing or has another type, or the architecture or the scaling is not known.
    pub fn from_gguf(
        path: &Path,
        metadata: &HashMap<String, Value>,
        vocab: usize,
        tied: bool,
    ) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { path: path.into(), why };
        let architecture = match metadata.get("general.architecture") {
            Some(Value::String(name)) => name.as_str(),
            _ => return Err(invalid("no `general.architecture`".into())),
        };
        let family = Family::parse(architecture)?;
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |name: &str| number(metadata, &key(name));
        let required = |name: &str| {
            number(name).ok_or_else(|| invalid(format!("no number under the key `{}`", key(name))))
        };
        let count = |name: &str| required(name).map(|value| value as usize);
        let (heads, hidden) = (count("attention.head_count")?, count("embedding_length")?);
        let rope_scaling = match metadata.get(&key("rope.scaling.type")) {
            None => None,
            Some(Value::String(kind)) if kind == "none" => None,
            Some(Value::String(kind)) if kind == "yarn" => {
                let factor = required("rope.scaling.factor")?;
                // GGUF stores a multiplier on YaRN's own factor, config.json the product.
                let own = 0.1 * factor.ln() + 1.0;
                Some(RopeScaling {
                    rope_type: "yarn".into(),
                    factor,
                    original_max_position_embeddings: count(
                        "rope.scaling.original_context_length",
                    )?,
                    attention_factor: number("rope.scaling.attn_factor").map(|times| times * own),
                    beta_fast: number("rope.scaling.yarn_beta_fast"),
                    beta_slow: number("rope.scaling.yarn_beta_slow"),
                })
            }
            Some(kind) => {
                return Err(Error::UnsupportedModel(format!(
                    "`{}` {kind:?}; known is yarn",
                    key("rope.scaling.type")
                )));
            }
        };
        Self {
            family,
            layers: count("block_count")?,
            hidden,
            intermediate: count("feed_forward_length")?,
            heads,
            kv_heads: number("attention.head_count_kv").map_or(heads, |value| value as usize),
            head_dim: number("attention.key_length")
                .map_or(hidden / heads.max(1), |value| value as usize),
            vocab,
            context: count("context_length")?,
            rope_theta: number("rope.freq_base").unwrap_or(1e6),
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

    fn checked(self) -> std::result::Result<Self, String> {
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
        if let Some(scaling) = &self.rope_scaling {
            check_scaling(scaling)?;
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.rope_theta) || !positive(self.rms_eps) {
            return Err(format!(
                "rope theta {} and rms epsilon {} must be positive",
                self.rope_theta, self.rms_eps
            ));
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
    Ok(())
}

fn number(metadata: &HashMap<String, Value>, key: &str) -> Option<f64> {
    Some(match metadata.get(key)? {
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
        _ => return None,
    })
}

/// The f64 that the decimal text of an f32 names: 1e-6 stored in 32 bits comes back as 1e-6.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn scaling(value: Option<serde_json::Value>) -> std::result::Result<Option<RopeScaling>, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let kind =
        value.get("rope_type").or(value.get("type")).and_then(|kind| kind.as_str()).unwrap_or("");
    match kind {
        "default" => Ok(None),
        "yarn" => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| format!("`rope_scaling`: {error}")),
        other => Err(format!("`rope_scaling` of type `{other}` is not known; known is yarn")),
    }
}

#[derive(Deserialize)]
struct Json {
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<RopeParameters>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<serde_json::Value>,
}

/// Newer files keep theta and scaling together.
#[derive(Default, Deserialize)]
struct RopeParameters(serde_json::Map<String, serde_json::Value>);

impl RopeParameters {
    fn theta(&self) -> Option<f64> {
        self.0.get("rope_theta").and_then(|theta| theta.as_f64())
    }

    fn scaling(mut self) -> Option<serde_json::Value> {
        self.0.remove("rope_theta");
        (!self.0.is_empty()).then_some(serde_json::Value::Object(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::from_json(Path::new("config.json"), text)
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, millions) in [
            ("qwen3-0.6b", 596.0),
            ("qwen3-1.7b", 1721.0),
            ("qwen3-4b", 4022.0),
            ("qwen3-8b", 8191.0),
            ("qwen3-14b", 14768.0),
            ("qwen3-32b", 32762.0),
            ("qwen2.5-0.5b", 494.0),
            ("qwen2.5-1.5b", 1544.0),
            ("qwen2.5-7b", 7616.0),
            ("qwen2.5-32b", 32764.0),
        ] {
            let count = Config::named(name).unwrap().parameters() as f64 / 1e6;
            assert!((count - millions).abs() < 0.6, "{name}: {count}");
        }
    }

    #[test]
    fn a_config_survives_writing_and_reading() {
        for (name, _, _, _) in SHAPES {
            let config = Config::named(name).unwrap();
            assert_eq!(parse(&config.to_json()).unwrap(), config);
        }
        let yarn = RopeScaling {
            rope_type: "yarn".into(),
            factor: 4.0,
            original_max_position_embeddings: 32768,
            attention_factor: None,
            beta_fast: None,
            beta_slow: None,
        };
        let config = Config::named("mini").unwrap().scaled(Some(yarn));
        assert_eq!(config.context, 131072);
        assert_eq!(parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let json = Config::named("nano").unwrap().to_json();
        for (from, to, says) in [
            (
                "\"model_type\": \"qwen3\"",
                "\"model_type\": \"llama\"",
                "architecture `llama`; known are qwen3 and qwen2",
            ),
            ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "`hidden_act`"),
            (
                "\"use_sliding_window\": false",
                "\"use_sliding_window\": true",
                "`use_sliding_window`",
            ),
            (
                "\"num_key_value_heads\": 2",
                "\"num_key_value_heads\": 3",
                "4 heads cannot share 3 key-value heads evenly",
            ),
            (
                "\"num_hidden_layers\": 2",
                "\"num_hidden_layers\": 99999999999",
                "layers is 99999999999",
            ),
            (
                "\"attention_bias\": false",
                "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}",
                "type `linear`",
            ),
            (
                "\"attention_bias\": false",
                "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.0, \"original_max_position_embeddings\": 9, \"twist\": 1}",
                "unknown field `twist`",
            ),
        ] {
            assert!(json.contains(from), "{from}");
            let error = parse(&json.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
