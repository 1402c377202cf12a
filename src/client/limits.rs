//! Deadlines and sizes of an exchange.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::connection::Connection;
use super::fault::Fault;

/// Deadlines and sizes of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the connection: name lookup, and for each address TCP and TLS.
    pub connect: Duration,
    /// From the request to the status and headers of the answer.
    pub first_byte: Duration,
    /// Between bytes of the answer after these.
    pub stall: Duration,
    /// For the whole exchange, from its start.
    pub total: Duration,
    /// The most bytes of an answer.
    pub body_bytes: u64,
    /// The most bytes of one event.
    pub event_bytes: usize,
    /// What becomes of the answer's text.
    pub text: TextPolicy,
}

/// What becomes of an answer's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPolicy {
    /// It is in the exchange.
    Keep,
    /// It is dropped once its length is known, so that hours of load do not fill memory.
    Drop,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(300),
            stall: Duration::from_secs(60),
            total: Duration::from_secs(3600),
            body_bytes: 256 << 20,
            event_bytes: 8 << 20,
            text: TextPolicy::Keep,
        }
    }
}

/// A deadline that is never met: instants far beyond it do not exist.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// The deadlines of an exchange on a connection.
pub(super) struct Deadlines {
    limits: Limits,
    /// That of the whole exchange.
    whole: Instant,
    /// That of the answer's head, until it is there.
    head: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Deadlines {
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub(super) fn new(limits: Limits, started: Instant, sent: Instant) -> Self {
        let whole = started + limits.total.min(NEVER);
        let head = sent + limits.first_byte.min(NEVER);
        let timer = Box::pin(sleep_until(whole.min(head).into()));
        Self { limits, whole, head: Some(head), timer }
    }

    /// Notes that the answer's head is there.
    pub(super) fn head_came(&mut self) {
        self.head = None;
    }

    /// The next deadline, and what it means to miss it.
    fn next(&self, last_arrival: Instant) -> (Instant, Fault) {
        let Limits { first_byte, stall, total, .. } = self.limits;
        let (at, fault) = match self.head {
            Some(head) => (head, Fault::FirstByteTimeout(first_byte)),
            None => (last_arrival + stall.min(NEVER), Fault::Stall(stall)),
        };
        if self.whole <= at { (self.whole, Fault::Timeout(total)) } else { (at, fault) }
    }

    /// Drives the connection until `part` is done or a deadline has passed.
    pub(super) async fn drive<T>(
        &mut self,
        connection: &mut Connection,
        part: impl Future<Output = T>,
    ) -> Result<T, Fault> {
        let mut part = pin!(part);
        std::future::poll_fn(|context| {
            connection.poll_driver(context);
            if let Poll::Ready(done) = part.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            let (at, fault) = self.next(connection.arrivals.last());
            // Every byte puts the deadline off, but the timer is set again only once it has fired.
            if self.timer.deadline() > at.into() {
                self.timer.as_mut().reset(at.into());
            }
            while self.timer.as_mut().poll(context).is_ready() {
                if at <= Instant::now() {
                    return Poll::Ready(Err(fault));
                }
                self.timer.as_mut().reset(at.into());
            }
            Poll::Pending
        })
        .await
    }
}
