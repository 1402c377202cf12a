//! One scenario as one JSON object (platform, device, model, generation, results), for tables and
//! scripts that do not read records.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Result;
use crate::record::{Case, Record};
use crate::report::export::{
    cpu, decode_rate, device_type, is_valid, mib, representative_case, samples, source,
};
use crate::report::text::sanitize;
use crate::stats;
use crate::workload::metric;

/// The whole object. Unknown values are `null`, never omitted and never zero.
#[derive(Serialize)]
struct Benchmark {
    /// When the first session began: UTC, RFC 3339.
    timestamp: Option<String>,
    /// Commit that candlemark was built from.
    commit: Option<String>,
    platform: Platform,
    runtime: Runtime,
    device: Device,
    model: Model,
    generation: Generation,
    results: Results,
    /// The injected slowdown, if any: the numbers are not those of the program.
    injected: Option<String>,
}

#[derive(Serialize)]
struct Platform {
    /// Operating system, with its version if known.
    os: Option<String>,
    arch: Option<String>,
    /// Machine class, the key of baselines.
    machine: String,
    cpu: String,
}

#[derive(Serialize)]
struct Runtime {
    /// Version of candlemark.
    candlemark: String,
    /// `native` or `candle`.
    engine: String,
    /// `rustc --version`.
    rustc: String,
    /// Version of candle-core; `null` where the record does not say.
    candle: Option<String>,
    /// Cargo profile.
    profile: String,
    threads: usize,
}

#[derive(Serialize)]
struct Device {
    /// `cpu`, `cuda` or `metal`.
    #[serde(rename = "type")]
    kind: String,
    /// The CPU's name; `null` for other devices, whose names are not recorded.
    name: Option<String>,
}

#[derive(Serialize)]
struct Model {
    /// `synthetic`, `local` or `hf`.
    source: &'static str,
    /// As requested.
    spec: String,
    /// SHA-256 of the weights.
    sha256: String,
    /// Format of the weights in memory.
    quant: String,
    /// Parameters in millions; tied weights count once.
    params_m: f64,
    /// Longest sequence in tokens.
    block_size: usize,
    /// Layers.
    n_layer: usize,
    /// Query heads.
    n_head: usize,
    /// Width of the residual stream.
    n_embd: usize,
}

