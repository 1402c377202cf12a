//! The client against a hub on this machine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{error, fs, thread};

use tempfile::TempDir;
use ureq::Agent;

use super::fake::*;
use super::web::agent;
use super::*;

const CONFIG: &[u8] = br#"{"model_type":"qwen3"}"#;
const TOKENIZER: &[u8] = br#"{"version":"1.0"}"#;

/// A model in one file, among files no run needs.
fn single() -> Model {
    model(vec![
        (".gitattributes", b"*".into(), Kind::Small),
        ("README.md", b"# Model".into(), Kind::Small),
        ("config.json", CONFIG.into(), Kind::Small),
        ("generation_config.json", b"{}".into(), Kind::Small),
        ("model.safetensors", weights(), Kind::Large),
        ("pytorch_model.bin", b"pickle".into(), Kind::Large),
        ("tokenizer.json", TOKENIZER.into(), Kind::Moved),
        ("vocab.json", b"{}".into(), Kind::Small),
    ])
}

fn gguf(names: &[&'static str]) -> Model {
    model(names.iter().map(|name| (*name, weights(), Kind::Large)).collect())
}

fn model(files: Vec<(&'static str, Vec<u8>, Kind)>) -> Model {
    Model { files, faults: Vec::new(), gated: Gate::Open }
}

/// Some hundred kilobytes, so that they take several reads.
fn weights() -> Vec<u8> {
    (0..600_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A client that asks once and does not wait long.
fn client(fake: &Fake, cache: &TempDir) -> Hub {
    let mut web = Web::new(&fake.endpoint, Some(Token(TOKEN.into())));
    web.retries = 0;
    web.pause = Duration::from_millis(1);
    // A proxy would not find this machine.
    web.agent = Agent::from(agent(Duration::from_secs(5)).proxy(None).build());
    Hub { cache: cache.path().into(), offline: false, web }
}

fn spec(text: &str) -> HubSpec {
    text.parse().unwrap()
}

fn fetch(hub: &Hub, text: &str) -> Result<Snapshot> {
    hub.fetch(&spec(text), &mut ())
}

/// Everything an error can print: each cause, as text and as `Debug`. None of it may hold the
/// token.
fn told(result: Result<Snapshot>) -> String {
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

/// The paths below the model's folder, with what they hold or where they lead.
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

fn part(cache: &TempDir) -> PathBuf {
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
fn the_environment_decides_as_in_python() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("token"), "hf_file\n").unwrap();
    let dir = folder.path().to_str().unwrap();
    let hub = |vars: &[(&str, &str)]| {
        let vars: HashMap<_, _> = vars.iter().copied().collect();
        let hub = Hub::from_vars(|name| vars.get(name).map(ToString::to_string), Some("/h".into()));
        let hub = hub.unwrap();
        let web = format!("{:?}", hub.web);
        assert!(!web.contains("hf_"), "{web}");
        let token = hub.web.token.map_or(String::new(), |token| token.0);
        (hub.cache.display().to_string(), token, hub.web.endpoint, hub.offline)
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
fn a_branch_becomes_a_commit_and_only_needed_files_are_asked_for() {
    let (fake, cache) = (Fake::start(single()), TempDir::new().unwrap());
    let snapshot = fetch(&client(&fake, &cache), REPO).unwrap();
    assert_eq!(
        fake.asked(),
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
fn the_cache_is_laid_out_as_python_lays_it_out() {
    let (fake, cache) = (Fake::start(gguf(&["deep/q4.gguf", "q8.gguf"])), TempDir::new().unwrap());
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
        let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
        let hub = client(&fake, &cache);
        let first = fetch(&hub, &text).unwrap();
        assert_eq!(fake.asked()[0], "GET /api/models/owner/name/revision/COMMIT token");
        assert!(!tree(&cache).contains(&"refs/main".into()));
        assert_eq!(fetch(&hub, &text).unwrap(), first);
        assert!(fake.asked().is_empty());
    }
}

#[test]
fn a_branch_in_the_cache_needs_one_request() {
    let (fake, cache) = (Fake::start(single()), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let first = fetch(&hub, REPO).unwrap();
    fake.asked();
    assert_eq!(fetch(&hub, REPO).unwrap(), first);
    assert_eq!(fake.asked(), ["GET /api/models/owner/name/revision/main token"]);
}

#[test]
fn a_cached_gguf_does_not_hide_that_there_are_others() {
    let (fake, cache) = (Fake::start(gguf(&["q4.gguf", "q8.gguf"])), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    fetch(&hub, &format!("{REPO}@{COMMIT}:q4.gguf")).unwrap();
    let told = told(fetch(&hub, &format!("{REPO}@{COMMIT}")));
    assert_eq!(
        told,
        "`owner/name` holds several gguf files; pick one, as in `owner/name:q4.gguf`; \
         they are `q4.gguf`, `q8.gguf`"
    );
}

#[test]
fn a_quantisation_names_its_file_or_its_parts() {
    let names = [
        "BF16/m-BF16-00001-of-00002.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "m-Q4_K.gguf",
        "m-Q4_K_M.gguf",
        "m-UD-Q4_K_XL.gguf",
        "m-IQ2_M-00002-of-00002.gguf",
        "m.Q6_K.gguf",
        "m.i1-Q6_K.gguf",
        "mmproj-F16.gguf",
        "q8_0/m.gguf",
    ];
    let names = names.map(String::from);
    let all = "`BF16/m-BF16.gguf`, `m-IQ2_M.gguf`, `m-Q4_K.gguf`, `m-Q4_K_M.gguf`, \
               `m-UD-Q4_K_XL.gguf`, `m.Q6_K.gguf`, `m.i1-Q6_K.gguf`, `q8_0/m.gguf`";
    for (file, expected) in [
        ("Q8_0", Ok(&["q8_0/m.gguf"][..])),
        ("q4_k", Ok(&["m-Q4_K.gguf"][..])),
        ("Q4_K_M", Ok(&["m-Q4_K_M.gguf"][..])),
        ("UD-Q4_K_XL", Ok(&["m-UD-Q4_K_XL.gguf"][..])),
        ("bf16", Ok(&["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"][..])),
        (
            "BF16/m-BF16-00002-of-00002.gguf",
            Ok(&["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"][..]),
        ),
        (
            "Q6_K",
            Err(
                "`owner/name` holds several gguf files; pick one, as in `owner/name:m.Q6_K.gguf`; \
                 they are `m.Q6_K.gguf`, `m.i1-Q6_K.gguf`"
                    .to_owned(),
            ),
        ),
        ("Q5_0", Err(format!("no `Q5_0` in `owner/name` at `main`; its gguf files are {all}"))),
        (
            "IQ2_M",
            Err("no `m-IQ2_M-00001-of-00002.gguf` in `owner/name` at `main`; nearest are \
                 `m-IQ2_M-00002-of-00002.gguf`, `m-Q4_K.gguf`, `m-Q4_K_M.gguf`, \
                 `m-UD-Q4_K_XL.gguf`, `m.Q6_K.gguf`"
                .to_owned()),
        ),
    ] {
        let plan = plan(&spec(&format!("owner/name:{file}")), &names);
        let files = plan.map(|plan| plan.files).map_err(|error| error.to_string());
        assert_eq!(files, expected.map(|files| files.iter().map(|f| (*f).into()).collect()));
    }
    let Err(several) = plan(&spec("owner/name"), &names) else { panic!("a choice was made") };
    let start = "`owner/name` holds several gguf files; pick one, as in \
                 `owner/name:BF16/m-BF16-00001-of-00002.gguf`";
    assert_eq!(several.to_string(), format!("{start}; they are {all}"));
}

/// The index of an earlier upload.
#[test]
fn a_whole_file_goes_before_an_index() {
    let names = ["config.json", "tokenizer.json", WEIGHTS[0], WEIGHTS[1]].map(String::from);
    let plan = plan(&spec(REPO), &names).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(plan.files, ["config.json", "tokenizer.json", "model.safetensors"]);
}

#[test]
fn a_password_in_the_endpoint_is_not_shown() {
    let (fake, cache) = (Fake::start(single()), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.web.endpoint = fake.endpoint.replace("//", "//user:hunter2@");
    for text in ["owner/other", REPO] {
        if text == REPO {
            drop(std::mem::replace(&mut hub.cache, cache.path().join("other")));
            hub.web.endpoint = "http://user:hunter2@127.0.0.1:9".into(); // Nobody listens there.
        }
        let told = told(fetch(&hub, text));
        assert!(told.contains("http://***@127.0.0.1:") && !told.contains("hunter2"), "{told}");
    }
}

#[test]
fn shards_are_those_the_index_names() {
    let index =
        br#"{"weight_map":{"a":"s-2.safetensors","b":"s-1.safetensors","c":"s-2.safetensors"}}"#;
    let shard = |name, content: &[u8]| (name, content.to_vec(), Kind::Large);
    let (fake, cache) = (
        Fake::start(model(vec![
            ("config.json", CONFIG.into(), Kind::Small),
            ("tokenizer.json", TOKENIZER.into(), Kind::Small),
            ("model.safetensors.index.json", index.into(), Kind::Small),
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
        told(fetch(&hub, REPO))
            .starts_with("`s-1.safetensors` of `owner/name` at `main` is not in")
    );
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let mut model = gguf(&["q4.gguf"]);
    model.faults.push(("GET /store", Fault::Cut(200_000)));
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let told = told(fetch(&hub, REPO));
    assert!(
        told.starts_with("`q4.gguf` stopped after 200000 of 600000 bytes; run again to go on"),
        "{told}"
    );
    assert_eq!(fs::read(part(&cache)).unwrap(), &weights()[..200_000]);
    assert_eq!(tree(&cache).len(), 1, "no blob, no link, no revision");
    fake.asked();

    let mut heard = Vec::new();
    let snapshot = hub.fetch(&spec(REPO), &mut Heard(&mut heard)).unwrap();
    assert_eq!(fake.asked()[3], "GET /store/COMMIT/q4.gguf?signed=1 bytes=200000-");
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
    assert!(heard[0] > 200_000, "what was there counts: {heard:?}");
    assert_eq!(heard.last(), Some(&600_000));
    assert!(!part(&cache).exists());
}

struct Heard<'a>(&'a mut Vec<u64>);

impl Progress for Heard<'_> {
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
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    told(fetch(&hub, REPO));
    let snapshot = fetch(&hub, REPO).unwrap();
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
}

#[test]
fn what_another_program_left_is_finished_or_replaced() {
    let mut longer = weights();
    longer.push(0);
    for left in [weights(), longer] {
        let (fake, cache) = (Fake::start(gguf(&["q4.gguf"])), TempDir::new().unwrap());
        fs::create_dir_all(part(&cache).parent().unwrap()).unwrap();
        fs::write(part(&cache), left).unwrap();
        let snapshot = fetch(&client(&fake, &cache), REPO).unwrap();
        assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
    }
}

#[test]
fn what_may_pass_is_tried_again_a_few_times() {
    let mut model = gguf(&["q4.gguf"]);
    model.faults.push(("GET /api", Fault::Status(503, "x: y")));
    model.faults.push(("HEAD", Fault::Status(429, "retry-after: 0")));
    model.faults.push(("GET /store", Fault::Cut(1000)));
    model.faults.push(("GET /store", Fault::Status(500, "x: y")));
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.web.retries = 2;
    let snapshot = fetch(&hub, REPO).unwrap();
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
    let stored: Vec<String> =
        fake.asked().into_iter().filter(|asked| asked.contains("/store/")).collect();
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
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.web.retries = 3;
    let told = told(fetch(&hub, REPO));
    assert!(told.ends_with("answers `owner/name` with status 502; try again later"), "{told}");
    assert_eq!(fake.asked().len(), 4);
}

#[test]
fn a_hub_that_wants_an_hour_is_not_waited_for() {
    let mut model = single();
    model.faults.push(("GET /api", Fault::Status(429, "retry-after: 3600")));
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.web.retries = 3;
    let told = told(fetch(&hub, REPO));
    assert!(told.contains("with status 429"), "{told}");
    assert_eq!(fake.asked().len(), 1);
}

#[test]
fn offline_takes_the_cache_or_says_what_is_missing() {
    let (fake, cache) = (Fake::start(single()), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.offline = true;
    let told_ = told(fetch(&hub, REPO));
    assert!(told_.starts_with("`config.json` of `owner/name` at `main` is not in "), "{told_}");
    assert!(
        told_.ends_with("fetch it once with HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE unset"),
        "{told_}"
    );
    hub.offline = false;
    let first = fetch(&hub, REPO).unwrap();
    hub.offline = true;
    fake.asked();
    assert_eq!(fetch(&hub, REPO).unwrap(), first);
    assert_eq!(fetch(&hub, &format!("{REPO}@{COMMIT}")).unwrap(), first);
    fs::remove_file(first.dir.join("tokenizer.json")).unwrap();
    assert!(told(fetch(&hub, REPO)).starts_with("`tokenizer.json` of `owner/name` at `main`"));
    assert!(told(fetch(&hub, "owner/name:q4.gguf")).starts_with("`q4.gguf` of `owner/name`"));
    assert!(told(fetch(&hub, "owner/name@v2")).contains("at `v2` is not in"));
    assert!(fake.asked().is_empty());
}

#[test]
fn a_refusal_names_the_way_in_and_not_the_token() {
    for (status, header) in [(401, "x-error-code: RepoNotFound"), (403, "x-error-code: GatedRepo")]
    {
        let mut model = single();
        model.faults.push(("HEAD", Fault::Status(status, header)));
        let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
        assert_eq!(
            told(fetch(&client(&fake, &cache), REPO)),
            format!(
                "the hub refuses `owner/name` (status {status}); check the name, set HF_TOKEN to a \
                 token with access, and if the model is gated, accept its terms on {}/owner/name",
                fake.endpoint
            )
        );
    }
}

#[test]
fn a_closed_model_opens_with_the_token() {
    let closed = || Model { gated: Gate::Closed, ..single() };
    let (fake, cache) = (Fake::start(closed()), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.web.token = None;
    assert!(told(fetch(&hub, REPO)).contains("(status 401)"));
    hub.web.token = Some(Token("hf_wrongsecret".into()));
    assert!(told(fetch(&hub, REPO)).contains("(status 401)"));
    hub.web.token = Some(Token("hf_secret\nline".into()));
    assert!(told(fetch(&hub, REPO)).contains("cannot get `owner/name`"));
    fetch(&client(&fake, &cache), REPO).unwrap();
}

#[test]
fn what_the_hub_lacks_is_named() {
    let (fake, cache) = (Fake::start(single()), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let endpoint = &fake.endpoint;
    for (text, expected) in [
        (
            "owner/other",
            format!(
                "no model `owner/other` on {endpoint}; check the name, or set HF_TOKEN if it is private"
            ),
        ),
        (
            "owner/name@v2",
            "`owner/name` has no revision `v2`; name a branch, a tag or a full commit".into(),
        ),
        (
            "owner/name:model2.safetensors",
            "no `model2.safetensors` in `owner/name` at `main`; nearest are `model.safetensors`, \
             `.gitattributes`, `README.md`, `config.json`, `generation_config.json`"
                .into(),
        ),
    ] {
        assert_eq!(told(fetch(&hub, text)), expected);
    }
}

#[test]
fn a_model_without_weights_or_tokenizer_is_told_before_anything_is_downloaded() {
    let config = || ("config.json", CONFIG.to_vec(), Kind::Small);
    for (files, expected) in [
        (
            vec![config()],
            "no `model.safetensors` in `owner/name` at `main`; nearest are `config.json`",
        ),
        (
            vec![config(), ("model.safetensors", weights(), Kind::Large)],
            "no `tokenizer.json` in `owner/name` at `main`; nearest are `config.json`, `model.safetensors`",
        ),
        (vec![], "no `model.safetensors` in `owner/name` at `main`; nothing is known of its files"),
    ] {
        let (fake, cache) = (Fake::start(model(files)), TempDir::new().unwrap());
        assert_eq!(told(fetch(&client(&fake, &cache), REPO)), expected);
        assert_eq!(fake.asked().len(), 1);
    }
}

#[test]
fn a_short_or_long_answer_never_becomes_a_file() {
    for (body, expected) in [
        (
            &b"short"[..],
            "the download of `config.json` stopped after 5 of 22 bytes; run again to resume it",
        ),
        (
            &b""[..],
            "the download of `config.json` stopped after 0 of 22 bytes; run again to resume it",
        ),
        (
            &b"longer than the twenty-two bytes"[..],
            "the answer for `config.json` is longer than announced; is ENDPOINT a Hugging Face hub?",
        ),
    ] {
        let mut model = single();
        model.faults.push(("GET /owner", Fault::Body(body)));
        let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
        let hub = client(&fake, &cache);
        assert_eq!(told(fetch(&hub, REPO)), expected.replace("ENDPOINT", &fake.endpoint));
        let tree = tree(&cache);
        assert!(tree.len() == 1 && tree[0].ends_with(".incomplete"), "{tree:?}");
        if body != b"short" {
            fetch(&hub, REPO).unwrap();
        }
    }
}

#[test]
fn a_large_file_must_have_the_hash_it_is_named_by() {
    let other: &[u8] = b"other";
    let mut model = model(vec![("q4.gguf", b"right".into(), Kind::Large)]);
    model.faults.push(("GET /store", Fault::Body(other)));
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    assert_eq!(
        told(fetch(&hub, REPO)),
        format!(
            "`q4.gguf` has the sha256 {} instead of {} and was deleted; run again",
            sha256(b"other"),
            sha256(b"right")
        )
    );
    assert!(tree(&cache).is_empty());
    assert_eq!(fs::read(&fetch(&hub, REPO).unwrap().files[0]).unwrap(), b"right");
}

#[test]
fn an_answer_that_is_no_hubs_is_refused() {
    for (request, fault, expected) in [
        ("GET /api", Fault::Status(200, "x: y"), "does not describe a model"),
        ("HEAD", Fault::Status(200, "x: y"), "has no etag that could name a file"),
        ("HEAD", Fault::Status(200, "etag: \"../../x\""), "has no etag that could name a file"),
        ("HEAD", Fault::Status(302, "x: y"), "leads to no http address"),
        ("HEAD", Fault::Status(302, "location: file:///etc/passwd"), "leads to no http address"),
    ] {
        let mut model = gguf(&["q4.gguf"]);
        model.faults.push((request, fault));
        let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
        let told = told(fetch(&client(&fake, &cache), REPO));
        assert!(told.contains(expected) && told.ends_with("a Hugging Face hub?"), "{told}");
        assert!(tree(&cache).is_empty());
    }
}

#[test]
fn redirects_end() {
    let mut model = gguf(&["q4.gguf"]);
    let away = || Fault::Status(302, "location: /owner/name/resolve/again");
    model.faults.extend((0..20).map(|_| ("HEAD", away())));
    let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
    let told = told(fetch(&client(&fake, &cache), REPO));
    assert!(told.contains("is redirected without end"), "{told}");
    assert_eq!(fake.asked().len(), 12);
}

#[test]
fn a_name_that_leads_out_of_the_cache_is_refused() {
    for name in ["../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "C:evil.gguf"] {
        let (fake, cache) = (Fake::start(gguf(&[name])), TempDir::new().unwrap());
        assert_eq!(
            told(fetch(&client(&fake, &cache), REPO)),
            format!(
                "`owner/name` names a file `{name}`, which could leave the cache folder; \
                 do not use this model"
            )
        );
        assert_eq!(fake.asked().len(), 1);
    }
    let index = br#"{"weight_map":{"a":"../../../evil.safetensors"}}"#;
    let (fake, cache) = (
        Fake::start(model(vec![
            ("config.json", CONFIG.into(), Kind::Small),
            ("tokenizer.json", TOKENIZER.into(), Kind::Small),
            ("model.safetensors.index.json", index.into(), Kind::Small),
            ("../../../evil.safetensors", b"evil".into(), Kind::Small),
        ])),
        TempDir::new().unwrap(),
    );
    assert!(told(fetch(&client(&fake, &cache), REPO)).contains("could leave the cache folder"));
}

#[test]
fn a_dead_server_is_found_out() {
    for (request, fault, expected) in [
        ("GET /api", Fault::Silence, "cannot get `owner/name` from "),
        ("HEAD", Fault::Silence, "cannot get `q4.gguf` from "),
        ("GET /store", Fault::Silence, "cannot get `q4.gguf` from "),
        ("GET /store", Fault::Stall(1000), "`q4.gguf` stopped after 1000 of 600000 bytes"),
    ] {
        let mut model = gguf(&["q4.gguf"]);
        model.faults.push((request, fault));
        let (fake, cache) = (Fake::start(model), TempDir::new().unwrap());
        let mut hub = client(&fake, &cache);
        hub.web.agent = Agent::from(agent(Duration::from_millis(100)).proxy(None).build());
        let start = Instant::now();
        let told = told(fetch(&hub, REPO));
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert!(told.starts_with(expected) && told.contains("timeout"), "{told}");
    }
}

#[test]
fn an_address_nobody_listens_on_is_told() {
    let (fake, cache) = (Fake::start(single()), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let endpoint = fake.endpoint.clone();
    drop(fake);
    let told = told(fetch(&hub, REPO));
    assert!(told.starts_with(&format!("cannot get `owner/name` from {endpoint}; check")), "{told}");
}

#[test]
fn two_at_once_download_a_file_once() {
    let (fake, cache) = (Fake::start(gguf(&["q4.gguf"])), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(fetch(&hub, REPO).is_ok()));
        }
    });
    let stored = fake.asked().into_iter().filter(|asked| asked.starts_with("GET /store")).count();
    assert_eq!(stored, 1);
    assert_eq!(fs::read(&fetch(&hub, REPO).unwrap().files[0]).unwrap(), weights());
}

#[cfg(unix)]
#[test]
fn a_link_whose_blob_was_deleted_is_made_good() {
    let (fake, cache) = (Fake::start(gguf(&["q4.gguf"])), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let pinned = format!("{REPO}@{COMMIT}");
    let snapshot = fetch(&hub, &pinned).unwrap();
    fs::remove_dir_all(cache.path().join("models--owner--name/blobs")).unwrap();
    assert_eq!(fetch(&hub, &pinned).unwrap(), snapshot);
    assert_eq!(fs::read(&snapshot.files[0]).unwrap(), weights());
}
