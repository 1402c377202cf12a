//! Shapes by name, from `config.json` and from GGUF keys: what is read, assumed and refused.

use super::*;
use crate::model::fuzz;

fn parse(text: &str) -> Result<Config> {
    Config::from_json(Path::new("config.json"), text, &mut Vec::new())
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
        ("\"use_sliding_window\": false", "\"use_sliding_window\": true", "`use_sliding_window`"),
        (
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 3",
            "4 heads cannot share 3 key-value heads evenly",
        ),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 99999999999", "layers is 99999999999"),
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

/// A nano of Qwen3 with further keys before the others, which stand where a key is given twice;
/// and what is noted.
fn with(keys: &str) -> (Result<Config>, Vec<String>) {
    let json = Config::named("nano").unwrap().to_json();
    let mut value: Map<String, Json> = serde_json::from_str(&json).unwrap();
    let more: Map<String, Json> = serde_json::from_str(&format!("{{{keys}}}")).unwrap();
    value.extend(more);
    let mut notes = Vec::new();
    let text = Json::Object(value).to_string();
    (Config::from_json(Path::new("config.json"), &text, &mut notes), notes)
}

#[test]
fn what_changes_the_computation_is_refused_and_its_neutral_value_is_not() {
    let full = r#""layer_types": ["full_attention", "full_attention"]"#;
    for neutral in [
        r#""partial_rotary_factor": 1.0"#,
        r#""partial_rotary_factor": null"#,
        r#""is_causal": true"#,
        full,
        r#""layer_types": null"#,
        r#""architectures": ["Qwen3Model"]"#,
        r#""architectures": null"#,
        r#""hidden_act": "swish""#,
        r#""num_experts": 0"#,
        r#""use_mrope": false"#,
        r#""quantization_config": null"#,
        r#""unsloth_fixed": true, "torch_dtype": "bfloat16", "pad_token_id": 1"#,
    ] {
        let (config, notes) = with(neutral);
        assert_eq!(config.unwrap(), Config::named("nano").unwrap(), "{neutral}");
        assert!(notes.is_empty(), "{notes:?}");
    }
    for (key, says) in [
        (r#""partial_rotary_factor": 0.5"#, "`partial_rotary_factor` 0.5; known is 1"),
        (r#""is_causal": false"#, "`is_causal` false; known is true"),
        (
            r#""layer_types": ["full_attention", "sliding_attention"]"#,
            "`layer_types` with `sliding_attention`; known is `full_attention`",
        ),
        (r#""use_sliding_window": true"#, "`use_sliding_window` true; known is none"),
        (
            r#""architectures": ["Qwen3ForSequenceClassification"]"#,
            "architecture `Qwen3ForSequenceClassification` (a classifier or reranker); known",
        ),
        (
            r#""architectures": ["Qwen2ForCausalLM"]"#,
            "the architecture `Qwen2ForCausalLM`; known is `Qwen3ForCausalLM`",
        ),
        (
            r#""dual_chunk_attention_config": {"chunk_size": 262144}"#,
            "`dual_chunk_attention_config` (a section); known is none",
        ),
        (r#""hidden_act": "gelu""#, "`hidden_act` `gelu`; known is `silu`"),
        (r#""attention_bias": true"#, "`attention_bias`, which is not known of qwen3"),
        (r#""quantization_config": {"quant_method": "gptq"}"#, "take a GGUF for quantised"),
        (r#""num_experts": 128"#, "`num_experts` 128; known is none"),
        (r#""use_mrope": true"#, "`use_mrope` true; known is none"),
        (r#""vision_config": {"depth": 32}"#, "`vision_config` (a section); known is none"),
    ] {
        let error = with(key).0.unwrap_err().to_string();
        assert!(error.starts_with("unsupported model: `config.json` has "), "{error}");
        assert!(error.contains(says), "{error}");
    }
    let (config, notes) = with(r#""twist": 3, "shout": [1]"#);
    config.unwrap();
    assert_eq!(notes, ["config.json: not known and left out: `shout`, `twist`"]);
}

#[test]
fn rope_is_read_under_every_name_that_it_has() {
    let yarn = |original| RopeScaling {
        rope_type: "yarn".into(),
        factor: 4.0,
        original_max_position_embeddings: original,
        attention_factor: None,
        beta_fast: None,
        beta_slow: None,
    };
    let size = r#""factor": 4.0, "original_max_position_embeddings": 32768"#;
    for (keys, original) in [
        (format!(r#""rope_scaling": {{"type": "yarn", {size}}}"#), 32768),
        (format!(r#""rope_scaling": {{"rope_type": "yarn", {size}}}"#), 32768),
        (format!(r#""rope_scaling": {{"type": "yarn", "rope_type": "yarn", {size}}}"#), 32768),
        (
            format!(
                r#""rope_theta": null, "rope_parameters": {{"type": "yarn",
                   "rope_type": "yarn", "rope_theta": 1000000, "truncate": true, {size}}}"#
            ),
            32768,
        ),
        (r#""rope_scaling": {"type": "yarn", "factor": 4}"#.into(), 40960),
        (
            r#""rope_scaling": {"type": "yarn", "factor": 4},
               "original_max_position_embeddings": 32768"#
                .into(),
            32768,
        ),
    ] {
        let (config, notes) = with(&keys);
        let config = config.unwrap();
        assert_eq!(config.rope_scaling, Some(yarn(original)), "{keys}");
        assert_eq!((config.rope_theta, config.context), (1e6, 4 * original));
        let said = "config.json: YaRN from an original context that is not named: 40960, the \
                    model's own, is taken";
        assert_eq!(notes.first().is_some_and(|note| note == said), original == 40960);
    }
    for keys in [
        r#""rope_scaling": {}"#,
        r#""rope_scaling": {"rope_type": "default"}"#,
        r#""rope_theta": null, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}"#,
        r#""rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 1.0}"#,
    ] {
        assert_eq!(with(keys).0.unwrap(), Config::named("nano").unwrap(), "{keys}");
    }
    let (config, notes) = with(r#""rope_theta": null"#);
    assert_eq!(config.unwrap().rope_theta, 10_000.0);
    assert_eq!(notes, ["config.json: no `rope_theta`: 10000 is taken"]);
    for (keys, says) in [
        (
            r#""rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 4}"#,
            "`type` \"linear\" and `rope_type` \"yarn\" of `rope_scaling` differ",
        ),
        (
            r#""rope_scaling": {"type": "yarn", "factor": 2},
               "rope_parameters": {"type": "yarn", "factor": 4}"#,
            "`rope_scaling` and `rope_parameters` differ; keep one of them",
        ),
        (
            r#""rope_parameters": {"rope_theta": 5e6}"#,
            "`rope_theta` 1000000 and that of `rope_parameters`, 5000000.0, differ",
        ),
        (
            r#""rope_scaling": {"type": "yarn", "factor": 4,
               "original_max_position_embeddings": 1},
               "original_max_position_embeddings": 2"#,
            "`original_max_position_embeddings` 2 and that of `rope_scaling`, 1, differ",
        ),
        (r#""rope_scaling": {"factor": 4}"#, "`rope_scaling` names no `rope_type`"),
        (r#""rope_scaling": {"type": "yarn"}"#, "missing field `factor`"),
        (r#""rope_scaling": {"type": "mrope", "mrope_section": [1]}"#, "of type `mrope` is not"),
        (r#""rope_scaling": 4"#, "`rope_scaling` is 4, not a section"),
        (
            r#""rope_parameters": {"partial_rotary_factor": 0.5}"#,
            "`partial_rotary_factor` 0.5 of `rope_parameters` is not known",
        ),
        (r#""rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": -1}"#, "`beta_fast` of"),
        (
            r#""rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": 0}"#,
            "`attention_factor` of rope scaling is 0; it must be positive and finite",
        ),
        (r#""rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0.5}"#, "below `beta_slow`"),
        (r#""rope_theta": -5"#, "the RoPE base is -5; it must be above 1"),
        (r#""rope_theta": 1"#, "the RoPE base is 1; it must be above 1"),
        (r#""rms_norm_eps": 0"#, "the epsilon of RMSNorm is 0; it must be between 0 and 1"),
    ] {
        let error = with(keys).0.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_head_that_is_not_named_has_the_size_that_transformers_takes() {
    let mut value: Map<String, Json> =
        serde_json::from_str(&Config::named("nano").unwrap().to_json()).unwrap();
    value.insert("head_dim".into(), Json::Null);
    assert_eq!(parse(&Json::Object(value.clone()).to_string()).unwrap().head_dim, 64);
    value.remove("head_dim");
    assert_eq!(parse(&Json::Object(value.clone()).to_string()).unwrap().head_dim, 128);
    value.insert("model_type".into(), "qwen2".into());
    value.insert("architectures".into(), Json::Null);
    assert_eq!(parse(&Json::Object(value).to_string()).unwrap().head_dim, 64);
}

/// A nano of Qwen3 as GGUF keys, with some of them changed, or left out where they are null; and
/// what is noted.
fn gguf(keys: &[(&str, Option<Value>)]) -> (Result<Config>, Vec<String>) {
    let config = Config::named("nano").unwrap();
    let mut metadata: HashMap<String, Value> =
        crate::model::gguf::shape_metadata(&config, "nano").into_iter().collect();
    for (key, value) in keys {
        match value {
            Some(value) => drop(metadata.insert((*key).into(), value.clone())),
            None => drop(metadata.remove(*key)),
        }
    }
    let mut notes = Vec::new();
    let config = Config::from_gguf(Path::new("x.gguf"), &metadata, config.vocab, false, &mut notes);
    (config, notes)
}

#[test]
fn gguf_keys_that_change_the_computation_are_refused_and_neutral_ones_are_not() {
    let text = |text: &str| Some(Value::String(text.into()));
    let nano = Config { tied: false, ..Config::named("nano").unwrap() };
    for (key, value) in [
        ("qwen3.attention.sliding_window", Some(Value::U32(0))),
        ("qwen3.attention.sliding_window", Some(Value::U32(40960))),
        ("qwen3.rope.dimension_count", Some(Value::U32(64))),
        ("qwen3.attention.causal", Some(Value::Bool(true))),
        ("qwen3.pooling_type", Some(Value::U32(0))),
        ("qwen3.expert_count", Some(Value::U32(0))),
        ("qwen3.rope.scaling.type", text("none")),
        ("qwen3.rope.scaling.factor", Some(Value::F32(1.0))),
        ("qwen3.vocab_size", Some(Value::U32(3072))),
        ("general.type", text("model")),
        ("general.file_type", Some(Value::U32(7))),
        ("quantize.imatrix.file", text("x.dat")),
        ("qwen3.block_count", Some(Value::U64(2))),
    ] {
        let (config, notes) = gguf(&[(key, value)]);
        assert_eq!(config.unwrap(), nano, "{key}");
        assert!(notes.is_empty(), "{notes:?}");
    }
    for (key, value, says) in [
        ("qwen3.attention.sliding_window", Value::U32(512), "512; known is none"),
        ("qwen3.rope.dimension_count", Value::U32(32), "32; known is 64, the size of a head"),
        ("qwen3.attention.value_length", Value::U32(32), "32; known is 64, the size of a head"),
        ("qwen3.attention.causal", Value::Bool(false), "false; known is true"),
        ("qwen3.pooling_type", Value::U32(4), "4; known is 0 to 3: this is a reranker"),
        (
            "qwen3.classifier.output_labels",
            Value::Array(Vec::new()),
            "an array; known is none: this is a reranker",
        ),
        ("qwen3.expert_count", Value::U32(128), "128; known is 0"),
        ("qwen3.attention.scale", Value::F32(0.5), "0.5; known is 0"),
        ("qwen3.rope.scaling.yarn_ext_factor", Value::F32(0.0), "0; known is 1"),
        ("qwen3.rope.scaling.type", Value::String("longrope".into()), "`longrope`; known is"),
        ("general.type", Value::String("mmproj".into()), "`mmproj`; known is `model`"),
    ] {
        let error = gguf(&[(key, Some(value))]).0.unwrap_err().to_string();
        let start = format!("unsupported model: `x.gguf` has `{key}` ");
        assert!(error.starts_with(&start) && error.contains(says), "{error}");
    }
    for (key, value, says) in [
        ("qwen3.rope.freq_base", Value::F32(f32::NAN), "the RoPE base is NaN"),
        ("qwen3.rope.freq_base", Value::F32(0.0), "the RoPE base is 0; it must be above 1"),
        ("qwen3.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY), "RMSNorm is inf"),
        ("qwen3.block_count", Value::I32(-1), "`qwen3.block_count` is -1, which is no whole"),
        ("qwen3.block_count", Value::F32(2.0), "`qwen3.block_count` is 2, which is no whole"),
        ("qwen3.attention.head_count_kv", Value::Array(Vec::new()), "kv` is an array, which"),
        ("qwen3.rope.scaling.factor", Value::F32(4.0), "without a type, which is linear"),
    ] {
        let error = gguf(&[(key, Some(value))]).0.unwrap_err().to_string();
        assert!(error.contains("x.gguf") && error.contains(says), "{error}");
    }
    let (config, notes) = gguf(&[("qwen3.twist", Some(Value::U8(1)))]);
    config.unwrap();
    assert_eq!(notes, ["x.gguf: not known and left out: `qwen3.twist`"]);
    let (config, notes) = gguf(&[("qwen3.rope.freq_base", None)]);
    assert_eq!(config.unwrap().rope_theta, 10_000.0);
    assert_eq!(notes, ["x.gguf: no `qwen3.rope.freq_base`: 10000 is taken"]);
    let (config, notes) = gguf(&[("qwen3.pooling_type", Some(Value::U32(3)))]);
    config.unwrap();
    assert!(notes[0].starts_with("x.gguf: an embedding model: "), "{notes:?}");
}

#[test]
fn yarn_of_a_gguf_has_numbers_that_can_be() {
    let yarn = |more: &[(&str, Option<Value>)]| {
        let mut keys = vec![
            ("qwen3.rope.scaling.type", Some(Value::String("yarn".into()))),
            ("qwen3.rope.scaling.factor", Some(Value::F32(4.0))),
            ("qwen3.rope.scaling.original_context_length", Some(Value::U32(32768))),
        ];
        keys.extend_from_slice(more);
        gguf(&keys)
    };
    assert_eq!(yarn(&[]).0.unwrap().context, 131_072);
    let (config, notes) = yarn(&[("qwen3.rope.scaling.original_context_length", None)]);
    assert_eq!(config.unwrap().context, 4 * 40960);
    assert!(notes[0].contains("original context that is not named: 40960"), "{notes:?}");
    for (key, number, says) in [
        ("factor", f32::NAN, "a factor of at least 1"),
        ("factor", f32::INFINITY, "a factor of at least 1"),
        ("factor", 0.0, "a factor of at least 1"),
        ("attn_factor", f32::NAN, "`attention_factor` of rope scaling is NaN"),
        ("yarn_beta_fast", f32::INFINITY, "`beta_fast` of rope scaling is inf"),
        ("yarn_beta_slow", -1.0, "`beta_slow` of rope scaling is -1"),
    ] {
        let key = format!("qwen3.rope.scaling.{key}");
        let error = yarn(&[(&key, Some(Value::F32(number)))]).0.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn no_changed_config_panics() {
    let mut config = Config::named("nano").unwrap();
    config.rope_scaling = Some(RopeScaling {
        rope_type: "yarn".into(),
        factor: 4.0,
        original_max_position_embeddings: 32768,
        attention_factor: Some(1.5),
        beta_fast: Some(32.0),
        beta_slow: Some(1.0),
    });
    fuzz::each(config.to_json().as_bytes(), fuzz::Mutator::json, |text| {
        let _ = parse(&String::from_utf8_lossy(text));
    });
}
