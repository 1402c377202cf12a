//! The client against a fake hub on this machine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{error, fs, thread};

use tempfile::TempDir;
use ureq::Agent;

use super::client::agent;
use super::*;
use fake::*;

mod errors;
mod fake;
mod plan;

const CONFIG: &[u8] = br#"{"model_type":"qwen3"}"#;
const TOKENIZER: &[u8] = br#"{"version":"1.0"}"#;

/// A model in one file, among files no run needs.
fn single() -> Model {
    model(vec![
        (".gitattributes", b"*".into(), Serving::Small),
        ("README.md", b"# Model".into(), Serving::Small),
        ("config.json", CONFIG.into(), Serving::Small),
        ("generation_config.json", b"{}".into(), Serving::Small),
        ("model.safetensors", weights(), Serving::Large),
        ("pytorch_model.bin", b"pickle".into(), Serving::Large),
        ("tokenizer.json", TOKENIZER.into(), Serving::Moved),
        ("vocab.json", b"{}".into(), Serving::Small),
    ])
}

fn gguf(names: &[&'static str]) -> Model {
    model(names.iter().map(|name| (*name, weights(), Serving::Large)).collect())
}

fn model(files: Vec<(&'static str, Vec<u8>, Serving)>) -> Model {
    Model { files, faults: Vec::new(), access: Access::Public }
}

/// Some hundred kilobytes, so that they take several reads.
fn weights() -> Vec<u8> {
    (0..600_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A client without retries and with short timeouts.
fn client(fake: &FakeHub, cache: &TempDir) -> Hub {
    let mut client = HubClient::new(&fake.endpoint, Some(TOKEN.into()));
    client.retries = 0;
    client.backoff = Duration::from_millis(1);
    // A proxy would not reach this machine.
    client.agent = Agent::from(agent(Duration::from_secs(5)).proxy(None).build());
    Hub { cache: cache.path().into(), offline: false, client }
}

fn spec(text: &str) -> HubSpec {
    text.parse().unwrap()
}

fn fetch(hub: &Hub, text: &str) -> Result<Snapshot> {
    hub.fetch(&spec(text), &mut ())
}

/// An error and its causes as text. Neither the text nor the `Debug` output may show the token.
fn error_text(result: Result<Snapshot>) -> String {
    let err = result.unwrap_err();
    let debug = format!("{err:?}");
    let mut chain = vec![err.to_string()];
    let mut cause = error::Error::source(&err);
    while let Some(err) = cause {
        chain.push(err.to_string());
        cause = err.source();
    }
    let chain = chain.join(": ");
    assert!(!debug.contains("secret") && !chain.contains("secret"), "{debug} {chain}");
    chain
}

/// The paths below the model's folder, with the targets of links.
fn tree(cache: &TempDir) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_symlink() {
                found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(name);
            }
        }
    }
    let (mut found, root) = (Vec::new(), cache.path().join("models--owner--name"));
    walk(&root, &root, &mut found);
    found.sort();
    found
}

fn incomplete(cache: &TempDir) -> PathBuf {
    let name = format!("{}.incomplete", sha256(&weights()));
    cache.path().join("models--owner--name/blobs").join(name)
}

#[test]
fn a_spec_is_repo_revision_and_file() {
    for (text, repo, revision, file) in [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None, None),
        ("a/b@v1.0", "a/b", Some("v1.0"), None),
        ("a/b@refs/pr/1", "a/b", Some("refs/pr/1"), None),
        ("a/b:x/y q4.gguf", "a/b", None, Some("x/y q4.gguf")),
        ("a/b@main:x@2.gguf", "a/b", Some("main"), Some("x@2.gguf")),
    ] {
        let expected = HubSpec {
            repo: repo.into(),
            revision: revision.map(String::from),
            file: file.map(String::from),
        };
        assert_eq!(spec(text), expected, "{text}");
    }
}

#[test]
fn a_bad_spec_is_refused_with_the_form_to_use() {
    for text in [
        "", "name", "/name", "owner/", "a/b/c", "../b", "a/..", "a/b@", "a/b:", "a/b@../x",
        "a/b@x?y", "a/b:../x", "a/b:/x", "a/b:x\\y", "a/b:c:d", "a b/c", "a--b/c",
    ] {
        let err = text.parse::<HubSpec>().unwrap_err().to_string();
        assert!(err.starts_with(&format!("`{text}` is not a model on the hub: ")), "{err}");
        assert!(err.ends_with("; write `owner/name[@revision][:file]`"), "{err}");
    }
}

