//! The server's own counters: `/metrics` of vLLM, SGLang and llama-server, Prometheus' text.
//!
//! What they say is the server's word and is named so. A counter that a server does not have, or
//! that went backwards because the server was started again, is absent and never zero.

use std::collections::BTreeMap;

use serde::Serialize;

/// A program whose metrics are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ServerKind {
    /// vLLM.
    #[serde(rename = "vllm")]
    Vllm,
    /// SGLang.
    #[serde(rename = "sglang")]
    Sglang,
    /// llama.cpp's server.
    #[serde(rename = "llama-server")]
    LlamaServer,
}

/// What a server counts or shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerMetric {
    /// Requests that generate now.
    RequestsRunning,
    /// Requests that wait now.
    RequestsWaiting,
    /// Used share of the KV cache, 0 to 1.
    KvUsage,
    /// Prompt tokens.
    PromptTokens,
    /// Generated tokens.
    GeneratedTokens,
    /// Seconds in the queue, of all requests.
    QueueSeconds,
    /// Requests in `QueueSeconds`.
    QueueRequests,
    /// Seconds of prefill, of all requests.
    PrefillSeconds,
    /// Requests in `PrefillSeconds`.
    PrefillRequests,
    /// Seconds of decode, of all requests.
    DecodeSeconds,
    /// Requests in `DecodeSeconds`.
    DecodeRequests,
    /// Prompt tokens that were looked for in the prefix cache.
    PrefixQueries,
    /// Prompt tokens that came from the prefix cache.
    PrefixHits,
    /// Requests that were put off for lack of KV cache.
    Preemptions,
    /// Tokens that speculation drafted.
    DraftTokens,
    /// Drafted tokens that were accepted.
    AcceptedTokens,
    /// Accepted share of the drafted tokens, where the server shows only that.
    AcceptanceRate,
}

/// How samples of a metric with other labels are put together, and what a difference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// Grows only; samples add up.
    Counter,
    /// A state; samples add up.
    Gauge,
    /// A share; the largest sample counts.
    Share,
}

struct Row {
    metric: ServerMetric,
    nature: Nature,
    server: ServerKind,
    name: &'static str,
    /// A label that a sample must have, as in the text.
    label: &'static str,
}

