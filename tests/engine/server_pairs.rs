//! `candlemark pair` on servers: two that run, and two that are started for every block.

use std::collections::HashMap;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use candlemark::client::mock::{Answer, Mock, Script};
use candlemark::record::pair::{Ended, PairRecord};
use candlemark::settings::ServerBlocks;

use crate::{BINARY, candlemark, text};

/// A server whose tokens come this far apart, and that fails every request beyond `limit` tokens.
fn paced(gap: Duration, limit: u64) -> Mock {
    let answer: Answer = Box::new(move |request| {
        let json = |body: &str| Arc::new(Script::whole(200, "", "application/json", body));
        match request.path.as_str() {
            "/v1/models" => json(r#"{ "data": [{ "id": "m", "owned_by": "vllm" }] }"#),
            "/v1/completions" => {
                let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
                let tokens = body["max_tokens"].as_u64().unwrap();
                if tokens > limit {
                    return Arc::new(Script::error(500, "", "CUDA out of memory"));
                }
                Arc::new(Script::generation(gap, gap, tokens))
            }
            path => Arc::new(Script::error(404, "", path)),
        }
    });
    Mock::start(HashMap::from([("m".into(), answer)])).unwrap()
}

fn pair(scenario: &str, flags: &[&str], folder: &Path) -> (Output, PairRecord) {
    let common = ["pair", scenario, "--gen-tokens", "6", "--raw", "pair.json"];
    let output = candlemark(&[&common, flags].concat(), folder);
    let record = PairRecord::load(&folder.join("pair.json"));
    let said = text(&output.stderr);
    (output, record.unwrap_or_else(|error| panic!("{error}: {said}")))
}

#[test]
fn a_slower_server_is_a_regression_and_missing_memory_is_none() {
    let here = tempfile::tempdir().unwrap();
    let fast = paced(Duration::from_millis(2), 99);
    let slow = paced(Duration::from_millis(20), 99);
    let (base, candidate) = (fast.url("m"), slow.url("m"));
    let (output, record) =
        pair("short/b1", &["--base-url", &base, "--candidate-url", &candidate], here.path());
    let verdict = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{verdict}\n{}", text(&output.stderr));
    assert_eq!(
        (record.base.asked.as_str(), record.candidate.asked.as_str()),
        (&*base, &*candidate)
    );
    let [case] = record.scenarios.as_slice() else { panic!("{:?}", record.scenarios) };
    for side in [&case.base, &case.candidate] {
        assert!(side.failed.is_empty() && side.absent.is_none(), "{side:?}");
        assert!(side.no_value["peak_rss_bytes"].contains("a server's memory"), "{side:?}");
    }
    assert_eq!(case.base.output_sha256, case.candidate.output_sha256, "the text is compared");
    assert!(verdict.contains("windows of time on servers that ran on"), "{verdict}");
    assert!(!verdict.contains("threads"), "{verdict}");
}

#[test]
fn a_candidate_with_failing_requests_fails() {
    let here = tempfile::tempdir().unwrap();
    let (good, bad) = (paced(Duration::from_millis(1), 99), paced(Duration::from_millis(1), 5));
    let (base, candidate) = (good.url("m"), bad.url("m"));
    let (output, _) =
        pair("short/b1", &["--base-url", &base, "--candidate-url", &candidate], here.path());
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let verdict = text(&output.stdout);
    assert!(verdict.contains("candidate: request 1 of 1: out-of-memory"), "{verdict}");
}

#[test]
fn commands_start_the_servers_for_every_block() {
    let here = tempfile::tempdir().unwrap();
    let serve = format!("exec {BINARY} serve --model synthetic:nano --port {{port}}");
    let broken = "echo broken >&2; exit 3 # {port}";
    let (output, record) =
        pair("short/b1", &["--base-cmd", &serve, "--candidate-cmd", broken], here.path());
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let Ended::Failed(why) = &record.ended else { panic!("{:?}", record.ended) };
    assert!(why.contains("ended with exit status: 3 and printed `broken`"), "{why}");

    // It refuses the second of two requests at once, so that one block decides.
    let narrow = format!("{serve} --max-batch 1 --max-waiting 0");
    let flags = ["--base-cmd", &serve, "--candidate-cmd", &narrow, "--iters", "1"];
    let (output, record) = pair("short/b4", &flags, here.path());
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let server = record.base.settings.server.as_ref().unwrap();
    assert_eq!(server.blocks, ServerBlocks::Restarts);
    assert_eq!(record.candidate.asked, narrow);
    let why = &record.scenarios[0].candidate.absent.as_ref().unwrap().why;
    assert!(why.contains("http-429"), "{why}");
    assert_eq!((record.blocks.len(), record.blocks[0].started.len()), (1, 3));
}

#[test]
fn flags_of_servers_and_builds_do_not_mix() {
    let here = tempfile::tempdir().unwrap();
    for (flags, says) in [
        (vec!["--base-url", "http://h"], "--candidate-url <URL>"),
        (vec!["--base-url", "http://h", "--candidate-url", "http://h", "--base", "x"], "--base"),
        (vec!["--base-cmd", "true", "--candidate-cmd", "true"], "write `--port {port}`"),
        (vec!["--api", "chat", "--base", BINARY], "`--api` needs the address of a server"),
    ] {
        let output = candlemark(&[&["pair"], &flags[..]].concat(), here.path());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
