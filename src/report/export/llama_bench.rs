//! A record as JSON lines with the fields of llama.cpp's `llama-bench -o jsonl`, a line a test,
//! which its `scripts/compare-llama-bench.py --tool llama-bench` reads, both of before llama-bench
//! had `load_mode` in place of `use_mmap` and of since: each drops the fields that it does not
//! know.

use serde::Serialize;

use crate::record::{Case, Record};
use crate::report::export::{believed, cpu, device_type, samples};
use crate::report::text::plain;
use crate::stats;
use crate::workload::Task;

/// What stands for a setting of llama.cpp that has no counterpart here. The script joins tests on
/// equal settings, and `null` is equal to nothing.
const NO_SUCH_SETTING: i64 = -1;

/// One test, fields in llama-bench's order
/// (<https://github.com/ggml-org/llama.cpp/blob/master/tools/llama-bench/llama-bench.cpp>, `get_fields`); the last three are
/// ours, and the script drops them.
#[derive(Serialize)]
struct Test<'a> {
    /// First eight digits of the commit; `unknown` outside git, as llama-bench has it.
    build_commit: &'a str,
    /// candlemark counts no builds.
    build_number: Option<i64>,
    cpu_info: &'a str,
    /// The device where it is no CPU, else nothing.
    gpu_info: &'a str,
    /// Device and engine, which is none of llama.cpp's.
    backends: &'a str,
    model_filename: &'a str,
    /// Architecture, weights in billions or millions, quantisation; then what else is no setting
    /// of llama.cpp but changes the numbers: the scenario's own labels, and a slowdown on
    /// purpose.
    model_type: &'a str,
    /// Bytes of the weights in memory.
    model_size: u64,
    model_n_params: u64,
    n_batch: i64,
    n_ubatch: i64,
    n_threads: usize,
    /// No CPU is masked out.
    cpu_mask: &'static str,
    cpu_strict: bool,
    poll: i64,
    /// Number type of the KV cache; `none` where there was no cache.
    type_k: &'a str,
    type_v: &'a str,
    /// All layers on a GPU, none on a CPU.
    n_gpu_layers: usize,
    /// No layer's experts are kept on the CPU by themselves.
    n_cpu_moe: i64,
    split_mode: &'static str,
    main_gpu: i64,
    no_kv_offload: bool,
    flash_attn: i64,
    tensor_split: &'static str,
    tensor_buft_overrides: &'static str,
    use_mmap: i64,
    /// What llama-bench has in place of `use_mmap` since; no file is read by llama.cpp.
    load_mode: &'static str,
    embeddings: bool,
    no_op_offload: i64,
    /// Layers and context are not fitted to the device's memory.
    fit_target: i64,
    fit_min_ctx: i64,
    /// Tokens of the prompt that were read; 0 in a test of generating.
    n_prompt: usize,
    /// Tokens generated in the time; 0 in a test of reading.
    n_gen: usize,
    /// Tokens in the cache before.
    n_depth: usize,
    /// When the first session began.
    test_time: &'a str,
    avg_ns: u64,
    /// `null` of a single sample.
    stddev_ns: Option<u64>,
    avg_ts: f64,
    stddev_ts: Option<f64>,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    scenario: &'a str,
    /// Fresh processes.
    processes: usize,
    /// Whether the tree had changes beside the commit.
    dirty: Option<bool>,
}

/// What llama-bench calls a test: tokens read or generated after others, and the rates.
struct Shape {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    /// Tokens a second, of every measured generation.
    rates: Vec<f64>,
}

/// The record as llama-bench's JSON lines: of each valid scenario of batch 1 a test of reading the
/// prompt, and one of generating.
///
/// The first token belongs to the prompt's pass, as in the time to it, so that a scenario of n
/// tokens is a test of n - 1 generated at the depth of its prompt, where llama-bench by default
/// generates from an empty cache: compare like depths. What cannot be true, failed, or is no plain
/// reading and generating (pipelines, stress, traces) has no line.
pub fn llama_bench(record: &Record) -> String {
    let mut text = String::new();
    let plain_work = |case: &&Case| {
        let task = matches!(case.work.task, Task::Generate | Task::Depth);
        task && case.work.batch == 1 && believed(case)
    };
    for case in record.scenarios.iter().filter(plain_work) {
        for shape in shapes(case).into_iter().filter(|shape| !shape.rates.is_empty()) {
            text += &line(record, case, shape);
        }
    }
    text
}

