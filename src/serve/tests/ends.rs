//! Clients that hang up, and the end of the server.

use std::io::BufRead as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{REFERENCE, choices, completion, ids, options, serve};
use crate::serve::Options;
use crate::serve::tests::client::{connect, get, post, read_head, request};

/// Waits until `is_true`, for a minute.
fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_hangs_up_frees_its_place() {
    let server = serve(Options { max_batch: 1, max_waiting: 0, ..options() });
    let idle = "candlemark_server_running_sequences 0\n";
    for stream in [true, false] {
        wait_until("it is idle", || get(&server, "/metrics").text.contains(idle));
        let endless = completion(json!({ "max_tokens": 40_000, "stream": stream }));
        let mut client = connect(&server, &request("/v1/completions", &endless.to_string()));
        if stream {
            read_head(&mut client);
            let mut line = String::new();
            while !line.starts_with("data: {") {
                line.clear();
                client.read_line(&mut line).unwrap();
            }
        } else {
            let running = "candlemark_server_running_sequences 1\n";
            wait_until("it runs", || get(&server, "/metrics").text.contains(running));
        }
        let refused = post(&server, "/v1/completions", &completion(json!({})));
        assert_eq!(refused.status, 429, "{}", refused.text);
        assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
        assert!(refused.text.contains("1 sequences run and wait already"), "{}", refused.text);
        drop(client);
        let mut answer = None;
        wait_until("the place is free", || {
            let response = post(&server, "/v1/completions", &completion(json!({})));
            answer = (response.status == 200).then(|| response.ok());
            answer.is_some()
        });
        assert_eq!(ids(&choices(&[answer.unwrap()])), REFERENCE.1);
    }
    let cancelled = "candlemark_server_requests_total{outcome=\"cancelled\"} 2\n";
    wait_until("all are counted", || {
        let text = get(&server, "/metrics").text;
        text.contains(cancelled) && text.contains(idle)
    });
}

#[test]
fn running_requests_end_before_the_server_does_unless_they_take_too_long() {
    for (max_tokens, patience, completes) in
        [(200, Duration::from_secs(60), true), (40_000, Duration::from_millis(300), false)]
    {
        let server = serve(options());
        let address = server.address();
        let long = completion(json!({ "max_tokens": max_tokens, "stream": true }));
        let mut client = connect(&server, &request("/v1/completions", &long.to_string()));
        read_head(&mut client);
        let mut text = String::new();
        client.read_line(&mut text).unwrap();
        server.stop(patience).unwrap();
        while client.read_line(&mut text).is_ok_and(|length| length > 0) {}
        assert_eq!(text.contains("data: [DONE]"), completes);
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}
