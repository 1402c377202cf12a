//! `llama-bench -o json` and `-o jsonl` of llama.cpp and of ik_llama.cpp: one case per test,
//! `pp512` (a prompt of 512 tokens), `tg128` (128 tokens generated), `pp512+tg128`, with `@d4096`
//! behind a prefix of 4096 tokens. Settings that differ within the file are part of the name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::record::import::{Import, Tool, add, count, missing, text, value};
use crate::record::{Block, Case, Machine, Model, Work};
use crate::stats;
use crate::workload::{Task, metric};

pub(super) const TOOL: Tool = Tool {
    name: "llama-bench",
    matches: |document| {
        let first = document.get(0).unwrap_or(document);
        ["model_filename", "n_prompt", "n_gen", "avg_ts"].iter().all(|key| first.get(key).is_some())
    },
    read,
    leaves_open: "its results have no hash of the model, so that its type, size and number of \
                  parameters stand for it, and neither memory nor TTFT",
};

/// What tells tests apart beside their work, and the labels of a record.
const SETTINGS: &[&str] = &[
    "n_threads",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "devices",
    "tensor_split",
    "use_mmap",
    "load_mode",
    "embeddings",
    "cpu_mask",
    "cpu_strict",
    "poll",
    // Of ik_llama.cpp.
    "mla_attn",
    "attn_max_batch",
    "ser",
    "reuse",
    "repack",
    "mqkv",
    "muge",
    "fused_moe",
    "grouped_er",
    "no_fused_up_gate",
    "use_thp",
    "no_ooae",
    "rcache",
    "sas",
    "override_tensor",
    "defer_experts",
    "max_gpu",
    "cuda_params",
];

/// What every test of a file must share.
const SUBJECT: [&str; 6] =
    ["build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type"];

fn read(document: &Value) -> Result<Import, String> {
    let tests = document.as_array().map_or(std::slice::from_ref(document), Vec::as_slice);
    let first = tests.first().ok_or("it is empty")?;
    for field in SUBJECT {
        if let Some(other) = tests.iter().find(|test| test.get(field) != first.get(field)) {
            return Err(format!(
                "`{field}` is {} and {}; give one file for each",
                first[field], other[field]
            ));
        }
    }
    let (varying, fixed): (Vec<&str>, Vec<&str>) = SETTINGS.iter().partition(|name| {
        let values = tests.iter().map(|test| setting(test, name)).collect::<BTreeSet<_>>();
        values.len() > 1
    });
    let label = |name: &&str| Some(((*name).to_owned(), setting(first, name)?));
    let mut import = Import {
        started: text(first, "/test_time").unwrap_or_default(),
        version: count(first, "/build_number")
            .filter(|number| *number > 0)
            .map_or(String::new(), |number| format!("b{number}")),
        commit: text(first, "/build_commit").filter(|commit| commit != "unknown"),
        engine: if first.get("mla_attn").is_some() { "ik_llama.cpp" } else { "llama.cpp" }.into(),
        device: text(first, "/backends").unwrap_or_default(),
        // Where tests differ in it, it is part of their names.
        threads: match fixed.contains(&"n_threads") {
            true => count(first, "/n_threads").unwrap_or(0) as usize,
            false => 0,
        },
        model: model(first),
        machine: machine(first),
        labels: fixed.iter().filter(|name| **name != "n_threads").filter_map(label).collect(),
        ..Import::default()
    };
    for test in tests {
        add(&mut import.cases, case(test, &varying)?)?;
    }
    Ok(import)
}

fn setting(test: &Value, name: &str) -> Option<String> {
    match test.get(name)? {
        Value::String(text) => Some(crate::error::shortened(text)),
        other => Some(other.to_string()),
    }
}

fn model(test: &Value) -> Model {
    let kind = text(test, "/model_type").unwrap_or_default();
    let file = text(test, "/model_filename").unwrap_or_default();
    let mut words = kind.split(' ');
    let architecture = words.next().unwrap_or_default().to_owned();
    // `0.6B` comes between; quantizations have spaces.
    let quant = words.skip(1).collect::<Vec<_>>().join(" ");
    let (size, parameters) = (count(test, "/model_size"), count(test, "/model_n_params"));
    let (size, parameters) = (size.unwrap_or(0), parameters.unwrap_or(0));
    let [k, v] = ["/type_k", "/type_v"].map(|of| text(test, of).unwrap_or_default());
    Model {
        spec: file.rsplit(['/', '\\']).next().unwrap_or_default().to_owned(),
        sha256: format!("not reported, {kind} of {size} bytes and {parameters} parameters"),
        architecture,
        quant,
        kv_dtype: if k == v { k } else { format!("{k}/{v}") },
        parameters,
        weight_bytes: size,
        ..Model::default()
    }
}

