//! A scripted server on loopback, to test clients against: raw bytes at set times, so that faults
//! are exact.
//!
//! It runs in a thread and a runtime of its own and notes the instants at which it wrote. A
//! client's error is measured against these, not against the script: a busy machine delays both.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

mod script;

pub use script::{Script, Step, chat_chunk, chunked, event, usage_chunk};

/// A request as the mock read it.
#[derive(Debug, Clone)]
pub struct MockRequest {
    /// The path after the route.
    pub path: String,
    /// The header `x-request-id`.
    pub id: String,
    /// Whether there was a header `Authorization`.
    pub has_authorization: bool,
    /// The body.
    pub body: String,
    /// When it had been read.
    pub arrived: Instant,
}

/// An answered request.
#[derive(Debug, Clone)]
pub struct Served {
    /// The request.
    pub request: MockRequest,
    /// The instants just before each [`Step::Token`] was written.
    pub tokens: Vec<Instant>,
}

/// How requests under a route are answered.
pub type Answer = Box<dyn Fn(&MockRequest) -> Arc<Script> + Send + Sync>;

/// Routes by the first part of the path, without slashes.
pub type Routes = HashMap<String, Answer>;

/// A running mock server; it ends when dropped.
pub struct Mock {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    routes: Routes,
    served: Mutex<Vec<Served>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// The largest request that is read.
const MAX_REQUEST_BYTES: usize = 4 << 20;

impl Mock {
    /// Listens on a free port and answers in a thread of its own.
    ///
    /// # Errors
    /// When the system gives no socket or thread.
    pub fn start(routes: Routes) -> Result<Self> {
        let failed =
            |source: io::Error| Error::Failed(format!("cannot start the mock server: {source}"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            routes,
            served: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = super::runtime()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };
        let for_thread = Arc::clone(&shared);
        let work = move || {
            runtime.block_on(async {
                tokio::spawn(accept(listener, for_thread));
                // Open connections end with the runtime.
                let _ = stopped.await;
            });
        };
        let thread = std::thread::Builder::new().name("mock-server".into()).spawn(work);
        let thread = Some(thread.map_err(failed)?);
        Ok(Self { address, shared, stop: Some(stop), thread })
    }

    /// The base of a route: `http://127.0.0.1:port/route`.
    pub fn url(&self, route: &str) -> String {
        format!("http://{}/{route}", self.address)
    }

    /// The requests that were answered to the end of their script since the last call.
    pub fn served(&self) -> Vec<Served> {
        std::mem::take(&mut self.shared.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The most requests that were being answered at once since the last call.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Out of files: the client gives some back in time.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that went away is part of many scripts.
            let _ = serve(stream, &shared).await;
        });
    }
}

/// Answers the requests of a connection until one side closes it.
async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some((route, request)) = read_request(&mut stream, &mut buffer).await? {
        let script = match shared.routes.get(&route) {
            Some(answer) => answer(&request),
            None => Arc::new(Script::error(404, "", "no such route")),
        };
        let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_open.fetch_max(open, Ordering::Relaxed);
        let mut tokens = Vec::new();
        let done = play(&script, &mut stream, &mut tokens).await;
        shared.open.fetch_sub(1, Ordering::Relaxed);
        let served = Served { request, tokens };
        shared.served.lock().unwrap_or_else(PoisonError::into_inner).push(served);
        if !done? {
            break;
        }
    }
    Ok(())
}

/// Writes what the script says; returns whether the connection stays open.
async fn play(
    script: &Script,
    stream: &mut TcpStream,
    tokens: &mut Vec<Instant>,
) -> io::Result<bool> {
    for step in &script.steps {
        match step {
            Step::Pause(time) => tokio::time::sleep(*time).await,
            Step::Write(bytes) => stream.write_all(bytes).await?,
            Step::Token(bytes) => {
                tokens.push(Instant::now());
                stream.write_all(bytes).await?;
            }
            Step::OneByteAtATime(bytes) => {
                for byte in bytes {
                    stream.write_all(std::slice::from_ref(byte)).await?;
                    tokio::task::yield_now().await;
                }
            }
            Step::Repeat(bytes, pause) => loop {
                stream.write_all(bytes).await?;
                tokio::time::sleep(*pause).await;
            },
            Step::Close => return Ok(false),
            Step::Reset => {
                stream.set_zero_linger()?;
                return Ok(false);
            }
            Step::Hold => {
                // Until the client closes the connection.
                while stream.read(&mut [0; 64]).await? > 0 {}
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The next request with its route, or `None` once the client has closed the connection.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(String, MockRequest)>> {
    loop {
        if let Some((route, request, length)) = parse_request(buffer) {
            buffer.drain(..length);
            return Ok(Some((route, request)));
        }
        // A method begins with a letter, TLS does not.
        if buffer.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await?;
            return Ok(None);
        }
        if buffer.len() > MAX_REQUEST_BYTES || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// A whole request at the start of the buffer: its route, and its length in bytes.
fn parse_request(buffer: &[u8]) -> Option<(String, MockRequest, usize)> {
    let end = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&buffer[..end]);
    let mut lines = head.split("\r\n");
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |name: &str| {
        let found = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    };
    let length = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let whole = end + 4 + length;
    let body = buffer.get(end + 4..whole)?;
    let path = target.trim_start_matches('/');
    let (route, path) = path.split_once('/').unwrap_or((path, ""));
    let request = MockRequest {
        path: format!("/{path}"),
        id: header("x-request-id").unwrap_or_default().into(),
        has_authorization: header("authorization").is_some(),
        body: String::from_utf8_lossy(body).into_owned(),
        arrived: Instant::now(),
    };
    Some((route.into(), request, whole))
}