/// The names. vLLM renamed its KV gauge; no server has both.
const TABLE: &[Row] = {
    use Nature::{Counter, Gauge, Share};
    use ServerKind::{LlamaServer, Sglang, Vllm};
    use ServerMetric as M;
    const fn row(
        metric: ServerMetric,
        nature: Nature,
        server: ServerKind,
        name: &'static str,
    ) -> Row {
        Row { metric, nature, server, name, label: "" }
    }
    const LLAMA_CACHED: &str = "llamacpp:prompt_tokens_cached_total";
    const LLAMA_ACCEPTED: &str = "llamacpp:spec_decode_num_accepted_tokens_total";
    const PREFILL: &str = "stage=\"prefill_forward\"";
    const STAGES: [&str; 2] =
        ["sglang:per_stage_req_latency_seconds_sum", "sglang:per_stage_req_latency_seconds_count"];
    &[
        row(M::RequestsRunning, Gauge, Vllm, "vllm:num_requests_running"),
        row(M::RequestsWaiting, Gauge, Vllm, "vllm:num_requests_waiting"),
        row(M::KvUsage, Share, Vllm, "vllm:kv_cache_usage_perc"),
        row(M::KvUsage, Share, Vllm, "vllm:gpu_cache_usage_perc"),
        row(M::PromptTokens, Counter, Vllm, "vllm:prompt_tokens_total"),
        row(M::GeneratedTokens, Counter, Vllm, "vllm:generation_tokens_total"),
        row(M::QueueSeconds, Counter, Vllm, "vllm:request_queue_time_seconds_sum"),
        row(M::QueueRequests, Counter, Vllm, "vllm:request_queue_time_seconds_count"),
        row(M::PrefillSeconds, Counter, Vllm, "vllm:request_prefill_time_seconds_sum"),
        row(M::PrefillRequests, Counter, Vllm, "vllm:request_prefill_time_seconds_count"),
        row(M::DecodeSeconds, Counter, Vllm, "vllm:request_decode_time_seconds_sum"),
        row(M::DecodeRequests, Counter, Vllm, "vllm:request_decode_time_seconds_count"),
        row(M::PrefixQueries, Counter, Vllm, "vllm:prefix_cache_queries_total"),
        row(M::PrefixHits, Counter, Vllm, "vllm:prefix_cache_hits_total"),
        row(M::Preemptions, Counter, Vllm, "vllm:num_preemptions_total"),
        row(M::DraftTokens, Counter, Vllm, "vllm:spec_decode_num_draft_tokens_total"),
        row(M::AcceptedTokens, Counter, Vllm, "vllm:spec_decode_num_accepted_tokens_total"),
        row(M::RequestsRunning, Gauge, Sglang, "sglang:num_running_reqs"),
        row(M::RequestsWaiting, Gauge, Sglang, "sglang:num_queue_reqs"),
        row(M::KvUsage, Share, Sglang, "sglang:token_usage"),
        row(M::PromptTokens, Counter, Sglang, "sglang:prompt_tokens_total"),
        row(M::GeneratedTokens, Counter, Sglang, "sglang:generation_tokens_total"),
        row(M::QueueSeconds, Counter, Sglang, "sglang:queue_time_seconds_sum"),
        row(M::QueueRequests, Counter, Sglang, "sglang:queue_time_seconds_count"),
        Row { label: PREFILL, ..row(M::PrefillSeconds, Counter, Sglang, STAGES[0]) },
        Row { label: PREFILL, ..row(M::PrefillRequests, Counter, Sglang, STAGES[1]) },
        // It counts whole prompts, with what came from the cache.
        row(M::PrefixQueries, Counter, Sglang, "sglang:prompt_tokens_total"),
        row(M::PrefixHits, Counter, Sglang, "sglang:cached_tokens_total"),
        row(M::AcceptanceRate, Share, Sglang, "sglang:spec_accept_rate"),
        row(M::RequestsRunning, Gauge, LlamaServer, "llamacpp:requests_processing"),
        row(M::RequestsWaiting, Gauge, LlamaServer, "llamacpp:requests_deferred"),
        row(M::PromptTokens, Counter, LlamaServer, "llamacpp:prompt_tokens_total"),
        // Its prompt tokens are those that were computed.
        row(M::PromptTokens, Counter, LlamaServer, LLAMA_CACHED),
        row(M::PrefixQueries, Counter, LlamaServer, "llamacpp:prompt_tokens_total"),
        row(M::PrefixQueries, Counter, LlamaServer, LLAMA_CACHED),
        row(M::PrefixHits, Counter, LlamaServer, LLAMA_CACHED),
        row(M::PrefillSeconds, Counter, LlamaServer, "llamacpp:prompt_seconds_total"),
        row(M::GeneratedTokens, Counter, LlamaServer, "llamacpp:tokens_predicted_total"),
        row(M::DecodeSeconds, Counter, LlamaServer, "llamacpp:tokens_predicted_seconds_total"),
        row(M::DraftTokens, Counter, LlamaServer, "llamacpp:spec_decode_num_draft_tokens_total"),
        row(M::AcceptedTokens, Counter, LlamaServer, LLAMA_ACCEPTED),
    ]
};

/// The metrics of a server at one instant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scrape {
    /// The program.
    pub server: ServerKind,
    /// The values that it has.
    pub values: BTreeMap<ServerMetric, f64>,
}

impl Scrape {
    /// Reads Prometheus' text; `None` if no metric of a known server is in it.
    pub fn parse(text: &str) -> Option<Self> {
        let server = text.lines().find_map(|line| {
            let (name, ..) = sample(line)?;
            TABLE.iter().find(|row| row.name == name).map(|row| row.server)
        })?;
        let mut values = BTreeMap::new();
        for line in text.lines() {
            let Some((name, labels, value)) = sample(line) else { continue };
            let rows = TABLE.iter().filter(|row| row.server == server && row.name == name);
            for row in rows.filter(|row| labels.contains(row.label)) {
                let sum = values.entry(row.metric).or_insert(0.0);
                match row.nature {
                    Nature::Counter | Nature::Gauge => *sum += value,
                    Nature::Share => *sum = value.max(*sum),
                }
            }
        }
        Some(Self { server, values })
    }

