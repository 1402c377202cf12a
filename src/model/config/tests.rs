//! Named shapes, and `config.json` written and read.

use super::*;

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

fn read_back(config: &Config) -> Config {
    Config::from_json(Path::new("config.json"), &config.to_json(), &mut Vec::new()).unwrap()
}

#[test]
fn a_config_survives_writing_and_reading() {
    for (name, _, _, _) in SHAPES {
        let config = Config::named(name).unwrap();
        assert_eq!(read_back(&config), config);
    }
    let yarn = RopeScaling {
        rope_type: "yarn".into(),
        factor: 4.0,
        original_max_position_embeddings: 32768,
        attention_factor: None,
        beta_fast: None,
        beta_slow: None,
    };
    let config = Config::named("mini").unwrap().with_rope_scaling(Some(yarn));
    assert_eq!(config.context, 131072);
    assert_eq!(read_back(&config), config);
}
