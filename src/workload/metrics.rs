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

const KIB: f64 = 1.0 / 1024.0;
const MIB: f64 = KIB / 1024.0;

/// Makes the constants of the names and [`METRICS`] of one table.
macro_rules! metrics {
    ($($name:ident = $stored:literal, $label:literal, $unit:literal $scale:expr, $better:ident
        $(, $limit:literal $gate:ident)?;)*) => {
        /// Names of metrics, as records store them.
        #[expect(missing_docs, reason = "METRICS describes each")]
        pub mod metric {
            $(pub const $name: &str = $stored;)*

            // Stored beside the metrics, without a row in the table.
            pub(crate) const RSS_ANON_BYTES: &str = "rss_anon_bytes";
            pub(crate) const RSS_FILE_BYTES: &str = "rss_file_bytes";
        }

        /// Every metric. Limits: rates -5 %, time to first token +10 %, memory +15 %.
        pub(crate) const METRICS: &[Metric] =
            &[$(Metric {
                name: metric::$name,
                label: $label,
                unit: $unit,
                scale: $scale,
                better: Better::$better,
                limit: metrics!(@limit $($limit)?),
                gate: metrics!(@gate $($gate)?),
            }),*];
    };
    (@limit) => { None };
    (@limit $limit:literal) => { Some($limit) };
    (@gate) => { Gate::Never };
    (@gate $gate:ident) => { Gate::$gate };
}

// Label, unit and factor from the stored unit, better direction; limit, and where it is judged.
metrics! {
    DECODE_TOK_S = "decode_tok_s", "decode", "tok/s" 1.0, Higher, 0.05 Single;
    DECODE_TOK_S_AGGREGATE = "decode_tok_s_aggregate", "decode, whole batch",
        "tok/s" 1.0, Higher, 0.05 Batched;
    TTFT_S = "ttft_s", "TTFT", "ms" 1e3, Lower, 0.10 Decodes;
    PREFILL_TOK_S = "prefill_tok_s", "prefill", "tok/s" 1.0, Higher, 0.05 PrefillOnly;
    PEAK_RSS_BYTES = "peak_rss_bytes", "peak memory", "MiB" MIB, Lower, 0.15 Always;
    PREFILL_S = "prefill_s", "prefill time", "ms" 1e3, Lower;
    TPOT_S = "tpot_s", "time per output token", "ms" 1e3, Lower;
    E2E_S = "e2e_s", "end to end", "ms" 1e3, Lower;
    TOKENIZE_S = "tokenize_s", "tokenizing", "ms" 1e3, Lower;
    STEP_CV = "step_cv", "step variation", "" 1.0, Lower;
    STALLS = "stalls", "stalled steps", "" 1.0, Lower;
    LOAD_S = "load_s", "load", "ms" 1e3, Lower;
    COLD_TTFT_S = "cold_ttft_s", "cold TTFT", "ms" 1e3, Lower;
    RSS_AFTER_LOAD_BYTES = "rss_after_load_bytes", "memory after load", "MiB" MIB, Lower;
    PEAK_DELTA_BYTES = "peak_delta_bytes", "memory of the run", "MiB" MIB, Lower;
    PEAK_DEVICE_BYTES = "peak_device_bytes", "peak device memory", "MiB" MIB, Lower;
    KV_BYTES_EXPECTED = "kv_bytes_expected", "KV cache, expected", "MiB" MIB, Lower;
    ROOFLINE_FRACTION = "roofline_fraction", "share of read bandwidth", "%" 100.0, Higher;
    PREFILL_FLOP_FRACTION = "prefill_flop_fraction", "share of arithmetic peak", "%" 100.0, Higher;
    KV_BYTES_HELD = "kv_bytes_held", "KV cache, held", "MiB" MIB, Lower;
    PACK_S = "pack_s", "quantizing and packing", "ms" 1e3, Lower;
    CPU_UTILIZATION = "cpu_utilisation", "CPU utilization", "%" 100.0, Higher;
    GPU_UTILIZATION = "gpu_utilisation", "GPU utilization", "%" 100.0, Higher;
    POWER_W = "power_w", "power", "W" 1.0, Lower;
    ENERGY_J_PER_TOKEN = "energy_j_per_token", "energy per token", "J" 1.0, Lower;
    ITEMS_PER_MIN = "items_per_min", "items", "items/min" 1.0, Higher, 0.05 Items;
    CHUNKS_PER_MIN = "chunks_per_min", "chunks embedded", "chunks/min" 1.0, Higher;
    EMBED_S = "embed_s", "embedding the question", "ms" 1e3, Lower;
    INDEX_S = "index_s", "building the index", "ms" 1e3, Lower;
    SEARCH_S = "search_s", "vector search", "ms" 1e3, Lower;
    ASSEMBLE_S = "assemble_s", "assembling the context", "ms" 1e3, Lower;
    ANSWER_S = "answer_s", "answering", "ms" 1e3, Lower;
    E2E_SIMPLE_S = "e2e_simple_s", "simple question, end to end", "ms" 1e3, Lower;
    E2E_COMPLEX_S = "e2e_complex_s", "complex question, end to end", "ms" 1e3, Lower;
    ERROR_RATE = "error_rate", "failed requests", "%" 100.0, Lower;
    OOM_RATE = "oom_rate", "requests out of memory", "%" 100.0, Lower;
    MEM_SLOPE_BYTES_PER_REQUEST = "mem_slope_bytes_per_request", "memory growth per request",
        "KiB" KIB, Lower;
    TOP1_AGREEMENT = "top1_agreement", "same likeliest token as f32", "%" 100.0, Higher;
    KL_NATS = "kl_nats", "KL divergence from f32", "nats" 1.0, Lower;
    PERPLEXITY = "perplexity", "perplexity", "" 1.0, Lower;
    PERPLEXITY_F32 = "perplexity_f32", "perplexity of f32", "" 1.0, Lower;
    KERNEL_SHARE = "kernel_share", "time in kernels", "%" 100.0, Higher;
    KERNEL_OVERHEAD_S = "kernel_overhead_s", "time between kernels, each", "µs" 1e6, Lower;
    KERNELS_PER_STEP = "kernels_per_step", "kernels per step", "" 1.0, Lower;
    REGION_OVERHEAD_S = "region_overhead_s", "an empty parallel region", "µs" 1e6, Lower;
}

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
