//! Agreement of the forward pass with candle-transformers and with itself, at f32 and on every form
//! of weights.

use super::*;
use crate::kernel::{Isa, skipped};
use crate::model::weights::Quant;

const SEED: u64 = 7;

fn yarn() -> RopeScaling {
    RopeScaling {
        rope_type: "yarn".into(),
        factor: 4.0,
        original_max_position_embeddings: 64,
        attention_factor: None,
        beta_fast: None,
        beta_slow: None,
    }
}

fn decoder(spec: &str, engine: EngineKind, quant: Quant) -> Box<dyn Decoder> {
    load(&open(spec, SEED, None, &mut ()).unwrap(), engine, Some(quant), &Device::Cpu, 2).unwrap()
}

fn native(spec: &str) -> Box<dyn Decoder> {
    decoder(spec, EngineKind::Native, Quant::F32)
}

/// Token ids that look random and are the same everywhere.
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

#[test]
fn logits_agree_with_candle_transformers() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let (mut ours, mut theirs) = (native(spec), decoder(spec, EngineKind::Candle, Quant::F32));
        for length in [1, 17, 300] {
            let prompt = ids(length, 1);
            ours.reset(1).unwrap();
            theirs.reset(1).unwrap();
            let mut shown = prompt.as_slice();
            let next = ids(3, 2);
            for round in 0..3 {
                let (a, b) = (
                    ours.forward(&[step(0, shown)]).unwrap(),
                    theirs.forward(&[step(0, shown)]).unwrap(),
                );
                let far = distance(&a.values, &b.values);
                assert!(far < 1e-4, "{spec}, prompt {length}, round {round}: {far}");
                shown = &next[round..=round];
            }
        }
    }
}

#[test]
fn logits_agree_with_candle_transformers_past_position_2048() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let (mut ours, mut theirs) = (native(spec), decoder(spec, EngineKind::Candle, Quant::F32));
        ours.reset(1).unwrap();
        theirs.reset(1).unwrap();
        let (prompt, next) = (ids(2500, 1), [5]);
        for shown in [prompt.as_slice(), &next] {
            let (a, b) = (
                ours.forward(&[step(0, shown)]).unwrap(),
                theirs.forward(&[step(0, shown)]).unwrap(),
            );
            let far = distance(&a.values, &b.values);
            assert!(far < 1e-4, "{spec}: {far}");
        }
    }
}

#[test]
fn quantised_logits_are_near_those_of_candle_transformers() {
    // Both see the same blocks; what differs is how activations are rounded.
    for (spec, quant) in [
        ("synthetic:nano", Quant::Q8_0),
        ("synthetic:nano", Quant::Q4KM),
        ("synthetic:nano-qwen2", Quant::Q8_0),
    ] {
        let (mut ours, mut theirs) =
            (decoder(spec, EngineKind::Native, quant), decoder(spec, EngineKind::Candle, quant));
        for length in [5, 60] {
            let prompt = ids(length, 1);
            ours.reset(1).unwrap();
            theirs.reset(1).unwrap();
            let (a, b) = (
                ours.forward(&[step(0, &prompt)]).unwrap(),
                theirs.forward(&[step(0, &prompt)]).unwrap(),
            );
            let far = distance(&a.values, &b.values);
            assert!(far < 0.05, "{spec} {quant:?}: {far}");
        }
    }
}

/// Rows of a product are summed in an order that depends on their number, so equality is up to the
/// last bits of f32.
const SAME: f64 = 5e-6;

#[test]
fn a_ragged_batch_is_each_sequence_alone() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let mut model = native(spec);
        let prompts = [ids(3, 1), ids(40, 2), ids(1, 3), ids(129, 4)];
        let alone: Vec<Vec<f32>> = prompts
            .iter()
            .map(|prompt| {
                model.reset(1).unwrap();
                model.forward(&[step(0, prompt)]).unwrap();
                model.forward(&[step(0, &[11])]).unwrap().values
            })
            .collect();
        model.reset(4).unwrap();
        let steps: Vec<Step<'_>> =
            prompts.iter().enumerate().map(|(i, prompt)| step(i, prompt)).collect();
        model.forward(&steps).unwrap();
        let together = model.forward(&[0, 1, 2, 3].map(|i| step(i, &[11]))).unwrap();
        for (row, alone) in together.rows().zip(&alone) {
            assert!(distance(row, alone) < SAME, "{spec}: {}", distance(row, alone));
        }
        // Some of the sequences, in another order, at different positions.
        let some = model.forward(&[step(3, &[5]), step(1, &[6, 7])]).unwrap();
        model.reset(1).unwrap();
        model.forward(&[step(0, &prompts[1])]).unwrap();
        let alone = model.forward(&[step(0, &[11, 6, 7])]).unwrap();
        assert!(distance(some.rows().nth(1).unwrap(), &alone.values) < SAME);
    }
}

