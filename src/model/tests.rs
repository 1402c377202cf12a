//! Agreement of the engines with candle-transformers, and of every kernel tier with f32.

mod damaged;
mod folders;
mod shards;

use super::*;
use crate::kernel::{GgmlType, Isa, KvDtype, dequantize, quantize, skipped};
use crate::settings::RopeScaling;

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
    load(&open(spec, SEED, None, &mut ()).unwrap(), engine, Some(quant), None, &Device::Cpu, 2)
        .unwrap()
}

fn native(spec: &str) -> Box<dyn Decoder> {
    decoder(spec, EngineKind::Native, Quant::F32)
}

/// Pseudorandom token ids, the same on every machine.
pub(super) fn ids(count: usize, salt: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(salt * 97) >> 7) % 3000)
        .collect()
}

pub(super) fn step(sequence: usize, tokens: &[u32]) -> Step<'_> {
    Step { sequence, tokens }
}

/// The relative distance ‖a − b‖ / ‖b‖.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    square(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)))
        / square(&mut b.iter().map(|&b| f64::from(b)))
}

#[test]
fn logits_agree_with_candle_transformers() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let (mut native, mut reference) =
            (native(spec), decoder(spec, EngineKind::Candle, Quant::F32));
        for length in [1, 17, 300] {
            let prompt = ids(length, 1);
            native.reset(1).unwrap();
            reference.reset(1).unwrap();
            let mut tokens = prompt.as_slice();
            let next = ids(3, 2);
            for round in 0..3 {
                let (a, b) = (
                    native.forward(&[step(0, tokens)]).unwrap(),
                    reference.forward(&[step(0, tokens)]).unwrap(),
                );
                let error = distance(&a.values, &b.values);
                assert!(error < 1e-4, "{spec}, prompt {length}, round {round}: {error}");
                tokens = &next[round..=round];
            }
        }
    }
}

#[test]
fn logits_agree_with_candle_transformers_past_position_2048() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let (mut native, mut reference) =
            (native(spec), decoder(spec, EngineKind::Candle, Quant::F32));
        native.reset(1).unwrap();
        reference.reset(1).unwrap();
        let (prompt, next) = (ids(2500, 1), [5]);
        for tokens in [prompt.as_slice(), &next] {
            let (a, b) = (
                native.forward(&[step(0, tokens)]).unwrap(),
                reference.forward(&[step(0, tokens)]).unwrap(),
            );
            let error = distance(&a.values, &b.values);
            assert!(error < 1e-4, "{spec}: {error}");
        }
    }
}

#[test]
fn quantized_logits_are_close_to_candle_transformers() {
    // Both have the same blocks; they round activations differently.
    for (spec, quant) in [
        ("synthetic:nano", Quant::Q8_0),
        ("synthetic:nano", Quant::Q4KM),
        ("synthetic:nano-qwen2", Quant::Q8_0),
    ] {
        let (mut native, mut reference) =
            (decoder(spec, EngineKind::Native, quant), decoder(spec, EngineKind::Candle, quant));
        for length in [5, 60] {
            let prompt = ids(length, 1);
            native.reset(1).unwrap();
            reference.reset(1).unwrap();
            let (a, b) = (
                native.forward(&[step(0, &prompt)]).unwrap(),
                reference.forward(&[step(0, &prompt)]).unwrap(),
            );
            let error = distance(&a.values, &b.values);
            assert!(error < 0.05, "{spec} {quant:?}: {error}");
        }
    }
}

/// Relative distance up to the last bits of f32: the order of sums in a GEMM depends on its rows.
const F32_TOLERANCE: f64 = 5e-6;

#[test]
fn a_ragged_batch_equals_each_sequence_alone() {
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
            assert!(distance(row, alone) < F32_TOLERANCE, "{spec}: {}", distance(row, alone));
        }
        // Some of the sequences, in another order, at different positions.
        let some = model.forward(&[step(3, &[5]), step(1, &[6, 7])]).unwrap();
        model.reset(1).unwrap();
        model.forward(&[step(0, &prompts[1])]).unwrap();
        let alone = model.forward(&[step(0, &[11, 6, 7])]).unwrap();
        assert!(distance(some.rows().nth(1).unwrap(), &alone.values) < F32_TOLERANCE);
    }
}

#[test]
fn chunked_prefill_and_prefill_after_decode_equal_one_prefill() {
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
            // Decode kernels multiply bf16 weights in f32, prefill kernels in 16-bit integers.
            let bound = if quant == Quant::F32 { F32_TOLERANCE } else { 0.01 };
            let error = distance(&last.unwrap().values, &whole.values);
            assert!(error < bound, "{quant:?} {cuts:?}: {error}");
        }
    }
}

