//! Agreement of llama.cpp with the native engine and with itself on small files, and its errors.

use std::path::Path;

use super::options::FlashAttention;
use super::*;
use crate::model::tests::{distance, ids, step};
use crate::model::{EngineKind, gguf, load, open};
use crate::tokenizer::Tokenizer;

/// Relative distance of logits: llama.cpp has an f16 KV cache, the native engine f32 here.
const TOLERANCE: f64 = 5e-3;

/// A model of a named shape, written to a folder as GGUF.
fn write_model(folder: &Path, shape: &str, quant: Quant) -> ModelSource {
    let spec = format!("synthetic:{shape}");
    let opened = open(&spec, 7, None, &mut ()).unwrap();
    let mut metadata = gguf::shape_metadata(&opened.config, &spec);
    let tokenizer = Tokenizer::tiny().unwrap().to_gguf(opened.config.vocab).unwrap();
    metadata.extend(gguf::tokenizer_metadata(&tokenizer));
    let tensors =
        gguf::quantized_tensors(&opened.config, opened.weights.as_ref(), Some(quant)).unwrap();
    let path = folder.join("model.gguf");
    gguf::write(&path, &metadata, &tensors).unwrap();
    open(path.to_str().unwrap(), 7, None, &mut ()).unwrap()
}

fn decoder(shape: &str, quant: Quant) -> (Box<dyn Decoder>, ModelSource, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let opened = write_model(folder.path(), shape, quant);
    (load(&opened, EngineKind::LlamaCpp, None, &Device::Cpu, 2).unwrap(), opened, folder)
}

/// Greedy tokens after a prompt.
fn generate_greedily(decoder: &mut dyn Decoder, prompt: &[u32], count: usize) -> Vec<u32> {
    decoder.reset(1).unwrap();
    let mut all = decoder.greedy(&[step(0, prompt)]).unwrap();
    while all.len() < count {
        let next = decoder.greedy(&[step(0, &all[all.len() - 1..])]).unwrap();
        all.extend(next);
    }
    all
}

/// The distance of a token's logit from the largest, in standard deviations of all logits. Where
/// greedy tokens differ, it must be within the tolerance.
fn gap(decoder: &mut dyn Decoder, text: &[u32], token: u32) -> f64 {
    decoder.reset(1).unwrap();
    let logits = decoder.forward(&[step(0, text)]).unwrap().values;
    let count = logits.len() as f64;
    let mean = logits.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
    let square = logits.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / count;
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(best - logits[token as usize]) / square.sqrt()
}

#[test]
fn greedy_tokens_equal_those_of_the_native_engine() {
    for shape in ["nano", "nano-qwen2"] {
        let (mut llama, opened, _folder) = decoder(shape, Quant::F32);
        let mut native = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
        for length in [1, 17, 100] {
            let prompt = ids(length, 1);
            let (a, b) = (
                generate_greedily(llama.as_mut(), &prompt, 16),
                generate_greedily(native.as_mut(), &prompt, 16),
            );
            if let Some(at) = (0..16).find(|&at| a[at] != b[at]) {
                let read = [&prompt, &a[..at]].concat();
                let gap = gap(native.as_mut(), &read, a[at]);
                assert!(gap < TOLERANCE, "{shape}, prompt {length}, token {at}: {gap}");
            }
            native.reset(1).unwrap();
            llama.reset(1).unwrap();
            let (a, b) = (
                llama.forward(&[step(0, &prompt)]).unwrap(),
                native.forward(&[step(0, &prompt)]).unwrap(),
            );
            let far = distance(&a.values, &b.values);
            assert!(far < TOLERANCE, "{shape}, prompt {length}: {far}");
        }
    }
}

#[test]
fn quantized_files_run_as_they_are() {
    for quant in [Quant::Q8_0, Quant::Q4KM, Quant::Bf16] {
        let (mut llama, opened, _folder) = decoder("nano", quant);
        let mut native = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
        let prompt = ids(60, 1);
        native.reset(1).unwrap();
        llama.reset(1).unwrap();
        let (a, b) = (
            llama.forward(&[step(0, &prompt)]).unwrap(),
            native.forward(&[step(0, &prompt)]).unwrap(),
        );
        let far = distance(&a.values, &b.values);
        assert!(far < 0.05, "{quant:?}: {far}");
        let (a, b) = (llama.footprint(), native.footprint());
        // Our packed panels are padded to whole cache lines.
        let ratio = a.weight_bytes as f64 / b.weight_bytes as f64;
        assert!((0.99..1.01).contains(&ratio), "{quant:?}: {ratio}");
        assert!(load(&opened, EngineKind::LlamaCpp, Some(quant), &Device::Cpu, 2).is_ok());
    }
}

