//! The pages over HTTP, for this machine only by default. Pages are rendered before a request; a
//! single thread waits for requests, so that a measurement keeps its CPUs.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::error::{Error, Result};
use crate::monitor::Pages;

/// Whether other machines may read the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// This machine only.
    Refused,
    /// Every machine that can reach the address.
    Allowed,
}

/// A page has inline styles and images only: even an escaping bug runs no script.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri \
                      'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const LINES: &str = "application/jsonl; charset=utf-8";

/// Serves pages until dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    remote: Remote,
    prepared: Mutex<Prepared>,
}

/// Pages as bytes that requests share without copying.
#[derive(Debug, Clone, Default)]
struct Prepared {
    html: Bytes,
    metrics: Bytes,
    history: Bytes,
}

impl Server {
    /// Listens, and answers requests in its own thread.
    ///
    /// # Errors
    /// When other machines could reach the address without permission, or when listening fails.
    pub fn start(listen: SocketAddr, remote: Remote) -> Result<Self> {
        if remote == Remote::Refused && !listen.ip().is_loopback() {
            return Err(Error::Usage(format!(
                "`{listen}` is reachable from other machines and the page has no password; listen \
                 on 127.0.0.1 or add `--allow-remote`"
            )));
        }
        let failed = |source: std::io::Error| {
            Error::Usage(format!(
                "cannot listen on `{listen}`: {source}; choose another address with `--listen`"
            ))
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared { remote, prepared: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let work = move || {
            runtime.block_on(async {
                let listener = Listener { listener, open: VecDeque::new() };
                tokio::spawn(std::future::IntoFuture::into_future(axum::serve(listener, app)));
                // Open connections end with the runtime.
                let _ = stopped.await;
            });
        };
        let name = "monitor-page".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(work).map_err(failed)?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// The address of the socket.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the served pages.
    pub fn publish(&self, pages: Pages) {
        let prepared = Prepared {
            html: pages.html.into(),
            metrics: pages.metrics.into(),
            history: pages.history.into(),
        };
        *self.shared.prepared.lock().unwrap_or_else(PoisonError::into_inner) = prepared;
    }
}

/// Maximum number of open connections; a further one closes the oldest. A measurement needs file
/// descriptors, too.
const MAX_CONNECTIONS: usize = 64;

/// Maximum duration of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts connections of limited duration.
struct Listener {
    listener: TcpListener,
    /// The connections, oldest first; each ends when its sender is dropped.
    open: VecDeque<oneshot::Sender<()>>,
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        self.open.retain(|connection| !connection.is_closed());
        if self.open.len() >= MAX_CONNECTIONS {
            self.open.pop_front();
        }
        let (open, closed) = oneshot::channel();
        self.open.push_back(open);
        let late = Box::pin(tokio::time::sleep(CONNECTION_TIMEOUT));
        (Connection { stream, closed, late }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails on timeout, or when a newer one replaces it.
struct Connection {
    stream: TcpStream,
    closed: oneshot::Receiver<()>,
    late: Pin<Box<Sleep>>,
}

impl Connection {
    fn open_stream(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> io::Result<Pin<&mut TcpStream>> {
        let is_closed = Pin::new(&mut self.closed).poll(context).is_ready();
        if is_closed || self.late.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Pin::new(&mut self.get_mut().stream))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.open_stream(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open_stream(context)?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open_stream(context)?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open_stream(context)?.poll_shutdown(context)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let pages = shared.prepared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (status, kind, body) = if method != Method::GET && method != Method::HEAD {
        (StatusCode::METHOD_NOT_ALLOWED, PLAIN, text("only GET and HEAD\n"))
    } else if shared.remote == Remote::Refused && !is_this_machine(&headers) {
        // DNS rebinding: a web site could have its name resolved to this machine.
        (StatusCode::MISDIRECTED_REQUEST, PLAIN, text("use 127.0.0.1 or localhost\n"))
    } else {
        match uri.path() {
            "/" => (StatusCode::OK, HTML, pages.html),
            "/metrics" => (StatusCode::OK, METRICS, pages.metrics),
            "/history.jsonl" => (StatusCode::OK, LINES, pages.history),
            "/healthz" => (StatusCode::OK, PLAIN, text("ok\n")),
            _ => (
                StatusCode::NOT_FOUND,
                PLAIN,
                text("not found; try /, /metrics, /history.jsonl or /healthz\n"),
            ),
        }
    };
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .header(header::ALLOW, "GET, HEAD")
        .header(header::CONTENT_LENGTH, body.len())
        // Keep-alive would hold a file descriptor; a page view every few seconds does not need it.
        .header(header::CONNECTION, "close");
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(body) };
    response.body(body).expect("every header is a literal or a number")
}

/// Whether the Host header names this machine by address or as `localhost`, or is absent.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