#[test]
fn prefill_in_chunks_and_after_decode_is_one_prefill() {
    for quant in [Quant::F32, Quant::Bf16] {
        let mut model = decoder("synthetic:nano", EngineKind::Native, quant);
        let prompt = ids(600, 1);
        model.reset(1).unwrap();
        let whole = model.forward(&[step(0, &prompt)]).unwrap();
        for cuts in [vec![0, 1, 600], vec![0, 256, 512, 600], vec![0, 300, 301, 302, 599, 600]] {
            model.reset(1).unwrap();
            let mut last = None;
            for cut in cuts.windows(2) {
                last = Some(model.forward(&[step(0, &prompt[cut[0]..cut[1]])]).unwrap());
            }
            // Few rows of bf16 weights are multiplied in f32, many in 16-bit integers.
            let bound = if quant == Quant::F32 { SAME } else { 0.01 };
            let far = distance(&last.unwrap().values, &whole.values);
            assert!(far < bound, "{quant:?} {cuts:?}: {far}");
        }
    }
}

#[test]
fn yarn_changes_the_answer_as_its_tables_say() {
    // With YaRN, candle-transformers cannot be the reference: it ignores the scaling. A model whose
    // frequencies and scale are put in by hand can: scaling q and k by s each is scaling their
    // product by s squared.
    let plain = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let scaled = open("synthetic:nano", SEED, Some(yarn()), &mut ()).unwrap();
    assert_eq!(scaled.config.context, 40960, "a longer context than the scaling's own stays");
    let run = |opened: &Opened| {
        let mut model = load(opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
        model.reset(1).unwrap();
        model.forward(&[step(0, &ids(200, 1))]).unwrap().values
    };
    assert!(distance(&run(&scaled), &run(&plain)) > 1e-3, "the scaling is not ignored");
    let error = load(&scaled, EngineKind::Candle, None, &Device::Cpu, 2).err().unwrap();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
}

#[test]
fn positions_end_at_the_context() {
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.context = 64;
    let mut model = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
    model.reset(1).unwrap();
    model.forward(&[step(0, &ids(64, 1))]).unwrap();
    let error = model.forward(&[step(0, &[1])]).unwrap_err().to_string();
    assert!(error.contains("65 tokens") && error.contains("context of 64"), "{error}");
}

#[test]
fn what_candle_transformers_cannot_do_is_unsupported() {
    let mut model = decoder("synthetic:nano", EngineKind::Candle, Quant::Q8_0);
    assert!(matches!(model.reset(2), Err(Error::Unsupported(_))));
    let mut model = decoder("synthetic:nano", EngineKind::Candle, Quant::F32);
    model.reset(2).unwrap();
    let ragged = model.forward(&[step(0, &[1, 2]), step(1, &[3])]);
    assert!(matches!(ragged, Err(Error::Unsupported(_))));
}

#[test]
fn every_form_of_the_same_weights_gives_the_same_logits() {
    let dir = tempfile::tempdir().unwrap();
    for shape in ["nano", "nano-qwen2"] {
        let opened = open(&format!("synthetic:{shape}"), SEED, None, &mut ()).unwrap();
        let config = &opened.config;
        let single = dir.path().join(format!("{shape}-single"));
        let sharded = dir.path().join(format!("{shape}-sharded"));
        for (folder, shard) in [(&single, None), (&sharded, Some(1 << 20))] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("config.json"), config.to_json()).unwrap();
            safetensors::write(folder, opened.source.as_ref(), &config.tensors(), shard).unwrap();
        }
        assert!(safetensors::files(&sharded).unwrap().len() > 1);
        let gguf = dir.path().join(format!("{shape}.gguf"));
        let tensors = gguf::tensors(config, opened.source.as_ref(), None).unwrap();
        gguf::write(&gguf, &gguf::shape_metadata(config, shape), &tensors).unwrap();
        let run = |spec: &str| {
            let opened = open(spec, SEED, None, &mut ()).unwrap();
            let mut model = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
            model.reset(1).unwrap();
            (opened.config.clone(), model.forward(&[step(0, &ids(20, 1))]).unwrap())
        };
        let expected = run(&format!("synthetic:{shape}"));
        for path in [&single, &sharded, &gguf] {
            assert_eq!(run(path.to_str().unwrap()), expected, "{}", path.display());
        }
    }
}