#[test]
fn a_ragged_batch_equals_each_sequence_alone() {
    let (mut model, _, _folder) = decoder("nano", Quant::F32);
    let prompts = [ids(3, 1), ids(40, 2), ids(1, 3), ids(129, 4)];
    let alone: Vec<Vec<f32>> = prompts
        .iter()
        .map(|prompt| {
            model.reset(1).unwrap();
            model.forward(&[step(0, prompt)]).unwrap();
            model.forward(&[step(0, &[11])]).unwrap().values
        })
        .collect();
    model.check_length(140).unwrap();
    model.reset(4).unwrap();
    let steps: Vec<Step<'_>> =
        prompts.iter().enumerate().map(|(i, prompt)| step(i, prompt)).collect();
    model.forward(&steps).unwrap();
    let together = model.forward(&[0, 1, 2, 3].map(|i| step(i, &[11]))).unwrap();
    for (row, alone) in together.rows().zip(&alone) {
        assert!(distance(row, alone) < TOLERANCE, "{}", distance(row, alone));
    }
    // Some of the sequences, in another order, at different positions.
    let some = model.forward(&[step(3, &[5]), step(1, &[6, 7])]).unwrap();
    let greedy = [some.argmax()[0], some.argmax()[1]];
    model.reset(1).unwrap();
    model.forward(&[step(0, &prompts[1])]).unwrap();
    let alone = model.forward(&[step(0, &[11, 6, 7])]).unwrap();
    assert!(distance(some.rows().nth(1).unwrap(), &alone.values) < TOLERANCE);
    assert_eq!(greedy[1], alone.argmax()[0]);
}

#[test]
fn truncating_removes_later_tokens() {
    let (mut model, _, _folder) = decoder("nano", Quant::F32);
    let prompt = ids(50, 1);
    model.reset(2).unwrap();
    model.forward(&[step(0, &prompt), step(1, &ids(20, 9))]).unwrap();
    let before = model.forward(&[step(0, &[11])]).unwrap();
    model.forward(&[step(0, &[12, 13])]).unwrap();
    model.truncate(0, prompt.len()).unwrap();
    let after = model.forward(&[step(0, &[11])]).unwrap();
    assert!(distance(&after.values, &before.values) < 1e-5);
    let beyond = model.truncate(0, 500).unwrap_err().to_string();
    assert!(beyond.contains("it cannot keep 500"), "{beyond}");
    assert!(model.truncate(2, 0).is_err());
}

#[test]
fn a_sequence_that_outgrows_the_context_continues() {
    let (mut model, _, _folder) = decoder("nano", Quant::F32);
    let (prompt, more) = (ids(200, 1), ids(400, 2));
    model.check_length(700).unwrap();
    model.reset(1).unwrap();
    let room = model.kv_cache_bytes().unwrap();
    model.forward(&[step(0, &prompt)]).unwrap();
    let roomy = model.forward(&[step(0, &more)]).unwrap();
    model.reset(2).unwrap(); // Without `check_length`, the context is small.
    assert!(model.kv_cache_bytes().unwrap() < room);
    model.forward(&[step(0, &ids(30, 3)), step(1, &prompt)]).unwrap();
    let grown = model.forward(&[step(1, &more)]).unwrap();
    assert!(distance(&grown.values, &roomy.values) < TOLERANCE);
    let too_long = model.forward(&[step(0, &ids(1 << 20, 1))]).unwrap_err().to_string();
    assert!(too_long.contains("beyond the model's context"), "{too_long}");
}

#[test]
fn logits_after_every_token_are_returned() {
    let (mut model, _, _folder) = decoder("nano", Quant::F32);
    let text = ids(150, 1);
    model.reset(1).unwrap();
    let all = model.forward_all(step(0, &text)).unwrap();
    assert_eq!(all.rows().count(), 150);
    for length in [1, 64, 65, 150] {
        model.reset(1).unwrap();
        let one = model.forward(&[step(0, &text[..length])]).unwrap();
        let far = distance(all.rows().nth(length - 1).unwrap(), &one.values);
        assert!(far < TOLERANCE, "{length}: {far}");
    }
}

#[test]
fn unsupported_requests_name_the_remedy() {
    let refused = |opened: &ModelSource, quant| {
        let error =
            load(opened, EngineKind::LlamaCpp, quant, &Device::Cpu, 2).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        error.to_string()
    };
    let synthetic = open("synthetic:nano", 7, None, &mut ()).unwrap();
    let error = refused(&synthetic, None);
    assert!(error.contains("candlemark synth --shape"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = write_model(folder.path(), "nano", Quant::F32);
    let error = refused(&file, Some(Quant::Q8_0));
    assert!(error.contains("--quant q8_0") && error.contains("candlemark synth"), "{error}");
    let mut scaled = file;
    scaled.config.context *= 4;
    let error = refused(&scaled, None);
    assert!(error.contains("RoPE scaling"), "{error}");
}

#[test]
fn environment_variables_set_the_options() {
    let read = |name: &'static str, value: &'static str| {
        LlamaOptions::from_variables(&|asked| (asked == name).then(|| value.into()))
    };
    let default = LlamaOptions { flash_attention: FlashAttention::Auto, ubatch: 512, mmap: true };
    assert_eq!(read("", "").unwrap(), default);
    assert_eq!(
        read("CANDLEMARK_LLAMA_FA", "off").unwrap(),
        LlamaOptions { flash_attention: FlashAttention::Off, ..default }
    );
    assert_eq!(
        read("CANDLEMARK_LLAMA_UBATCH", "64").unwrap(),
        LlamaOptions { ubatch: 64, ..default }
    );
    assert_eq!(
        read("CANDLEMARK_LLAMA_MMAP", "off").unwrap(),
        LlamaOptions { mmap: false, ..default }
    );
    for (name, value) in [
        ("CANDLEMARK_LLAMA_FA", "yes"),
        ("CANDLEMARK_LLAMA_UBATCH", "0"),
        ("CANDLEMARK_LLAMA_MMAP", "1"),
    ] {
        let error = read(name, value).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
}
