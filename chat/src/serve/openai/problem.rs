//! Errors as OpenAI's clients read them.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use common::Error;
use common::error::Kind;
use serde_json::{Value, json};

/// How many seconds a client that is refused is asked to wait.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

impl Problem {
    /// A problem with a status.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A field of the request with a value that does not serve.
    pub(crate) fn field(name: &str, message: impl std::fmt::Display) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, format!("{name}: {message}"));
        Self { param: Some(name.to_owned()), ..problem }
    }

    /// The code by which clients tell this problem from others.
    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// A request whose text cannot become a prompt.
    pub(crate) fn of_request(error: &Error) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, with_hint(error));
        match error.kind() {
            Kind::TooLong => problem.code("context_length_exceeded"),
            Kind::Bug => Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..problem },
            _ => problem,
        }
    }

    /// An answer that could not be computed.
    pub(crate) fn of_server(error: &Error) -> Self {
        let status = match error.kind() {
            Kind::OutOfMemory => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, with_hint(error))
    }

    /// A server that is about to end.
    pub(crate) fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
    }

    /// Returns the error as the body of a response, or an event of a stream.
    pub(crate) fn json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

/// The message of an error and, if it has one of its own, its hint.
fn with_hint(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error}; hint: {hint}"),
        None => error.to_string(),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status, [(CONTENT_TYPE, json)], self.json().to_string()).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}
