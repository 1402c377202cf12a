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

/// One scenario of a record as one JSON object: the one with this id, or else the valid one of
/// batch 1 with the longest answers, if there is one. `results.tokens_per_sec` comes from the
/// samples of the decode rate: of one sequence, or of the whole batch if it has several. Unknown
/// values are `null`, never omitted and never zero.
///
/// # Errors
/// When the record has no such scenario.
pub fn benchmark_json(record: &Record, scenario: Option<&str>) -> Result<String> {
    let case = representative_case(record, scenario)?;
    let Record { build, machine, model, settings, .. } = record;
    let text = |text: &String| sanitize(text);
    let version = machine.facts.get("os_version").or_else(|| machine.fields.get("os"));
    let kind = device_type(record);
    let benchmark = object! {
        timestamp: record.sessions.first().map(|session| sanitize(&session.started)),
        commit: build.commit.as_ref().map(text),
        platform: object! {
            os: version.map(text),
            arch: machine.fields.get("arch").map(text),
            machine: sanitize(&machine.class),
            cpu: sanitize(cpu(record)),
        },
        runtime: object! {
            candlemark: sanitize(&build.version),
            engine: sanitize(&settings.engine),
            rustc: sanitize(&build.rustc),
            candle: build.crates.get("candle-core").map(text),
            profile: sanitize(&build.profile),
            threads: settings.threads,
        },
        device: object! {
            r#type: sanitize(kind),
            name: (kind == "cpu").then(|| sanitize(cpu(record))),
        },
        model: object! {
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
        injected: record.injected.as_ref().map(text),
    };
    Ok(serde_json::to_string_pretty(&benchmark).expect("plain data is JSON") + "\n")
}

fn generation(record: &Record, case: Option<&Case>) -> impl Serialize {
    let settings = &record.settings.generation;
    let labels = case.into_iter().flat_map(|case| &case.labels);
    let labels = labels.map(|(name, value)| (sanitize(name), sanitize(value)));
    object! {
        scenario: case.map(|case| sanitize(&case.id)),
        batch: case.map(|case| case.work.batch),
        prompt: None::<String>, // Records contain only its hash.
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
        labels: labels.collect::<BTreeMap<String, String>>(),
    }
}

fn results(case: Option<&Case>) -> impl Serialize {
    let valid = case.filter(|case| is_valid(case));
    let values = valid.map_or_else(Vec::new, |case| samples(case, decode_rate(case)));
    let rate = stats::mean(&values).map(|mean| {
        object! {
            mean: mean,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    });
    let why = match case {
        None => Some("the record has no scenario".into()),
        Some(case) if rate.is_none() => Some(why_unmeasured(case)),
        Some(_) => None,
    };
    let measured = case.filter(|case| case.absent.is_none());
    object! {
        iters: values.len(),
        processes: case.map_or(0, |case| case.blocks.len()),
        metric: case.map(decode_rate),
        tokens_per_sec: rate,
        vram_peak_mib: valid.and_then(|case| mib(case, metric::PEAK_DEVICE_BYTES)),
        rss_peak_mib: valid.and_then(|case| mib(case, metric::PEAK_RSS_BYTES)),
        valid: measured.map(|case| case.validity.ok()),
        why: why,
    }
}

/// Why a scenario lacks a rate, as recorded.
fn why_unmeasured(case: &Case) -> String {
    let metric = decode_rate(case);
    let note = case.blocks.iter().find_map(|block| block.notes.get(metric));
    sanitize(&match (&case.absent, note) {
        (Some(absent), _) => absent.to_string(),
        _ if !case.validity.ok() => format!("INVALID: {}", case.validity.failed.join("; ")),
        (None, Some(note)) => note.clone(),
        (None, None) => format!("`{metric}` was not measured"),
    })
}
