//! `candlemark serve` as a process: its flags, the line with its address, and its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::{BINARY, fails};

/// A server that is killed at the end of a test.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn start(args: &[&str]) -> Server {
    let mut process = Command::new(BINARY);
    let variables = std::env::vars_os().map(|(name, _)| name);
    for name in variables.filter(|name| name.to_string_lossy().starts_with("CANDLEMARK_")) {
        process.env_remove(name);
    }
    process.args(["serve", "--model", "synthetic:nano", "--port", "0"]).args(args);
    let mut child = process.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = |line: String| line.strip_prefix("serving on http://").map(String::from);
    let address = lines.filter_map(address).next().expect("the address is printed");
    Server { child, address }
}

/// The whole response to a completion.
fn complete(server: &Server, more: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let body = r#"{"model": "tiny", "prompt": "fn main", "max_tokens": 3, "ignore_eos": true}"#;
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: application/json\r\n";
    write!(stream, "{head}{more}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_server_answers_until_it_is_terminated() {
    let here = tempfile::tempdir().unwrap();
    let key = here.path().join("key");
    std::fs::write(&key, "secret\n").unwrap();
    let key = key.to_str().unwrap();
    let mut server = start(&["--served-model-name", "tiny", "--api-key-file", key]);
    assert!(server.address.starts_with("127.0.0.1:"), "{}", server.address);
    let answer = complete(&server, "Authorization: Bearer secret\r\n");
    assert!(answer.contains(r#""completion_tokens":3"#), "{answer}");
    assert!(complete(&server, "").starts_with("HTTP/1.1 401 "));
    let id = server.child.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_invalid_server_fails_at_once() {
    let here = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    std::fs::write(here.path().join("empty"), "\n").unwrap();
    for (words, says) in [
        (["--port", &port], ["cannot listen on", "`--port`"]),
        (["--max-batch", "0"], ["'--max-batch <N>'", "1 to 256"]),
        (["--api-key-file", "empty"], ["`empty` must hold one key", ""]),
        (["--api-key-file", "absent"], ["cannot read `absent`", ""]),
        (["--engine", "natve"], ["no engine `natve` (did you mean `native`?)", ""]),
    ] {
        let args = ["serve", "--model", "synthetic:nano", words[0], words[1]];
        fails(&args, here.path(), 2, &says);
    }
}
