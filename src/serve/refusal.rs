//! Errors as OpenAI's API words them: a status and an object that names the field.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::serve::job::Failure;
use crate::serve::metrics::Outcome;

/// A request that is not answered.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The field of the request.
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A field has a value that it cannot have.
    pub(super) fn of_field(field: impl Into<String>, why: impl std::fmt::Display) -> Self {
        let field = field.into();
        let message = format!("`{field}` {why}");
        Self { param: Some(field), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// A field asks for what this server does not do.
    pub(super) fn unsupported(field: impl Into<String>) -> Self {
        let refusal = Self::of_field(field, "is not supported by candlemark serve; leave it out");
        Self { code: Some("unsupported_parameter"), ..refusal }
    }

    pub(super) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// How the request counts.
    pub(super) fn outcome(&self) -> Outcome {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Outcome::Refused,
            status if status.is_server_error() => Outcome::Failed,
            _ => Outcome::Invalid,
        }
    }

    /// The body of the response.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        } })
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsupported(why) => Self::new(StatusCode::BAD_REQUEST, why),
            Failure::Engine(why) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, why),
        }
    }
}
