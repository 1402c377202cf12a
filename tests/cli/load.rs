//! `candlemark load` against a mock server.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candlemark::client::mock::{Answer, Mock, MockRequest, Routes, Script};
use serde_json::{Value, json};

use crate::{candlemark, input};

/// A server with one model, whose answers `generate` makes.
fn server(generate: impl Fn(&MockRequest) -> Script + Send + Sync + 'static) -> Mock {
    let models = json!({ "object": "list", "data": [{ "id": "mock" }] }).to_string();
    let answer: Answer = Box::new(move |request| {
        Arc::new(match request.path.as_str() {
            path if path.ends_with("/v1/models") => {
                Script::whole(200, "", "application/json", &models)
            }
            path if path.ends_with("/metrics") => Script::error(404, "", "none"),
            _ => generate(request),
        })
    });
    Mock::start(Routes::from([("m".to_owned(), answer)])).unwrap()
}

fn quick(tokens: u64) -> Script {
    Script::generation(Duration::from_millis(2), Duration::from_millis(1), tokens)
}

fn load(mock: &Mock, words: &[&str]) -> (Output, Value) {
    let url = mock.url("m");
    let args = [&["load", "--url", &url, "--json", "--max-lag", "1h"], words].concat();
    let output = candlemark(&args, &input(""));
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

#[test]
fn a_closed_loop_keeps_its_requests_in_flight() {
    let mock = server(|_| quick(8));
    let words = ["--concurrency", "2", "--requests", "6", "--output-tokens", "8", "--warmups", "1"];
    let (output, json) = load(&mock, &words);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let level = &json["levels"][0];
    assert_eq!((&level["sent"], &level["complete"]), (&json!(6), &json!(6)));
    assert_eq!((&level["output_tokens"], &level["prompt_tokens"]), (&json!(48), &json!(42)));
    assert_eq!((&level["most_in_flight"], &level["error_rate"]), (&json!(2), &json!(0.0)));
    assert_eq!(level["whole"]["ttft"]["count"], 6);
    assert!(level["whole"]["ttft"]["p50"].as_f64().unwrap() >= 0.002);
    assert_eq!(level["whole"]["ttft"]["p99"], Value::Null, "six values have no 99th percentile");
    assert_eq!(level["server"], Value::Null, "the server has no metrics");
    let bodies: Vec<String> = mock.served().into_iter().map(|served| served.request.body).collect();
    let prompts: Vec<Value> = bodies
        .iter()
        .filter_map(|body| Some(serde_json::from_str::<Value>(body).ok()?["prompt"].clone()))
        .filter(|prompt| prompt.as_str().is_some_and(|prompt| prompt.starts_with('[')))
        .collect();
    let different: std::collections::BTreeSet<&str> =
        prompts.iter().map(|prompt| prompt.as_str().unwrap()).collect();
    assert_eq!((prompts.len(), different.len()), (7, 7), "every prompt begins with its own salt");
}

#[test]
fn an_open_loop_shows_the_queue_of_a_stall_that_a_closed_loop_hides() {
    const STALL: Duration = Duration::from_millis(1500);
    let stalling = || {
        let begun: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        server(move |request| {
            let max = serde_json::from_str::<Value>(&request.body).unwrap()["max_tokens"].clone();
            if max == 1 {
                return quick(1); // The probe.
            }
            let passed = begun.get_or_init(Instant::now).elapsed();
            Script::generation(STALL.saturating_sub(passed), Duration::from_millis(1), 2)
        })
    };
    let level = |words: &[&str]| {
        let mock = stalling();
        let more = ["--requests", "20", "--output-tokens", "2", "--warmups", "0"];
        let (output, json) = load(&mock, &[words, &more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        json["levels"][0].clone()
    };
    let open = level(&["--rate", "20", "--arrival", "constant"]);
    // 20 requests in 0.95 s: every one waits for the end of the stall, at least 0.5 s.
    assert!(open["whole"]["ttft"]["p50"].as_f64().unwrap() > 0.5, "{open}");
    let closed = level(&["--concurrency", "1"]);
    // Only the first meets the stall.
    assert!(closed["whole"]["ttft"]["max"].as_f64().unwrap() > 1.0, "{closed}");
    let [open, closed] =
        [open, closed].map(|level| level["whole"]["ttft"]["p50"].as_f64().unwrap());
    assert!(closed < open, "{closed} {open}");
}

#[test]
fn failures_are_counted_by_name_and_end_with_five() {
    let number = AtomicU64::new(0);
    let mock = server(move |_| match number.fetch_add(1, Ordering::Relaxed) {
        0 => quick(1), // The probe.
        number if number % 2 == 0 => Script::error(503, "retry-after: 1\r\n", "too busy"),
        _ => quick(4),
    });
    let words = ["--requests", "10", "--output-tokens", "4", "--warmups", "0"];
    let (output, json) = load(&mock, &words);
    assert_eq!(output.status.code(), Some(5));
    let level = &json["levels"][0];
    assert_eq!((&level["complete"], &level["failed"]), (&json!(5), &json!(5)));
    assert_eq!((&level["error_rate"], &level["faults"]["http-503"][0]), (&json!(0.5), &json!(5)));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("5 http-503 (status 503, unavailable: too busy)"), "{said}");
    assert!(said.contains("error: 1 in flight: 50.00 % of the requests got no"), "{said}");
}

#[test]
fn wrong_arguments_are_explained_before_anything_is_sent() {
    for (words, expected) in [
        (&["--slo", "ttfb=1s"][..], "`ttfb` is none of ttft, tpot, e2e"),
        (&["--rate", "0"], "a rate is a number of requests per second"),
        (&["--rate", "1", "--arrival", "uniform"], "gamma:SHAPE"),
        (&["--max-error-rate", "2"], "from 0 to 1"),
        (&["--categories", "shrt"], "short"),
    ] {
        let args = [&["load", "--url", "http://127.0.0.1:9"], words].concat();
        let output = candlemark(&args, &input(""));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let output = candlemark(&["load", "--url", "http://127.0.0.1:9"], &input(""));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("connection is refused"), "{said}");
}