#[test]
fn yarn_changes_the_logits() {
    // candle-transformers ignores the scaling, so it cannot be the reference; `rope` tests the
    // tables.
    let unscaled = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let scaled = open("synthetic:nano", SEED, Some(yarn()), &mut ()).unwrap();
    assert_eq!(scaled.config.context, 40960, "a longer context than the scaling's own stays");
    let run = |opened: &ModelSource| {
        let mut model = load(opened, EngineKind::Native, None, None, &Device::Cpu, 2).unwrap();
        model.reset(1).unwrap();
        model.forward(&[step(0, &ids(200, 1))]).unwrap().values
    };
    assert!(distance(&run(&scaled), &run(&unscaled)) > 1e-3, "the scaling is not ignored");
    let error = load(&scaled, EngineKind::Candle, None, None, &Device::Cpu, 2).err().unwrap();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
}

#[test]
fn positions_end_at_the_context() {
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.context = 64;
    let mut model = load(&opened, EngineKind::Native, None, None, &Device::Cpu, 2).unwrap();
    model.reset(1).unwrap();
    model.forward(&[step(0, &ids(64, 1))]).unwrap();
    let error = model.forward(&[step(0, &[1])]).unwrap_err().to_string();
    assert!(error.contains("65 tokens") && error.contains("context of 64"), "{error}");
}

#[test]
fn limits_of_candle_transformers_are_unsupported_errors() {
    let mut model = decoder("synthetic:nano", EngineKind::Candle, Quant::Q8_0);
    assert!(matches!(model.reset(2), Err(Error::Unsupported(_))));
    let mut model = decoder("synthetic:nano", EngineKind::Candle, Quant::F32);
    model.reset(2).unwrap();
    let ragged = model.forward(&[step(0, &[1, 2]), step(1, &[3])]);
    assert!(matches!(ragged, Err(Error::Unsupported(_))));
}

#[test]
fn every_file_format_gives_the_same_logits() {
    let dir = tempfile::tempdir().unwrap();
    for shape in ["nano", "nano-qwen2"] {
        let opened = open(&format!("synthetic:{shape}"), SEED, None, &mut ()).unwrap();
        let config = &opened.config;
        let single = dir.path().join(format!("{shape}-single"));
        let sharded = dir.path().join(format!("{shape}-sharded"));
        for (folder, shard) in [(&single, None), (&sharded, Some(1 << 20))] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("config.json"), config.to_json()).unwrap();
            safetensors::write(folder, opened.weights.as_ref(), &config.tensors(), shard).unwrap();
        }
        assert!(safetensors::weight_files(&sharded).unwrap().len() > 1);
        let gguf = dir.path().join(format!("{shape}.gguf"));
        let tensors = gguf::quantized_tensors(config, opened.weights.as_ref(), None).unwrap();
        gguf::write(&gguf, &gguf::shape_metadata(config, shape), &tensors).unwrap();
        let run = |spec: &str| {
            let opened = open(spec, SEED, None, &mut ()).unwrap();
            let mut model = load(&opened, EngineKind::Native, None, None, &Device::Cpu, 2).unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let mut model = load(&opened, EngineKind::Native, None, None, &Device::Cpu, 2).unwrap();
    model.reset(1).unwrap();
    let exact = model.forward(&[step(0, &ids(40, 1))]).unwrap();
    for (dtype, name, bound) in [
        (GgmlType::F16, "f16", 0.01),
        (GgmlType::BF16, "bf16", 0.02),
        (GgmlType::Q8_0, "q8_0", 0.05),
        (GgmlType::Q2K, "bf16-from-q2_k", 2.0),
        (GgmlType::Q3K, "q3_k", 1.0),
        (GgmlType::Q4_0, "q4_0", 0.6),
        (GgmlType::Q4_1, "q4_1", 0.6),
        (GgmlType::Q4K, "q4_k", 0.5),
        (GgmlType::Q5_0, "q5_0", 0.3),
        (GgmlType::Q5_1, "q5_1", 0.3),
        (GgmlType::Q5K, "q5_k", 0.3),
        (GgmlType::Q6K, "q6_k", 0.2),
        (GgmlType::IQ4NL, "iq4_nl", 0.6),
        (GgmlType::IQ4XS, "iq4_xs", 0.6),
        (GgmlType::MXFP4, "mxfp4", 1.5),
    ] {
        let tensors = nano_tensors_in(dtype);
        let path = dir.path().join(format!("{name}.gguf"));
        gguf::write(&path, &gguf::shape_metadata(&opened.config, name), &tensors).unwrap();
        let read = open(path.to_str().unwrap(), 0, None, &mut ()).unwrap();
        let mut model = load(&read, EngineKind::Native, None, None, &Device::Cpu, 2).unwrap();
        assert_eq!(model.footprint().quant_name(), name);
        if matches!(dtype, GgmlType::F16 | GgmlType::BF16 | GgmlType::Q8_0 | GgmlType::Q4K) {
            let stored = read.stored_footprint();
            assert_eq!(stored.quant_name(), name);
            assert_eq!(stored.step_bytes, model.footprint().step_bytes, "{name}, as in its file");
        }
        model.reset(1).unwrap();
        let error =
            distance(&model.forward(&[step(0, &ids(40, 1))]).unwrap().values, &exact.values);
        assert!(error < bound, "{name}: {error}");
    }
}