/// The tests that a scenario is.
fn shapes(case: &Case) -> Vec<Shape> {
    let Some(&prompt) = case.work.prompt_tokens.first() else { return Vec::new() };
    let depth = case.work.depth;
    let rates = |metric: &str| {
        let rates = samples(case, metric).into_iter();
        rates.filter(|rate| rate.is_finite() && *rate > 0.0).collect()
    };
    let read = Shape { n_prompt: prompt, n_gen: 0, n_depth: depth, rates: rates("prefill_tok_s") };
    let generated = steps(case).map(|n_gen| Shape {
        n_prompt: 0,
        n_gen,
        n_depth: depth + prompt,
        rates: rates("decode_tok_s"),
    });
    std::iter::once(read).chain(generated).collect()
}

/// Steps after the first token, if every generation had as many; a natural stop has its own each
/// time.
fn steps(case: &Case) -> Option<usize> {
    let mut counts = case.blocks.iter().flat_map(|block| &block.steps_s).map(Vec::len);
    let first = counts
        .next()
        .or_else(|| (case.work.stop == "length").then(|| case.work.new_tokens.saturating_sub(1)))?;
    (first > 0 && counts.all(|count| count == first)).then_some(first)
}

fn line(record: &Record, case: &Case, shape: Shape) -> String {
    let (model, settings, device) = (&record.model, &record.settings, device_type(record));
    let tokens = (shape.n_prompt + shape.n_gen) as f64;
    let ns: Vec<f64> = shape.rates.iter().map(|rate| 1e9 * tokens / rate).collect();
    let on_gpu = device != "cpu";
    let model_type = model_type(record, case);
    let commit = record.build.commit.as_deref().map(plain);
    let commit = commit.as_deref().unwrap_or("unknown");
    let cache =
        if settings.generation.use_kv_cache { plain(&model.kv_dtype) } else { "none".into() };
    let test = Test {
        build_commit: commit.char_indices().nth(8).map_or(commit, |(end, _)| &commit[..end]),
        build_number: None,
        cpu_info: &plain(cpu(record)),
        gpu_info: if on_gpu { &plain(&settings.device) } else { "" },
        backends: &plain(&format!("candlemark {} on {device}", settings.engine)),
        model_filename: &plain(&model.spec),
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
        test_time: &plain(record.sessions.first().map_or("", |session| &session.started)),
        avg_ns: stats::mean(&ns).unwrap_or_default().round() as u64,
        stddev_ns: stats::sd(&ns).map(|sd| sd.round() as u64),
        avg_ts: stats::mean(&shape.rates).unwrap_or_default(),
        stddev_ts: stats::sd(&shape.rates),
        samples_ns: ns.iter().map(|ns| ns.round() as u64).collect(),
        samples_ts: shape.rates,
        scenario: &plain(&case.id),
        processes: case.blocks.len(),
        dirty: record.build.dirty,
    };
    serde_json::to_string(&test).expect("plain data is JSON") + "\n"
}

/// The column that the script always shows, and joins on.
fn model_type(record: &Record, case: &Case) -> String {
    let model = &record.model;
    let parameters = match model.parameters as f64 {
        count if count < 1e9 => format!("{:.2}M", count / 1e6),
        count => format!("{:.2}B", count / 1e9),
    };
    let mut text = format!("{} {parameters} {}", model.architecture, model.quant);
    // A chat template changes the prompt's length, which the test says.
    for (name, value) in case.labels.iter().filter(|(name, _)| *name != "prompt_format") {
        text += &format!(", {name} {value}");
    }
    if let Some(how) = &record.injected {
        text += &format!(", SLOWED DOWN ON PURPOSE ({how})");
    }
    plain(&text)
}
