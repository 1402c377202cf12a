//! Errors of the hub: what is missing, denied, damaged or too slow.

use super::*;

#[test]
fn offline_uses_the_cache_or_names_the_missing_file() {
    let (fake, cache) = (FakeHub::start(single()), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.offline = true;
    let error = error_text(fetch(&hub, REPO));
    assert!(error.starts_with("`config.json` of `owner/name` at `main` is not in "), "{error}");
    assert!(
        error.ends_with("fetch it once with HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE unset"),
        "{error}"
    );
    hub.offline = false;
    let first = fetch(&hub, REPO).unwrap();
    hub.offline = true;
    fake.requests();
    assert_eq!(fetch(&hub, REPO).unwrap(), first);
    assert_eq!(fetch(&hub, &format!("{REPO}@{COMMIT}")).unwrap(), first);
    fs::remove_file(first.dir.join("tokenizer.json")).unwrap();
    assert!(
        error_text(fetch(&hub, REPO)).starts_with("`tokenizer.json` of `owner/name` at `main`")
    );
    assert!(error_text(fetch(&hub, "owner/name:q4.gguf")).starts_with("`q4.gguf` of `owner/name`"));
    assert!(error_text(fetch(&hub, "owner/name@v2")).contains("at `v2` is not in"));
    assert!(fake.requests().is_empty());
}

#[test]
fn denied_access_names_the_remedy_and_not_the_token() {
    for (status, header) in [(401, "x-error-code: RepoNotFound"), (403, "x-error-code: GatedRepo")]
    {
        let mut model = single();
        model.faults.push(("HEAD", Fault::Status(status, header)));
        let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
        assert_eq!(
            error_text(fetch(&client(&fake, &cache), REPO)),
            format!(
                "the hub refuses `owner/name` (status {status}); check the name, set HF_TOKEN to a \
                 token with access, and if the model is gated, accept its terms on {}/owner/name",
                fake.endpoint
            )
        );
    }
}

#[test]
fn a_gated_model_needs_the_token() {
    let gated = || Model { access: Access::Gated, ..single() };
    let (fake, cache) = (FakeHub::start(gated()), TempDir::new().unwrap());
    let mut hub = client(&fake, &cache);
    hub.client.token = None;
    assert!(error_text(fetch(&hub, REPO)).contains("(status 401)"));
    hub.client.token = Some("hf_wrongsecret".into());
    assert!(error_text(fetch(&hub, REPO)).contains("(status 401)"));
    hub.client.token = Some("hf_secret\nline".into());
    assert!(error_text(fetch(&hub, REPO)).contains("cannot get `owner/name`"));
    fetch(&client(&fake, &cache), REPO).unwrap();
}

#[test]
fn missing_repositories_revisions_and_files_are_named() {
    let (fake, cache) = (FakeHub::start(single()), TempDir::new().unwrap());
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
        assert_eq!(error_text(fetch(&hub, text)), expected);
    }
}

#[test]
fn a_model_without_weights_or_tokenizer_is_an_error_before_any_download() {
    let config = || ("config.json", CONFIG.to_vec(), Serving::Small);
    for (files, expected) in [
        (
            vec![config()],
            "no `model.safetensors` in `owner/name` at `main`; nearest are `config.json`",
        ),
        (
            vec![config(), ("model.safetensors", weights(), Serving::Large)],
            "no `tokenizer.json` in `owner/name` at `main`; nearest are `config.json`, `model.safetensors`",
        ),
        (vec![], "no `model.safetensors` in `owner/name` at `main`; no files of it are known"),
    ] {
        let (fake, cache) = (FakeHub::start(model(files)), TempDir::new().unwrap());
        assert_eq!(error_text(fetch(&client(&fake, &cache), REPO)), expected);
        assert_eq!(fake.requests().len(), 1);
    }
}

#[test]
fn a_truncated_or_overlong_response_never_becomes_a_file() {
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
            "the answer for `config.json` is longer than its size; is ENDPOINT a Hugging Face hub?",
        ),
    ] {
        let mut model = single();
        model.faults.push(("GET /owner", Fault::Body(body)));
        let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
        let hub = client(&fake, &cache);
        assert_eq!(error_text(fetch(&hub, REPO)), expected.replace("ENDPOINT", &fake.endpoint));
        let tree = tree(&cache);
        assert!(tree.len() == 1 && tree[0].ends_with(".incomplete"), "{tree:?}");
        if body != b"short" {
            fetch(&hub, REPO).unwrap();
        }
    }
}

