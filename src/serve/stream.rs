//! From the events of jobs to the body of a response, at once or as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::serve::job::Event;
use crate::serve::metrics::{Metrics, Outcome};
use crate::serve::refusal::Refusal;
use crate::serve::reply::Reply;

pub(super) const ENGINE_STOPPED: &str = "the engine has stopped";

/// A request whose jobs run. If it is dropped before they end, the client has gone: then they end,
/// and it counts as cancelled.
pub(super) struct Answering {
    reply: Reply,
    events: UnboundedReceiver<Event>,
    metrics: Arc<Metrics>,
    outcome: Outcome,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.metrics.end(self.outcome);
    }
}

impl Answering {
    pub(super) fn new(
        reply: Reply,
        events: UnboundedReceiver<Event>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { reply, events, metrics, outcome: Outcome::Cancelled }
    }

    /// The whole answer.
    ///
    /// # Errors
    /// When a job fails.
    pub(super) async fn whole(mut self) -> Result<Value, Refusal> {
        while !self.reply.is_complete() {
            match self.events.recv().await {
                Some(Event::Delta(delta)) => self.reply.add(delta),
                Some(Event::Vector { index, values, timings }) => {
                    self.reply.add_vector(index, values, timings);
                }
                Some(Event::Failed(failure)) => return Err(self.failed(failure.into())),
                None => return Err(self.failed(stopped())),
            }
        }
        self.outcome = Outcome::Completed;
        Ok(self.reply.whole())
    }

    /// The answer as it grows.
    pub(super) fn into_stream(self) -> EventStream {
        let ready = self.reply.first_chunks().iter().map(data).collect();
        EventStream { answering: self, ready, is_over: false }
    }

    fn failed(&mut self, refusal: Refusal) -> Refusal {
        self.outcome = refusal.outcome();
        refusal
    }
}

/// The body of a stream: an event for each delta, then `[DONE]`.
pub(super) struct EventStream {
    answering: Answering,
    ready: VecDeque<Bytes>,
    is_over: bool,
}

impl EventStream {
    /// Makes the events of what happened.
    fn add(&mut self, event: Option<Event>) {
        let refusal: Refusal = match event {
            Some(Event::Delta(delta)) => {
                self.ready.extend(self.answering.reply.chunks(delta).iter().map(data));
                if self.answering.reply.is_complete() {
                    self.answering.outcome = Outcome::Completed;
                    self.end();
                }
                return;
            }
            Some(Event::Vector { .. }) => return, // Vectors are not streamed.
            Some(Event::Failed(failure)) => failure.into(),
            None => stopped(),
        };
        let refusal = self.answering.failed(refusal);
        self.ready.push_back(data(&refusal.body()));
        self.end();
    }

    fn end(&mut self) {
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.is_over = true;
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        while this.ready.is_empty() && !this.is_over {
            match this.answering.events.poll_recv(context) {
                Poll::Ready(event) => this.add(event),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(this.ready.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A server-sent event. JSON has no line ends outside of texts, where they are escaped.
fn data(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

fn stopped() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ENGINE_STOPPED)
}
