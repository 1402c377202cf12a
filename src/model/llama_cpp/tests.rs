//! Agreement of llama.cpp with our own engine and with itself, on small files, and what it refuses.

use std::path::Path;

use super::*;
use crate::model::{EngineKind, gguf, load, open};
use crate::tokenizer::Tokenizer;

/// llama.cpp keeps keys and values in f16, which is what sets it apart from us in f32.
const NEAR: f64 = 5e-3;

/// A model of a named shape as a file that is gone when the folder is.
fn written(folder: &Path, shape: &str, quant: Quant) -> Opened {
    let spec = format!("synthetic:{shape}");
    let opened = open(&spec, 7, None, &mut ()).unwrap();
    let mut metadata = gguf::shape_metadata(&opened.config, &spec);
    let vocabulary = Tokenizer::tiny().unwrap().to_gguf(opened.config.vocab).unwrap();
    metadata.extend(gguf::vocabulary_metadata(&vocabulary));
    let tensors = gguf::tensors(&opened.config, opened.source.as_ref(), Some(quant)).unwrap();
    let path = folder.join("model.gguf");
    gguf::write(&path, &metadata, &tensors).unwrap();
    open(path.to_str().unwrap(), 7, None, &mut ()).unwrap()
}

fn decoder(shape: &str, quant: Quant) -> (Box<dyn Decoder>, Opened, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let opened = written(folder.path(), shape, quant);
    (load(&opened, EngineKind::LlamaCpp, None, &Device::Cpu, 2).unwrap(), opened, folder)
}

fn ids(count: usize, salt: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(salt * 97) >> 7) % 3000)
        .collect()
}

fn step(sequence: usize, tokens: &[u32]) -> Step<'_> {
    Step { sequence, tokens }
}

/// The relative distance ‖a − b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    square(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)))
        / square(&mut b.iter().map(|&b| f64::from(b)))
}

/// Reads a prompt and goes on greedily.
fn continued(decoder: &mut dyn Decoder, prompt: &[u32], count: usize) -> Vec<u32> {
    decoder.reset(1).unwrap();
    let mut all = decoder.greedy(&[step(0, prompt)]).unwrap();
    while all.len() < count {
        let next = decoder.greedy(&[step(0, &all[all.len() - 1..])]).unwrap();
        all.extend(next);
    }
    all
}

/// How far a token's score is below the best after this text, in standard deviations of all scores:
/// where tokens part, it has to be as good as none.
fn gap(decoder: &mut dyn Decoder, text: &[u32], token: u32) -> f64 {
    decoder.reset(1).unwrap();
    let scores = decoder.forward(&[step(0, text)]).unwrap().values;
    let count = scores.len() as f64;
    let mean = scores.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
    let square = scores.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / count;
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(best - scores[token as usize]) / square.sqrt()
}

#[test]
fn greedy_tokens_are_those_of_the_native_engine() {
    for shape in ["nano", "nano-qwen2"] {
        let (mut theirs, opened, _folder) = decoder(shape, Quant::F32);
        let mut ours = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
        for length in [1, 17, 100] {
            let prompt = ids(length, 1);
            let (a, b) =
                (continued(theirs.as_mut(), &prompt, 16), continued(ours.as_mut(), &prompt, 16));
            if let Some(at) = (0..16).find(|&at| a[at] != b[at]) {
                let read = [&prompt, &a[..at]].concat();
                let gap = gap(ours.as_mut(), &read, a[at]);
                assert!(gap < NEAR, "{shape}, prompt {length}, token {at}: {gap}");
            }
            ours.reset(1).unwrap();
            theirs.reset(1).unwrap();
            let (a, b) = (
                theirs.forward(&[step(0, &prompt)]).unwrap(),
                ours.forward(&[step(0, &prompt)]).unwrap(),
            );
            let far = distance(&a.values, &b.values);
            assert!(far < NEAR, "{shape}, prompt {length}: {far}");
        }
    }
}

#[test]
fn quantised_files_run_as_they_are() {
    for quant in [Quant::Q8_0, Quant::Q4KM, Quant::Bf16] {
        let (mut theirs, opened, _folder) = decoder("nano", quant);
        let mut ours = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
        let prompt = ids(60, 1);
        ours.reset(1).unwrap();
        theirs.reset(1).unwrap();
        let (a, b) = (
            theirs.forward(&[step(0, &prompt)]).unwrap(),
            ours.forward(&[step(0, &prompt)]).unwrap(),
        );
        let far = distance(&a.values, &b.values);
        assert!(far < 0.05, "{quant:?}: {far}");
        let (a, b) = (theirs.footprint(), ours.footprint());
        // Our tiles are padded to whole lines of the cache.
        let ratio = a.weight_bytes as f64 / b.weight_bytes as f64;
        assert!((0.99..1.01).contains(&ratio), "{quant:?}: {ratio}");
        assert!(load(&opened, EngineKind::LlamaCpp, Some(quant), &Device::Cpu, 2).is_ok());
    }
}

