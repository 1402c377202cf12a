//! The files of a model, with bounded memory.

use std::fs;
use std::path::Path;

use candlemark::kernel::{GgmlType, quantize};
use candlemark::model::config::Config;
use candlemark::model::gguf;
use candlemark::model::gguf::Gguf;
use candlemark::model::safetensors::SafetensorsFolder;
use candlemark::settings::RopeScaling;
use candlemark::tokenizer::Tokenizer;

use crate::Reader;
use crate::mutator::Mutator;

fn reader(file: &str, bytes: Vec<u8>, change: fn(&mut Mutator, &[u8]) -> Vec<u8>) -> Reader<'_> {
    Reader { name: file, seeds: vec![(file.into(), bytes)], change }
}

/// A GGUF file with the keys of a model, a whole vocabulary and two tensors.
fn small_gguf() -> Vec<u8> {
    let config = Config::named("nano").unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
    let vocabulary = Tokenizer::from_folder(&tiny).unwrap().to_gguf(config.vocab).unwrap();
    let mut metadata = gguf::shape_metadata(&config, "nano");
    metadata.extend(gguf::tokenizer_metadata(&vocabulary));
    let tensors = [("token_embd.weight", 8), ("output_norm.weight", 1)].map(|(name, rows)| {
        let bytes = quantize(GgmlType::Q8_0, &vec![0.0; rows * 256]);
        let (name, shape) = (name.into(), vec![rows, 256]);
        gguf::Tensor { name, shape, dtype: GgmlType::Q8_0, bytes }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf::write(&path, &metadata, &tensors).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn gguf_files_are_opened() {
    reader("model.gguf", small_gguf(), Mutator::bytes).run(4, Gguf::open, |gguf| {
        let mut notes = Vec::new();
        let _ = gguf.config(&mut notes);
        let _ = gguf.tokenizer().and_then(Tokenizer::from_gguf);
    });
}

#[test]
fn safetensors_files_are_opened() {
    let header = r#"{"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[32,38]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend([0; 38]);
    let open = |path: &Path| SafetensorsFolder::open(path.parent().unwrap(), &mut Vec::new());
    reader("model.safetensors", bytes, Mutator::bytes).run(1, open, |_| {});
}

#[test]
fn configurations_of_models_are_read() {
    let mut config = Config::named("nano-qwen2").unwrap();
    config.rope_scaling = Some(RopeScaling {
        rope_type: "yarn".into(),
        factor: 4.0,
        original_max_position_embeddings: 32768,
        attention_factor: Some(1.5),
        beta_fast: Some(32.0),
        beta_slow: Some(1.0),
    });
    let json = config.to_json().into_bytes();
    let read = |path: &Path| {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Config::from_json(path, &text, &mut Vec::new())
    };
    reader("config.json", json, Mutator::json).run(1, read, |config| drop(config.tensors()));
}