#[test]
fn every_type_of_a_gguf_is_read() {
    use candle_core::quantized::GgmlDType;
    let dir = tempfile::tempdir().unwrap();
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let mut model = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
    model.reset(1).unwrap();
    let exact = model.forward(&[step(0, &ids(40, 1))]).unwrap();
    for (dtype, name, bound) in [
        (GgmlDType::F16, "f16", 0.01),
        (GgmlDType::BF16, "bf16", 0.02),
        (GgmlDType::Q8_0, "q8_0", 0.05),
        (GgmlDType::Q4_0, "bf16-from-q4_0", 0.6),
        (GgmlDType::Q4K, "q4_k", 0.5),
        (GgmlDType::Q5K, "bf16-from-q5_k", 0.3),
        (GgmlDType::Q6K, "q6_k", 0.2),
    ] {
        let mut tensors = gguf::tensors(&opened.config, opened.source.as_ref(), None).unwrap();
        for (_, tensor) in &mut tensors {
            if tensor.rank() == 2 {
                *tensor = candle_core::quantized::QTensor::quantize(
                    &tensor.dequantize(&Device::Cpu).unwrap(),
                    dtype,
                )
                .unwrap();
            }
        }
        let path = dir.path().join(format!("{name}.gguf"));
        gguf::write(&path, &gguf::shape_metadata(&opened.config, name), &tensors).unwrap();
        let read = open(path.to_str().unwrap(), 0, None, &mut ()).unwrap();
        let mut model = load(&read, EngineKind::Native, None, &Device::Cpu, 2).unwrap();
        assert_eq!(model.footprint().describe(), name);
        model.reset(1).unwrap();
        let far = distance(&model.forward(&[step(0, &ids(40, 1))]).unwrap().values, &exact.values);
        assert!(far < bound, "{name}: {far}");
    }
}

/// A model whose blocks were quantised once, in a file: run as it is, and expanded to f32, which is
/// the definition of the same weights.
fn with_definition(quant: Quant, isa: Isa) -> (cpu::Cpu, cpu::Cpu) {
    let dir = tempfile::tempdir().unwrap();
    let made = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let tensors = gguf::tensors(&made.config, made.source.as_ref(), Some(quant)).unwrap();
    let path = dir.path().join("model.gguf");
    gguf::write(&path, &gguf::shape_metadata(&made.config, "nano"), &tensors).unwrap();
    let opened = open(path.to_str().unwrap(), 0, None, &mut ()).unwrap();
    let load = |quant| {
        let pool = Pool::new(2).unwrap();
        cpu::Cpu::load(&opened.config, opened.source.as_ref(), quant, isa, pool).unwrap()
    };
    (load(None), load(Some(Quant::F32)))
}

