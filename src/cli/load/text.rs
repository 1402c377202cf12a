//! The result of a load as text: a table of levels, then one of latencies per level.

use std::collections::BTreeMap;

use crate::cli::load::{Report, pace};
use crate::client::ServerMetric;
use crate::error::counted;
use crate::load::{LevelResult, Window};
use crate::report::{Table, TextFormat, number};

pub(super) fn ms(seconds: Option<f64>) -> String {
    seconds.map_or("-".into(), |seconds| format!("{} ms", number(1e3 * seconds)))
}

/// The text.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!("{} at {}\n\n", report.model, report.url);
    let mut levels = Table::new(
        [
            "load",
            "sent",
            "complete",
            "failed",
            "requests/s",
            "tok/s in",
            "tok/s out",
            "goodput",
            "TTFT p50",
            "TPOT p50",
            "client lag p99",
        ],
        1..,
    );
    let or_dash = |value: Option<f64>| value.map_or("-".into(), number);
    for level in &report.levels {
        let Window { requests_per_s, input_tok_s, output_tok_s, ttft, tpot, .. } = &level.whole;
        let good = level.goodput_fraction.map(|share| 100.0 * share);
        levels.push([
            pace(&level.plan),
            level.sent.to_string(),
            level.complete.to_string(),
            (level.sent - level.complete).to_string(),
            number(*requests_per_s),
            or_dash(*input_tok_s),
            or_dash(*output_tok_s),
            good.map_or("-".into(), |good| format!("{} %", number(good))),
            ms(ttft.p50),
            ms(tpot.p50),
            ms(level.client_lag.p99.or(level.client_lag.max)),
        ]);
    }
    text += &levels.render(TextFormat::Terminal);
    for level in &report.levels {
        text += &further(level);
        let mut latencies =
            Table::new([&pace(&level.plan), "n", "mean", "p50", "p90", "p95", "p99", "max"], 1..);
        let steady = level.steady.as_ref();
        let rows = [
            ("TTFT", Some(&level.whole.ttft)),
            ("TTFT from the actual send", Some(&level.whole.ttft_from_send)),
            ("TPOT", Some(&level.whole.tpot)),
            ("between chunks", Some(&level.chunk_gap)),
            ("end to end", Some(&level.whole.e2e)),
            ("steady: TTFT", steady.map(|steady| &steady.ttft)),
            ("steady: TPOT", steady.map(|steady| &steady.tpot)),
            ("client lag", Some(&level.client_lag)),
            ("connection", Some(&level.set_up)),
        ];
        for (name, latency) in rows {
            let Some(one) = latency.filter(|latency| latency.count > 0) else { continue };
            let values = [one.mean, one.p50, one.p90, one.p95, one.p99, one.max].map(ms);
            latencies.push([vec![name.into(), one.count.to_string()], values.to_vec()].concat());
        }
        text += &format!("\n{}", latencies.render(TextFormat::Terminal));
        if let Some(steady) = steady {
            text += &format!(
                "steady window: {} to {} s, {} requests/s, {} tok/s out\n",
                number(steady.from_s),
                number(steady.to_s),
                number(steady.requests_per_s),
                or_dash(steady.output_tok_s)
            );
        }
        if let Some(server) = level.server.as_ref().filter(|server| !server.is_empty()) {
            text += &format!("the server's own: {}\n", named(server));
        }
    }
    if let Some(price) = report.price_per_million_output_tokens {
        text += &format!("\nprice of a million generated tokens: {}\n", number(price));
    }
    text
}

/// What only some workloads have.
fn further(level: &LevelResult) -> String {
    let mut lines = Vec::new();
    let percent = |share: f64| format!("{} %", number(100.0 * share));
    let or_unknown = |share: Option<f64>| share.map_or("not said".into(), percent);
    if let Some(rate) = level.items_per_s {
        lines.push(format!("{} items/s", number(rate)));
    }
    if let Some(valid) = level.valid_json {
        lines.push(format!("{valid} of {} answers are JSON", level.complete));
    }
    if let Some(cold) = &level.cold {
        lines.push(format!("cold TTFT {}, alone", ms(cold.ttft_s)));
    }
    if level.cold.is_some() || level.turns.len() > 1 || level.hit_rate.is_some_and(|it| it > 0.0) {
        lines.push(format!(
            "prompt tokens from a cache: {} by usage, {} by the server's counters",
            or_unknown(level.hit_rate),
            or_unknown(level.server_hit_rate)
        ));
    }
    if level.resent > 0 {
        let requests = counted(level.resent as usize, "request");
        lines.push(format!("{requests} sent again: the server had closed the connection"));
    }
    for turn in &level.turns {
        let tokens = turn.prompt_tokens.map_or("an unknown number of".into(), number);
        lines.push(format!(
            "turn {}: {} answers, {tokens} prompt tokens, TTFT p50 {}",
            turn.turn,
            turn.ttft.count,
            ms(turn.ttft.p50)
        ));
    }
    if lines.is_empty() {
        return String::new();
    }
    format!("\n{}:\n  {}\n", pace(&level.plan), lines.join("\n  "))
}

/// The server's metrics by the names of the JSON.
fn named(server: &BTreeMap<ServerMetric, f64>) -> String {
    let json = serde_json::to_value(server).unwrap_or_default();
    let values = json.as_object().into_iter().flatten();
    let named = values.filter_map(|(name, value)| Some((name.replace('_', " "), value.as_f64()?)));
    named.map(|(name, value)| format!("{name} {}", number(value))).collect::<Vec<_>>().join(", ")
}
