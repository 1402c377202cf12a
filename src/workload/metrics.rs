//! The table of metrics: unit, direction and limit of each, and the scenarios in which it is
//! judged.

use serde::{Deserialize, Serialize, Serializer};

use crate::workload::{Task, Work};

/// The better direction of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and bytes.
    Lower,
}

impl Better {
    /// The cost of a value: the value itself if lower is better, its inverse for a rate.
    /// Comparisons use costs, so that a positive change is always a change for the worse.
    pub fn cost(self, value: f64) -> f64 {
        match self {
            Better::Higher => 1.0 / value,
            Better::Lower => value,
        }
    }
}

/// In which scenarios a metric is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Reported only.
    Never,
    /// Everywhere.
    Always,
    /// At batch 1.
    Single,
    /// At larger batches.
    Batched,
    /// Where tokens are decoded after the first one.
    Decodes,
    /// Where only the first token is generated.
    PrefillOnly,
    /// Where items go through a pipeline.
    Items,
}

/// A metric; values are stored under its name, in the unit that the name ends with.
#[derive(Debug)]
pub struct Metric {
    /// The key in records, one of [`metric`](mod@metric).
    pub name: &'static str,
    /// The name in reports.
    pub label: &'static str,
    /// The unit in reports: `tok/s`, `ms`, `MiB`, ...
    pub unit: &'static str,
    /// Factor from the stored unit to that of reports: 1e3 from seconds to milliseconds.
    pub scale: f64,
    /// The better direction.
    pub better: Better,
    /// The change for the worse, as a fraction of the baseline, beyond which it is a regression.
    pub limit: Option<f64>,
    /// Where it is judged.
    pub gate: Gate,
}

/// By its name.
impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

const MIB: f64 = 1.0 / (1024.0 * 1024.0);

/// Names of metrics, as records store them.
#[expect(missing_docs, reason = "METRICS describes each")]
#[rustfmt::skip]
pub mod metric {
    pub const DECODE_TOK_S: &str = "decode_tok_s";
    pub const DECODE_TOK_S_AGGREGATE: &str = "decode_tok_s_aggregate";
    pub const TTFT_S: &str = "ttft_s";
    pub const PREFILL_TOK_S: &str = "prefill_tok_s";
    pub const PEAK_RSS_BYTES: &str = "peak_rss_bytes";
    pub const PREFILL_S: &str = "prefill_s";
    pub const TPOT_S: &str = "tpot_s";
    pub const E2E_S: &str = "e2e_s";
    pub const TOKENIZE_S: &str = "tokenize_s";
    pub const STEP_CV: &str = "step_cv";
    pub const STALLS: &str = "stalls";
    pub const LOAD_S: &str = "load_s";
    pub const COLD_TTFT_S: &str = "cold_ttft_s";
    pub const RSS_AFTER_LOAD_BYTES: &str = "rss_after_load_bytes";
    pub const PEAK_DELTA_BYTES: &str = "peak_delta_bytes";
    pub const PEAK_DEVICE_BYTES: &str = "peak_device_bytes";
    pub const KV_BYTES_EXPECTED: &str = "kv_bytes_expected";
    pub const ROOFLINE_FRACTION: &str = "roofline_fraction";
    pub const PREFILL_FLOP_FRACTION: &str = "prefill_flop_fraction";
    pub const KV_BYTES_HELD: &str = "kv_bytes_held";
    pub const PACK_S: &str = "pack_s";
    pub const CPU_UTILIZATION: &str = "cpu_utilisation";
    pub const GPU_UTILIZATION: &str = "gpu_utilisation";
    pub const POWER_W: &str = "power_w";
    pub const ENERGY_J_PER_TOKEN: &str = "energy_j_per_token";
    pub const ITEMS_PER_MIN: &str = "items_per_min";
    pub const CHUNKS_PER_MIN: &str = "chunks_per_min";
    pub const EMBED_S: &str = "embed_s";
    pub const INDEX_S: &str = "index_s";
    pub const SEARCH_S: &str = "search_s";
    pub const ASSEMBLE_S: &str = "assemble_s";
    pub const ANSWER_S: &str = "answer_s";
    pub const E2E_SIMPLE_S: &str = "e2e_simple_s";
    pub const E2E_COMPLEX_S: &str = "e2e_complex_s";
    pub const ERROR_RATE: &str = "error_rate";
    pub const OOM_RATE: &str = "oom_rate";
    pub const MEM_SLOPE_BYTES_PER_REQUEST: &str = "mem_slope_bytes_per_request";
    pub const TOP1_AGREEMENT: &str = "top1_agreement";
    pub const KL_NATS: &str = "kl_nats";
    pub const PERPLEXITY: &str = "perplexity";
    pub const PERPLEXITY_F32: &str = "perplexity_f32";
    pub const KERNEL_SHARE: &str = "kernel_share";
    pub const KERNEL_OVERHEAD_S: &str = "kernel_overhead_s";
    pub const KERNELS_PER_STEP: &str = "kernels_per_step";
    pub const REGION_OVERHEAD_S: &str = "region_overhead_s";