/// KL divergence in nats of `q` from `p`, both as logits.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let logs = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|v| f64::from(v - most).exp()).sum();
        row.iter().map(|v| f64::from(v - most) - sum.ln()).collect()
    };
    logs(p).iter().zip(logs(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn every_tier_is_near_the_definition_of_its_weights() {
    let tiers = Isa::for_tests();
    // The bounds of docs/engine.md, for a text that is read at once and token by token.
    for (quant, most_kl, least_top1) in
        [(Quant::Bf16, 2e-5, 0.97), (Quant::Q8_0, 2e-4, 0.95), (Quant::Q4KM, 2e-4, 0.95)]
    {
        for &isa in &tiers {
            let (mut model, mut definition) = with_definition(quant, isa);
            let text = ids(200, 4);
            let mut exact = Vec::new();
            let mut ours = [Vec::new(), Vec::new()];
            for (all, model) in [(&mut exact, &mut definition), (&mut ours[0], &mut model)] {
                model.reset(1).unwrap();
                all.extend(model.scores(step(0, &text)).unwrap().values);
            }
            model.reset(1).unwrap();
            for token in text.chunks(1) {
                ours[1].extend(model.forward(&[step(0, token)]).unwrap().values);
            }
            let vocab = definition.forward(&[step(0, &[1])]).unwrap().vocab;
            for (how, ours) in ["at once", "by tokens"].into_iter().zip(&ours) {
                let pairs = || exact.chunks(vocab).zip(ours.chunks(vocab));
                let kl = pairs().map(|(p, q)| divergence(p, q)).sum::<f64>() / text.len() as f64;
                let top = |values: &[f32]| Logits { vocab, values: values.to_vec() }.argmax()[0];
                let same = pairs().filter(|(p, q)| top(p) == top(q)).count();
                let top1 = same as f64 / text.len() as f64;
                let name = isa.name();
                assert!(
                    kl < most_kl && top1 >= least_top1,
                    "{name} {quant:?} {how}: KL {kl:.2e}, top-1 {top1}"
                );
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    for quant in [Quant::F32, Quant::Bf16, Quant::Q8_0, Quant::Q4KM] {
        let run = |threads| {
            let mut model =
                load(&opened, EngineKind::Native, Some(quant), &Device::Cpu, threads).unwrap();
            model.reset(2).unwrap();
            let (long, short) = (ids(90, 1), ids(7, 2));
            let first = model.forward(&[step(0, &long), step(1, &short)]).unwrap();
            let next = model.forward(&[step(0, &[4]), step(1, &[5])]).unwrap();
            (first, next)
        };
        let one = run(1);
        for threads in [2, 3] {
            assert_eq!(run(threads), one, "{quant:?} with {threads} threads");
        }
    }
}

#[test]
fn the_forward_pass_of_devices_agrees_with_that_of_the_cpu() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let opened = open(spec, SEED, None, &mut ()).unwrap();
        let quant = Some(Quant::F32);
        let source = opened.source.as_ref();
        let mut device = qwen::Qwen::load(&opened.config, source, quant, &Device::Cpu).unwrap();
        let mut ours = native(spec);
        let prompts = [ids(50, 1), ids(3, 2)];
        for shown in [[prompts[0].as_slice(), &prompts[1]], [&[7], &[9]]] {
            let steps = [step(0, shown[0]), step(1, shown[1])];
            if shown[0].len() > 1 {
                device.reset(2).unwrap();
                ours.reset(2).unwrap();
            }
            let (a, b) = (device.forward(&steps).unwrap(), ours.forward(&steps).unwrap());
            assert!(distance(&a.values, &b.values) < 1e-4, "{spec}");
        }
        ours.truncate(0, 20).unwrap();
        device.truncate(0, 20).unwrap();
        let after = [step(0, &[3, 4])];
        let (a, b) = (device.forward(&after).unwrap(), ours.forward(&after).unwrap());
        assert!(distance(&a.values, &b.values) < 1e-4, "{spec} after going back");
        let (a, b) = (device.embed(&after).unwrap(), ours.embed(&after).unwrap());
        assert!(distance(&a[0], &b[0]) < 1e-4, "{spec} hidden states");
    }
}

#[test]
fn heads_of_an_odd_width_are_left_to_another_engine() {
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.head_dim = 24;
    let error = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).err().unwrap();
    assert!(
        matches!(&error, Error::Unsupported(why) if why.contains("--engine candle")),
        "{error}"
    );
}

/// Opens a file with these bytes and expects an error that says so.
fn refused(bytes: &[u8], says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error =
        open(path.to_str().unwrap(), 0, None, &mut ()).err().expect("it is damaged").to_string();
    assert!(error.contains("model.gguf") && error.contains(says), "{error}");
}

#[test]
fn a_damaged_gguf_is_refused_without_allocating_what_it_claims() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.gguf");
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let tensors = gguf::tensors(&opened.config, opened.source.as_ref(), Some(Quant::Q8_0)).unwrap();
    gguf::write(&path, &gguf::shape_metadata(&opened.config, "nano"), &tensors).unwrap();
    let good = std::fs::read(&path).unwrap();
    refused(b"", "is no model: it does not begin with `GGUF`");
    refused(b"not a model at all, only a text of some length", "it does not begin with `GGUF`");
    refused(b"<!DOCTYPE html><title>Not Found</title>", "it is a web page, and no download of");
    refused(b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer and not");
    refused(&good[..good.len() / 2], "cut off");
    refused(&good[..300], "its header claims 24 tensors and 13 keys, in 276 bytes; download it");
    // Counts of tensors and of metadata, and the length of the first key.
    for (at, says) in [
        (8, "its header claims 1152921504606846976 tensors"),
        (16, "and 1152921504606846976 keys, in"),
        (24, "a key is said to have 1152921504606846976 bytes"),
    ] {
        let mut absurd = good.clone();
        absurd[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        refused(&absurd, says);
    }
    let foreign = String::from_utf8_lossy(&good).contains("qwen3");
    assert!(foreign);
    let at = good.windows(5).position(|window| window == b"qwen3").unwrap();
    let mut other = good.clone();
    other[at..at + 5].copy_from_slice(b"llama");
    let path = dir.path().join("other.gguf");
    std::fs::write(&path, other).unwrap();
    let error = open(path.to_str().unwrap(), 0, None, &mut ()).err().unwrap().to_string();
    assert!(error.contains("architecture `llama`; known are qwen3 and qwen2"), "{error}");
}

#[test]
fn damaged_safetensors_are_refused_by_name() {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let make = |shard| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), opened.config.to_json()).unwrap();
        safetensors::write(dir.path(), opened.source.as_ref(), &opened.config.tensors(), shard)
            .unwrap();
        dir
    };
    let refused = |dir: &tempfile::TempDir, says: &str| {
        let error = open(dir.path().to_str().unwrap(), 0, None, &mut ())
            .err()
            .expect("it is damaged")
            .to_string();
        assert!(error.contains(says), "{error}");
    };
    let dir = make(Some(1 << 20));
    let shard = safetensors::files(dir.path()).unwrap()[1].clone();
    std::fs::remove_file(&shard).unwrap();
    refused(&dir, shard.file_name().unwrap().to_str().unwrap());
    let dir = make(None);
    let path = dir.path().join("model.safetensors");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() - 10]).unwrap();
    refused(&dir, "cut off");
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
    let error = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).err().unwrap().to_string();
    assert!(error.contains("gate_proj.weight` has shape [512, 256]"), "{error}");
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.layers = 3;
    let error = load(&opened, EngineKind::Native, None, &Device::Cpu, 2).err().unwrap().to_string();
    assert!(error.contains("the weights lack the tensor `model.layers.2."), "{error}");
}