/// The `nano` model as GGUF tensors.
fn nano_tensors() -> (ModelSource, Vec<gguf::Tensor>) {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let tensors =
        gguf::quantized_tensors(&opened.config, opened.weights.as_ref(), Some(Quant::Q8_0))
            .unwrap();
    (opened, tensors)
}

/// The `nano` model with its matrices in a type.
fn nano_tensors_in(dtype: GgmlType) -> Vec<gguf::Tensor> {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let mut tensors =
        gguf::quantized_tensors(&opened.config, opened.weights.as_ref(), None).unwrap();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.shape.len() == 2) {
        tensor.bytes = quantize(dtype, &dequantize(tensor.dtype, &tensor.bytes));
        tensor.dtype = dtype;
    }
    tensors
}

/// A quantized GGUF file loaded twice: as it is, and dequantized to f32 as its reference.
/// The former has a KV cache of this dtype.
fn with_f32_reference(
    tensors: &[gguf::Tensor],
    kv_dtype: KvDtype,
    isa: Isa,
) -> (cpu::CpuDecoder, cpu::CpuDecoder) {
    let dir = tempfile::tempdir().unwrap();
    let made = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let path = dir.path().join("model.gguf");
    gguf::write(&path, &gguf::shape_metadata(&made.config, "nano"), tensors).unwrap();
    let opened = open(path.to_str().unwrap(), 0, None, &mut ()).unwrap();
    let load = |quant, kv_dtype| {
        let (weights, pool) = (opened.weights.as_ref(), Pool::new(2).unwrap());
        cpu::CpuDecoder::load(&opened.config, weights, quant, kv_dtype, isa, pool).unwrap()
    };
    (load(None, Some(kv_dtype)), load(Some(Quant::F32), None))
}

