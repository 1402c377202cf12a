//! Models of the hub, without one.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;

use assert_cmd::Command;
use candlemark::suite;

use crate::BINARY;
use crate::clean;
use crate::job;
use crate::refused;
use crate::setup;
use crate::text;

const TOKEN: &str = "hf_tokenOfNobody";

/// A worker on a model of the hub, with an empty cache.
fn on_hub(name: &str, value: &str, says: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.env("HF_HOME", home.path()).env("HF_TOKEN", TOKEN).env(name, value);
    let job = serde_json::to_string(&job(&setup("owner/name"), &["short/b1"])).unwrap();
    let output = command.env(suite::WORKER, "1").write_stdin(job).output().unwrap();
    refused(&output, 2, says);
    assert!(!text(&output.stderr).contains(TOKEN));
}

#[test]
fn offline_names_what_is_missing_and_what_to_do() {
    let says = [
        "`config.json` of `owner/name` at `main` is not in",
        "fetch it once with HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE unset",
    ];
    on_hub("HF_HUB_OFFLINE", "1", &says);
    on_hub("TRANSFORMERS_OFFLINE", "1", &says);
}

#[test]
fn a_token_is_sent_and_never_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        text(&request[..length])
    });
    on_hub("HF_ENDPOINT", &endpoint, &["the hub refuses `owner/name` (status 401)", "HF_TOKEN"]);
    assert!(asked.join().unwrap().contains(TOKEN));
}