#[test]
fn models_are_named_in_four_ways() {
    assert_eq!(Spec::parse("synthetic:mini").unwrap(), Spec::Synthetic("mini".into()));
    assert_eq!(
        Spec::parse("Qwen/Qwen3-0.6B@main").unwrap(),
        Spec::Hub("Qwen/Qwen3-0.6B@main".into())
    );
    assert!(matches!(Spec::parse("src").unwrap(), Spec::Folder(_)));
    for wrong in ["nothing.gguf", "./no/such", "a/b.gguf", "qwen"] {
        let error = Spec::parse(wrong).unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains("synthetic:SHAPE"), "{error}");
    }
    let error = open("synthetic:qwen3-0.7b", 1, None, &mut ()).err().unwrap().to_string();
    assert!(error.contains("did you mean `qwen3-"), "{error}");
}

#[test]
fn engines_are_known_by_name() {
    assert_eq!(EngineKind::parse("candle").unwrap(), EngineKind::Candle);
    let error = EngineKind::parse("lama-cpp").unwrap_err().to_string();
    assert!(error.contains("did you mean `llama-cpp`?"), "{error}");
    let built_in = EngineKind::parse("llama-cpp");
    if cfg!(feature = "llama-cpp") {
        assert_eq!(built_in.unwrap(), EngineKind::LlamaCpp);
    } else {
        let error = built_in.unwrap_err().to_string();
        assert!(
            error.contains("CC=clang CXX=clang++") && error.contains("--features llama-cpp"),
            "{error}"
        );
    }
}

