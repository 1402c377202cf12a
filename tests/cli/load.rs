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
        .filter(|prompt| prompt.as_str().is_some_and(|prompt| prompt.get(9..11) == Some(": ")))
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
        (&["--input-tokens", "gauss:3:4"], "uniform:A:B"),
        (&["--api", "embeddings", "--turns", "2"], "`--turns` needs an API that generates"),
        (&["--items", "2"], "`--items` needs"),
        (&["--trace", "none.jsonl"], "cannot read `none.jsonl`"),
        (&["--dataset", "records/base.json"], "a dataset is an array of"),
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

/// The bodies of requests that the mock answered, but for the probe and the calibration.
fn bodies(mock: &Mock) -> Vec<Value> {
    let served = mock.served().into_iter();
    let bodies = served.filter_map(|one| serde_json::from_str::<Value>(&one.request.body).ok());
    bodies.filter(|body| body["max_tokens"] != 1).collect()
}

fn prompt(body: &Value) -> &str {
    body["prompt"].as_str().unwrap()
}

#[test]
fn a_trace_is_replayed_at_its_instants_with_shared_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let request = |timestamp: u64, input_length: u64, ids: &[u64]| {
        let output_length = 3;
        json!({
            "timestamp": timestamp, "input_length": input_length, "output_length": output_length,
            "hash_ids": ids,
        })
    };
    let requests = [
        request(1000, 600, &[1, 2]),
        request(1400, 700, &[1, 3]),
        request(2000, 5000, &[1, 2, 3]),
        request(1200, 20, &[9]),
    ];
    std::fs::write(&path, requests.map(|one| one.to_string()).join("\n")).unwrap();
    let models = json!({ "data": [{ "id": "mock", "max_model_len": 2048 }] }).to_string();
    let answer: Answer = Box::new(move |request| {
        Arc::new(match request.path.as_str() {
            path if path.ends_with("/v1/models") => {
                Script::whole(200, "", "application/json", &models)
            }
            path if path.ends_with("/metrics") => Script::error(404, "", "none"),
            _ => quick(3),
        })
    });
    let mock = Mock::start(Routes::from([("m".to_owned(), answer)])).unwrap();
    let lines = folder.path().join("requests.jsonl");
    let words = [
        "--trace",
        path.to_str().unwrap(),
        "--trace-speed",
        "2",
        "--warmups",
        "0",
        "--output-requests",
        lines.to_str().unwrap(),
    ];
    let (output, json) = load(&mock, &words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("1 of 4 requests of the trace are longer"), "{said}");
    assert_eq!((&json["left_out"], &json["levels"][0]["complete"]), (&json!(1), &json!(3)));
    // The mock answers in an instant: requests follow as in the trace, at twice its speed.
    let bodies = bodies(&mock);
    let [first, second, third] = &bodies[..] else { panic!("{bodies:?}") };
    assert_eq!(first["max_tokens"], 3);
    // A block of 512 tokens: a mark of 11, and 4 bytes for each other.
    let block = 11 + 4 * 501;
    assert!(prompt(first).len() > block && prompt(second).len() < 200);
    assert_eq!(prompt(first)[..block], prompt(third)[..block], "the block of id 1");
    assert_ne!(prompt(first)[..20], prompt(second)[..20]);
    let rows = std::fs::read_to_string(&lines).unwrap();
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let scheduled = |row: &Value| row["scheduled_s"].as_f64().unwrap();
    let mut at: Vec<f64> = rows.iter().map(scheduled).collect();
    at.sort_by(f64::total_cmp);
    for (found, expected) in at.iter().zip([0.0, 0.1, 0.2]) {
        assert!((found - expected).abs() < 1e-6, "{at:?}");
    }
    assert_eq!((rows.len(), &rows[0]["tokens"], &rows[0]["level"]), (3, &json!(3), &json!(0)));
}

