//! Connections: accepted, limited, and ended in order.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::serve::service::Service;

/// Open connections at most; a further one is closed at once.
const MAX_CONNECTIONS: usize = 4096;

/// Time for the head of a request, and between requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `stopped` gives the time that open requests have left.
pub(super) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    mut stopped: oneshot::Receiver<Duration>,
) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let patience = loop {
        let next = std::future::poll_fn(|context| match Pin::new(&mut stopped).poll(context) {
            Poll::Ready(patience) => Poll::Ready(Err(patience.unwrap_or_default())),
            Poll::Pending => listener.poll_accept(context).map(Ok),
        });
        let stream = match next.await {
            Err(patience) => break patience,
            Ok(Ok((stream, _))) => stream,
            Ok(Err(error)) => {
                // Out of file descriptors: wait until a connection ends.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                continue;
            }
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else { continue };
        // Nagle's algorithm would hold back a token until the client acknowledges the one before.
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(&service);
        let answer = service_fn(move |request| {
            let service = Arc::clone(&service);
            async { Ok::<_, Infallible>(service.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // A client may hang up.
            drop(place);
        });
    };
    service.is_ending.store(true, Ordering::Relaxed);
    drop(listener);
    let _ = tokio::time::timeout(patience, graceful.shutdown()).await;
}
