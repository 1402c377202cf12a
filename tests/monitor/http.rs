//! Valid and invalid requests over a socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use candlemark::monitor::{Pages, Remote, Server};

const ANYWHERE: &str = "127.0.0.1:0";

fn served() -> Server {
    let server = Server::start(ANYWHERE.parse().unwrap(), Remote::Refused).unwrap();
    server.publish(Pages {
        html: "<p>page</p>".into(),
        metrics: "candlemark_x 1\n".into(),
        history: "{}\n".into(),
    });
    server
}

/// Sends a request; the head and body of the response.
fn send(to: SocketAddr, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    // A server that has refused may close before it has read everything.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.to_ascii_lowercase(), body.into())
}

fn get(to: SocketAddr, path: &str) -> (String, String) {
    send(to, format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
}

#[test]
fn pages_are_served_with_headers_that_allow_nothing_else() {
    let server = served();
    for (path, kind, expected) in [
        ("/", "text/html", "<p>page</p>"),
        ("/?x=1", "text/html", "<p>page</p>"),
        ("/metrics", "text/plain; version=0.0.4", "candlemark_x 1\n"),
        ("/history.jsonl", "application/jsonl", "{}\n"),
        ("/healthz", "text/plain", "ok\n"),
    ] {
        let (head, body) = get(server.address(), path);
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(head.contains(&format!("\r\ncontent-type: {kind}")), "{path}: {head}");
        for header in [
            "cache-control: no-store",
            "content-security-policy: default-src 'none';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{path}: no {header} in {head}");
        }
        assert_eq!(body, expected, "{path}");
    }
}

#[test]
fn a_new_page_replaces_the_old_one() {
    let server = served();
    server.publish(Pages { html: "<p>new</p>".into(), ..Pages::default() });
    assert_eq!(get(server.address(), "/").1, "<p>new</p>");
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let server = served();
    let to = server.address();
    let request = |line: &str| send(to, format!("{line}\r\nHost: localhost\r\n\r\n").as_bytes());
    for (line, status) in [
        ("GET /nothing HTTP/1.1", "404"),
        ("GET /../../etc/passwd HTTP/1.1", "404"),
        ("GET //metrics HTTP/1.1", "404"),
        ("POST / HTTP/1.1", "405"),
        ("DELETE /history.jsonl HTTP/1.1", "405"),
        ("nonsense", "400"),
    ] {
        let (head, body) = request(line);
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{line}: {head}");
        assert!(!body.contains("page"), "{line}: {body}");
    }
    let (head, body) = request("HEAD / HTTP/1.1");
    assert!(head.starts_with("http/1.1 200 ") && head.contains("content-length: 11"), "{head}");
    assert_eq!(body, "");
}

#[test]
fn an_oversized_request_is_refused_and_the_next_is_answered() {
    let server = served();
    let long = "x".repeat(1 << 20);
    for request in [
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n"),
        long.clone(),
    ] {
        let (head, _) = send(server.address(), request.as_bytes());
        let refused = head.is_empty() || head.starts_with("http/1.1 4");
        assert!(refused, "{head}");
    }
    // A silent connection blocks nobody.
    let silent = TcpStream::connect(server.address()).unwrap();
    assert!(get(server.address(), "/").0.starts_with("http/1.1 200 "));
    drop(silent);
}

#[test]
fn many_silent_connections_do_not_block_the_page() {
    let server = served();
    let silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    assert!(get(server.address(), "/healthz").0.starts_with("http/1.1 200 "));
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // 200 belong to this test, at most 64 to the server.
    assert!(files < 200 + 64 + 50, "{files} open files");
    drop(silent);
}

#[test]
fn dns_rebinding_reads_nothing() {
    let server = served();
    let asked = |host: &str| {
        send(server.address(), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
    };
    for host in ["localhost", "LOCALHOST:8642", "127.0.0.1", "127.0.0.1:1", "[::1]:8642", "[::1]"] {
        assert!(asked(host).0.starts_with("http/1.1 200 "), "{host}");
    }
    for host in ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil"] {
        let (head, body) = asked(host);
        assert!(head.starts_with("http/1.1 421 ") && !body.contains("page"), "{host}: {head}");
    }
}

#[test]
fn a_used_or_reachable_address_is_an_error_with_the_remedy() {
    let taken = TcpListener::bind(ANYWHERE).unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::start(address, Remote::Refused).unwrap_err().to_string();
    assert!(error.contains(&format!("cannot listen on `{address}`")), "{error}");
    assert!(error.contains("`--listen`"), "{error}");
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let error = Server::start(open.parse().unwrap(), Remote::Refused).unwrap_err().to_string();
        assert!(error.contains("`--allow-remote`"), "{error}");
    }
    assert!(Server::start("0.0.0.0:0".parse().unwrap(), Remote::Allowed).is_ok());
}

#[test]
fn a_dropped_server_frees_its_address() {
    let server = served();
    let address = server.address();
    let open = TcpStream::connect(address).unwrap();
    drop(server);
    drop(open);
    assert!(TcpStream::connect(address).is_err());
}
