//! A hub for tests: one model at one commit, served over real connections on this machine.
//!
//! It logs requests and injects faults. It ends when it is dropped, and after a bounded number of
//! requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The model every fake hub has.
pub(crate) const REPO: &str = "owner/name";
/// Its only commit.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The only valid token.
pub const TOKEN: &str = "hf_secretsecretsecret";

/// More requests than any test makes.
const MAX_REQUESTS: usize = 100;

/// How the hub serves a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Directly.
    Small,
    /// With a redirect to another path of the same server.
    Moved,
    /// With a redirect to another server; the etag is the content's SHA-256.
    Large,
}

/// A fault that happens once, at the first request that begins with the given text.
pub(crate) enum Fault {
    /// Another status with a header.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The requested range is ignored.
    NoRange,
    /// Another body.
    Body(&'static [u8]),
    /// So many bytes of the body, then nothing until the client times out.
    Stall(usize),
    /// No response until the client times out.
    Silence,
}

/// The model on the hub.
pub struct Model {
    pub files: Vec<(&'static str, Vec<u8>, Serving)>,
    /// Each with the start of its request.
    pub faults: Vec<(&'static str, Fault)>,
    pub access: Access,
}

#[derive(PartialEq, Eq)]
pub(crate) enum Access {
    Public,
    /// Needs `TOKEN`.
    Gated,
}

/// A running hub.
pub(crate) struct FakeHub {
    /// `http://127.0.0.1:port`.
    pub endpoint: String,
    log: Arc<Mutex<Vec<String>>>,
    servers: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl FakeHub {
    /// Serves the model; large files from a second port.
    pub fn start(model: Model) -> Self {
        let model = Arc::new(Mutex::new(model));
        let log = Arc::new(Mutex::new(Vec::new()));
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [home, store] = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap());
        let servers = listeners.map(|listener| {
            let address = listener.local_addr().unwrap();
            let (model, log) = (Arc::clone(&model), Arc::clone(&log));
            let serve = move || {
                for stream in listener.incoming().take(MAX_REQUESTS) {
                    if !answer(stream.unwrap(), &model, &log, store) {
                        return;
                    }
                }
            };
            (address, thread::spawn(serve))
        });
        Self { endpoint: format!("http://{home}"), log, servers: servers.into() }
    }

    /// The requests since the last call: `METHOD path [range] [token]`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        for (address, server) in self.servers.drain(..) {
            drop(TcpStream::connect(address)); // A connection without a request ends the server.
            drop(server.join());
        }
    }
}

/// The sha256 in hex.
pub fn sha256(content: &[u8]) -> String {
    crate::files::hex(&Sha256::digest(content))
}

/// Answers one request; returns whether there was one.
fn answer(
    mut stream: TcpStream,
    model: &Mutex<Model>,
    log: &Mutex<Vec<String>>,
    store: SocketAddr,
) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return false };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        headers.iter().find_map(|line| {
            line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)
        })
    };
    let (method, path) = first.rsplit_once(' ').unwrap().0.split_once(' ').unwrap();
    let path = path.replace(COMMIT, "COMMIT");
    let (range, token) = (header("range"), header("authorization"));
    let mut entry = format!("{method} {path}");
    entry.extend(range.iter().map(|range| format!(" {range}")));
    entry.extend(token.iter().map(|_| " token"));

    let mut model = model.lock().unwrap();
    let fault = model.faults.iter().position(|(start, _)| entry.starts_with(start));
    let fault = fault.map(|at| model.faults.remove(at).1);
    log.lock().unwrap().push(entry);
    if let Some(Fault::Silence) = fault {
        drop(model);
        wait_for_disconnect(stream);
        return true;
    }
    if let Some(Fault::Status(status, header)) = fault {
        reply(&mut stream, status, header, b"", method);
        return true;
    }
    let is_known = token == Some(&format!("Bearer {TOKEN}"));
    let mut parts = path.splitn(2, "/COMMIT/");
    match (parts.next().unwrap(), parts.next()) {
        ("/api/models/owner/name/revision/main" | "/api/models/owner/name/revision/COMMIT", _) => {
            let names: Vec<String> = model
                .files
                .iter()
                .map(|(name, ..)| format!(r#"{{"rfilename":"{name}"}}"#))
                .collect();
            let names = names.join(",");
            let text = format!(r#"{{"id":"{REPO}","sha":"{COMMIT}","siblings":[{names}]}}"#);
            reply(&mut stream, 200, "content-type: application/json", text.as_bytes(), method);
        }
        (place, _) if place.starts_with("/api/models/owner/name/") => {
            reply(&mut stream, 404, "x-error-code: RevisionNotFound", b"", method);
        }
        ("/owner/name/resolve", Some(_)) if model.access == Access::Gated && !is_known => {
            reply(&mut stream, 401, "x-error-code: GatedRepo", b"", method);
        }
        (place @ ("/owner/name/resolve" | "/moved" | "/store"), Some(name)) => {
            let name = name.split('?').next().unwrap();
            let Some((_, content, serving)) = model.files.iter().find(|file| file.0 == name) else {
                reply(&mut stream, 404, "x-error-code: EntryNotFound", b"", method);
                return true;
            };
            let hash = sha256(content);
            let commit = format!("x-repo-commit: {COMMIT}\r\n");
            match serving {
                Serving::Large if place == "/owner/name/resolve" => {
                    let size = content.len();
                    let headers = format!(
                        "{commit}x-linked-etag: \"{hash}\"\r\nx-linked-size: {size}\r\n\
                         location: http://{store}/store/{COMMIT}/{name}?signed=1"
                    );
                    reply(&mut stream, 302, &headers, b"Found", method);
                }
                Serving::Moved if place == "/owner/name/resolve" => {
                    let headers = format!("{commit}location: /moved/{COMMIT}/{name}");
                    reply(&mut stream, 307, &headers, b"Moved", method);
                }
                _ => {
                    // As on the real hub, not the content's SHA-256: it must not become a name.
                    let etag = if place == "/store" { "store-etag" } else { &hash[..40] };
                    let headers = format!("{commit}etag: \"{etag}\"");
                    send(&mut stream, &headers, content, method, range, fault);
                }
            }
        }
        _ => reply(&mut stream, 404, "x-error-code: RepoNotFound", b"", method),
    }
    true
}

/// Sends content or the requested range of it, with a fault.
fn send(
    stream: &mut TcpStream,
    headers: &str,
    content: &[u8],
    method: &str,
    range: Option<&str>,
    fault: Option<Fault>,
) {
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match (fault, start) {
        (Some(fault @ (Fault::Cut(bytes) | Fault::Stall(bytes))), _) => {
            let size = content.len();
            write!(stream, "HTTP/1.1 200 OK\r\n{headers}\r\ncontent-length: {size}\r\n\r\n")
                .unwrap();
            stream.write_all(&content[..bytes]).unwrap();
            if let Fault::Stall(_) = fault {
                wait_for_disconnect(stream);
            }
        }
        (Some(Fault::Body(body)), _) => reply(stream, 200, headers, body, method),
        (None, Some(start)) if start > 0 => {
            let size = content.len();
            let headers = format!("{headers}\r\ncontent-range: bytes {start}-{}/{size}", size - 1);
            reply(stream, 206, &headers, &content[start..], method);
        }
        _ => reply(stream, 200, headers, content, method),
    }
}

/// Waits until the client disconnects, or for the connection's timeout.
fn wait_for_disconnect(mut stream: impl Read) {
    drop(stream.read(&mut [0]));
}

fn reply(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8], method: &str) {
    let size = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\nconnection: close\r\n{headers}\r\n");
    let mut answer = format!("{head}content-length: {size}\r\n\r\n").into_bytes();
    if method != "HEAD" {
        answer.extend(body);
    }
    drop(stream.write_all(&answer)); // A client that disconnected is not an error.
}
