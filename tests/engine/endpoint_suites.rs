//! `candlemark run --url`: suites whose requests share text, and document pipelines.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candlemark::client::mock::{
    Answer, Mock, MockRequest, Script, Step, chat_chunk, chunked, event, usage_chunk,
};
use candlemark::record::{AbsenceKind, Record};
use serde_json::{Value, json};

use crate::serve::start;
use crate::{measured, nano, succeeds};

fn run(url: &str, words: &[&str], iters: &str, folder: &Path) -> Record {
    let flags = ["--iters", iters, "--warmups", "1", "-o", "record.json"];
    succeeds(&[&["run", "--url", url], words, &flags].concat(), folder);
    Record::load(&folder.join("record.json")).unwrap()
}

/// A server whose tokens are four bytes of the prompt, and whose prefix cache, if it is on, has all
/// prompts so far.
fn caching(is_on: bool) -> Mock {
    let known: Mutex<Vec<String>> = Mutex::default();
    let common = |one: &str, other: &str| {
        one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count() as u64
    };
    let answer: Answer = Box::new(move |request: &MockRequest| {
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        let json = |body: &str| Arc::new(Script::whole(200, "", "application/json", body));
        match request.path.as_str() {
            "/v1/models" => json(r#"{ "data": [{ "id": "m", "max_model_len": 4096 }] }"#),
            "/v1/completions" => {
                let prompt = body["prompt"].as_str().unwrap().to_owned();
                let tokens = body["max_tokens"].as_u64().unwrap();
                let mut known = known.lock().unwrap();
                let hits = known.iter().map(|earlier| common(earlier, &prompt)).max();
                let hits = hits.filter(|_| is_on).unwrap_or(0) / 4;
                let count = prompt.len() as u64 / 4;
                known.push(prompt);
                let chunk = |number| {
                    let finish = (number + 1 == tokens).then_some("length");
                    let chunk = chat_chunk(&json!({ "content": format!(" {number}") }), finish);
                    let pause = Step::Pause(std::time::Duration::from_micros(200));
                    [pause, Step::Token(chunked(event(&chunk)))]
                };
                let usage = event(&usage_chunk(count, tokens, hits)) + "data: [DONE]\n\n";
                let steps = (0..tokens).flat_map(chunk).chain([Step::Write(chunked(usage))]);
                Arc::new(Script::stream(steps))
            }
            path => Arc::new(Script::error(404, "", &format!("no {path} here"))),
        }
    });
    Mock::start(HashMap::from([("m".into(), answer)])).unwrap()
}

const SHARED: [&str; 4] =
    ["conversation/turn-1", "conversation/turn-3", "prefix-1024/cold", "prefix-1024/warm"];

#[test]
fn what_requests_share_is_found_in_a_prefix_cache_and_nothing_else_is() {
    let here = tempfile::tempdir().unwrap();
    let server = caching(true);
    let record = run(&server.url("m"), &SHARED, "2", here.path());
    for (id, least, most) in [
        ("conversation/turn-1", None, 0.0),
        ("conversation/turn-3", Some(0.5), 0.9),
        ("prefix-1024/cold", None, 0.0),
        ("prefix-1024/warm", Some(0.9), 0.97),
    ] {
        let case = record.case(id).unwrap();
        assert!(case.absent.is_none() && case.validity.ok(), "{id}: {case:?}");
        assert!(!format!("{:?}", case.validity.warnings).contains("cache"), "{:?}", case.validity);
        let block = &case.blocks[0];
        assert!(block.value("ttft_s").is_some(), "{id}");
        let rate = block.server.get("hit_rate").copied();
        assert_eq!(rate.is_some(), least.is_some(), "{id}: {rate:?}");
        if let (Some(rate), Some(least)) = (rate, least) {
            assert!(rate > least && rate < most, "{id}: {rate}");
            assert!(block.notes["ttft_s"].contains("from the server's prefix cache"), "{id}");
        }
    }
    let tokens = |id: &str| record.case(id).unwrap().work.prompt_tokens.clone();
    assert_eq!(tokens("prefix-1024/warm"), [1088], "the whole prompt is sent");
    assert_eq!(tokens("prefix-1024/warm"), tokens("prefix-1024/cold"));

    // Each turn is the one before, its answer, and the next message.
    let prompts: Vec<String> = server
        .served()
        .iter()
        .filter_map(|one| serde_json::from_str::<Value>(&one.request.body).ok())
        .filter_map(|body| Some(body["prompt"].as_str()?.to_owned()))
        .collect();
    let turns = |message: &str| -> Vec<&String> {
        prompts.iter().filter(|prompt| prompt.ends_with(message)).collect()
    };
    let [third, second] = ["in the oven changes.\nAssistant:", "long enough?\nAssistant:"];
    let (third, second) = (turns(third), turns(second));
    assert_eq!(third.len(), second.len());
    assert!(third.len() >= 4, "a reference, a warm-up and two samples");
    for (third, second) in third.iter().zip(&second) {
        assert!(third.starts_with(&format!("{second} 0 1 2")), "{third}");
    }
    let salts: Vec<&str> = third.iter().map(|prompt| prompt.split(':').next().unwrap()).collect();
    assert!(salts[0] == "User" && salts[1] != salts[2] && salts[2] != salts[3], "{salts:?}");
}

#[test]
fn a_cold_ttft_is_not_called_warm() {
    let here = tempfile::tempdir().unwrap();
    let record = run(&caching(false).url("m"), &SHARED[2..], "2", here.path());
    let warm = record.case("prefix-1024/warm").unwrap();
    assert_eq!(warm.blocks[0].server["hit_rate"], 0.0);
    let warning = "the server's prefix cache had nothing of what the prompts share: TTFT is cold";
    assert!(warm.validity.warnings.iter().any(|one| one == warning), "{:?}", warm.validity);
}

#[test]
fn pipelines_find_the_same_chunks_through_a_server() {
    let here = tempfile::tempdir().unwrap();
    let server = start(&[]);
    let url = format!("http://{}", server.address);
    let ids = ["pipelines/classification", "pipelines/embedding", "pipelines/rag"];
    let record = run(&url, &ids, "1", here.path());
    let case = |id: &str| record.case(id).unwrap();
    for id in ids {
        let case = case(id);
        assert!(case.absent.is_none() && case.validity.ok(), "{id}: {case:?}");
        let engine = measured(&nano(), id);
        assert_eq!(case.work.items, engine.work.items, "{id}");
        let block = &case.blocks[0];
        assert!(block.value("items_per_min").unwrap() > 0.0);
        assert_eq!(block.value("error_rate"), Some(0.0));
        for (name, why) in [
            ("prefill_s", "a client cannot tell prefill from"),
            ("load_s", "the server ran before"),
            ("peak_rss_bytes", "a client does not see a server's memory"),
            ("cpu_utilisation", "a client does not see a server's hardware"),
        ] {
            assert_eq!(block.value(name), None, "{id}: {name}");
            assert!(block.notes[name].starts_with(why), "{id}: {name}");
        }
    }
    let found = measured(&nano(), "pipelines/embedding").output_sha256.unwrap();
    assert_eq!(case("pipelines/embedding").output_sha256, Some(format!("text-{found}")));
    assert_eq!(case("pipelines/classification").output_sha256, None, "answers are salted");
    assert!(case("pipelines/classification").blocks[0].server["decode_s"] > 0.0);

    let block = &case("pipelines/rag").blocks[0];
    let parts = ["embed_s", "search_s", "assemble_s", "answer_s"].map(|name| &block.samples[name]);
    for (at, whole) in block.samples["e2e_s"].iter().enumerate() {
        let sum: f64 = parts.iter().map(|part| part[at]).sum();
        assert!((sum - whole).abs() < 1e-6, "{sum} and {whole}");
    }
    assert_eq!(block.samples["e2e_s"].len(), 8, "a value per question");
    assert_eq!(block.samples["index_s"].len(), 1);
}

#[test]
fn a_server_without_embeddings_says_so_and_answers_documents() {
    let here = tempfile::tempdir().unwrap();
    let ids = ["pipelines/code", "pipelines/embedding", "pipelines/rag"];
    let record = run(&caching(true).url("m"), &ids, "1", here.path());
    let code = record.case("pipelines/code").unwrap();
    assert!(code.absent.is_none() && code.validity.ok(), "{code:?}");
    assert!(!format!("{:?}", code.validity.warnings).contains("cache"), "{:?}", code.validity);
    for id in &ids[1..] {
        let absent = record.case(id).unwrap().absent.as_ref().unwrap();
        let why = "the server gives no embeddings: status 404: no /v1/embeddings here";
        assert_eq!((absent.kind, absent.why.as_str()), (AbsenceKind::Unsupported, why));
    }
}

#[test]
fn load_sends_as_many_tokens_as_asked() {
    let server = start(&["--max-batch", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let (requests, tokens) = (16, 100);
    let words = format!(
        "load --url http://{} --requests {requests} --input-tokens {tokens} --output-tokens 1 --warmups 0 \
         --max-lag 60s --json",
        server.address
    );
    let json = succeeds(&words.split_whitespace().collect::<Vec<_>>(), folder.path());
    let json: Value = serde_json::from_str(&json).unwrap();
    let mean = json["levels"][0]["prompt_tokens"].as_f64().unwrap() / f64::from(requests);
    // Parts of the text differ, and each prompt has 89 tokens of it.
    assert!((mean - f64::from(tokens)).abs() < 10.0, "{mean}");
}