#[derive(Serialize)]
struct Generation {
    /// Id of the scenario.
    scenario: Option<String>,
    /// Sequences generated together.
    batch: Option<usize>,
    /// Text of the prompt: always `null`, because records contain only its hash.
    prompt: Option<String>,
    /// SHA-256 of the prompts' token ids.
    prompt_sha256: Option<String>,
    /// Token ids of each prompt.
    prompt_tokens: Option<Vec<usize>>,
    /// Tokens generated per sequence.
    gen_tokens: Option<usize>,
    /// 0 is greedy.
    temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
    /// 0 is greedy.
    repetition_penalty: f64,
    use_kv_cache: bool,
    seed: u64,
    /// Greedy regardless of the temperature.
    deterministic: bool,
    /// Warm-up generations per process, which are not counted.
    warmups: usize,
    /// Differences of the scenario from the settings.
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Results {
    /// Measured generations in all processes.
    iters: usize,
    /// Fresh processes.
    processes: usize,
    /// The metric of the rate, which excludes prefill.
    metric: Option<&'static str>,
    /// Over all measured generations; `null` if not measured or invalid.
    tokens_per_sec: Option<Rate>,
    /// Median over processes of peak device memory; `null` on a CPU.
    vram_peak_mib: Option<f64>,
    /// Median over processes of the peak resident set.
    rss_peak_mib: Option<f64>,
    /// Whether the numbers are valid; `null` without a scenario.
    valid: Option<bool>,
    /// Why there is no rate.
    why: Option<String>,
}

#[derive(Serialize)]
struct Rate {
    mean: f64,
    min: f64,
    max: f64,
}

/// One scenario of a record as one JSON object: the one with this id, or else the valid one of
/// batch 1 with the longest answers, if there is one. `results.tokens_per_sec` comes from the
/// samples of the decode rate: of one sequence, or of the whole batch if it has several.
///
/// # Errors
/// When the record has no such scenario.
pub fn benchmark_json(record: &Record, scenario: Option<&str>) -> Result<String> {
    let case = representative_case(record, scenario)?;
    let (build, model) = (&record.build, &record.model);
    let field = |name: &str| record.machine.fields.get(name).map(|value| sanitize(value));
    let version = record.machine.facts.get("os_version").map(|version| sanitize(version));
    let kind = device_type(record);
    let benchmark = Benchmark {
        timestamp: record.sessions.first().map(|session| sanitize(&session.started)),
        commit: build.commit.as_deref().map(sanitize),
        platform: Platform {
            os: version.or_else(|| field("os")),
            arch: field("arch"),
            machine: sanitize(&record.machine.class),
            cpu: sanitize(cpu(record)),
        },
        runtime: Runtime {
            candlemark: sanitize(&build.version),
            engine: sanitize(&record.settings.engine),
            rustc: sanitize(&build.rustc),
            candle: build.crates.get("candle-core").map(|version| sanitize(version)),
            profile: sanitize(&build.profile),
            threads: record.settings.threads,
        },
        device: Device {
            kind: sanitize(kind),
            name: (kind == "cpu").then(|| sanitize(cpu(record))),
        },
        model: Model {
            source: source(model),
            spec: sanitize(&model.spec),
            sha256: sanitize(&model.sha256),
            quant: sanitize(&model.quant),
            params_m: model.parameters as f64 / 1e6,
            block_size: model.context,
            n_layer: model.layers,
            n_head: model.heads,
            n_embd: model.hidden,
        },
        generation: generation(record, case),
        results: results(case),
        injected: record.injected.as_deref().map(sanitize),
    };
    Ok(serde_json::to_string_pretty(&benchmark).expect("plain data is JSON") + "\n")
}

fn generation(record: &Record, case: Option<&Case>) -> Generation {
    let settings = &record.settings.generation;
    let labels = case.map(|case| {
        case.labels.iter().map(|(name, value)| (sanitize(name), sanitize(value))).collect()
    });
    Generation {
        scenario: case.map(|case| sanitize(&case.id)),
        batch: case.map(|case| case.work.batch),
        prompt: None,
        prompt_sha256: case.map(|case| sanitize(&case.work.prompts_sha256)),
        prompt_tokens: case.map(|case| case.work.prompt_tokens.clone()),
        gen_tokens: case.map(|case| case.work.new_tokens),
        temperature: settings.temperature,
        top_k: settings.top_k,
        top_p: settings.top_p,
        repetition_penalty: settings.repetition_penalty,
        use_kv_cache: settings.use_kv_cache,
        seed: settings.seed,
        deterministic: settings.deterministic,
        warmups: settings.warmups,
        labels: labels.unwrap_or_default(),
    }
}

fn results(case: Option<&Case>) -> Results {
    let Some(case) = case else {
        return Results {
            iters: 0,
            processes: 0,
            metric: None,
            tokens_per_sec: None,
            vram_peak_mib: None,
            rss_peak_mib: None,
            valid: None,
            why: Some("the record has no scenario".into()),
        };
    };
    let metric = decode_rate(case);
    let values = if is_valid(case) { samples(case, metric) } else { Vec::new() };
    let rate = stats::mean(&values).map(|mean| Rate {
        mean,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    });
    let why = match (&case.absent, &rate) {
        (Some(absent), _) => Some(sanitize(&absent.to_string())),
        (None, None) if !case.validity.ok() => {
            Some(sanitize(&format!("INVALID: {}", case.validity.failed.join("; "))))
        }
        (None, None) => Some(why_unmeasured(case, metric)),
        (None, Some(_)) => None,
    };
    let measured = |bytes: Option<f64>| bytes.filter(|_| is_valid(case));
    Results {
        iters: values.len(),
        processes: case.blocks.len(),
        metric: Some(metric),
        tokens_per_sec: rate,
        vram_peak_mib: measured(mib(case, metric::PEAK_DEVICE_BYTES)),
        rss_peak_mib: measured(mib(case, metric::PEAK_RSS_BYTES)),
        valid: case.absent.is_none().then(|| case.validity.ok()),
        why,
    }
}

/// Why a scenario lacks a value, as recorded.
fn why_unmeasured(case: &Case, metric: &str) -> String {
    let note = case.blocks.iter().find_map(|block| block.notes.get(metric));
    note.map_or_else(|| format!("`{metric}` was not measured"), |note| sanitize(note))
}