    /// What happened since an earlier scrape of the same server: the growth of counters, and gauges
    /// as they are now. A counter that went backwards is left out.
    pub fn since(&self, earlier: &Self) -> BTreeMap<ServerMetric, f64> {
        let value = |(metric, now): (&ServerMetric, &f64)| {
            let mut rows = TABLE.iter();
            let row = rows.find(|row| row.server == self.server && row.metric == *metric)?;
            if row.nature != Nature::Counter {
                return Some((*metric, *now));
            }
            let before = earlier.values.get(metric).filter(|_| earlier.server == self.server)?;
            (before <= now).then_some((*metric, now - before))
        };
        self.values.iter().filter_map(value).collect()
    }
}

/// Name, labels and value of a line; `None` for comments, other text and values that are no number.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = match line.find('{') {
        // A label's text may hold any character, so that the last brace ends them.
        Some(start) => {
            let end = line.rfind('}').filter(|end| *end > start)?;
            (&line[..start], &line[start + 1..end], &line[end + 1..])
        }
        None => {
            let (name, rest) = line.split_once(char::is_whitespace)?;
            (name, "", rest)
        }
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_each_server_are_read_and_subtracted() {
        use ServerMetric as M;
        let vllm = |queries: u32, hits: u32, seconds: &str| {
            format!(
                "# HELP vllm:num_requests_running Requests.\n\
                 # TYPE vllm:num_requests_running gauge\n\
                 vllm:num_requests_running{{engine=\"0\",model_name=\"a}} b\"}} 2.0\n\
                 vllm:num_requests_running{{engine=\"1\",model_name=\"a}} b\"}} 1.0\n\
                 vllm:kv_cache_usage_perc{{engine=\"0\"}} 0.25\n\
                 vllm:kv_cache_usage_perc{{engine=\"1\"}} 0.5 1760000000000\n\
                 vllm:prefix_cache_queries_total{{engine=\"0\"}} {queries}\n\
                 vllm:prefix_cache_hits_total{{engine=\"0\"}} {hits}\n\
                 vllm:request_queue_time_seconds_bucket{{le=\"+Inf\"}} 7\n\
                 vllm:request_queue_time_seconds_sum {seconds}\n\
                 python_gc_objects_collected_total 5\n\
                 vllm:num_preemptions_total NaN\n"
            )
        };
        let before = Scrape::parse(&vllm(100, 10, "1.5")).unwrap();
        let after = Scrape::parse(&vllm(164, 58, "1e1")).unwrap();
        assert_eq!(after.server, ServerKind::Vllm);
        let expected = [
            (M::RequestsRunning, 3.0),
            (M::KvUsage, 0.5),
            (M::QueueSeconds, 8.5),
            (M::PrefixQueries, 64.0),
            (M::PrefixHits, 48.0),
        ];
        assert_eq!(after.since(&before), BTreeMap::from(expected));
        let started_again = Scrape::parse(&vllm(5, 0, "0")).unwrap().since(&before);
        assert_eq!(started_again.len(), 2, "the counters are unknown: {started_again:?}");

        let llama = "llamacpp:prompt_tokens_total 512\nllamacpp:requests_deferred 4\n\
                     llamacpp:prompt_tokens_cached_total 64\nllamacpp:prompt_seconds_total 2.5\n";
        let scrape = Scrape::parse(llama).unwrap();
        assert_eq!(scrape.server, ServerKind::LlamaServer);
        let expected = [
            (M::RequestsWaiting, 4.0),
            (M::PromptTokens, 576.0),
            (M::PrefillSeconds, 2.5),
            (M::PrefixQueries, 576.0),
            (M::PrefixHits, 64.0),
        ];
        assert_eq!(scrape.values, BTreeMap::from(expected));

        let sglang = "sglang:prompt_tokens_total{model_name=\"m\"} 80\n\
                      sglang:cached_tokens_total{cache_source=\"device\"} 30\n\
                      sglang:cached_tokens_total{cache_source=\"host\"} 2\n\
                      sglang:per_stage_req_latency_seconds_sum{stage=\"prefill_forward\"} 3\n\
                      sglang:per_stage_req_latency_seconds_sum{stage=\"decode_loop\"} 9\n";
        let expected = [
            (M::PromptTokens, 80.0),
            (M::PrefillSeconds, 3.0),
            (M::PrefixQueries, 80.0),
            (M::PrefixHits, 32.0),
        ];
        assert_eq!(Scrape::parse(sglang).unwrap().values, BTreeMap::from(expected));
        for text in ["", "<html>", "up 1\n", "vllm:num_requests_running{ 3\n"] {
            assert_eq!(Scrape::parse(text), None, "{text}");
        }
    }
}
