//! The engine behind an OpenAI-compatible API, for tests of clients and for measuring what
//! transport costs. It serves one model of this process on one socket; it is no server for many
//! users.
//!
//! The engine runs in a thread of its own (`batch`), the HTTP side in another. A request becomes a
//! job per prompt; its text and token ids come back as events, through a channel that closes when
//! the client hangs up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};

use crate::engine::{Engine, Injection};
use crate::error::{Error, Result};
use crate::settings::Generation;

mod batch;
mod body;
mod http;
mod job;
mod metrics;
mod refusal;
mod reply;
mod request;
mod sequence;
mod service;
mod stream;
#[cfg(test)]
mod tests;
mod text;

use batch::Batch;
use metrics::Metrics;
use service::Service;

/// What to serve, and how much at a time.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Address or name of this machine to listen on.
    pub(crate) host: String,
    /// 0 takes a free port.
    pub(crate) port: u16,
    /// The model's name in the API.
    pub(crate) model: String,
    /// The key that requests to `/v1` must have.
    pub(crate) api_key: Option<String>,
    /// Sequences that run together.
    pub(crate) max_batch: usize,
    /// Sequences that wait.
    pub(crate) max_waiting: usize,
    /// Bytes of a request's body.
    pub(crate) max_body: usize,
    /// Sampling parameters that requests may leave out.
    pub(crate) sampling: Generation,
    /// A deliberate slowdown, for tests of gates.
    pub(crate) injection: Option<Injection>,
}

/// A running server.
pub(crate) struct Server {
    address: SocketAddr,
    /// Takes the time that open requests have left.
    stop: Option<oneshot::Sender<Duration>>,
    http: Option<JoinHandle<()>>,
    engine: Option<JoinHandle<Result<()>>>,
}

impl Server {
    /// Listens, and serves a model until [`Server::stop`].
    ///
    /// # Errors
    /// When listening fails, or the engine.
    pub(crate) fn start(engine: Engine, options: Options) -> Result<Self> {
        let Options { host, port, max_batch, max_waiting, .. } = &options;
        let failed = |source: std::io::Error| {
            Error::Usage(format!(
                "cannot listen on `{host}:{port}`: {source}; choose another address with `--host` \
                 and `--port`"
            ))
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listener = runtime.block_on(TcpListener::bind((host.as_str(), *port)));
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let Engine { mut decoder, tokenizer, source, .. } = engine;
        let (tokenizer, metrics) = (Arc::new(tokenizer), Arc::new(Metrics::default()));
        let (jobs, received) = mpsc::channel();
        let max_sequences = max_batch + max_waiting;
        let service = Arc::new(Service {
            model: options.model.clone(),
            api_key: options.api_key.as_ref().map(|key| Sha256::digest(key).into()),
            created: Timestamp::now().as_second(),
            defaults: options.sampling.clone(),
            tokenizer: Arc::clone(&tokenizer),
            context: source.config.context,
            vocab: source.config.vocab,
            max_body: options.max_body,
            max_sequences,
            places: Arc::new(Semaphore::new(max_sequences)),
            jobs,
            metrics: Arc::clone(&metrics),
            next_id: AtomicU64::new(1),
            is_ending: AtomicBool::new(false),
        });
        let (max_batch, injection) = (*max_batch, options.injection);
        let run = move || {
            let decoder = decoder.as_mut();
            Batch::new(decoder, &tokenizer, &metrics, max_batch, injection)?.run(&received)
        };
        let engine = spawn("serve-engine", run)?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(http::serve(listener, service, stopped));
            // Requests that are left end here, and with them their jobs.
            runtime.shutdown_timeout(Duration::from_secs(1));
        };
        let http = spawn("serve-http", serve)?;
        Ok(Self { address, stop: Some(stop), http: Some(http), engine: Some(engine) })
    }

    /// The address of the socket.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the engine still runs.
    pub(crate) fn is_running(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| !engine.is_finished())
    }

    /// Refuses new requests, waits for the others up to `patience`, and ends.
    ///
    /// # Errors
    /// When the engine has failed.
    pub(crate) fn stop(mut self, patience: Duration) -> Result<()> {
        self.end(patience)
    }

    fn end(&mut self, patience: Duration) -> Result<()> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(patience);
        }
        if let Some(http) = self.http.take() {
            let _ = http.join();
        }
        match self.engine.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            // The panic has printed its message.
            Some(Err(_)) => Err(Error::Failed("the engine's thread has panicked".into())),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end(Duration::ZERO);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|source| Error::Threads { threads: 1, source })
}