#[test]
fn every_turn_holds_the_conversation_so_far() {
    let mock = server(|_| quick(2));
    let words = ["--turns", "3", "--requests", "6", "--output-tokens", "2", "--warmups", "0"];
    let (output, json) = load(&mock, &[&words[..], &["--think-time", "10ms"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let level = &json["levels"][0];
    assert_eq!((&level["sent"], &level["most_in_flight"]), (&json!(6), &json!(1)));
    let turns: Vec<&Value> =
        level["turns"].as_array().unwrap().iter().map(|turn| &turn["ttft"]["count"]).collect();
    assert_eq!(turns, [&json!(2), &json!(2), &json!(2)]);
    let bodies = bodies(&mock);
    let [first, second, third] = [0, 1, 2].map(|at| prompt(&bodies[at]).to_owned());
    assert!(second.starts_with(&format!("{first}\n 0 1\n")), "{second}");
    assert!(third.starts_with(&second) && third.len() > second.len());
}

#[test]
fn a_shared_prefix_is_met_cold_once() {
    let mock = server(|_| quick(2));
    let words = ["--shared-prefix", "50", "--requests", "3", "--output-tokens", "2"];
    let (output, json) = load(&mock, &words);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let level = &json["levels"][0];
    assert!(level["cold"]["ttft_s"].as_f64().unwrap() >= 0.002, "{level}");
    assert_eq!((&level["sent"], &level["hit_rate"]), (&json!(3), &json!(0.0)));
    let bodies = bodies(&mock);
    let prefixes: Vec<&str> = bodies.iter().map(|body| &prompt(body)[..11 + 4 * 39]).collect();
    // Two warm-ups with prefixes of their own, the cold request, and three that share its prefix.
    assert_eq!(prefixes.len(), 6);
    assert!(prefixes[3..].iter().all(|prefix| *prefix == prefixes[2]), "{prefixes:?}");
    assert!(prefixes[..2].iter().all(|prefix| *prefix != prefixes[2]), "{prefixes:?}");
}

#[test]
fn a_schema_is_measured_beside_free_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schema.json");
    std::fs::write(&path, r#"{ "type": "object" }"#).unwrap();
    let mock = server(|_| quick(1));
    let words = ["--schema", path.to_str().unwrap(), "--requests", "2", "--output-tokens", "2"];
    let (output, json) = load(&mock, &[&words[..], &["--warmups", "0"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let valid: Vec<&Value> =
        json["levels"].as_array().unwrap().iter().map(|level| &level["valid_json"]).collect();
    // The mock answers ` 0`, which is JSON.
    assert_eq!(valid, [&Value::Null, &json!(2)]);
    let bodies = bodies(&mock);
    let asked: Vec<(bool, bool)> = bodies
        .iter()
        .map(|body| (body.get("response_format").is_some(), body.get("min_tokens").is_some()))
        .collect();
    assert_eq!(asked, [(false, true), (false, true), (true, false), (true, false)]);
    let text = |at: usize| prompt(&bodies[at]).split_once(": ").unwrap().1.to_owned();
    assert_eq!((text(0), text(1)), (text(2), text(3)), "the same prompts");
}

#[test]
fn embeddings_are_counted_by_item() {
    let answer = json!({ "object": "list", "data": [{}, {}, {}], "usage": { "prompt_tokens": 9 } });
    let answer = Script::whole(200, "", "application/json", &answer.to_string());
    let mock = server(move |_| answer.clone());
    let words = ["--api", "embeddings", "--requests", "4", "--input-tokens", "uniform:5:9"];
    let (output, json) = load(&mock, &[&words[..], &["--items", "3"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let level = &json["levels"][0];
    assert_eq!((&level["complete"], &level["prompt_tokens"]), (&json!(4), &json!(36)));
    let rates = ["items_per_s", "requests_per_s"];
    let whole = &level["whole"];
    let items = level[rates[0]].as_f64().unwrap() / whole[rates[1]].as_f64().unwrap();
    assert!((items - 3.0).abs() < 1e-9, "{level}");
    assert_eq!(whole["e2e"]["count"], 4);
    let (output, json) = load(&mock, &["--api", "rerank", "--requests", "2", "--items", "4"]);
    assert_eq!(output.status.code(), Some(5), "three of four items are an error");
    assert_eq!(json["levels"][0]["faults"]["missing-items"][0], 2);
}

#[test]
fn a_result_for_other_tools_is_judged_as_theirs() {
    let mock = server(|_| quick(4));
    let folder = tempfile::tempdir().unwrap();
    let url = mock.url("m");
    for name in ["a.json", "b.json"] {
        let path = folder.path().join(name);
        let words = ["load", "--url", &url, "--requests", "4", "--output-tokens", "4"];
        let more = ["--max-lag", "1h", "--format", "vllm", "-o", path.to_str().unwrap()];
        let output = candlemark(&[&words[..], &more].concat(), &input(""));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let output = candlemark(&["compare", "a.json", "b.json"], folder.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("rate-inf/c1") && text.contains("TTFT"), "{text}");
}
