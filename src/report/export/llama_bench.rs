//! A record as JSON lines with the fields of llama.cpp's `llama-bench -o jsonl`, one line per test,
//! for its `scripts/compare-llama-bench.py --tool llama-bench`. Versions before and after
//! `load_mode` replaced `use_mmap` both work: each ignores unknown fields.

use serde::Serialize;

use crate::record::{Case, Record};
use crate::report::export::{cpu, device_type, is_valid, samples};
use crate::report::text::sanitize;
use crate::stats;
use crate::workload::Task;

/// The value of a llama.cpp setting without a counterpart here. The script joins tests on equal
/// settings, and `null` equals nothing.
const NO_SUCH_SETTING: i64 = -1;

/// One test, with fields in llama-bench's order
/// (<https://github.com/ggml-org/llama.cpp/blob/master/tools/llama-bench/llama-bench.cpp>,
/// `get_fields`); the script ignores the last three, which are ours.
#[derive(Serialize)]
struct Test<'a> {
    /// First eight digits of the commit; `unknown` outside git, as in llama-bench.
    build_commit: &'a str,
    /// candlemark has no build numbers.
    build_number: Option<i64>,
    cpu_info: &'a str,
    /// The device, unless it is a CPU.
    gpu_info: &'a str,
    /// Device and engine.
    backends: &'a str,
    model_filename: &'a str,
    /// Architecture, parameters in billions or millions, quantization; then everything else that
    /// changes the numbers but is no setting of llama.cpp: the scenario's labels and an injected
    /// slowdown.
    model_type: &'a str,
    /// Bytes of the weights in memory.
    model_size: u64,
    model_n_params: u64,
    n_batch: i64,
    n_ubatch: i64,
    n_threads: usize,
    /// No CPU is masked.
    cpu_mask: &'static str,
    cpu_strict: bool,
    poll: i64,
    /// Data type of the KV cache; `none` without a cache.
    type_k: &'a str,
    type_v: &'a str,
    /// All layers on a GPU, none on a CPU.
    n_gpu_layers: usize,
    /// No expert layers are kept on the CPU.
    n_cpu_moe: i64,
    split_mode: &'static str,
    main_gpu: i64,
    no_kv_offload: bool,
    flash_attn: i64,
    tensor_split: &'static str,
    tensor_buft_overrides: &'static str,
    use_mmap: i64,
    /// Replaces `use_mmap` in newer versions.
    load_mode: &'static str,
    embeddings: bool,
    no_op_offload: i64,
    /// Layers and context are not fitted to device memory.
    fit_target: i64,
    fit_min_ctx: i64,
    /// Prompt tokens processed; 0 in a generation test.
    n_prompt: usize,
    /// Tokens generated; 0 in a prompt test.
    n_gen: usize,
    /// Tokens already in the cache.
    n_depth: usize,
    /// When the first session began.
    test_time: &'a str,
    avg_ns: u64,
    /// `null` for a single sample.
    stddev_ns: Option<u64>,
    avg_ts: f64,
    stddev_ts: Option<f64>,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    scenario: &'a str,
    /// Fresh processes.
    processes: usize,
    /// Whether the tree had uncommitted changes.
    dirty: Option<bool>,
}

/// A test of llama-bench: tokens processed or generated at a depth, and the rates.
struct TestShape {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    /// Tokens per second of every measured generation.
    rates: Vec<f64>,
}

/// The record as llama-bench's JSON lines: a prompt test and a generation test for each valid
/// scenario of batch 1.
///
/// The first token belongs to the prompt's pass, as in TTFT, so a scenario of n tokens is a test of
/// n - 1 tokens generated at the depth of its prompt. llama-bench by default generates from an
/// empty cache: compare equal depths. Invalid and failed scenarios, pipelines, stress tests and
/// traces have no line.
pub fn llama_bench(record: &Record) -> String {
    let mut text = String::new();
    let plain_work = |case: &&Case| {
        let task = matches!(case.work.task, Task::Generate | Task::Depth);
        task && case.work.batch == 1 && is_valid(case)
    };
    for case in record.scenarios.iter().filter(plain_work) {
        for shape in shapes(case).into_iter().filter(|shape| !shape.rates.is_empty()) {
            text += &json_line(record, case, shape);
        }
    }
    text
}

