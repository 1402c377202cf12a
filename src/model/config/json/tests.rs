//! `config.json`: what is read, assumed and refused.

use super::*;

fn parse(text: &str) -> Result<Config> {
    Config::from_json(Path::new("config.json"), text, &mut Vec::new())
}

#[test]
fn unsupported_values_are_refused_by_name() {
    let json = Config::named("nano").unwrap().to_json();
    for (from, to, expected) in [
        (
            "\"model_type\": \"qwen3\"",
            "\"model_type\": \"llama\"",
            "architecture `llama`; supported: qwen3 and qwen2",
        ),
        ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "`hidden_act`"),
        ("\"use_sliding_window\": false", "\"use_sliding_window\": true", "`use_sliding_window`"),
        (
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 3",
            "4 heads are not a multiple of 3 key-value heads",
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
        assert!(error.contains(expected), "{error}");
    }
}

/// The `nano` shape of Qwen3 with these keys added or replaced, and the notes.
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
fn keys_that_change_the_computation_are_refused_unless_neutral() {
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
    for (key, expected) in [
        (r#""partial_rotary_factor": 0.5"#, "`partial_rotary_factor` 0.5; supported: 1"),
        (r#""is_causal": false"#, "`is_causal` false; supported: true"),
        (
            r#""layer_types": ["full_attention", "sliding_attention"]"#,
            "`layer_types` with `sliding_attention`; supported: `full_attention`",
        ),
        (r#""use_sliding_window": true"#, "`use_sliding_window` true; supported: none"),
        (
            r#""architectures": ["Qwen3ForSequenceClassification"]"#,
            "architecture `Qwen3ForSequenceClassification` (a classifier or reranker); supported",
        ),
        (
            r#""architectures": ["Qwen2ForCausalLM"]"#,
            "the architecture `Qwen2ForCausalLM`; supported: `Qwen3ForCausalLM`",
        ),
        (
            r#""dual_chunk_attention_config": {"chunk_size": 262144}"#,
            "`dual_chunk_attention_config` (a section); supported: none",
        ),
        (r#""hidden_act": "gelu""#, "`hidden_act` `gelu`; supported: `silu`"),
        (r#""attention_bias": true"#, "`attention_bias`, which is not supported for qwen3"),
        (r#""quantization_config": {"quant_method": "gptq"}"#, "use a GGUF file for quantized"),
        (r#""num_experts": 128"#, "`num_experts` 128; supported: none"),
        (r#""use_mrope": true"#, "`use_mrope` true; supported: none"),
        (r#""vision_config": {"depth": 32}"#, "`vision_config` (a section); supported: none"),
    ] {
        let error = with(key).0.unwrap_err().to_string();
        assert!(error.starts_with("unsupported model: `config.json` has "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let (config, notes) = with(r#""twist": 3, "shout": [1]"#);
    config.unwrap();
    assert_eq!(notes, ["config.json: unknown keys ignored: `shout`, `twist`"]);
}

#[test]
fn rope_keys_are_read_under_all_their_names() {
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
        let expected =
            "config.json: YaRN without an original context: using the model's own, 40960";
        assert_eq!(notes.first().is_some_and(|note| note == expected), original == 40960);
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
    assert_eq!(notes, ["config.json: no `rope_theta`: using 10000"]);
    for (keys, expected) in [
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
            "`rope_theta` 1000000.0 and that of `rope_parameters`, 5000000.0, differ",
        ),
        (
            r#""rope_scaling": {"type": "yarn", "factor": 4,
               "original_max_position_embeddings": 1},
               "original_max_position_embeddings": 2"#,
            "`original_max_position_embeddings` 2 and that of `rope_scaling`, 1, differ",
        ),
        (r#""rope_scaling": {"factor": 4}"#, "`rope_scaling` has no `rope_type`"),
        (r#""rope_scaling": {"type": "yarn"}"#, "missing field `factor`"),
        (r#""rope_scaling": {"type": "mrope", "mrope_section": [1]}"#, "of type `mrope` is not"),
        (r#""rope_scaling": 4"#, "`rope_scaling` is 4, not a section"),
        (
            r#""rope_parameters": {"partial_rotary_factor": 0.5}"#,
            "`partial_rotary_factor` 0.5 of `rope_parameters` is not supported",
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
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_missing_head_dim_has_the_default_of_transformers() {
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
