//! A client of few lines: HTTP/1.1 over a socket, one request per connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::serve::Server;

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Lower case.
    pub(super) head: String,
    pub(super) text: String,
}

impl Response {
    /// The JSON of a success.
    pub(super) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }
}

/// Sends the bytes of a request.
pub(super) fn connect(server: &Server, request: &[u8]) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    // A server that refuses may close before it has read everything.
    let _ = stream.write_all(request);
    BufReader::new(stream)
}

/// Reads the status line and headers.
pub(super) fn read_head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "the head breaks off: {head}");
    }
    head.to_ascii_lowercase()
}

pub(super) fn send(server: &Server, request: &[u8]) -> Response {
    let mut stream = connect(server, request);
    let head = read_head(&mut stream);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut text = String::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).unwrap();
            text += std::str::from_utf8(&chunk[..size]).unwrap();
            if size == 0 {
                break;
            }
        }
    } else {
        stream.read_to_string(&mut text).unwrap();
    }
    Response { status, head, text }
}

pub(super) fn get(server: &Server, path: &str) -> Response {
    send(server, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

/// The bytes of a request with a body of JSON.
pub(super) fn request(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\
         \r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub(super) fn post(server: &Server, path: &str, body: &Value) -> Response {
    send(server, &request(path, &body.to_string()))
}

/// The events of a stream before `[DONE]`, which must be the last.
pub(super) fn events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let response = post(server, path, body);
    assert_eq!(response.status, 200, "{}", response.text);
    assert!(response.head.contains("content-type: text/event-stream"), "{}", response.head);
    let events = response.text.strip_suffix("data: [DONE]\n\n").expect("[DONE] is last");
    let event = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    events.split_terminator("\n\n").map(event).collect()
}
