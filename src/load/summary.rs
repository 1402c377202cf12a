//! What a level's requests amount to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::client::ServerMetric;
use crate::load::{Pace, Plan, Row};
use crate::stats::{self, Random};

/// A sample of a stream of values in bounded memory: all of few, of many a uniform choice
/// (Vitter 1985, algorithm R).
pub(super) struct Reservoir {
    values: Vec<f64>,
    seen: u64,
    random: Random,
}

impl Reservoir {
    const SIZE: usize = 1 << 18;

    pub(super) fn new(seed: u64) -> Self {
        Self { values: Vec::new(), seen: 0, random: Random::new(seed) }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.seen += 1;
        if self.values.len() < Self::SIZE {
            self.values.push(value);
        } else if let Some(kept) = self.values.get_mut(self.random.below(self.seen as usize)) {
            *kept = value;
        }
    }
}

/// A distribution in seconds. What too few values do not give is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Number of values.
    pub count: u64,
    /// The arithmetic mean.
    pub mean: Option<f64>,
    /// The standard deviation.
    pub sd: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// The 90th percentile, of 10 values at least.
    pub p90: Option<f64>,
    /// The 95th percentile, of 20 values at least.
    pub p95: Option<f64>,
    /// The 99th percentile, of 100 values at least.
    pub p99: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

impl Latency {
    fn of(values: &[f64]) -> Self {
        Self {
            count: values.len() as u64,
            mean: stats::mean(values),
            sd: stats::sd(values),
            p50: stats::median(values),
            p90: stats::quantile(values, 0.9),
            p95: stats::quantile(values, 0.95),
            p99: stats::quantile(values, 0.99),
            max: values.iter().copied().reduce(f64::max),
        }
    }
}

/// A part of a level: latencies of complete answers, and rates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Window {
    /// Begin and end in seconds since the start.
    pub from_s: f64,
    /// End.
    pub to_s: f64,
    /// Complete answers per second.
    pub requests_per_s: f64,
    /// Generated tokens per second; null if an answer has no count.
    pub output_tok_s: Option<f64>,
    /// Prompt tokens per second of complete answers; null if an answer has no count.
    pub input_tok_s: Option<f64>,
    /// From the scheduled instant.
    pub ttft: Latency,
    /// From the actual send.
    pub ttft_from_send: Latency,
    /// Per token after the first.
    pub tpot: Latency,
    /// From the scheduled instant to the last token.
    pub e2e: Latency,
}

impl Window {
    /// Latencies of the requests that were scheduled within; rates of those that ended within.
    fn of(rows: &[Row], from_s: f64, to_s: f64) -> Self {
        let is_within = |at: f64| (from_s..=to_s).contains(&at);
        let complete = || rows.iter().filter(|row| row.is_complete());
        let latency = |of: fn(&Row) -> Option<f64>| {
            let within = complete().filter(|row| is_within(row.scheduled_s));
            Latency::of(&within.filter_map(of).collect::<Vec<_>>())
        };
        let ended: Vec<&Row> = complete().filter(|row| is_within(row.end_s)).collect();
        let time = to_s - from_s;
        let rate = |of: fn(&Row) -> Option<u64>| {
            let sum = ended.iter().map(|row| of(row)).sum::<Option<u64>>()?;
            (time > 0.0).then(|| sum as f64 / time)
        };
        Self {
            from_s,
            to_s,
            requests_per_s: if time > 0.0 { ended.len() as f64 / time } else { 0.0 },
            output_tok_s: rate(|row| row.tokens),
            input_tok_s: rate(|row| row.prompt_tokens),
            ttft: latency(Row::ttft_s),
            ttft_from_send: latency(Row::ttft_from_send_s),
            tpot: latency(Row::tpot_s),
            e2e: latency(Row::e2e_s),
        }
    }
}

/// The request that meets a shared prefix first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cold {
    /// Its TTFT in seconds.
    pub ttft_s: Option<f64>,
    /// The tokens of its prompt.
    pub prompt_tokens: Option<u64>,
    /// Those that the server took from a cache all the same.
    pub cached_tokens: Option<u64>,
}

impl Cold {
    pub(super) fn of(row: &Row) -> Self {
        let Row { prompt_tokens, cached_tokens, .. } = *row;
        Self { ttft_s: row.ttft_s(), prompt_tokens, cached_tokens }
    }
}

/// The answers of one turn of all conversations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Turn {
    /// The turn, from 1.
    pub turn: u64,
    /// Mean of the prompts' tokens, with the conversation so far; null if an answer has no count.
    pub prompt_tokens: Option<f64>,
    /// Mean of the tokens from a cache; null if an answer does not say.
    pub cached_tokens: Option<f64>,
    /// From the scheduled instant.
    pub ttft: Latency,
}