#[test]
fn environment_variables_are_read_as_in_python() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("token"), "hf_file\n").unwrap();
    let dir = folder.path().to_str().unwrap();
    let hub = |vars: &[(&str, &str)]| {
        let vars: HashMap<_, _> = vars.iter().copied().collect();
        let hub = Hub::from_vars(|name| vars.get(name).map(ToString::to_string), Some("/h".into()));
        let hub = hub.unwrap();
        let token = hub.client.token.unwrap_or_default();
        (hub.cache.display().to_string(), token, hub.client.endpoint, hub.offline)
    };
    let public = "https://huggingface.co".to_owned();
    let default = ("/h/.cache/huggingface/hub".into(), String::new(), public.clone(), false);
    assert_eq!(hub(&[]), default);
    assert_eq!(hub(&[("HF_HOME", ""), ("HF_TOKEN", " "), ("HF_HUB_OFFLINE", "0")]), default);
    let home = [("HF_HOME", dir), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "true")];
    let expected = (format!("{dir}/hub"), "hf_file".into(), "http://mirror".into(), true);
    assert_eq!(hub(&home), expected);
    let all = [
        ("HF_HOME", dir),
        ("HF_HUB_CACHE", "/c"),
        ("HF_TOKEN", "hf_a"),
        ("TRANSFORMERS_OFFLINE", "1"),
    ];
    assert_eq!(hub(&all), ("/c".into(), "hf_a".into(), public.clone(), true));
    let expected = ("/x/huggingface/hub".into(), String::new(), public, false);
    assert_eq!(hub(&[("XDG_CACHE_HOME", "/x")]), expected);
    assert!(matches!(Hub::from_vars(|_| None, None), Err(Error::HubNoHome)));
}

#[test]
fn a_branch_resolves_to_a_commit_and_only_needed_files_are_requested() {
    let (fake, cache) = (FakeHub::start(single()), TempDir::new().unwrap());
    let snapshot = fetch(&client(&fake, &cache), REPO).unwrap();
    assert_eq!(
        fake.requests(),
        [
            "GET /api/models/owner/name/revision/main token",
            "HEAD /owner/name/resolve/COMMIT/config.json token",
            "GET /owner/name/resolve/COMMIT/config.json token",
            "HEAD /owner/name/resolve/COMMIT/tokenizer.json token",
            "HEAD /moved/COMMIT/tokenizer.json token",
            "GET /owner/name/resolve/COMMIT/tokenizer.json token",
            "GET /moved/COMMIT/tokenizer.json token",
            "HEAD /owner/name/resolve/COMMIT/generation_config.json token",
            "GET /owner/name/resolve/COMMIT/generation_config.json token",
            "HEAD /owner/name/resolve/COMMIT/model.safetensors token",
            "GET /owner/name/resolve/COMMIT/model.safetensors token",
            "GET /store/COMMIT/model.safetensors?signed=1", // Another server: no token.
        ]
    );
    assert_eq!(snapshot.commit, COMMIT);
    let names = ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"];
    assert_eq!(snapshot.files, names.map(|name| snapshot.dir.join(name)));
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), CONFIG);
    assert_eq!(fs::read(&snapshot.files[1]).unwrap(), TOKENIZER);
    assert_eq!(fs::read(&snapshot.files[3]).unwrap(), weights());
}

#[cfg(unix)]
#[test]
fn the_cache_has_the_layout_of_python() {
    let (fake, cache) =
        (FakeHub::start(gguf(&["deep/q4.gguf", "q8.gguf"])), TempDir::new().unwrap());
    fetch(&client(&fake, &cache), "owner/name:deep/q4.gguf").unwrap();
    let blob = sha256(&weights());
    assert_eq!(
        tree(&cache),
        [
            format!("blobs/{blob}"),
            "refs/main".into(),
            format!("snapshots/{COMMIT}/deep/q4.gguf -> ../../../blobs/{blob}"),
        ]
    );
    let refs = cache.path().join("models--owner--name/refs/main");
    assert_eq!(fs::read_to_string(refs).unwrap(), COMMIT);
}

