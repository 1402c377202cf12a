//! The metrics of one batch of answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::client::Exchange;
use crate::stats;
use crate::workload::metric;

/// The metrics of a batch of requests that were sent at once.
pub(crate) struct ServerSample {
    /// By metric name; a metric without a value is left out.
    pub(crate) values: BTreeMap<&'static str, f64>,
    /// Seconds between the tokens of each answer; empty unless every chunk held one token.
    pub(super) steps_s: Vec<Vec<f64>>,
    /// TTFT of each answer in seconds.
    pub(super) ttft_seq_s: Vec<f64>,
    /// Generated tokens of each answer by the server's `usage`; `None` without it.
    pub(super) tokens: Option<Vec<u64>>,
    /// Whether a chunk held several tokens, or none.
    pub(super) has_uneven_chunks: bool,
    /// The largest share of a prompt that came from the server's prefix cache, where it says so.
    pub(super) cached_share: Option<f64>,
    /// Where the time of each answer went, as the server says.
    pub(super) timings: Vec<BTreeMap<String, f64>>,
    /// Whether an answer of several tokens came in one chunk: its decoding has no time.
    pub(super) comes_at_once: bool,
    /// What was wrong with answers that count.
    pub(super) defects: BTreeSet<String>,
}

/// An answer: when its request was sent, and when its first and last token came.
struct Answer {
    sent: Instant,
    first: Instant,
    last: Instant,
    tokens: Option<u64>,
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

impl ServerSample {
    /// Computes the metrics. Per answer with n tokens, first and last at t_1 and t_n:
    /// `decode_tok_s` is Σ(n − 1) / Σ(t_n − t_1), `tpot_s` the mean of (t_n − t_1) / (n − 1), and
    /// `decode_tok_s_aggregate` is Σ(n − 1) / (max t_n − min t_1): the prefill of the later answers
    /// is in it.
    ///
    /// `None` if an answer has no text, so that its first token is unknown.
    pub(super) fn of(exchanges: &[Exchange]) -> Option<Self> {
        let answers = exchanges.iter().map(Answer::of).collect::<Option<Vec<_>>>()?;
        let tokens: Option<Vec<u64>> = answers.iter().map(|answer| answer.tokens).collect();
        let chunks: Vec<u64> = exchanges.iter().map(token_chunks).collect();
        let is_even = tokens.as_ref() == Some(&chunks);
        let steps_s: Vec<Vec<f64>> =
            if is_even { exchanges.iter().map(gaps).collect() } else { Vec::new() };
        let ttft_seq_s: Vec<f64> =
            answers.iter().map(|answer| seconds(answer.sent, answer.first)).collect();
        let mut sample = Self {
            values: BTreeMap::new(),
            has_uneven_chunks: tokens.is_some() && !is_even,
            comes_at_once: false,
            cached_share: exchanges.iter().filter_map(cached_share).max_by(f64::total_cmp),
            timings: exchanges.iter().map(|exchange| exchange.timings.clone()).collect(),
            defects: exchanges
                .iter()
                .flat_map(|exchange| &exchange.defects)
                .map(ToString::to_string)
                .collect(),
            steps_s,
            ttft_seq_s,
            tokens,
        };
        sample.compute(&answers);
        Some(sample)
    }

    fn compute(&mut self, answers: &[Answer]) {
        let earliest = |of: fn(&Answer) -> Instant| answers.iter().map(of).min();
        let last = answers.iter().map(|answer| answer.last).max();
        let (sent, first) = (earliest(|answer| answer.sent), earliest(|answer| answer.first));
        let (Some(sent), Some(first), Some(last)) = (sent, first, last) else { return };
        let mut set = |name: &'static str, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                self.values.insert(name, value);
            }
        };
        set(metric::TTFT_S, stats::mean(&self.ttft_seq_s));
        set(metric::E2E_S, Some(seconds(sent, last)));
        if let Some(tokens) = self.tokens.as_ref().filter(|all| all.iter().all(|n| *n > 1)) {
            let steps: Vec<f64> = tokens.iter().map(|n| (n - 1) as f64).collect();
            let decode: Vec<f64> =
                answers.iter().map(|answer| seconds(answer.first, answer.last)).collect();
            self.comes_at_once = decode.contains(&0.0);
            if self.comes_at_once {
                return; // Tokens without a time would make the others look faster.
            }
            let all = steps.iter().sum::<f64>();
            set(metric::DECODE_TOK_S, Some(all / decode.iter().sum::<f64>()));
            set(metric::DECODE_TOK_S_AGGREGATE, Some(all / seconds(first, last)));
            let each: Vec<f64> = decode.iter().zip(&steps).map(|(time, n)| time / n).collect();
            set(metric::TPOT_S, stats::mean(&each));
        }
        let gaps = self.steps_s.concat();
        if let Some(typical) = stats::median(&gaps).filter(|_| gaps.len() > 1) {
            let stalls = gaps.iter().filter(|gap| **gap > 5.0 * typical).count();
            set(metric::STALLS, Some(stalls as f64));
        }
        if let (Some(sd), Some(mean)) = (stats::sd(&gaps), stats::mean(&gaps)) {
            set(metric::STEP_CV, Some(sd / mean));
        }
    }
}

impl Answer {
    fn of(exchange: &Exchange) -> Option<Self> {
        let timeline = &exchange.timeline;
        Some(Self {
            sent: timeline.sent?,
            first: timeline.first_token?,
            last: timeline.last_token?,
            tokens: exchange.completion_tokens(None).map(|(tokens, _)| tokens),
        })
    }
}

fn token_chunks(exchange: &Exchange) -> u64 {
    exchange.timeline.chunks.iter().filter(|chunk| chunk.class.is_token()).count() as u64
}

/// Seconds between the chunks with text.
fn gaps(exchange: &Exchange) -> Vec<f64> {
    let tokens = exchange.timeline.chunks.iter().filter(|chunk| chunk.class.is_token());
    let at: Vec<Instant> = tokens.map(|chunk| chunk.at).collect();
    at.windows(2).map(|pair| seconds(pair[0], pair[1])).collect()
}

/// The share of a prompt that came from the server's prefix cache, where it says so.
pub(super) fn cached_share(exchange: &Exchange) -> Option<f64> {
    let usage = exchange.usage?;
    let (cached, prompt) = usage.cached_tokens.zip(usage.prompt_tokens)?;
    (prompt > 0).then(|| cached as f64 / prompt as f64)
}

/// The median of each stage of answers, as the server says.
pub(super) fn median_timings<'a>(
    answers: impl Iterator<Item = &'a BTreeMap<String, f64>>,
) -> BTreeMap<String, f64> {
    let mut stages: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for (name, value) in answers.flatten() {
        stages.entry(name).or_default().push(*value);
    }
    let median = |(name, all): (&String, Vec<f64>)| Some((name.clone(), stats::median(&all)?));
    stages.into_iter().filter_map(median).collect()
}