/// The tests of a scenario.
fn shapes(case: &Case) -> Vec<TestShape> {
    let Some(&prompt) = case.work.prompt_tokens.first() else { return Vec::new() };
    let depth = case.work.depth;
    let rates = |metric: &str| {
        let rates = samples(case, metric).into_iter();
        rates.filter(|rate| rate.is_finite() && *rate > 0.0).collect()
    };
    let read =
        TestShape { n_prompt: prompt, n_gen: 0, n_depth: depth, rates: rates("prefill_tok_s") };
    let generated = steps(case).map(|n_gen| TestShape {
        n_prompt: 0,
        n_gen,
        n_depth: depth + prompt,
        rates: rates("decode_tok_s"),
    });
    std::iter::once(read).chain(generated).collect()
}

/// Steps after the first token, if equal in all generations; with a natural stop they differ.
fn steps(case: &Case) -> Option<usize> {
    let mut counts = case.blocks.iter().flat_map(|block| &block.steps_s).map(Vec::len);
    let first = counts
        .next()
        .or_else(|| (case.work.stop == "length").then(|| case.work.new_tokens.saturating_sub(1)))?;
    (first > 0 && counts.all(|count| count == first)).then_some(first)
}

fn json_line(record: &Record, case: &Case, shape: TestShape) -> String {
    let (model, settings, device) = (&record.model, &record.settings, device_type(record));
    let tokens = (shape.n_prompt + shape.n_gen) as f64;
    let ns: Vec<f64> = shape.rates.iter().map(|rate| 1e9 * tokens / rate).collect();
    let on_gpu = device != "cpu";
    let model_type = model_type(record, case);
    let commit = record.build.commit.as_deref().map(sanitize);
    let commit = commit.as_deref().unwrap_or("unknown");
    let cache =
        if settings.generation.use_kv_cache { sanitize(&model.kv_dtype) } else { "none".into() };
    let test = Test {
        build_commit: commit.char_indices().nth(8).map_or(commit, |(end, _)| &commit[..end]),
        build_number: None,
        cpu_info: &sanitize(cpu(record)),
        gpu_info: if on_gpu { &sanitize(&settings.device) } else { "" },
        backends: &sanitize(&format!("candlemark {} on {device}", settings.engine)),
        model_filename: &sanitize(&model.spec),
        model_type: &model_type,
        model_size: model.weight_bytes,
        model_n_params: model.parameters,
        n_batch: NO_SUCH_SETTING,
        n_ubatch: NO_SUCH_SETTING,
        n_threads: settings.threads,
        cpu_mask: "0x0",
        cpu_strict: false,
        poll: NO_SUCH_SETTING,
        type_k: &cache,
        type_v: &cache,
        n_gpu_layers: if on_gpu { model.layers } else { 0 },
        n_cpu_moe: 0,
        split_mode: "none",
        main_gpu: NO_SUCH_SETTING,
        no_kv_offload: false,
        flash_attn: NO_SUCH_SETTING,
        tensor_split: "none",
        tensor_buft_overrides: "none",
        use_mmap: NO_SUCH_SETTING,
        load_mode: "none",
        embeddings: false,
        no_op_offload: NO_SUCH_SETTING,
        fit_target: 0,
        fit_min_ctx: 0,
        n_prompt: shape.n_prompt,
        n_gen: shape.n_gen,
        n_depth: shape.n_depth,
        test_time: &sanitize(record.sessions.first().map_or("", |session| &session.started)),
        avg_ns: stats::mean(&ns).unwrap_or_default().round() as u64,
        stddev_ns: stats::sd(&ns).map(|sd| sd.round() as u64),
        avg_ts: stats::mean(&shape.rates).unwrap_or_default(),
        stddev_ts: stats::sd(&shape.rates),
        samples_ns: ns.iter().map(|ns| ns.round() as u64).collect(),
        samples_ts: shape.rates,
        scenario: &sanitize(&case.id),
        processes: case.blocks.len(),
        dirty: record.build.dirty,
    };
    serde_json::to_string(&test).expect("plain data is JSON") + "\n"
}

/// The column that the script always shows and joins on.
fn model_type(record: &Record, case: &Case) -> String {
    let model = &record.model;
    let parameters = match model.parameters as f64 {
        count if count < 1e9 => format!("{:.2}M", count / 1e6),
        count => format!("{:.2}B", count / 1e9),
    };
    let mut text = format!("{} {parameters} {}", model.architecture, model.quant);
    // A chat template changes the prompt's length, which the test contains.
    for (name, value) in case.labels.iter().filter(|(name, _)| *name != "prompt_format") {
        text += &format!(", {name} {value}");
    }
    if let Some(how) = &record.injected {
        text += &format!(", SLOWED DOWN ON PURPOSE ({how})");
    }
    sanitize(&text)
}