    // Stored beside the metrics, without a row in the table.
    pub const RSS_ANON_BYTES: &str = "rss_anon_bytes";
    pub const RSS_FILE_BYTES: &str = "rss_file_bytes";
}

/// A metric of which more is better, without a verdict.
const fn higher(name: &'static str, label: &'static str, unit: &'static str, scale: f64) -> Metric {
    Metric { name, label, unit, scale, better: Better::Higher, limit: None, gate: Gate::Never }
}

/// A metric of which less is better, without a verdict.
const fn lower(name: &'static str, label: &'static str, unit: &'static str, scale: f64) -> Metric {
    Metric { better: Better::Lower, ..higher(name, label, unit, scale) }
}

impl Metric {
    /// The metric with the limit of its verdict, and the scenarios that have one.
    const fn with_limit(self, limit: f64, gate: Gate) -> Self {
        Self { limit: Some(limit), gate, ..self }
    }
}

/// Every metric. Limits: rates -5 %, time to first token +10 %, memory +15 %.
pub const METRICS: &[Metric] = &[
    higher(metric::DECODE_TOK_S, "decode", "tok/s", 1.0).with_limit(0.05, Gate::Single),
    higher(metric::DECODE_TOK_S_AGGREGATE, "decode, whole batch", "tok/s", 1.0)
        .with_limit(0.05, Gate::Batched),
    lower(metric::TTFT_S, "TTFT", "ms", 1e3).with_limit(0.10, Gate::Decodes),
    higher(metric::PREFILL_TOK_S, "prefill", "tok/s", 1.0).with_limit(0.05, Gate::PrefillOnly),
    lower(metric::PEAK_RSS_BYTES, "peak memory", "MiB", MIB).with_limit(0.15, Gate::Always),
    lower(metric::PREFILL_S, "prefill time", "ms", 1e3),
    lower(metric::TPOT_S, "time per output token", "ms", 1e3),
    lower(metric::E2E_S, "end to end", "ms", 1e3),
    lower(metric::TOKENIZE_S, "tokenizing", "ms", 1e3),
    lower(metric::STEP_CV, "step variation", "", 1.0),
    lower(metric::STALLS, "stalled steps", "", 1.0),
    lower(metric::LOAD_S, "load", "ms", 1e3),
    lower(metric::COLD_TTFT_S, "cold TTFT", "ms", 1e3),
    lower(metric::RSS_AFTER_LOAD_BYTES, "memory after load", "MiB", MIB),
    lower(metric::PEAK_DELTA_BYTES, "memory of the run", "MiB", MIB),
    lower(metric::PEAK_DEVICE_BYTES, "peak device memory", "MiB", MIB),
    lower(metric::KV_BYTES_EXPECTED, "KV cache, expected", "MiB", MIB),
    higher(metric::ROOFLINE_FRACTION, "share of read bandwidth", "%", 100.0),
    higher(metric::PREFILL_FLOP_FRACTION, "share of arithmetic peak", "%", 100.0),
    lower(metric::KV_BYTES_HELD, "KV cache, held", "MiB", MIB),
    lower(metric::PACK_S, "quantizing and packing", "ms", 1e3),
    higher(metric::CPU_UTILIZATION, "CPU utilization", "%", 100.0),
    higher(metric::GPU_UTILIZATION, "GPU utilization", "%", 100.0),
    lower(metric::POWER_W, "power", "W", 1.0),
    lower(metric::ENERGY_J_PER_TOKEN, "energy per token", "J", 1.0),
    higher(metric::ITEMS_PER_MIN, "items", "items/min", 1.0).with_limit(0.05, Gate::Items),
    higher(metric::CHUNKS_PER_MIN, "chunks embedded", "chunks/min", 1.0),
    lower(metric::EMBED_S, "embedding the question", "ms", 1e3),
    lower(metric::INDEX_S, "building the index", "ms", 1e3),
    lower(metric::SEARCH_S, "vector search", "ms", 1e3),
    lower(metric::ASSEMBLE_S, "assembling the context", "ms", 1e3),
    lower(metric::ANSWER_S, "answering", "ms", 1e3),
    lower(metric::E2E_SIMPLE_S, "simple question, end to end", "ms", 1e3),
    lower(metric::E2E_COMPLEX_S, "complex question, end to end", "ms", 1e3),
    lower(metric::ERROR_RATE, "failed requests", "%", 100.0),
    lower(metric::OOM_RATE, "requests out of memory", "%", 100.0),
    lower(metric::MEM_SLOPE_BYTES_PER_REQUEST, "memory growth per request", "KiB", 1.0 / 1024.0),
    higher(metric::TOP1_AGREEMENT, "same likeliest token as f32", "%", 100.0),
    lower(metric::KL_NATS, "KL divergence from f32", "nats", 1.0),
    lower(metric::PERPLEXITY, "perplexity", "", 1.0),
    lower(metric::PERPLEXITY_F32, "perplexity of f32", "", 1.0),
    higher(metric::KERNEL_SHARE, "time in kernels", "%", 100.0),
    lower(metric::KERNEL_OVERHEAD_S, "time between kernels, each", "µs", 1e6),
    lower(metric::KERNELS_PER_STEP, "kernels per step", "", 1.0),
    lower(metric::REGION_OVERHEAD_S, "an empty parallel region", "µs", 1e6),
];