#[test]
fn threads_are_pinned_where_there_is_a_cpu_for_each() {
    let error = |threads, pin, cpus| pool(threads, Some(pin), cpus).err().unwrap().to_string();
    assert_eq!(error(2, "yes", None), "CANDLEMARK_PIN is `yes`; write 1 to pin threads, or 0");
    assert!(error(2, "1", None).contains("does not say which CPUs share a core"));
    let few = error(3, "1", Some(vec![0, 1]));
    assert!(few.contains("3 threads cannot each have one of 2 CPUs; set `--threads 2`"), "{few}");
    for pin in [None, Some(""), Some("0")] {
        assert_eq!(pool(3, pin, None).unwrap().threads(), 3);
    }
    let Some(cpus) = settings::cpus_by_core() else {
        return skipped("no thread was pinned: this system does not say which CPUs share a core");
    };
    let threads = cpus.len();
    assert_eq!(pool(threads, Some("1"), Some(cpus)).unwrap().threads(), threads);
    let error = error(2, "1", Some(vec![0, usize::MAX]));
    assert!(error.starts_with("CANDLEMARK_PIN: cannot pin threads to CPUs ("), "{error}");
}

/// A nano of Qwen3 as GGUF tensors.
fn nano_tensors() -> (Opened, Vec<(String, candle_core::quantized::QTensor)>) {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let tensors = gguf::tensors(&opened.config, opened.source.as_ref(), Some(Quant::Q8_0)).unwrap();
    (opened, tensors)
}

/// Writes a nano as three parts; their paths.
fn write_parts(dir: &Path) -> Vec<PathBuf> {
    use candle_core::quantized::gguf_file::Value;
    let (opened, mut tensors) = nano_tensors();
    let all = tensors.len();
    let paths = gguf::parts(&dir.join("nano-00001-of-00003.gguf")).unwrap();
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
fn a_gguf_in_parts_is_the_model_whichever_part_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write_parts(dir.path());
    let whole = dir.path().join("whole.gguf");
    let (opened, tensors) = nano_tensors();
    gguf::write(&whole, &gguf::shape_metadata(&opened.config, "nano"), &tensors).unwrap();
    for engine in [EngineKind::Native, EngineKind::Candle] {
        let run = |path: &Path| {
            let opened = open(path.to_str().unwrap(), 0, None, &mut ()).unwrap();
            let mut model = load(&opened, engine, None, &Device::Cpu, 2).unwrap();
            model.reset(1).unwrap();
            let hash = opened.source.sha256().unwrap();
            let logits = model.forward(&[step(0, &ids(20, 1))]).unwrap();
            (opened.config, opened.vocabulary, hash, logits)
        };
        let (config, _, _, logits) = run(&whole);
        let parts: Vec<_> = paths.iter().map(|path| run(path)).collect();
        assert_eq!((&parts[0].0, &parts[0].3), (&config, &logits), "{engine:?}");
        assert_eq!(parts[0].1, Vocabulary::Gguf(paths[0].clone()), "llama.cpp wants the first");
        assert!(parts.iter().all(|part| *part == parts[0]), "{engine:?}");
    }
}

#[test]
fn a_part_that_is_missing_renamed_or_of_another_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write_parts(dir.path());
    let error = |path: &Path| {
        open(path.to_str().unwrap(), 0, None, &mut ()).err().expect("it is incomplete").to_string()
    };
    let renamed = dir.path().join("renamed.gguf");
    std::fs::copy(&paths[1], &renamed).unwrap();
    let says = "renamed.gguf` is not valid: it is part 2 of 3, whose names end in \
                `-00001-of-00003.gguf` and so on";
    assert!(error(&renamed).contains(says), "{}", error(&renamed));
    std::fs::copy(&paths[1], &paths[2]).unwrap();
    let says = "nano-00003-of-00003.gguf` is not valid: its keys do not say that it is part 3 of 3";
    assert!(error(&paths[0]).contains(says), "{}", error(&paths[0]));
    std::fs::remove_file(&paths[2]).unwrap();
    let says = "1 of its 3 parts are missing: nano-00003-of-00003.gguf; download them";
    for path in &paths[..2] {
        assert!(error(path).contains(says), "{}", error(path));
    }
    let numberless = dir.path().join("numberless.gguf");
    let (opened, tensors) = nano_tensors();
    let mut metadata = gguf::shape_metadata(&opened.config, "nano");
    metadata.push(("split.count".into(), candle_core::quantized::gguf_file::Value::U16(3)));
    gguf::write(&numberless, &metadata, &tensors).unwrap();
    let says = "it is one of 3 parts, and no `split.no` says which";
    assert!(error(&numberless).contains(says), "{}", error(&numberless));
    for no_part in ["x.gguf", "x-00001-of-3.gguf", "x-00004-of-00003.gguf", "x-0000a-of-00003.gguf"]
    {
        assert_eq!(gguf::parts(Path::new(no_part)), None);
    }
}

