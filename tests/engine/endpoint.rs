//! `candlemark run --url`: a server as an engine.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candlemark::client::mock::{Answer, Mock, Script, Step};
use candlemark::engine::{Engine, GenerationRequest, generate};
use candlemark::record::{AbsenceKind, Record};
use candlemark::settings::ServerBlocks;
use candlemark::workload::PromptFormat;
use sha2::Digest as _;

use crate::serve::start;
use crate::{candlemark, fails, measured, names, nano, succeeds, text, with};

/// Flags of a short run.
const SHORT: [&str; 6] = ["--iters", "2", "--warmups", "1", "-o", "record.json"];

fn run(url: &str, more: &[&str], folder: &Path) -> Record {
    succeeds(&[&["run", "--url", url], &SHORT[..], more].concat(), folder);
    Record::load(&folder.join("record.json")).unwrap()
}

#[test]
fn a_server_is_measured_like_an_engine() {
    let here = tempfile::tempdir().unwrap();
    let key = here.path().join("key");
    fs::write(&key, "a-secret-key\n").unwrap();
    let key = ["--api-key-file", key.to_str().unwrap()];
    let server = start(&[&["--served-model-name", "tiny"], &key[..]].concat());
    let url = format!("http://{}/v1", server.address);
    let scenarios = ["short/b1", "code/b4", "grid/S1", "context/512", "stress/many"];
    let tokens = ["--gen-tokens", "4", "--label", "gpu=none"];
    let record = run(&url, &[&scenarios[..], &tokens, &key].concat(), here.path());

    let case = |id: &str| record.case(id).unwrap();
    let engine = measured(&nano(), "code/b4");
    for (id, batch, new_tokens) in [("short/b1", 1, 4), ("code/b4", 4, 4), ("grid/S1", 1, 32)] {
        let case = case(id);
        assert_eq!(case.absent, None, "{id}");
        assert!(case.validity.ok(), "{id}: {:?}", case.validity);
        assert_eq!((case.work.batch, case.work.new_tokens), (batch, new_tokens));
        assert_eq!(case.work.stop, "length");
        let [block] = case.blocks.as_slice() else { panic!("{} blocks", case.blocks.len()) };
        assert_eq!((block.samples["ttft_s"].len(), block.cold["ttft_s"].len()), (2, 1));
        assert_eq!(block.ttft_seq_s.iter().map(Vec::len).collect::<Vec<_>>(), [batch, batch]);
        for name in ["ttft_s", "decode_tok_s", "decode_tok_s_aggregate", "e2e_s"] {
            assert!(block.value(name).unwrap() > 0.0, "{id}: {name}");
        }
        assert!(block.value("ttft_s") <= block.value("e2e_s"));
        for name in ["tokenize_s", "queue_s", "prefill_s", "first_token_s", "decode_s"] {
            assert!(block.server[name] >= 0.0, "{id}: the server's own {name}");
        }
        let prefill = block.server["prefill_s"];
        assert!(batch > 1 || prefill < block.value("ttft_s").unwrap(), "{id}");
        for name in ["prefill_s", "peak_rss_bytes", "load_s", "power_w"] {
            assert_eq!(block.value(name), None, "what a client cannot know is not 0: {name}");
            assert!(block.notes[name].starts_with(['a', 't']), "{name}");
        }
    }
    assert_eq!(
        case("code/b4").work.prompt_tokens,
        engine.work.prompt_tokens,
        "usage counts exactly"
    );
    assert_eq!(case("grid/S1").work.prompt_tokens, [16], "cut by the server's own count");
    assert_eq!(case("short/b1").output_sha256, Some(engine_output()));
    for (id, why) in
        [("context/512", "fill a server's KV cache"), ("stress/many", "server's memory")]
    {
        let absent = case(id).absent.as_ref().unwrap();
        assert_eq!(absent.kind, AbsenceKind::Unsupported);
        assert!(absent.why.contains(why), "{absent}");
    }

    let found = record.settings.server.as_ref().unwrap();
    assert_eq!((found.model.as_str(), found.software.as_deref()), ("tiny", Some("candlemark")));
    assert_eq!(found.url, format!("http://{}", server.address));
    assert_eq!((found.context, found.blocks), (Some(40960), ServerBlocks::Windows));
    assert!(found.accepted.contains(&"ignore_eos".to_owned()));
    let machine = &record.machine;
    assert!(machine.class.starts_with("server-candlemark-tiny-"), "{}", machine.class);
    assert_eq!(machine.fields["label gpu"], "none");
    assert!(!machine.fields.keys().any(|name| name.contains("cpu")), "the class is the server's");
    assert!(machine.facts["client_class"].contains("cpu"));
    let page = succeeds(&["report", "record.json", "--format", "md"], here.path());
    // An address is no link in Markdown.
    let shown = format!("server: candlemark {}, http:\\//127.0.0.1", env!("CARGO_PKG_VERSION"));
    assert!(page.contains(&shown), "{page}");
    for engine in ["| threads |", "| engine |", "| device |", "kernels |", "0 MiB"] {
        assert!(!page.contains(engine), "{engine}: {page}");
    }

    for name in names(here.path()).iter().filter(|name| *name != "key") {
        let bytes = fs::read(here.path().join(name)).unwrap_or_default();
        assert!(!text(&bytes).contains("a-secret-key"), "{name}");
    }
}

