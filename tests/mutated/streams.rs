//! Streams of servers: server-sent events, their chunks, and pages of metrics.

use std::fs;
use std::path::{Path, PathBuf};

use candlemark::client::{Chunk, Scrape, SseParser};

use crate::Reader;
use crate::mutator::Mutator;

const STREAM: &str = ": ping\r\n\r\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
    data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"h\u{e9}\"}}]}\n\n\
    event: message\rdata: {\"choices\":[{\"delta\":{\"content\":\"\u{1f4a5}\"}}]}\r\r\
    data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]},\
    \"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,\
    \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n\
    data: {\"error\":{\"message\":\"no\"}}\n\n\
    data: [DONE]\n\n";

const METRICS: &str = "# TYPE vllm:num_requests_running gauge\n\
    vllm:num_requests_running{engine=\"0\",model_name=\"a}b\"} 2.0\n\
    vllm:prefix_cache_queries_total{engine=\"0\"} 640.0 1760000000000\n\
    vllm:request_queue_time_seconds_sum 1.5e3\n";

fn reader(name: &'static str, seed: &str) -> Reader<'static> {
    let seeds = vec![(PathBuf::from(name), seed.as_bytes().to_vec())];
    Reader { name, seeds, change: Mutator::bytes }
}

/// The events of a file that comes in pieces of seven bytes.
fn events(path: &Path) -> Result<Vec<String>, String> {
    let (mut parser, mut events) = (SseParser::new(1 << 20), Vec::new());
    for piece in fs::read(path).unwrap().chunks(7) {
        parser.push(piece, &mut events).map_err(|error| error.to_string())?;
    }
    parser.finish(&mut events).map_err(|error| error.to_string())?;
    Ok(events.into_iter().map(|event| event.data).collect())
}

#[test]
fn streams_are_parsed() {
    reader("stream.txt", STREAM).run(1, events, |events| {
        for event in events {
            if let Ok(chunk) = Chunk::parse(event) {
                assert!(
                    chunk.class().is_token() == (chunk.text_bytes() > 0 && chunk.error.is_none())
                );
            }
        }
    });
}

#[test]
fn pages_of_metrics_are_parsed() {
    let read = |path: &Path| {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Scrape::parse(&text).ok_or("no known server")
    };
    reader("metrics.txt", METRICS).run(1, read, |scrape| {
        assert!(scrape.values.values().all(|value| value.is_finite()));
        scrape.since(scrape);
    });
}
