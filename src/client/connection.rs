//! Connections of HTTP/1.1 to one server: set up apart from requests, kept while idle.
//!
//! No task of its own drives a connection: the exchange that uses it does, so that bytes read from
//! the socket reach their parser before anything else runs, with the instant at which they came.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::endpoint::{Endpoint, Scheme};
use super::fault::Fault;
use crate::error::{Error, Result};

/// How long an idle connection is used again: shorter than the 5 s after which uvicorn, the server
/// of vLLM and SGLang, closes it.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// When bytes last came from a socket.
#[derive(Debug)]
pub(super) struct ArrivalClock {
    origin: Instant,
    /// Nanoseconds after the origin.
    last: AtomicU64,
}

impl ArrivalClock {
    fn stamp(&self) {
        self.last.store(self.origin.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// The instant of the last read that gave bytes.
    pub(super) fn last(&self) -> Instant {
        self.origin + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

/// A socket that notes when bytes come.
struct Stamped {
    stream: TcpStream,
    arrivals: Arc<ArrivalClock>,
}

impl AsyncRead for Stamped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.arrivals.stamp();
        }
        done
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A socket, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// An open connection.
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    /// What reads and writes; `None` once the connection has ended.
    driver: Option<Driver>,
    pub(super) arrivals: Arc<ArrivalClock>,
    idle_since: Instant,
}

impl Connection {
    /// Reads and writes what the socket allows now.
    pub(super) fn poll_driver(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(context).is_ready()
        {
            // Its error reaches the request too.
            self.driver = None;
        }
    }

    /// Whether a request can be sent now, as far as the socket tells.
    async fn is_usable(&mut self) -> bool {
        std::future::poll_fn(|context| {
            self.poll_driver(context);
            Poll::Ready(self.driver.is_some() && self.sender.is_ready())
        })
        .await
    }
}

/// Opens connections to one endpoint and keeps the idle ones.
pub(super) struct Connector {
    endpoint: Endpoint,
    timeout: Duration,
    tls: Option<TlsConnector>,
    addresses: OnceCell<Vec<std::net::SocketAddr>>,
    idle: Mutex<Vec<Connection>>,
}

impl Connector {
    /// # Errors
    /// When the trusted certificates cannot be used.
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> Result<Self> {
        let tls = match endpoint.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(tls_connector()?),
        };
        Ok(Self { endpoint, timeout, tls, addresses: OnceCell::new(), idle: Mutex::default() })
    }

    /// An idle connection that the server has not closed.
    pub(super) async fn idle(&self) -> Option<Connection> {
        loop {
            let newest = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = newest?;
            if connection.idle_since.elapsed() < MAX_IDLE && connection.is_usable().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer has been read.
    pub(super) async fn keep(&self, mut connection: Connection) {
        if connection.is_usable().await {
            connection.idle_since = Instant::now();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // The oldest come first. They are never taken while there are newer ones.
            idle.retain(|other| other.idle_since.elapsed() < MAX_IDLE);
            idle.push(connection);
        }
    }

    /// A new connection, with TLS where the endpoint has it.
    pub(super) async fn connect(&self) -> std::result::Result<Connection, Fault> {
        let (host, port) = (self.endpoint.host.as_str(), self.endpoint.port);
        let lookup = || async {
            let found = timeout(self.timeout, lookup_host((host, port))).await;
            let found = found.map_err(|_| Fault::NameLookup("no answer in time".into()))?;
            let found = found.map_err(|source| Fault::NameLookup(source.to_string()))?;
            Ok::<_, Fault>(found.collect())
        };
        let addresses: &Vec<_> = self.addresses.get_or_try_init(lookup).await?;
        let mut fault = Fault::NameLookup("it has no address".into());
        for address in addresses {
            match timeout(self.timeout, self.connect_to(*address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(found)) => fault = found,
                Err(_) => fault = Fault::ConnectTimeout(self.timeout),
            }
        }
        Err(fault)
    }

    async fn connect_to(
        &self,
        address: std::net::SocketAddr,
    ) -> std::result::Result<Connection, Fault> {
        let stream = TcpStream::connect(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionRefused => Fault::ConnectRefused,
            io::ErrorKind::TimedOut => Fault::ConnectTimeout(self.timeout),
            _ => Fault::Connect(source.to_string()),
        })?;
        // Nagle's algorithm would hold back the end of a long prompt.
        stream.set_nodelay(true).map_err(|source| Fault::Connect(source.to_string()))?;
        let origin = Instant::now();
        let arrivals = Arc::new(ArrivalClock { origin, last: AtomicU64::new(0) });
        let stamped = Stamped { stream, arrivals: Arc::clone(&arrivals) };
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stamped),
            Some(tls) => {
                let name = ServerName::try_from(self.endpoint.host.clone())
                    .map_err(|source| Fault::Tls(source.to_string()))?;
                Box::new(tls.connect(name, stamped).await.map_err(tls_fault)?)
            }
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|source| Fault::Connect(source.to_string()))?;
        Ok(Connection { sender, driver: Some(driver), arrivals, idle_since: origin })
    }
}

/// Why a TLS handshake failed.
fn tls_fault(source: io::Error) -> Fault {
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => Fault::Certificate(why.to_string()),
        _ => Fault::Tls(source.to_string()),
    }
}

/// TLS with the root certificates of the system, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` as
/// in curl; Mozilla's list without either.
fn tls_connector() -> Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs().certs;
    tls_connector_of(found)
}

fn tls_connector_of(found: Vec<CertificateDer<'static>>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    // Systems have certificates that rustls cannot read; the others suffice.
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Failed(format!("cannot set up TLS: {source}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// Of 127.0.0.1, signed by itself, valid until 2126; used by this test alone.
    const CERTIFICATE: &[u8] = include_bytes!("../../fixtures/tls/cert.der");
    const KEY: &[u8] = include_bytes!("../../fixtures/tls/key.der");

    fn certificate() -> CertificateDer<'static> {
        CertificateDer::from(CERTIFICATE)
    }

    /// Answers the TLS handshakes of two connections; returns what a client sends then.
    async fn serve(listener: TcpListener) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(KEY).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut received = Vec::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.write_all(b"x").await;
                let _ = stream.read_to_end(&mut received).await;
            }
        }
        received
    }

    #[test]
    fn a_certificate_is_trusted_or_named_as_the_fault() {
        crate::client::runtime().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("https://{}", listener.local_addr().unwrap());
            let server = tokio::spawn(serve(listener));
            let endpoint = Endpoint::parse(&url).unwrap();
            let mut connector = Connector::new(endpoint, Duration::from_secs(20)).unwrap();
            let fault = connector.connect().await.map(|_| ()).unwrap_err();
            assert_eq!(fault.name(), "certificate");
            assert!(fault.to_string().contains("SSL_CERT_FILE"), "{fault}");
            connector.tls = Some(tls_connector_of(vec![certificate()]).unwrap());
            let connection = connector.connect().await.map_err(|fault| fault.to_string());
            drop(connection.unwrap());
            assert_eq!(server.await.unwrap(), b"", "the client sent no request");
        });
    }
}
