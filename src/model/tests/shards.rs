//! GGUF models in several shards.

use std::path::{Path, PathBuf};

use super::*;

/// Writes the `nano` model as three shards; returns their paths.
fn write_shards(dir: &Path) -> Vec<PathBuf> {
    use candle_core::quantized::gguf_file::Value;
    let (opened, mut tensors) = nano_tensors();
    let all = tensors.len();
    let paths = gguf::shard_paths(&dir.join("nano-00001-of-00003.gguf")).unwrap();
    for (number, path) in paths.iter().enumerate() {
        let mut metadata = vec![
            ("split.no".to_owned(), Value::U16(number as u16)),
            ("split.count".into(), Value::U16(3)),
            ("split.tensors.count".into(), Value::I32(all as i32)),
        ];
        if number == 0 {
            metadata.extend(gguf::shape_metadata(&opened.config, "nano"));
        }
        let rest = if number == 2 { Vec::new() } else { tensors.split_off(tensors.len() / 2) };
        gguf::write(path, &metadata, &tensors).unwrap();
        tensors = rest;
    }
    paths
}

#[test]
fn any_shard_of_a_gguf_opens_the_whole_model() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write_shards(dir.path());
    let whole = dir.path().join("whole.gguf");
    let (opened, tensors) = nano_tensors();
    gguf::write(&whole, &gguf::shape_metadata(&opened.config, "nano"), &tensors).unwrap();
    for engine in [EngineKind::Native, EngineKind::Candle] {
        let run = |path: &Path| {
            let opened = open(path.to_str().unwrap(), 0, None, &mut ()).unwrap();
            let mut model = load(&opened, engine, None, None, &Device::Cpu, 2).unwrap();
            model.reset(1).unwrap();
            let hash = opened.weights.sha256().unwrap();
            let logits = model.forward(&[step(0, &ids(20, 1))]).unwrap();
            (opened.config, opened.tokenizer, hash, logits)
        };
        let (config, _, _, logits) = run(&whole);
        let shards: Vec<_> = paths.iter().map(|path| run(path)).collect();
        assert_eq!((&shards[0].0, &shards[0].3), (&config, &logits), "{engine:?}");
        assert_eq!(shards[0].1, TokenizerSource::Gguf(paths[0].clone()), "the first has it");
        assert!(shards.iter().all(|shard| *shard == shards[0]), "{engine:?}");
    }
}

#[test]
fn a_missing_renamed_or_foreign_shard_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write_shards(dir.path());
    let error = |path: &Path| {
        open(path.to_str().unwrap(), 0, None, &mut ()).err().expect("it is incomplete").to_string()
    };
    let renamed = dir.path().join("renamed.gguf");
    std::fs::copy(&paths[1], &renamed).unwrap();
    let expected = "renamed.gguf` is not valid: it is shard 2 of 3, but its name does not end in \
                `-00002-of-00003.gguf`";
    assert!(error(&renamed).contains(expected), "{}", error(&renamed));
    std::fs::copy(&paths[1], &paths[2]).unwrap();
    let expected =
        "nano-00003-of-00003.gguf` is not valid: its metadata do not say that it is shard 3 of 3";
    assert!(error(&paths[0]).contains(expected), "{}", error(&paths[0]));
    std::fs::remove_file(&paths[2]).unwrap();
    let expected = "1 of 3 shards are missing: nano-00003-of-00003.gguf; download them";
    for path in &paths[..2] {
        assert!(error(path).contains(expected), "{}", error(path));
    }
    let numberless = dir.path().join("numberless.gguf");
    let (opened, tensors) = nano_tensors();
    let mut metadata = gguf::shape_metadata(&opened.config, "nano");
    metadata.push(("split.count".into(), candle_core::quantized::gguf_file::Value::U16(3)));
    gguf::write(&numberless, &metadata, &tensors).unwrap();
    let expected = "it is one of 3 shards, but has no `split.no`";
    assert!(error(&numberless).contains(expected), "{}", error(&numberless));
    for other in ["x.gguf", "x-00001-of-3.gguf", "x-00004-of-00003.gguf", "x-0000a-of-00003.gguf"] {
        assert_eq!(gguf::shard_paths(Path::new(other)), None);
    }
}
