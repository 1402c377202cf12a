//! Bodies of requests and responses.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as _, Incoming};
use hyper::{HeaderMap, Response, StatusCode, header};
use serde_json::Value;

use crate::serve::refusal::Refusal;

const JSON: &str = "application/json";
pub(super) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const EVENTS: &str = "text/event-stream; charset=utf-8";

/// Time for the body of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// So many times the limit is read and thrown away, so that a client that sends before it reads
/// gets the error.
const DISCARDED: usize = 8;

/// Checks that a request says that its body is JSON. A web page of another origin cannot say so
/// without permission.
///
/// # Errors
/// Status 415.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(JSON) {
        return Ok(());
    }
    let message = format!("only `Content-Type: {JSON}` is read");
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Reads the body of a request.
///
/// # Errors
/// When it has more than `most` bytes, takes too long, or breaks off.
pub(super) async fn read(mut body: Incoming, most: usize) -> Result<Vec<u8>, Refusal> {
    let all = async {
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let broken = |_| Refusal::new(StatusCode::BAD_REQUEST, "the body broke off");
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            count += data.len();
            if count <= most {
                bytes.extend_from_slice(&data);
            } else if count > DISCARDED * most {
                break;
            }
        }
        if count > most {
            let message = format!("the body has more than {most} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Ok(bytes)
    };
    tokio::time::timeout(TIMEOUT, all).await.unwrap_or_else(|_| {
        let message = format!("the body took more than {} s", TIMEOUT.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message))
    })
}

/// The response of an error.
pub(super) fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = json_response(refusal.status, &refusal.body());
    let (name, value) = match refusal.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            (header::RETRY_AFTER, "1")
        }
        StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
        _ => return response,
    };
    response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    response
}

pub(super) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    response(status, JSON, Bytes::from(value.to_string()).into())
}

pub(super) fn response(status: StatusCode, kind: &str, body: Body) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response.body(body).expect("every header is a literal")
}