/// The turns, where there are several.
fn turns(rows: &[Row]) -> Vec<Turn> {
    let count = rows.iter().map(|row| row.turn + 1).max().unwrap_or(0);
    let turn = |turn: u64| {
        let of = || rows.iter().filter(move |row| row.is_complete() && row.turn == turn);
        let mean = |of_row: fn(&Row) -> Option<u64>| {
            let values: Option<Vec<f64>> = of().map(|row| of_row(row).map(|n| n as f64)).collect();
            stats::mean(&values?)
        };
        Turn {
            turn: turn + 1,
            prompt_tokens: mean(|row| row.prompt_tokens),
            cached_tokens: mean(|row| row.cached_tokens),
            ttft: Latency::of(&of().filter_map(Row::ttft_s).collect::<Vec<_>>()),
        }
    };
    if count > 1 { (0..count).map(turn).collect() } else { Vec::new() }
}

/// The result of a level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelResult {
    /// What was to be sent.
    pub plan: Plan,
    /// Requests sent.
    pub sent: u64,
    /// Complete answers.
    pub complete: u64,
    /// Requests whose answers broke off after the first token.
    pub incomplete: u64,
    /// Requests without a token.
    pub failed: u64,
    /// Requests that were given up after a signal; in no rate.
    pub unfinished: u64,
    /// The part of `sent` without a complete answer.
    pub error_rate: Option<f64>,
    /// Requests by fault, and the first message of each.
    pub faults: BTreeMap<&'static str, (u64, String)>,
    /// Good answers per second: complete, and every goal kept; null without goals.
    pub goodput_per_s: Option<f64>,
    /// The part of `sent` that is good; null without goals.
    pub goodput_fraction: Option<f64>,
    /// Prompt tokens of complete answers; null if one has no count.
    pub prompt_tokens: Option<u64>,
    /// Prompt tokens that the server took from a cache; null if it does not say.
    pub cached_tokens: Option<u64>,
    /// The part of the prompts' tokens that came from a cache, by the server's usage.
    pub hit_rate: Option<f64>,
    /// The same by the server's own counters of this time.
    pub server_hit_rate: Option<f64>,
    /// Generated tokens of complete answers; null if one has no count.
    pub output_tokens: Option<u64>,
    /// Embedded or ranked texts per second; null where text is generated.
    pub items_per_s: Option<f64>,
    /// Complete answers that are JSON; null without a schema.
    pub valid_json: Option<u64>,
    /// The request that met a shared prefix first; null without one. In nothing else.
    pub cold: Option<Cold>,
    /// The turns of conversations; empty without.
    pub turns: Vec<Turn>,
    /// Generated tokens per chunk that carries any.
    pub tokens_per_chunk: Option<f64>,
    /// From the first scheduled request to the last end.
    pub whole: Window,
    /// The longest time with at least nine tenths of the concurrency in flight; of an open loop
    /// from the first to the last scheduled request. Null if there is none.
    pub steady: Option<Window>,
    /// Time between chunks with tokens of one answer.
    pub chunk_gap: Latency,
    /// Client lag: actual less scheduled send.
    pub client_lag: Latency,
    /// Set-up of new connections.
    pub set_up: Latency,
    /// Requests that were sent again because the server had closed the connection that was kept.
    pub resent: u64,
    /// Most requests in flight.
    pub most_in_flight: u64,
    /// What the server's own `/metrics` say of this time; null if it has none that is known.
    pub server: Option<BTreeMap<ServerMetric, f64>>,
}

/// The share of the concurrency that a steady window has in flight.
const STEADY: f64 = 0.9;

/// Fewer requests in flight for this time in seconds do not end a steady window.
const MOMENT: f64 = 0.01;