#[test]
fn a_large_file_must_have_the_sha256_of_its_etag() {
    let other: &[u8] = b"other";
    let mut model = model(vec![("q4.gguf", b"right".into(), Serving::Large)]);
    model.faults.push(("GET /store", Fault::Body(other)));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    assert_eq!(
        error_text(fetch(&hub, REPO)),
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
fn a_response_that_is_not_a_hubs_is_an_error() {
    for (request, fault, expected) in [
        ("GET /api", Fault::Status(200, "x: y"), "does not describe a model"),
        ("HEAD", Fault::Status(200, "x: y"), "has no usable etag"),
        ("HEAD", Fault::Status(200, "etag: \"../../x\""), "has no usable etag"),
        ("HEAD", Fault::Status(302, "x: y"), "redirects to a non-HTTP address"),
        (
            "HEAD",
            Fault::Status(302, "location: file:///etc/passwd"),
            "redirects to a non-HTTP address",
        ),
    ] {
        let mut model = gguf(&["q4.gguf"]);
        model.faults.push((request, fault));
        let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
        let error = error_text(fetch(&client(&fake, &cache), REPO));
        assert!(error.contains(expected) && error.ends_with("a Hugging Face hub?"), "{error}");
        assert!(tree(&cache).is_empty());
    }
}

#[test]
fn redirects_end() {
    let mut model = gguf(&["q4.gguf"]);
    let away = || Fault::Status(302, "location: /owner/name/resolve/again");
    model.faults.extend((0..20).map(|_| ("HEAD", away())));
    let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
    let error = error_text(fetch(&client(&fake, &cache), REPO));
    assert!(error.contains("has too many redirects"), "{error}");
    assert_eq!(fake.requests().len(), 12);
}

#[test]
fn a_name_that_leads_out_of_the_cache_is_refused() {
    for name in ["../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "C:evil.gguf"] {
        let (fake, cache) = (FakeHub::start(gguf(&[name])), TempDir::new().unwrap());
        assert_eq!(
            error_text(fetch(&client(&fake, &cache), REPO)),
            format!(
                "`owner/name` names a file `{name}`, which could leave the cache folder; \
                 do not use this model"
            )
        );
        assert_eq!(fake.requests().len(), 1);
    }
    let index = br#"{"weight_map":{"a":"../../../evil.safetensors"}}"#;
    let (fake, cache) = (
        FakeHub::start(model(vec![
            ("config.json", CONFIG.into(), Serving::Small),
            ("tokenizer.json", TOKENIZER.into(), Serving::Small),
            ("model.safetensors.index.json", index.into(), Serving::Small),
            ("../../../evil.safetensors", b"evil".into(), Serving::Small),
        ])),
        TempDir::new().unwrap(),
    );
    assert!(
        error_text(fetch(&client(&fake, &cache), REPO)).contains("could leave the cache folder")
    );
}

#[test]
fn a_silent_server_times_out() {
    for (request, fault, expected) in [
        ("GET /api", Fault::Silence, "cannot get `owner/name` from "),
        ("HEAD", Fault::Silence, "cannot get `q4.gguf` from "),
        ("GET /store", Fault::Silence, "cannot get `q4.gguf` from "),
        (
            "GET /store",
            Fault::Stall(1000),
            "the download of `q4.gguf` stopped after 1000 of 600000 bytes",
        ),
    ] {
        let mut model = gguf(&["q4.gguf"]);
        model.faults.push((request, fault));
        let (fake, cache) = (FakeHub::start(model), TempDir::new().unwrap());
        let mut hub = client(&fake, &cache);
        hub.client.agent = Agent::from(agent(Duration::from_millis(100)).proxy(None).build());
        let start = Instant::now();
        let error = error_text(fetch(&hub, REPO));
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert!(error.starts_with(expected) && error.contains("timeout"), "{error}");
    }
}

#[test]
fn an_unreachable_endpoint_is_named() {
    let (fake, cache) = (FakeHub::start(single()), TempDir::new().unwrap());
    let hub = client(&fake, &cache);
    let endpoint = fake.endpoint.clone();
    drop(fake);
    let error = error_text(fetch(&hub, REPO));
    assert!(
        error.starts_with(&format!("cannot get `owner/name` from {endpoint}; check")),
        "{error}"
    );
}
