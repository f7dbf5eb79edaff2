//! The answer to a request that failed: a status, and the body that clients
//! of OpenAI's routes read.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{self, Content, Ref, RefOr};

use crate::{Error, ErrorKind, Retry};

/// How long a client is asked to wait where nothing better is known: as long as a short
/// reply takes. Source: chosen by albedo.
const PAUSE: Duration = Duration::from_secs(2);

/// A request that failed, as its client sees it.
pub struct ApiError(Box<Inner>);

struct Inner {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
    cause: Option<Error>,
}

/// The body of an answer that is an error.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ErrorResponse {
    /// What failed.
    pub error: ErrorBody,
}

/// What failed, in the words of OpenAI's routes.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// One line.
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or
    /// `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field of the request that is wrong, if it is one.
    pub param: Option<String>,
    /// A word for programs, such as `context_length_exceeded`.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// An answer with `status` that says `message`.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let passes = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Self(Box::new(Inner {
            status,
            body: ErrorBody { message: message.into(), kind, param: None, code: None },
            retry_after: passes.then_some(PAUSE),
            cause: None,
        }))
    }

    /// The request is wrong: 400.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The field `param` of the request is wrong: 400.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).with_param(param)
    }

    /// There is no model of that name: 404.
    pub fn no_model(name: &str) -> Self {
        let shown: String = name.chars().take(128).filter(|c| !c.is_control()).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            format!("The model `{shown}` does not exist; GET /v1/models lists them"),
        )
        .with_param("model")
        .with_code("model_not_found")
    }

    /// The model that a request names is here and cannot be loaded: 503 where that may pass,
    /// else 500. The request itself is right, whatever `error` misses.
    pub(super) fn no_load(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::RateLimited => {
                Self::told(StatusCode::INTERNAL_SERVER_ERROR, error)
            }
            _ => Self::from(error),
        }
    }

    /// The server does not answer now: 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// `error` is about what the request asks for.
    pub fn of_request(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ConfigInvalid
            | ErrorKind::DataInvalid
            | ErrorKind::Unsupported
            | ErrorKind::Refused => Self::told(StatusCode::BAD_REQUEST, error),
            _ => Self::from(error),
        }
    }

    fn told(status: StatusCode, error: Error) -> Self {
        // Without its facts: paths of this machine are among them.
        let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        let message = format!("failed to {}: {}{hint}", error.operation(), error.message());
        let mut told = Self::new(status, message);
        if let Retry::After(pause) = error.retry() {
            told.0.retry_after = Some(pause);
        }
        told.0.cause = Some(error);
        told
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.0.body.param = Some(param.into());
        self
    }

    /// Sets the word for programs.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.0.body.code = Some(code);
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The body that the client gets.
    pub fn body(&self) -> ErrorResponse {
        ErrorResponse { error: self.0.body.clone() }
    }

    /// The error that it reports, if it comes from one.
    pub fn cause(&self) -> Option<&Error> {
        self.0.cause.as_ref()
    }
}

/// An error of the server's own side. What a request asks for is
/// [`ApiError::of_request`]'s.
impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::DeviceLost
            | ErrorKind::ResourceExhausted
            | ErrorKind::Protocol => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let cancelled = error.kind() == ErrorKind::Cancelled;
        let mut told = Self::told(status, error);
        if cancelled {
            // Nothing else cancels what a client still waits for.
            told.0.body.message = "the server stopped before it was done; ask again, or another one".into();
        }
        told
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { status, body, cause, .. } = &*self.0;
        f.debug_struct("ApiError").field("status", status).field("body", body).field("cause", cause).finish()
    }
}

/// The answers of a request for replies that fails, for `/openapi.json`.
impl utoipa::IntoResponses for ApiError {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        failures([
            (400, "The request is wrong, or longer than the context"),
            (401, "The token is missing or wrong"),
            (404, "No model here has that name"),
            (413, "The body is too large"),
            (429, "Too many replies wait; see `Retry-After`"),
            (500, "The model cannot be loaded; the server's log says why"),
            (503, "The server loads, stops, or lost its device"),
        ])
    }
}

/// Answers with the body of an error: a status each, and when it is given.
pub(super) fn failures<const N: usize>(
    answers: [(u16, &str); N],
) -> BTreeMap<String, RefOr<openapi::Response>> {
    let answer = |(status, when): (u16, &str)| {
        let body = Content::new(Some(Ref::from_schema_name("ErrorResponse")));
        let answer = openapi::ResponseBuilder::new().description(when).content("application/json", body);
        (status.to_string(), RefOr::T(answer.build()))
    };
    answers.map(answer).into()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Inner { status, body, retry_after, cause } = *self.0;
        if status.is_server_error() {
            if let Some(error) = &cause {
                tracing::error!(status = status.as_u16(), %error, "a request failed");
            } else {
                tracing::warn!(status = status.as_u16(), "{}", body.message);
            }
        }
        let mut response = (status, Json(ErrorResponse { error: body })).into_response();
        if let Some(pause) = retry_after {
            // A header of whole seconds, and at least one.
            let secs = pause.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