#[test]
fn a_full_commit_in_the_cache_needs_no_request() {
    for (model, text) in [
        (single(), format!("{REPO}@{COMMIT}")),
        (gguf(&["q4.gguf"]), format!("{REPO}@{COMMIT}")),
        (gguf(&["q4.gguf", "q8.gguf"]), format!("{REPO}@{COMMIT}:q8.gguf")),
    ] {
        let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
        let hub = client(&fake, &cache);
        let first = fetch(&hub, &text).unwrap();
        assert_eq!(fake.requests()[0], "GET /api/models/owner/name/revision/COMMIT token");
        assert!(!tree(&cache).contains(&"refs/main".into()));
        assert_eq!(fetch(&hub, &text).unwrap(), first);
        assert!(fake.requests().is_empty());
    }
}

#[test]
fn a_branch_in_the_cache_needs_one_request() {
    let (fake, cache) = (FakeHub::start(single()), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let first = fetch(&hub, REPO).unwrap();
    fake.requests();
    assert_eq!(fetch(&hub, REPO).unwrap(), first);
    assert_eq!(fake.requests(), ["GET /api/models/owner/name/revision/main token"]);
}

#[test]
fn a_cached_gguf_does_not_hide_that_there_are_others() {
    let (fake, cache) = (FakeHub::start(gguf(&["q4.gguf", "q8.gguf"])), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    fetch(&hub, &format!("{REPO}@{COMMIT}:q4.gguf")).unwrap();
    let error = error_text(fetch(&hub, &format!("{REPO}@{COMMIT}")));
    assert_eq!(
        error,
        "`owner/name` holds several gguf files; pick one, as in `owner/name:q4.gguf`; \
         they are `q4.gguf`, `q8.gguf`"
    );
}

#[test]
fn a_password_in_the_endpoint_is_hidden() {
    let (fake, cache) = (FakeHub::start(single()), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.client.endpoint = fake.endpoint.replace("//", "//user:hunter2@");
    for text in ["owner/other", REPO] {
        if text == REPO {
            drop(std::mem::replace(&mut hub.cache, cache.path().join("other")));
            hub.client.endpoint = "http://user:hunter2@127.0.0.1:9".into(); // Nothing listens there.
        }
        let error = error_text(fetch(&hub, text));
        assert!(error.contains("http://***@127.0.0.1:") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn shards_are_those_the_index_names() {
    let index =
        br#"{"weight_map":{"a":"s-2.safetensors","b":"s-1.safetensors","c":"s-2.safetensors"}}"#;
    let shard = |name, content: &[u8]| (name, content.to_vec(), Serving::Large);
    let (fake, cache) = (
        FakeHub::start(model(vec![
            ("config.json", CONFIG.into(), Serving::Small),
            ("tokenizer.json", TOKENIZER.into(), Serving::Small),
            ("model.safetensors.index.json", index.into(), Serving::Small),
            shard("s-1.safetensors", b"one"),
            shard("s-2.safetensors", b"two"),
            shard("s-3.safetensors", b"three"),
        ])),
        TempDir::new().unwrap(),
    );
    let mut hub = client(&fake, &cache);
    let snapshot = fetch(&hub, REPO).unwrap();
    let names = [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "s-1.safetensors",
        "s-2.safetensors",
    ];
    assert_eq!(snapshot.files, names.map(|name| snapshot.dir.join(name)));
    hub.offline = true;
    assert_eq!(fetch(&hub, REPO).unwrap(), snapshot);
    fs::remove_file(snapshot.dir.join("s-1.safetensors")).unwrap();
    assert!(
        error_text(fetch(&hub, REPO))
            .starts_with("`s-1.safetensors` of `owner/name` at `main` is not in")
    );
}

#[test]
fn an_interrupted_download_resumes() {
    let mut model = gguf(&["q4.gguf"]);
    model.faults.push(("GET /store", Fault::Cut(200_000)));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let error = error_text(fetch(&hub, REPO));
    assert!(
        error.starts_with(
            "the download of `q4.gguf` stopped after 200000 of 600000 bytes; run again to"
        ),
        "{error}"
    );
    assert_eq!(fs::read(incomplete(&cache)).unwrap(), &weights()[..200_000]);
    assert_eq!(tree(&cache).len(), 1, "no blob, no link, no revision");
    fake.requests();

    let mut sizes = Vec::new();
    let snapshot = hub.fetch(&spec(REPO), &mut SizeLog(&mut sizes)).unwrap();
    assert_eq!(fake.requests()[3], "GET /store/COMMIT/q4.gguf?signed=1 bytes=200000-");
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
    assert!(sizes[0] > 200_000, "what was there counts: {sizes:?}");
    assert_eq!(sizes.last(), Some(&600_000));
    assert!(!incomplete(&cache).exists());
}

struct SizeLog<'a>(&'a mut Vec<u64>);

impl Progress for SizeLog<'_> {
    fn update(&mut self, file: &str, so_far: u64, size: u64) {
        assert_eq!((file, size), ("q4.gguf", 600_000));
        self.0.push(so_far);
    }
}

#[test]
fn a_server_without_ranges_starts_over() {
    let mut model = gguf(&["q4.gguf"]);
    model.faults.push(("GET /store", Fault::Cut(200_000)));
    model.faults.push(("GET /store", Fault::NoRange));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    error_text(fetch(&hub, REPO));
    let snapshot = fetch(&hub, REPO).unwrap();
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
}

#[test]
fn an_incomplete_file_of_another_program_is_completed_or_replaced() {
    let mut longer = weights();
    longer.push(0);
    for left in [weights(), longer] {
        let (fake, cache) = (FakeHub::start(gguf(&["q4.gguf"])), TempDir::new().unwrap());
        fs::create_dir_all(incomplete(&cache).parent().unwrap()).unwrap();
        fs::write(incomplete(&cache), left).unwrap();
        let snapshot = fetch(&client(&fake, &cache), REPO).unwrap();
        assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
    }
}

#[test]
fn transient_errors_are_retried() {
    let mut model = gguf(&["q4.gguf"]);
    model.faults.push(("GET /api", Fault::Status(503, "x: y")));
    model.faults.push(("HEAD", Fault::Status(429, "retry-after: 0")));
    model.faults.push(("GET /store", Fault::Cut(1000)));
    model.faults.push(("GET /store", Fault::Status(500, "x: y")));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.client.retries = 2;
    let snapshot = fetch(&hub, REPO).unwrap();
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
    let stored: Vec<String> =
        fake.requests().into_iter().filter(|request| request.contains("/store/")).collect();
    assert_eq!(
        stored,
        [
            "GET /store/COMMIT/q4.gguf?signed=1",
            "GET /store/COMMIT/q4.gguf?signed=1 bytes=1000-",
            "GET /store/COMMIT/q4.gguf?signed=1 bytes=1000-",
        ]
    );
}

#[test]
fn retries_end() {
    let mut model = gguf(&["q4.gguf"]);
    model.faults.extend([(); 4].map(|()| ("GET /api", Fault::Status(502, "x: y"))));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.client.retries = 3;
    let error = error_text(fetch(&hub, REPO));
    assert!(error.ends_with("answers `owner/name` with status 502; try again later"), "{error}");
    assert_eq!(fake.requests().len(), 4);
}

#[test]
fn a_retry_after_of_an_hour_is_an_error() {
    let mut model = single();
    model.faults.push(("GET /api", Fault::Status(429, "retry-after: 3600")));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.client.retries = 3;
    let error = error_text(fetch(&hub, REPO));
    assert!(error.contains("with status 429"), "{error}");
    assert_eq!(fake.requests().len(), 1);
}

#[test]
fn concurrent_fetches_download_a_file_once() {
    let (fake, cache) = (FakeHub::start(gguf(&["q4.gguf"])), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(fetch(&hub, REPO).is_ok()));
        }
    });
    let stored =
        fake.requests().into_iter().filter(|request| request.starts_with("GET /store")).count();
    assert_eq!(stored, 1);
    assert_eq!(fs::read(&fetch(&hub, REPO).unwrap().files[0]).unwrap(), weights());
}

#[cfg(unix)]
#[test]
fn a_dangling_link_is_repaired() {
    let (fake, cache) = (FakeHub::start(gguf(&["q4.gguf"])), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let pinned = format!("{REPO}@{COMMIT}");
    let snapshot = fetch(&hub, &pinned).unwrap();
    fs::remove_dir_all(cache.path().join("models--owner--name/blobs")).unwrap();
    assert_eq!(fetch(&hub, &pinned).unwrap(), snapshot);
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
}