/// A folder of nano with a change to the tensors' names and the configuration's text.
fn folder(
    rename: impl Fn(&str) -> String,
    config: impl FnOnce(String) -> String,
    keep: impl Fn(&str) -> bool,
) -> tempfile::TempDir {
    struct Renamed<'a>(&'a dyn Source, Vec<(String, String)>);
    impl Source for Renamed<'_> {
        fn info(&self, name: &str) -> Option<weights::Info> {
            self.0.info(&self.1.iter().find(|(new, _)| new == name)?.1)
        }
        fn rows(&self, name: &str, rows: std::ops::Range<usize>) -> Result<weights::Rows> {
            let (_, old) = self.1.iter().find(|(new, _)| new == name).unwrap();
            self.0.rows(old, rows)
        }
        fn beyond(&self, _: &[(String, Vec<usize>)]) -> Vec<String> {
            Vec::new()
        }
        fn sha256(&self) -> Result<String> {
            self.0.sha256()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    std::fs::write(dir.path().join("config.json"), config(opened.config.to_json())).unwrap();
    let kept = || opened.config.tensors().into_iter().filter(|(name, _)| keep(name));
    let names = kept().map(|(name, _)| (rename(&name), name)).collect();
    let tensors: Vec<_> = kept().map(|(name, shape)| (rename(&name), shape)).collect();
    let source = Renamed(opened.source.as_ref(), names);
    safetensors::write(dir.path(), &source, &tensors, None).unwrap();
    dir
}

/// Hears what is noted of a model.
#[derive(Default)]
struct Notes(Vec<String>);