impl LevelResult {
    pub(super) fn of(
        plan: &Plan,
        rows: &[Row],
        gaps: &Reservoir,
        unfinished: usize,
        server: Option<BTreeMap<ServerMetric, f64>>,
    ) -> Self {
        let complete = || rows.iter().filter(|row| row.is_complete());
        let sum = |of: fn(&Row) -> Option<u64>| complete().map(of).sum::<Option<u64>>();
        let count = |is: fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count() as u64;
        let (sent, done) = (rows.len() as u64, complete().count() as u64);
        let good = complete().filter(|row| plan.goals.iter().all(|goal| goal.is_kept(row)));
        let good = Some(good.count() as f64).filter(|_| !plan.goals.is_empty());
        let first = rows.iter().map(|row| row.scheduled_s).fold(f64::INFINITY, f64::min);
        let last = rows.iter().map(|row| row.end_s).fold(0.0, f64::max);
        let whole = Window::of(rows, if rows.is_empty() { 0.0 } else { first }, last);
        let mut faults: BTreeMap<&'static str, (u64, String)> = BTreeMap::new();
        for (name, message) in rows.iter().filter_map(|row| row.fault.as_ref()) {
            faults.entry(name).or_insert_with(|| (0, message.clone())).0 += 1;
        }
        let chunks: u64 = complete().map(|row| row.chunks).sum();
        let output_tokens = sum(|row| row.tokens).filter(|_| done > 0);
        let (most_in_flight, steady) = in_flight(rows, plan.pace);
        let items: u64 = complete().map(|row| row.items).sum();
        let (prompt_tokens, cached_tokens) =
            (sum(|row| row.prompt_tokens), sum(|row| row.cached_tokens));
        let share = |part: f64, of: f64| (of > 0.0).then(|| part / of);
        let counter = |metric| server.as_ref()?.get(&metric).copied();
        let server_hits = counter(ServerMetric::PrefixHits);
        let server_hits = server_hits.zip(counter(ServerMetric::PrefixQueries));
        let values =
            |of: fn(&Row) -> Option<f64>| -> Vec<f64> { rows.iter().filter_map(of).collect() };
        Self {
            plan: plan.clone(),
            sent,
            complete: done,
            incomplete: count(|row| row.is_incomplete),
            failed: count(|row| !row.is_complete() && !row.is_incomplete),
            unfinished: unfinished as u64,
            error_rate: (sent > 0).then(|| (sent - done) as f64 / sent as f64),
            faults,
            goodput_per_s: good.map(|good| good / (whole.to_s - whole.from_s)),
            goodput_fraction: good.filter(|_| sent > 0).map(|good| good / sent as f64),
            prompt_tokens: prompt_tokens.filter(|_| done > 0),
            cached_tokens: cached_tokens.filter(|_| done > 0),
            hit_rate: cached_tokens
                .zip(prompt_tokens)
                .and_then(|(cached, prompt)| share(cached as f64, prompt as f64)),
            server_hit_rate: server_hits.and_then(|(hits, queries)| share(hits, queries)),
            items_per_s: (items > 0)
                .then(|| share(items as f64, whole.to_s - whole.from_s))
                .flatten(),
            valid_json: plan
                .has_schema
                .then(|| complete().filter(|row| row.is_json == Some(true)).count() as u64),
            cold: None,
            turns: turns(rows),
            tokens_per_chunk: output_tokens
                .filter(|_| chunks > 0)
                .map(|tokens| tokens as f64 / chunks as f64),
            output_tokens,
            steady: steady.map(|(from, to)| Window::of(rows, from, to)),
            whole,
            chunk_gap: Latency::of(&gaps.values),
            client_lag: Latency::of(&values(|row| row.lag_s)),
            set_up: Latency::of(&values(|row| row.set_up_s)),
            resent: count(|row| row.is_resent),
            most_in_flight,
            server,
        }
    }

    /// Why the numbers cannot be trusted: the client was late.
    pub fn invalid(&self) -> Option<String> {
        let (lag, name) = match (self.client_lag.p99, self.client_lag.max) {
            (Some(p99), _) => (p99, "p99"),
            (None, max) => (max?, "largest"),
        };
        let most = self.plan.max_lag.as_secs_f64();
        (lag > most).then(|| {
            format!(
                "client lag {:.1} ms ({name}) is above {:.1} ms: this machine was too busy to send \
                 in time",
                1e3 * lag,
                1e3 * most
            )
        })
    }

    /// Whether too many requests had no complete answer.
    pub fn has_failed(&self) -> bool {
        self.error_rate.is_none_or(|rate| rate > self.plan.max_error_rate)
    }
}