/// Its class are the names of the processors.
fn machine(test: &Value) -> Machine {
    let names = [("cpu", "/cpu_info"), ("gpu", "/gpu_info"), ("backends", "/backends")];
    let fields: BTreeMap<String, String> = names
        .into_iter()
        .filter_map(|(name, at)| Some((name.to_owned(), text(test, at)?)))
        .collect();
    let joined = fields.values().cloned().collect::<Vec<_>>().join(" ").to_lowercase();
    let words = joined.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let class = words.collect::<Vec<_>>().join("-");
    Machine { class, fields, ..Machine::default() }
}

fn case(test: &Value, varying: &[&str]) -> Result<Case, String> {
    let number = |name: &str| count(test, &format!("/{name}")).unwrap_or(0) as usize;
    let (mut prompt, new, mut depth) = (number("n_prompt"), number("n_gen"), number("n_depth"));
    // ik_llama.cpp's `-gp D,N` times generation alone and reports the tokens before as a prompt.
    if test["test"].as_str() == Some(&format!("tg{new}@pp{prompt}")) {
        (prompt, depth) = (0, prompt);
    }
    let mut parts = Vec::new();
    if prompt > 0 {
        parts.push(format!("pp{prompt}"));
    }
    if new > 0 {
        parts.push(format!("tg{new}"));
    }
    if parts.is_empty() {
        return Err("a test has neither a prompt nor generated tokens".into());
    }
    let mut id = parts.join("+");
    if depth > 0 {
        id += &format!("@d{depth}");
    }
    let mut labels = BTreeMap::new();
    for name in varying {
        if let Some(value) = setting(test, name) {
            id += &format!("/{name}={value}");
            labels.insert((*name).to_owned(), value);
        }
    }
    // A prompt alone is judged by its rate, generated tokens by theirs; llama-bench times both
    // together where a test has both, which is neither.
    let (task, new_tokens) = match (prompt, new) {
        (_, 0) => (Task::Generate, 1),
        _ => (Task::Depth, new),
    };
    let stop = "length".into();
    let work = Work {
        task,
        batch: 1,
        prompt_tokens: vec![prompt],
        depth,
        new_tokens,
        stop,
        ..Work::default()
    };
    Ok(Case { id, work, labels, blocks: vec![block(test, prompt, new)], ..Case::default() })
}

fn block(test: &Value, prompt: usize, new: usize) -> Block {
    let list = |name: &str, scale: f64| {
        let numbers = test[name].as_array().into_iter().flatten().filter_map(Value::as_f64);
        let scaled = numbers.map(|number| number * scale);
        scaled.filter(|number| number.is_finite() && *number > 0.0).collect::<Vec<f64>>()
    };
    let (rate, time, neither) = match (prompt > 0, new > 0) {
        (true, false) => (Some(metric::PREFILL_TOK_S), metric::PREFILL_S, None),
        (false, _) => (Some(metric::DECODE_TOK_S), metric::E2E_S, None),
        (true, true) => (None, metric::E2E_S, Some(metric::DECODE_TOK_S)),
    };
    let mut block = Block::default();
    let rates = rate.map(|rate| (rate, list("samples_ts", 1.0), value(test, "/avg_ts")));
    let ns = value(test, "/avg_ns").map(|ns| ns * 1e-9);
    for (name, samples, mean) in rates.into_iter().chain([(time, list("samples_ns", 1e-9), ns)]) {
        match stats::median(&samples).or(mean) {
            Some(value) => drop(block.values.insert(name.into(), Some(value))),
            None => missing(&mut block, name, "llama-bench did not report it"),
        }
        if !samples.is_empty() {
            block.samples.insert(name.into(), samples);
        }
    }
    if let Some(name) = neither {
        missing(&mut block, name, "llama-bench times prompt and generation together here");
    }
    missing(&mut block, metric::PEAK_RSS_BYTES, "llama-bench does not report memory");
    missing(&mut block, metric::TTFT_S, "llama-bench does not report TTFT");
    block
}