/// The hash of the text that the engine in this process gives to the prompt of `short/b1`.
fn engine_output() -> String {
    let setup = with(nano(), |_| {});
    let mut engine = Engine::load(&setup, &mut ()).unwrap();
    let scenario = candlemark::workload::scenario("short/b1").unwrap();
    let prompts = scenario.prompts();
    let ids = vec![engine.encode(&prompts[0], PromptFormat::Raw).unwrap()];
    let request = GenerationRequest::new(&ids, 4, &setup.generation);
    let output = generate(engine.decoder.as_mut(), &request).unwrap();
    let answer = engine.tokenizer.decode(&output.ids[0]);
    let mut hash = sha2::Sha256::new();
    for part in ["", &answer, ""] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("text-{digits}")
}

#[test]
fn chat_is_measured_through_the_servers_template() {
    let here = tempfile::tempdir().unwrap();
    let server = start(&[]);
    let url = format!("http://{}", server.address);
    let ids = ["api/chat", "api/chat-thinking"];
    let record =
        run(&url, &[&ids[..], &["--api", "chat", "--gen-tokens", "3"]].concat(), here.path());
    for id in ids {
        let case = record.case(id).unwrap();
        assert!(case.absent.is_none() && case.validity.ok(), "{case:?}");
        let engine = measured(&nano(), id);
        assert_eq!(case.work.prompt_tokens, engine.work.prompt_tokens, "{id}: the same template");
    }
}

#[test]
fn a_server_that_cannot_be_measured_is_refused_before_anything_is() {
    let here = tempfile::tempdir().unwrap();
    let server = start(&["--served-model-name", "tiny"]);
    let url = format!("http://{}", server.address);
    let known = format!("{url}: no model `tinny` (did you mean `tiny`?)");
    for (args, says) in [
        (vec!["--url", &url, "--served-model-name", "tinny"], known.as_str()),
        (vec!["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 does not answer `/v1/models`"),
        (vec!["--url", "ftp://here"], "is not the address of a server"),
        (vec!["--url", &url, "--temperature", "0.5"], "a temperature is not measured on a server"),
        (vec!["--url", &url, "--model", "x"], "cannot be used with"),
        (vec!["--api", "chat"], "`--api` needs the address of a server"),
    ] {
        fails(&[&["run", "short/b1"], &args[..]].concat(), here.path(), 2, &[says]);
    }
    assert_eq!(names(here.path()), [""; 0]);
}

/// A server that answers this number of generations and is gone then, until it is given more.
fn mortal(left: &Arc<AtomicUsize>) -> Mock {
    let left = Arc::clone(left);
    let answer: Answer = Box::new(move |request| {
        let gone = || Arc::new(Script { steps: vec![Step::Reset] });
        let json = |body: &str| Arc::new(Script::whole(200, "", "application/json", body));
        if left.load(Ordering::SeqCst) == 0 {
            return gone();
        }
        match request.path.as_str() {
            "/v1/models" => {
                json(r#"{ "data": [{ "id": "m", "owned_by": "vllm", "max_model_len": 99 }] }"#)
            }
            "/version" => json(r#"{ "version": "1.2.3" }"#),
            "/v1/completions" => {
                left.fetch_sub(1, Ordering::SeqCst);
                let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
                let tokens = body["max_tokens"].as_u64().unwrap();
                let gap = Duration::from_micros(200);
                Arc::new(Script::generation(gap, gap, tokens))
            }
            path => Arc::new(Script::error(404, "", path)),
        }
    });
    Mock::start(HashMap::from([("m".into(), answer)])).unwrap()
}

#[test]
fn a_server_that_dies_keeps_what_was_measured_and_resume_continues() {
    let here = tempfile::tempdir().unwrap();
    // The description takes one; each process a probe, a reference answer and a sample.
    let left = Arc::new(AtomicUsize::new(5));
    let server = mortal(&left);
    let url = server.url("m");
    let flags = ["--iters", "1", "--warmups", "0"];
    let args = [&["run", "--url", &url, "short/b1", "code/b1", "long/b1"], &flags[..]].concat();
    let output = candlemark(&[&args[..], &["-o", "record.json"]].concat(), here.path());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    for part in ["does not answer `/v1/models`", "the record so far is in", "--resume record.json"]
    {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let path = here.path().join("record.json");
    let record = Record::load(&path).unwrap();
    let mut kinds: Vec<_> = record.scenarios.iter().map(|case| case.absence()).collect();
    kinds.sort_by_key(|kind| kind.map(|kind| kind as u8));
    assert_eq!(kinds, [None, Some(AbsenceKind::Failed), Some(AbsenceKind::NotMeasuredYet)]);
    let failed = record
        .scenarios
        .iter()
        .find_map(|case| case.absent.as_ref().filter(|absent| absent.kind == AbsenceKind::Failed));
    assert!(
        failed.unwrap().why.starts_with("request 1 of 1: reset-before-headers: "),
        "{failed:?}"
    );

    left.store(100, Ordering::SeqCst);
    succeeds(&[&args[..], &["--resume", "record.json"]].concat(), here.path());
    let record = Record::load(&path).unwrap();
    for case in &record.scenarios {
        assert!(case.absent.is_none() && case.blocks.len() == 1, "{case:?}");
        assert_eq!(case.work.prompt_tokens, [7], "the server's count");
    }
    let found = record.settings.server.as_ref().unwrap();
    assert_eq!(
        (found.software.as_deref(), found.version.as_deref()),
        (Some("vllm"), Some("1.2.3"))
    );
    assert_eq!(record.machine.fields["context"], "99");
}