/// The metric of this name, if there is one.
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

impl Metric {
    /// The group of metrics that are calibrated together.
    pub fn kind(&self) -> &'static str {
        match self.gate {
            Gate::Single | Gate::Batched => "decode",
            Gate::Decodes => "ttft",
            Gate::PrefillOnly => "prefill",
            Gate::Items => "items",
            Gate::Always => "memory",
            Gate::Never => "ungated",
        }
    }

    /// Whether the metric is judged in a scenario with this work.
    pub fn gated(&self, work: &Work) -> bool {
        let generates = matches!(work.task, Task::Generate | Task::Depth);
        let decodes = generates && work.new_tokens > 1;
        self.limit.is_some()
            && match self.gate {
                Gate::Never => false,
                Gate::Always => work.task != Task::Stress, // A stress test fills memory on purpose.
                Gate::Single => decodes && work.batch == 1,
                Gate::Batched => decodes && work.batch > 1,
                // After a cached prefix, TTFT is not that of a prompt.
                Gate::Decodes => decodes && work.task == Task::Generate,
                Gate::PrefillOnly => generates && work.new_tokens == 1,
                Gate::Items => work.task == Task::Items,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_judges_one_rate_one_latency_and_memory() {
        for (task, batch, new_tokens, names) in [
            (Task::Generate, 1, 16, ["decode_tok_s", "ttft_s", "peak_rss_bytes"].as_slice()),
            (Task::Generate, 4, 16, &["decode_tok_s_aggregate", "ttft_s", "peak_rss_bytes"]),
            (Task::Generate, 1, 1, &["prefill_tok_s", "peak_rss_bytes"]),
            (Task::Depth, 1, 16, &["decode_tok_s", "peak_rss_bytes"]),
            (Task::Items, 4, 16, &["peak_rss_bytes", "items_per_min"]),
            (Task::Stress, 1, 16, &[]),
            (Task::Quality, 1, 0, &["peak_rss_bytes"]),
        ] {
            let work = Work { task, batch, new_tokens, ..Work::default() };
            let gated: Vec<&str> =
                METRICS.iter().filter(|m| m.gated(&work)).map(|m| m.name).collect();
            assert_eq!(gated, names, "{task:?}, batch {batch}, {new_tokens} new tokens");
        }
    }
}
