//! GGUF metadata: what is read, assumed and refused.

use super::*;

/// The `nano` shape of Qwen3 as GGUF metadata with these keys replaced, or removed where `None`;
/// and the notes.
fn nano(keys: &[(&str, Option<Value>)]) -> (Result<Config>, Vec<String>) {
    let config = Config::named("nano").unwrap();
    let mut metadata: Metadata =
        crate::model::gguf::shape_metadata(&config, "nano").into_iter().collect();
    for (key, value) in keys {
        match value {
            Some(value) => drop(metadata.insert((*key).into(), value.clone())),
            None => drop(metadata.remove(*key)),
        }
    }
    let mut notes = Vec::new();
    let config = read(Path::new("x.gguf"), &metadata, config.vocab, false, &mut notes);
    (config, notes)
}

#[test]
fn keys_that_change_the_computation_are_refused_unless_neutral() {
    let text = |text: &str| Some(Value::String(text.into()));
    let expected = Config { tied: false, ..Config::named("nano").unwrap() };
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
        let (config, notes) = nano(&[(key, value)]);
        assert_eq!(config.unwrap(), expected, "{key}");
        assert!(notes.is_empty(), "{notes:?}");
    }
    for (key, value, expected) in [
        ("qwen3.attention.sliding_window", Value::U32(512), "512; supported: none"),
        ("qwen3.rope.dimension_count", Value::U32(32), "32; supported: 64, the size of a head"),
        ("qwen3.attention.value_length", Value::U32(32), "32; supported: 64, the size of a head"),
        ("qwen3.attention.causal", Value::Bool(false), "false; supported: true"),
        ("qwen3.pooling_type", Value::U32(4), "4; supported: 0 to 3; this is a reranker"),
        (
            "qwen3.classifier.output_labels",
            Value::Array(Vec::new()),
            "an array; supported: none; this is a reranker",
        ),
        ("qwen3.expert_count", Value::U32(128), "128; supported: 0"),
        ("qwen3.attention.scale", Value::F32(0.5), "0.5; supported: 0"),
        ("qwen3.rope.scaling.yarn_ext_factor", Value::F32(0.0), "0; supported: 1"),
        ("qwen3.rope.scaling.type", Value::String("longrope".into()), "`longrope`; supported:"),
        ("general.type", Value::String("mmproj".into()), "`mmproj`; supported: `model`"),
    ] {
        let error = nano(&[(key, Some(value))]).0.unwrap_err().to_string();
        let start = format!("unsupported model: `x.gguf` has `{key}` ");
        assert!(error.starts_with(&start) && error.contains(expected), "{error}");
    }
    for (key, value, expected) in [
        ("qwen3.rope.freq_base", Value::F32(f32::NAN), "the RoPE base is NaN"),
        ("qwen3.rope.freq_base", Value::F32(0.0), "the RoPE base is 0; it must be above 1"),
        ("qwen3.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY), "RMSNorm is inf"),
        ("qwen3.block_count", Value::I32(-1), "`qwen3.block_count` is -1, not an unsigned"),
        ("qwen3.block_count", Value::F32(2.0), "`qwen3.block_count` is 2, not an unsigned"),
        ("qwen3.attention.head_count_kv", Value::Array(Vec::new()), "kv` is an array, not"),
        ("qwen3.rope.scaling.factor", Value::F32(4.0), "without a type, which means linear"),
    ] {
        let error = nano(&[(key, Some(value))]).0.unwrap_err().to_string();
        assert!(error.contains("x.gguf") && error.contains(expected), "{error}");
    }
    let (config, notes) = nano(&[("qwen3.twist", Some(Value::U8(1)))]);
    config.unwrap();
    assert_eq!(notes, ["x.gguf: unknown keys ignored: `qwen3.twist`"]);
    let (config, notes) = nano(&[("qwen3.rope.freq_base", None)]);
    assert_eq!(config.unwrap().rope_theta, 10_000.0);
    assert_eq!(notes, ["x.gguf: no `qwen3.rope.freq_base`: using 10000"]);
    let (config, notes) = nano(&[("qwen3.pooling_type", Some(Value::U32(3)))]);
    config.unwrap();
    assert!(notes[0].starts_with("x.gguf: an embedding model: "), "{notes:?}");
}

#[test]
fn yarn_with_values_out_of_range_is_refused() {
    let yarn = |more: &[(&str, Option<Value>)]| {
        let mut keys = vec![
            ("qwen3.rope.scaling.type", Some(Value::String("yarn".into()))),
            ("qwen3.rope.scaling.factor", Some(Value::F32(4.0))),
            ("qwen3.rope.scaling.original_context_length", Some(Value::U32(32768))),
        ];
        keys.extend_from_slice(more);
        nano(&keys)
    };
    assert_eq!(yarn(&[]).0.unwrap().context, 131_072);
    let (config, notes) = yarn(&[("qwen3.rope.scaling.original_context_length", None)]);
    assert_eq!(config.unwrap().context, 4 * 40960);
    assert!(
        notes[0].contains("YaRN without an original context: using the model's own, 40960"),
        "{notes:?}"
    );
    for (key, number, expected) in [
        ("factor", f32::NAN, "a factor of at least 1"),
        ("factor", f32::INFINITY, "a factor of at least 1"),
        ("factor", 0.0, "a factor of at least 1"),
        ("attn_factor", f32::NAN, "`attention_factor` of rope scaling is NaN"),
        ("yarn_beta_fast", f32::INFINITY, "`beta_fast` of rope scaling is inf"),
        ("yarn_beta_slow", -1.0, "`beta_slow` of rope scaling is -1"),
    ] {
        let key = format!("qwen3.rope.scaling.{key}");
        let error = yarn(&[(&key, Some(Value::F32(number)))]).0.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
