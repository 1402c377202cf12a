//! Damaged files: each an error that names the file, without allocating what its header claims.

use super::*;

/// Opens a GGUF file with these bytes and expects this error.
fn expect_error(bytes: &[u8], expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error =
        open(path.to_str().unwrap(), 0, None, &mut ()).err().expect("it is damaged").to_string();
    assert!(error.contains("model.gguf") && error.contains(expected), "{error}");
}

#[test]
fn a_damaged_gguf_is_refused_without_allocating_what_it_claims() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.gguf");
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let tensors =
        gguf::quantized_tensors(&opened.config, opened.weights.as_ref(), Some(Quant::Q8_0))
            .unwrap();
    gguf::write(&path, &gguf::shape_metadata(&opened.config, "nano"), &tensors).unwrap();
    let good = std::fs::read(&path).unwrap();
    expect_error(b"", "is not a model: it does not begin with `GGUF`");
    expect_error(
        b"not a model at all, only a text of some length",
        "it does not begin with `GGUF`",
    );
    expect_error(
        b"<!DOCTYPE html><title>Not Found</title>",
        "it is a web page instead of the model",
    );
    expect_error(
        b"version https://git-lfs.github.com/spec/v1\noid",
        "it is a Git LFS pointer and not",
    );
    expect_error(&good[..good.len() / 2], "truncated");
    expect_error(
        &good[..300],
        "its header claims 24 tensors and 13 keys in 276 bytes; download it",
    );
    // Counts of tensors and of metadata, and the length of the first key.
    for (at, expected) in [
        (8, "its header claims 1152921504606846976 tensors"),
        (16, "and 1152921504606846976 keys in"),
        (24, "a key claims 1152921504606846976 bytes"),
    ] {
        let mut absurd = good.clone();
        absurd[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        expect_error(&absurd, expected);
    }
    let foreign = String::from_utf8_lossy(&good).contains("qwen3");
    assert!(foreign);
    let at = good.windows(5).position(|window| window == b"qwen3").unwrap();
    let mut other = good.clone();
    other[at..at + 5].copy_from_slice(b"llama");
    let path = dir.path().join("other.gguf");
    std::fs::write(&path, other).unwrap();
    let error = open(path.to_str().unwrap(), 0, None, &mut ()).err().unwrap().to_string();
    assert!(error.contains("architecture `llama`; supported: qwen3 and qwen2"), "{error}");
}

#[test]
fn damaged_safetensors_are_refused_by_name() {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let make = |shard| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), opened.config.to_json()).unwrap();
        safetensors::write(dir.path(), opened.weights.as_ref(), &opened.config.tensors(), shard)
            .unwrap();
        dir
    };
    let refused = |dir: &tempfile::TempDir, expected: &str| {
        let error = open(dir.path().to_str().unwrap(), 0, None, &mut ())
            .err()
            .expect("it is damaged")
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    let dir = make(Some(1 << 20));
    let shard = safetensors::weight_files(dir.path()).unwrap()[1].clone();
    std::fs::remove_file(&shard).unwrap();
    refused(&dir, shard.file_name().unwrap().to_str().unwrap());
    let dir = make(None);
    let path = dir.path().join("model.safetensors");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() - 10]).unwrap();
    refused(&dir, "truncated");
    let mut absurd = good.clone();
    absurd[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    std::fs::write(&path, absurd).unwrap();
    refused(&dir, "claims a header of 1099511627776 bytes");
    std::fs::write(&path, b"short").unwrap();
    refused(&dir, "too few");
    std::fs::remove_file(&path).unwrap();
    refused(&dir, "neither `model.safetensors` nor");
}

#[test]
fn a_tensor_of_another_shape_or_none_is_an_error() {
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.intermediate = 1024;
    let error =
        load(&opened, EngineKind::Native, None, None, &Device::Cpu, 2).err().unwrap().to_string();
    assert!(error.contains("gate_proj.weight` has shape [512, 256]"), "{error}");
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.layers = 3;
    let error =
        load(&opened, EngineKind::Native, None, None, &Device::Cpu, 2).err().unwrap().to_string();
    assert!(error.contains("the weights lack the tensor `model.layers.2."), "{error}");
}
