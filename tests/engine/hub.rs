//! Models of the hub, without a network.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use candlemark::suite;

use crate::{BINARY, clean, job, refused, setup, text};

const TOKEN: &str = "hf_tokenOfNobody";

/// Runs a worker on a model of the hub with an empty cache.
fn on_hub(name: &str, value: &str, says: &[&str]) {
    on_hub_with(&[(name, value)], 2, says);
}

fn on_hub_with(variables: &[(&str, &str)], status: i32, says: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.env("HF_HOME", home.path()).env("HF_TOKEN", TOKEN).envs(variables.iter().copied());
    let job = serde_json::to_string(&job(&setup("owner/name"), &["short/b1"])).unwrap();
    let output = command.env(suite::WORKER, "1").write_stdin(job).output().unwrap();
    refused(&output, status, says);
    assert!(!text(&output.stderr).contains(TOKEN));
}

#[test]
fn an_offline_error_names_the_missing_file_and_the_remedy() {
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

/// A server with a certificate of a private CA. It answers like no hub, so an error about its
/// answer shows that the certificate was trusted.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn a_ca_that_the_system_trusts_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |line: &str| {
        let mut command = std::process::Command::new("openssl");
        command.current_dir(dir.path()).args(line.split(' ')).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let ca = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=ca -keyout ca.key -out ca.pem";
    let leaf = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -keyout leaf.key \
                -out leaf.pem -CA ca.pem -CAkey ca.key -addext subjectAltName=DNS:localhost \
                -addext basicConstraints=critical,CA:FALSE";
    let is_made = |line| openssl(line).status().is_ok_and(|status| status.success());
    if !is_made(ca) || !is_made(leaf) {
        eprintln!("SKIPPED: no openssl 3 here to make certificates with");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serve = format!("s_server -accept 127.0.0.1:{port} -cert leaf.pem -key leaf.key -www");
    let mut server = openssl(&serve).spawn().unwrap();
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "openssl does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let endpoint = format!("https://user:hunter2@localhost:{port}");
    let pem = dir.path().join("ca.pem");
    let result = std::panic::catch_unwind(|| {
        let file = |path: &Path| path.to_str().unwrap().to_owned();
        let endpoint = ("HF_ENDPOINT", endpoint.as_str());
        let start = Instant::now();
        let distrusted = [
            "cannot get `owner/name` from https://***@localhost:",
            "its certificate is not trusted; add its CA to the system's store, or name a PEM file",
            "UnknownIssuer",
        ];
        on_hub_with(&[endpoint], 2, &distrusted);
        assert!(start.elapsed() < Duration::from_secs(7), "tried again in vain");
        let trusted = ["is https://***@localhost:"];
        on_hub_with(&[endpoint, ("SSL_CERT_FILE", &file(&pem))], 5, &trusted);
    });
    server.kill().unwrap();
    server.wait().unwrap();
    result.unwrap();
}