/// KL divergence of `q` from `p` in nats, both given as logits.
fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let logs = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
        row.iter().map(|v| f64::from(v - max) - sum.ln()).collect()
    };
    logs(p).iter().zip(logs(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn every_tier_is_close_to_f32() {
    let tiers = Isa::for_tests();
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let quantized = |quant| {
        gguf::quantized_tensors(&opened.config, opened.weights.as_ref(), Some(quant)).unwrap()
    };
    // The bounds of docs/engine.md, for a text in one prefill, and by one and two tokens: two and
    // four query rows, which attention over bf16 tells apart.
    let bf16 = KvDtype::Bf16;
    let mut all = vec![
        ("bf16", quantized(Quant::Bf16), bf16, 2e-5, 0.97),
        ("bf16 with a q8_0 cache", quantized(Quant::Bf16), KvDtype::Q8_0, 5e-5, 0.95),
        ("q4_k_m", quantized(Quant::Q4KM), bf16, 2e-4, 0.95),
    ];
    for (name, dtype) in [
        ("q8_0", GgmlType::Q8_0),
        ("q5_k", GgmlType::Q5K),
        ("iq4_xs", GgmlType::IQ4XS),
        // Types in panels of the formats above: the best tier will do.
        ("q5_0", GgmlType::Q5_0),
        ("q5_1", GgmlType::Q5_1),
        ("q4_0", GgmlType::Q4_0),
        ("q4_1", GgmlType::Q4_1),
        ("q3_k", GgmlType::Q3K),
        ("iq4_nl", GgmlType::IQ4NL),
        ("mxfp4", GgmlType::MXFP4),
    ] {
        all.push((name, nano_tensors_in(dtype), bf16, 2e-4, 0.95));
    }
    for (i, (quant, tensors, kv_dtype, max_kl, min_top1)) in all.iter().enumerate() {
        for &isa in if i < 6 { &tiers[..] } else { &tiers[tiers.len() - 1..] } {
            let (mut model, mut reference) = with_f32_reference(tensors, *kv_dtype, isa);
            let text = ids(200, 4);
            let mut exact = Vec::new();
            let mut native = [Vec::new(), Vec::new(), Vec::new()];
            for (all, model) in [(&mut exact, &mut reference), (&mut native[0], &mut model)] {
                model.reset(1).unwrap();
                all.extend(model.forward_all(step(0, &text)).unwrap().values);
            }
            for count in [1, 2] {
                model.reset(1).unwrap();
                for tokens in text.chunks(count) {
                    native[count].extend(model.forward_all(step(0, tokens)).unwrap().values);
                }
            }
            let vocab = reference.forward(&[step(0, &[1])]).unwrap().vocab;
            for (how, native) in
                ["prefill", "token by token", "by two tokens"].into_iter().zip(&native)
            {
                let pairs = || exact.chunks(vocab).zip(native.chunks(vocab));
                let kl = pairs().map(|(p, q)| kl_divergence(p, q)).sum::<f64>() / text.len() as f64;
                let top = |values: &[f32]| Logits { vocab, values: values.to_vec() }.argmax()[0];
                let same = pairs().filter(|(p, q)| top(p) == top(q)).count();
                let top1 = same as f64 / text.len() as f64;
                let name = isa.name();
                assert!(
                    kl < *max_kl && top1 >= *min_top1,
                    "{name} {quant} {how}: KL {kl:.2e}, top-1 {top1}"
                );
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    let quants = [Quant::F32, Quant::Bf16, Quant::Q8_0, Quant::Q4KM, Quant::Iq4Xs];
    for (quant, kv) in
        quants.map(|quant| (quant, None)).into_iter().chain([(Quant::Bf16, Some(KvDtype::Q8_0))])
    {
        let run = |threads| {
            let engine = EngineKind::Native;
            let mut model = load(&opened, engine, Some(quant), kv, &Device::Cpu, threads).unwrap();
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
fn the_gpu_engine_agrees_with_the_cpu_engine() {
    for spec in ["synthetic:nano", "synthetic:nano-qwen2"] {
        let opened = open(spec, SEED, None, &mut ()).unwrap();
        let quant = Some(Quant::F32);
        let source = opened.weights.as_ref();
        let mut device =
            gpu::GpuDecoder::load(&opened.config, source, quant, &Device::Cpu).unwrap();
        let mut native = native(spec);
        let prompts = [ids(50, 1), ids(3, 2)];
        for tokens in [[prompts[0].as_slice(), &prompts[1]], [&[7], &[9]]] {
            let steps = [step(0, tokens[0]), step(1, tokens[1])];
            if tokens[0].len() > 1 {
                device.reset(2).unwrap();
                native.reset(2).unwrap();
            }
            let (a, b) = (device.forward(&steps).unwrap(), native.forward(&steps).unwrap());
            assert!(distance(&a.values, &b.values) < 1e-4, "{spec}");
        }
        native.truncate(0, 20).unwrap();
        device.truncate(0, 20).unwrap();
        let after = [step(0, &[3, 4])];
        let (a, b) = (device.forward(&after).unwrap(), native.forward(&after).unwrap());
        assert!(distance(&a.values, &b.values) < 1e-4, "{spec} after truncating");
        let (a, b) = (device.embed(&after).unwrap(), native.embed(&after).unwrap());
        assert!(distance(&a[0], &b[0]) < 1e-4, "{spec} hidden states");
    }
}

#[test]
fn a_head_width_without_kernels_is_unsupported() {
    let mut opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    opened.config.head_dim = 24;
    let error = load(&opened, EngineKind::Native, None, None, &Device::Cpu, 2).err().unwrap();
    assert!(
        matches!(&error, Error::Unsupported(why) if why.contains("--engine candle")),
        "{error}"
    );
}

#[test]
fn engines_parse_by_name() {
    assert_eq!(EngineKind::parse("candle").unwrap(), EngineKind::Candle);
    let error = EngineKind::parse("candel").unwrap_err().to_string();
    assert!(error.contains("did you mean `candle`?"), "{error}");
}

#[test]
fn threads_are_pinned_if_there_are_enough_cpus() {
    let error =
        |threads, pin, cpus| thread_pool(threads, Some(pin), cpus).err().unwrap().to_string();
    assert_eq!(error(2, "yes", None), "CANDLEMARK_PIN is `yes`; write 1 to pin threads, or 0");
    assert!(error(2, "1", None).contains("does not say which CPUs share a core"));
    let few = error(3, "1", Some(vec![0, 1]));
    assert!(few.contains("2 CPUs are not enough for 3 threads; set `--threads 2`"), "{few}");
    for pin in [None, Some(""), Some("0")] {
        assert_eq!(thread_pool(3, pin, None).unwrap().threads(), 3);
    }
    let Some(cpus) = settings::cpus_by_core() else {
        return skipped("no thread was pinned: this system does not say which CPUs share a core");
    };
    let threads = cpus.len();
    assert_eq!(thread_pool(threads, Some("1"), Some(cpus)).unwrap().threads(), threads);
    let error = error(2, "1", Some(vec![0, usize::MAX]));
    assert!(error.starts_with("CANDLEMARK_PIN: cannot pin threads to CPUs ("), "{error}");
}