impl Progress for Notes {
    fn update(&mut self, _: &str, _: u64, _: u64) {}

    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

fn opened(dir: &Path) -> (Result<Opened>, Vec<String>) {
    let mut notes = Notes::default();
    let opened = open(dir.to_str().unwrap(), 0, None, &mut notes);
    (opened, notes.0)
}

#[test]
fn a_model_for_embeddings_is_loaded_or_told_what_it_is() {
    let bare = |name: &str| name.strip_prefix("model.").unwrap().to_owned();
    let tied = folder(bare, |config| config, |_| true);
    let (model, notes) = opened(tied.path());
    let model = load(&model.unwrap(), EngineKind::Native, Some(Quant::F32), &Device::Cpu, 2);
    let mut model = model.unwrap();
    model.reset(1).unwrap();
    let mut same = native("synthetic:nano");
    same.reset(1).unwrap();
    let prompt = ids(9, 1);
    let logits = model.forward(&[step(0, &prompt)]).unwrap();
    assert_eq!(logits, same.forward(&[step(0, &prompt)]).unwrap());
    assert!(notes.len() == 1 && notes[0].contains(": an embedding model: "), "{notes:?}");
    let untie = |config: String| {
        config.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false")
    };
    let error = opened(folder(bare, untie, |_| true).path()).0.err().unwrap().to_string();
    assert!(error.contains("is an embedding model: it has no output matrix"), "{error}");
}

#[test]
fn an_output_matrix_is_tied_only_where_the_folder_says_so() {
    let same = |name: &str| name.to_owned();
    for tie in ["\"tie_word_embeddings\": false", "\"tie_word_embeddings\": null"] {
        let untie = |config: String| config.replace("\"tie_word_embeddings\": true", tie);
        let error = opened(folder(same, untie, |_| true).path()).0.err().unwrap().to_string();
        let says = "config.json` is not valid: the weights have no output matrix `lm_head.weight`, \
                    and `tie_word_embeddings` is not true";
        assert!(error.contains(says), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tied.gguf");
    let (model, tensors) = nano_tensors();
    gguf::write(&file, &gguf::shape_metadata(&model.config, "nano"), &tensors).unwrap();
    let (model, notes) = opened(&file);
    assert!(model.unwrap().config.tied);
    let says = "tied.gguf: no `output.weight`, so the embedding is the output matrix, too";
    assert!(notes.len() == 1 && notes[0].ends_with(says), "{notes:?}");
}

#[test]
fn weights_that_lack_a_tensor_or_have_one_too_many_are_refused_when_they_are_opened() {
    let same = |name: &str| name.to_owned();
    let lacks = folder(same, |config| config, |name| name != "model.norm.weight");
    let error = opened(lacks.path()).0.err().unwrap().to_string();
    assert!(error.contains("the weights lack the tensor `model.norm.weight`"), "{error}");
    let fewer =
        |config: String| config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    let error = opened(folder(same, fewer, |_| true).path()).0.err().unwrap().to_string();
    assert!(error.contains("the weights go on after the 1 layers"), "{error}");
    for (more, says) in [
        (
            "model.layers.0.self_attn.q_proj.bias",
            "the weights have `model.layers.0.self_attn.q_proj.bias`, which the model as it is",
        ),
        ("score.weight", "the weights have `score.weight`, the head of a classifier, reranker"),
    ] {
        let dir = folder(same, |config| config, |_| true);
        let file = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let data = bytes.len() - 8 - header;
        let entry = format!(
            ",\"{more}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{data},{}]}}}}",
            data + 4
        );
        let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap().trim_end();
        let text = format!("{}{entry}", text.strip_suffix('}').unwrap());
        let head = (text.len() as u64).to_le_bytes();
        let file_bytes = [&head[..], text.as_bytes(), &bytes[8 + header..], &[0; 4]].concat();
        std::fs::write(&file, file_bytes).unwrap();
        let error = opened(dir.path()).0.err().unwrap().to_string();
        assert!(error.starts_with("unsupported model: ") && error.contains(says), "{error}");
    }
}

#[test]
fn a_whole_file_goes_before_an_index() {
    let dir = folder(|name| name.to_owned(), |config| config, |_| true);
    let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let (model, notes) = opened(dir.path());
    model.unwrap();
    let says = "model.safetensors.index.json: left out, `model.safetensors` is whole";
    assert!(notes.len() == 1 && notes[0].ends_with(says), "{notes:?}");
}

#[test]
fn what_is_given_in_place_of_a_model_is_told_what_to_give() {
    let dir = folder(|name| name.to_owned(), |config| config, |_| true);
    let weights = dir.path().join("model.safetensors");
    let spec = Spec::parse(weights.to_str().unwrap()).unwrap();
    assert_eq!(spec, Spec::Folder(dir.path().into()), "the weights stand for their folder");
    let other = dir.path().join("other.safetensors");
    let give = format!("give the folder that it is in, `{}`", dir.path().display());
    for (name, text, says) in [
        ("config.json", None, give.as_str()),
        ("tokenizer.json", Some("{}"), &give),
        ("model.safetensors.index.json", Some("{}"), &give),
        ("other.safetensors", Some("x"), "it is one file of a model; give a folder that has"),
        ("pytorch_model.bin", Some("PK"), "PyTorch's own format is not read; convert it to"),
        ("model.pt", Some("PK"), "PyTorch's own format is not read; convert it to"),
        ("readme.md", Some("# Model"), "give a GGUF file, or a folder with `config.json` and"),
        ("empty.gguf", Some(""), "it does not begin with `GGUF`; download it again"),
    ] {
        let path = dir.path().join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = Spec::parse(path.to_str().unwrap()).unwrap_err();
        assert_eq!(error.cause(), crate::error::Cause::Usage);
        let error = error.to_string();
        assert!(error.contains(name) && error.contains(says), "{error}");
    }
    std::fs::remove_file(&other).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let dir = folder(|name| name.to_owned(), |config| config, |_| true);
        std::fs::write(dir.path().join(name), pointer).unwrap();
        let error = opened(dir.path()).0.err().unwrap().to_string();
        let says = format!("{name}` is not valid: it is a Git LFS pointer and not the file itself");
        assert!(error.contains(&says), "{error}");
    }
    for (files, says) in [
        (&[][..], "it is empty"),
        (&["a.gguf", "b.gguf"], "it has no `config.json`; give its GGUF file, as in `"),
        (&["adapter_config.json"], "it is an adapter (LoRA) without its model; merge the two"),
        (&["notes.txt"], "it has no `config.json`"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let error = opened(dir.path()).0.err().unwrap().to_string();
        assert!(error.contains("is no model: ") && error.contains(says), "{error}");
    }
}
