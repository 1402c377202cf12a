//! The one table of metrics: unit, direction and limit of each, and in which scenarios it is
//! judged.

use serde::{Deserialize, Serialize};

use crate::workload::{Task, Work};

/// Which direction is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and bytes.
    Lower,
}

impl Better {
    /// What a value costs: the value itself where lower is better, its inverse for a rate.
    /// Every comparison is made on costs, so that a positive change is always bad news.
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
    /// Batch 1.
    Single,
    /// Batches of two and more.
    Batched,
    /// Where something is generated after the first token.
    Decodes,
    /// Where the first token is all that is generated.
    PrefillOnly,
    /// Where items go through a pipeline.
    Items,
}

/// One thing that is measured; values are stored under its name in the unit of its name.
#[derive(Debug)]
pub struct Metric {
    /// Key in records; ends with the unit.
    pub name: &'static str,
    /// For people.
    pub label: &'static str,
    /// For people, beside a number: `tok/s`, `ms`, `MiB`, ...
    pub unit: &'static str,
    /// What one stored unit is in the unit shown: 1e3 for seconds shown as milliseconds.
    pub scale: f64,
    /// Which direction is good.
    pub better: Better,
    /// The change for the worse, as a share of the baseline, beyond which it is a regression.
    pub limit: Option<f64>,
    /// Where it is judged.
    pub gate: Gate,
}

const MIB: f64 = 1.0 / (1024.0 * 1024.0);

/// Every metric. The limits are the specification's: rates -5 %, time to first token +10 %, memory +15 %.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    Metric { name: "decode_tok_s", label: "decode", unit: "tok/s", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::Single },
    Metric { name: "decode_tok_s_aggregate", label: "decode, whole batch", unit: "tok/s", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::Batched },
    Metric { name: "ttft_s", label: "TTFT", unit: "ms", scale: 1e3, better: Better::Lower, limit: Some(0.10), gate: Gate::Decodes },
    Metric { name: "prefill_tok_s", label: "prefill", unit: "tok/s", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::PrefillOnly },
    Metric { name: "peak_rss_bytes", label: "peak memory", unit: "MiB", scale: MIB, better: Better::Lower, limit: Some(0.15), gate: Gate::Always },
    Metric { name: "prefill_s", label: "prefill time", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "tpot_s", label: "time per output token", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "e2e_s", label: "end to end", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "tokenize_s", label: "tokenizing", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "step_cv", label: "step variation", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "stalls", label: "stalled steps", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "load_s", label: "load", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "cold_ttft_s", label: "cold TTFT", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "rss_after_load_bytes", label: "memory after load", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "peak_delta_bytes", label: "memory of the run", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "peak_device_bytes", label: "peak device memory", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "kv_bytes_expected", label: "KV cache, expected", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "roofline_fraction", label: "share of read bandwidth", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "prefill_flop_fraction", label: "share of arithmetic peak", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "kv_bytes_held", label: "KV cache, held", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "pack_s", label: "quantising and packing", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "cpu_utilisation", label: "CPU utilisation", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "gpu_utilisation", label: "GPU utilisation", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "power_w", label: "power", unit: "W", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "energy_j_per_token", label: "energy per token", unit: "J", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "items_per_min", label: "items", unit: "items/min", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::Items },
    Metric { name: "chunks_per_min", label: "chunks embedded", unit: "chunks/min", scale: 1.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "embed_s", label: "embedding the question", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "index_s", label: "building the index", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "search_s", label: "vector search", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "assemble_s", label: "assembling the context", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "answer_s", label: "answering", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "e2e_simple_s", label: "simple question, end to end", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "e2e_complex_s", label: "complex question, end to end", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "error_rate", label: "failed requests", unit: "%", scale: 100.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "oom_rate", label: "requests out of memory", unit: "%", scale: 100.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "mem_slope_bytes_per_request", label: "memory growth per request", unit: "KiB", scale: 1.0 / 1024.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "top1_agreement", label: "same likeliest token as f32", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "kl_nats", label: "KL divergence from f32", unit: "nats", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "perplexity", label: "perplexity", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "perplexity_f32", label: "perplexity of f32", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "kernel_share", label: "time in kernels", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
    Metric { name: "kernel_overhead_s", label: "time between kernels, each", unit: "µs", scale: 1e6, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "kernels_per_step", label: "kernels per step", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "region_overhead_s", label: "an empty parallel region", unit: "µs", scale: 1e6, better: Better::Lower, limit: None, gate: Gate::Never },
];

/// The metric of this name, if there is one.
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

impl Metric {
    /// What is calibrated together: rates of decoding, times to the first token, rates of prefill,
    /// memory.
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

    /// Whether the metric is judged in a scenario of this work.
    pub fn gated(&self, work: &Work) -> bool {
        let generates = matches!(work.task, Task::Generate | Task::Depth);
        let decodes = generates && work.new_tokens > 1;
        self.limit.is_some()
            && match self.gate {
                Gate::Never => false,
                Gate::Always => work.task != Task::Stress, // Stress fills memory on purpose.
                Gate::Single => decodes && work.batch == 1,
                Gate::Batched => decodes && work.batch > 1,
                // After a depth the first token says nothing of a prompt.
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