#[test]
fn a_ragged_batch_is_each_sequence_alone() {
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
        assert!(distance(row, alone) < NEAR, "{}", distance(row, alone));
    }
    // Some of the sequences, in another order, at different positions.
    let some = model.forward(&[step(3, &[5]), step(1, &[6, 7])]).unwrap();
    let greedy = [some.argmax()[0], some.argmax()[1]];
    model.reset(1).unwrap();
    model.forward(&[step(0, &prompts[1])]).unwrap();
    let alone = model.forward(&[step(0, &[11, 6, 7])]).unwrap();
    assert!(distance(some.rows().nth(1).unwrap(), &alone.values) < NEAR);
    assert_eq!(greedy[1], alone.argmax()[0]);
}

#[test]
fn going_back_forgets_what_came_after() {
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
    assert!(beyond.contains("no 500 tokens"), "{beyond}");
    assert!(model.truncate(2, 0).is_err());
}

#[test]
fn a_sequence_outgrows_the_context_and_goes_on() {
    let (mut model, _, _folder) = decoder("nano", Quant::F32);
    let (prompt, more) = (ids(200, 1), ids(400, 2));
    model.check_length(700).unwrap();
    model.reset(1).unwrap();
    let room = model.cache_bytes().unwrap();
    model.forward(&[step(0, &prompt)]).unwrap();
    let roomy = model.forward(&[step(0, &more)]).unwrap();
    model.reset(2).unwrap(); // Nothing was announced.
    assert!(model.cache_bytes().unwrap() < room);
    model.forward(&[step(0, &ids(30, 3)), step(1, &prompt)]).unwrap();
    let grown = model.forward(&[step(1, &more)]).unwrap();
    assert!(distance(&grown.values, &roomy.values) < NEAR);
    let too_long = model.forward(&[step(0, &ids(1 << 20, 1))]).unwrap_err().to_string();
    assert!(too_long.contains("beyond the model's context"), "{too_long}");
}

#[test]
fn every_token_is_scored() {
    let (mut model, _, _folder) = decoder("nano", Quant::F32);
    let text = ids(150, 1);
    model.reset(1).unwrap();
    let all = model.scores(step(0, &text)).unwrap();
    assert_eq!(all.rows().count(), 150);
    for length in [1, 64, 65, 150] {
        model.reset(1).unwrap();
        let one = model.forward(&[step(0, &text[..length])]).unwrap();
        let far = distance(all.rows().nth(length - 1).unwrap(), &one.values);
        assert!(far < NEAR, "{length}: {far}");
    }
}

#[test]
fn what_it_does_not_do_is_said_with_the_way_out() {
    let refused = |opened: &Opened, quant| {
        let error =
            load(opened, EngineKind::LlamaCpp, quant, &Device::Cpu, 2).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        error.to_string()
    };
    let synthetic = open("synthetic:nano", 7, None, &mut ()).unwrap();
    let error = refused(&synthetic, None);
    assert!(error.contains("candlemark synth --shape"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "nano", Quant::F32);
    let error = refused(&file, Some(Quant::Q8_0));
    assert!(error.contains("--quant q8_0") && error.contains("candlemark synth"), "{error}");
    let mut scaled = file;
    scaled.config.context *= 4;
    let error = refused(&scaled, None);
    assert!(error.contains("RoPE scaling"), "{error}");
}

#[test]
fn it_is_set_up_by_variables() {
    let read = |name: &'static str, value: &'static str| {
        Options::from_variables(&|asked| (asked == name).then(|| value.into()))
    };
    let plain = Options { flash: Flash::Auto, ubatch: 512, mmap: true };
    assert_eq!(read("", "").unwrap(), plain);
    assert_eq!(read("CANDLEMARK_LLAMA_FA", "off").unwrap(), Options { flash: Flash::Off, ..plain });
    assert_eq!(read("CANDLEMARK_LLAMA_UBATCH", "64").unwrap(), Options { ubatch: 64, ..plain });
    assert_eq!(read("CANDLEMARK_LLAMA_MMAP", "off").unwrap(), Options { mmap: false, ..plain });
    for (name, value) in [
        ("CANDLEMARK_LLAMA_FA", "yes"),
        ("CANDLEMARK_LLAMA_UBATCH", "0"),
        ("CANDLEMARK_LLAMA_MMAP", "1"),
    ] {
        let error = read(name, value).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
}
