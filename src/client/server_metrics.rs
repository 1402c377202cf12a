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

impl ServerMetric {
    fn nature(self) -> Nature {
        match self {
            Self::RequestsRunning | Self::RequestsWaiting => Nature::Gauge,
            Self::KvUsage | Self::AcceptanceRate => Nature::Share,
            _ => Nature::Counter,
        }
    }
}

/// How the names of each server begin.
const PREFIXES: [(&str, ServerKind); 3] = [
    ("vllm:", ServerKind::Vllm),
    ("sglang:", ServerKind::Sglang),
    ("llamacpp:", ServerKind::LlamaServer),
];

/// The label of the one stage of SGLang that is read.
const STAGE: &str = "stage=\"prefill_forward\"";

/// The names. vLLM renamed its KV gauge; no server has both.
const TABLE: &[(ServerMetric, &str)] = {
    use ServerMetric as M;
    &[
        (M::RequestsRunning, "vllm:num_requests_running"),
        (M::RequestsWaiting, "vllm:num_requests_waiting"),
        (M::KvUsage, "vllm:kv_cache_usage_perc"),
        (M::KvUsage, "vllm:gpu_cache_usage_perc"),
        (M::PromptTokens, "vllm:prompt_tokens_total"),
        (M::GeneratedTokens, "vllm:generation_tokens_total"),
        (M::QueueSeconds, "vllm:request_queue_time_seconds_sum"),
        (M::QueueRequests, "vllm:request_queue_time_seconds_count"),
        (M::PrefillSeconds, "vllm:request_prefill_time_seconds_sum"),
        (M::PrefillRequests, "vllm:request_prefill_time_seconds_count"),
        (M::DecodeSeconds, "vllm:request_decode_time_seconds_sum"),
        (M::DecodeRequests, "vllm:request_decode_time_seconds_count"),
        (M::PrefixQueries, "vllm:prefix_cache_queries_total"),
        (M::PrefixHits, "vllm:prefix_cache_hits_total"),
        (M::Preemptions, "vllm:num_preemptions_total"),
        (M::DraftTokens, "vllm:spec_decode_num_draft_tokens_total"),
        (M::AcceptedTokens, "vllm:spec_decode_num_accepted_tokens_total"),
        (M::RequestsRunning, "sglang:num_running_reqs"),
        (M::RequestsWaiting, "sglang:num_queue_reqs"),
        (M::KvUsage, "sglang:token_usage"),
        (M::PromptTokens, "sglang:prompt_tokens_total"),
        (M::GeneratedTokens, "sglang:generation_tokens_total"),
        (M::QueueSeconds, "sglang:queue_time_seconds_sum"),
        (M::QueueRequests, "sglang:queue_time_seconds_count"),
        (M::PrefillSeconds, "sglang:per_stage_req_latency_seconds_sum"),
        (M::PrefillRequests, "sglang:per_stage_req_latency_seconds_count"),
        // It counts whole prompts, with what came from the cache.
        (M::PrefixQueries, "sglang:prompt_tokens_total"),
        (M::PrefixHits, "sglang:cached_tokens_total"),
        (M::AcceptanceRate, "sglang:spec_accept_rate"),
        (M::RequestsRunning, "llamacpp:requests_processing"),
        (M::RequestsWaiting, "llamacpp:requests_deferred"),
        (M::PromptTokens, "llamacpp:prompt_tokens_total"),
        // Its prompt tokens are those that were computed.
        (M::PromptTokens, "llamacpp:prompt_tokens_cached_total"),
        (M::PrefixQueries, "llamacpp:prompt_tokens_total"),
        (M::PrefixQueries, "llamacpp:prompt_tokens_cached_total"),
        (M::PrefixHits, "llamacpp:prompt_tokens_cached_total"),
        (M::PrefillSeconds, "llamacpp:prompt_seconds_total"),
        (M::GeneratedTokens, "llamacpp:tokens_predicted_total"),
        (M::DecodeSeconds, "llamacpp:tokens_predicted_seconds_total"),
        (M::DraftTokens, "llamacpp:spec_decode_num_draft_tokens_total"),
        (M::AcceptedTokens, "llamacpp:spec_decode_num_accepted_tokens_total"),
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
        let mut names = text.lines().filter_map(|line| Some(sample(line)?.0));
        let known = names.find(|name| TABLE.iter().any(|(_, known)| known == name))?;
        let (prefix, server) =
            PREFIXES.into_iter().find(|(prefix, _)| known.starts_with(prefix))?;
        let mut values = BTreeMap::new();
        for (name, labels, value) in text.lines().filter_map(sample) {
            let is_other_stage = name.starts_with("sglang:per_stage") && !labels.contains(STAGE);
            if !name.starts_with(prefix) || is_other_stage {
                continue;
            }
            for (metric, _) in TABLE.iter().filter(|(_, known)| *known == name) {
                let sum = values.entry(*metric).or_insert(0.0);
                match metric.nature() {
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
            if metric.nature() != Nature::Counter {
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