/// The most requests in flight, and the steady window.
fn in_flight(rows: &[Row], pace: Pace) -> (u64, Option<(f64, f64)>) {
    let begun = rows.iter().map(|row| (row.sent_s.unwrap_or(row.scheduled_s), 1_i64));
    let mut events: Vec<(f64, i64)> = begun.chain(rows.iter().map(|row| (row.end_s, -1))).collect();
    // At one instant, ends come before begins.
    events.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let needed = match pace {
        Pace::Closed { concurrency } => (STEADY * concurrency as f64).ceil() as i64,
        Pace::Open { .. } | Pace::Trace { .. } => i64::MAX,
    };
    let (mut now, mut most) = (0_i64, 0_i64);
    let (mut since, mut dip): (Option<f64>, Option<f64>) = (None, None);
    let mut longest: Option<(f64, f64)> = None;
    let mut close = |from: f64, to: f64| {
        if longest.is_none_or(|(a, b)| to - from > b - a) {
            longest = Some((from, to));
        }
    };
    for (at, change) in events {
        now += change;
        most = most.max(now);
        if now >= needed {
            // A place of a closed loop is free for the moment between two requests.
            if let (Some(from), Some(low)) = (since, dip.take().filter(|low| at - low > MOMENT)) {
                close(from, low);
                since = None;
            }
            since.get_or_insert(at);
        } else if since.is_some() {
            dip.get_or_insert(at);
        }
    }
    if let (Some(from), Some(low)) = (since, dip) {
        close(from, low);
    }
    if let Pace::Open { .. } | Pace::Trace { .. } = pace {
        let scheduled = rows.iter().map(|row| row.scheduled_s);
        let (first, last) = (scheduled.clone().reduce(f64::min), scheduled.reduce(f64::max));
        longest = first.zip(last).filter(|(first, last)| last > first);
    }
    (most as u64, longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Arrival;

    fn plan(pace: Pace) -> Plan {
        let goals = vec!["ttft=150ms".parse().unwrap(), "tpot=60ms".parse().unwrap()];
        Plan { goals, ..Plan::of_three(pace) }
    }

    fn row(scheduled_s: f64, sent_s: f64, first_s: f64, last_s: f64) -> Row {
        Row {
            scheduled_s,
            sent_s: Some(sent_s),
            first_s: Some(first_s),
            last_s: Some(last_s),
            end_s: last_s,
            lag_s: Some(sent_s - scheduled_s),
            prompt_tokens: Some(20),
            cached_tokens: Some(0),
            tokens: Some(11),
            chunks: 11,
            ..Row::default()
        }
    }

    fn near(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?}");
    }

    #[test]
    fn latencies_count_from_the_scheduled_instant() {
        let pace = Pace::Open { rate: 1.0, arrival: Arrival::Constant };
        // The second request was sent 0.3 s late, behind a stall.
        let rows = [row(0.0, 0.0, 0.1, 0.6), row(1.0, 1.3, 1.4, 1.9), row(2.0, 2.0, 2.2, 3.2)];
        let result = LevelResult::of(&plan(pace), &rows, &Reservoir::new(1), 0, None);
        near(result.whole.ttft.max, 0.4);
        near(result.whole.ttft_from_send.max, 0.2);
        near(result.whole.ttft.p50, 0.2);
        near(result.whole.tpot.p50, 0.05);
        near(result.whole.e2e.p50, 0.9);
        near(result.whole.output_tok_s, 33.0 / 3.2);
        // Only the first keeps both goals.
        near(result.goodput_fraction, 1.0 / 3.0);
        near(result.steady.as_ref().map(|steady| steady.to_s), 2.0);
        assert!(result.invalid().unwrap().contains("300.0 ms (largest)"));
        assert!(!result.has_failed());
        assert_eq!(result.whole.ttft.p90, None, "three values have no 90th percentile");
    }

    #[test]
    fn failures_stay_in_the_denominator() {
        let mut rows = vec![row(0.0, 0.0, 0.1, 0.6); 4];
        rows[3].fault = Some(("http-503", "status 503".into()));
        rows[2].fault = Some(("reset-mid-stream", "broken".into()));
        rows[2].is_incomplete = true;
        rows[1].tokens = None;
        let pace = Pace::Closed { concurrency: 4 };
        let result = LevelResult::of(&plan(pace), &rows, &Reservoir::new(1), 0, None);
        assert_eq!((result.sent, result.complete, result.incomplete, result.failed), (4, 2, 1, 1));
        assert_eq!((result.error_rate, result.goodput_fraction), (Some(0.5), Some(0.5)));
        assert_eq!(result.faults["http-503"].0, 1);
        assert_eq!(result.output_tokens, None, "one answer has no count: the sum is missing");
        assert_eq!(result.whole.output_tok_s, None);
        assert!(result.has_failed());
        let nothing = LevelResult::of(&plan(pace), &[], &Reservoir::new(1), 2, None);
        assert!(nothing.has_failed() && nothing.error_rate.is_none());
    }

    #[test]
    fn a_steady_window_has_the_concurrency_in_flight() {
        // Two places; the second opens at 1, and the first has nothing after 3.
        let rows = [
            row(0.0, 0.0, 0.5, 2.0),
            row(1.0, 1.0, 1.5, 3.0),
            row(2.0, 2.0, 2.5, 3.0),
            row(3.0, 3.0, 3.5, 9.0),
        ];
        let pace = Pace::Closed { concurrency: 10 };
        assert_eq!(in_flight(&rows, pace), (2, None), "never nine in flight");
        let (most, steady) = in_flight(&rows, Pace::Closed { concurrency: 2 });
        assert_eq!((most, steady), (2, Some((1.0, 3.0))));
    }

    #[test]
    fn a_sample_of_many_values_is_uniform() {
        let mut sample = Reservoir::new(5);
        (0..4 * Reservoir::SIZE).for_each(|value| sample.add(value as f64));
        assert_eq!(sample.values.len(), Reservoir::SIZE);
        let mean = stats::mean(&sample.values).unwrap() / (2.0 * Reservoir::SIZE as f64);
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }
}
