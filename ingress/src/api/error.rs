//! The one error type of handlers, rendered as RFC 9457 `application/problem+json`.
//!
//! A cause is logged here, once, and never sent; a person gets the request's id to ask about.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::protect::request_id;

/// The media type of every error of the API.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a handler of the API returns.
pub type ApiResult<T> = Result<T, ApiError>;

/// Everything that can go wrong with a request of the API.
#[derive(Debug)]
pub enum ApiError {
    /// 422: the request was understood, but these fields cannot be accepted.
    Validation(Vec<FieldError>),
    /// 400: the request cannot be read.
    BadRequest {
        /// Stable name of the fault.
        code: &'static str,
        /// For people.
        detail: String,
    },
    /// 401: nobody is logged in, or the key is not valid (any more).
    Unauthorized,
    /// 401: the log-in or the password is wrong; which of them is not said.
    WrongCredentials,
    /// 403: known, but not allowed.
    Forbidden {
        /// Stable name of the fault.
        code: &'static str,
        /// For people.
        detail: String,
    },
    /// 404: not there, or somebody else's.
    NotFound,
    /// 405: the address does not take this method.
    MethodNotAllowed,
    /// 409: the request contradicts what is there.
    Conflict {
        /// Stable name of the fault.
        code: &'static str,
        /// For people.
        detail: String,
    },
    /// 412: the object changed since it was read.
    PreconditionFailed,
    /// 413: the body is too large.
    PayloadTooLarge,
    /// 415: the body is not JSON.
    UnsupportedMediaType,
    /// 429: too often; try again later.
    TooMany {
        /// When another try makes sense.
        retry_after: Duration,
    },
    /// 503: something this needs does not answer, most often the store.
    Unavailable {
        /// Logged, never sent.
        source: anyhow::Error,
    },
    /// 500: a fault of ours.
    Internal(anyhow::Error),
}

/// One field that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where it stands in the body, as a JSON pointer (RFC 6901).
    #[schema(example = "/name")]
    pub pointer: String,
    /// What to change.
    pub detail: String,
}

/// The body of every error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// An address that names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "/problems/validation_failed")]
    pub kind: String,
    /// Stable name of the problem, for programs.
    #[schema(example = "validation_failed")]
    pub code: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The status of the reply.
    #[schema(example = 422)]
    pub status: u16,
    /// What happened this time, for people.
    pub detail: String,
    /// The fields that cannot be accepted, if it is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// What to quote when asking an operator; also in the header `x-request-id`.
    pub request_id: String,
}

impl ApiError {
    /// One field that cannot be accepted.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Validation(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// A 403 with its name.
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Forbidden { code, detail: detail.into() }
    }

    /// A 409 with its name.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Conflict { code, detail: detail.into() }
    }

    /// A 400 with its name.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::BadRequest { code, detail: detail.into() }
    }

    /// The status table of the API.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Validation(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", "Some fields cannot be accepted")
            }
            Self::BadRequest { code, .. } => (StatusCode::BAD_REQUEST, code, "The request cannot be read"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "Not logged in"),
            Self::WrongCredentials => (StatusCode::UNAUTHORIZED, "invalid_credentials", "Not logged in"),
            Self::Forbidden { code, .. } => (StatusCode::FORBIDDEN, code, "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::Conflict { code, .. } => (StatusCode::CONFLICT, code, "The request contradicts what is there"),
            Self::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, "precondition_failed", "It was changed in the meantime")
            }
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "The body is too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body must be JSON")
            }
            Self::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available right now"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here"),
        }
    }

    /// What happened, for people; never the cause of a fault of ours.
    pub fn detail(&self) -> String {
        match self {
            Self::Validation(fields) => {
                let list: Vec<String> = fields.iter().map(|f| format!("{}: {}", f.pointer, f.detail)).collect();
                list.join("; ")
            }
            Self::BadRequest { detail, .. } | Self::Forbidden { detail, .. } | Self::Conflict { detail, .. } => {
                detail.clone()
            }
            Self::Unauthorized => "log in, or send a valid API key as `Authorization: Bearer hky_…`".to_owned(),
            Self::WrongCredentials => "the user name or the password is not right".to_owned(),
            Self::NotFound => "there is no such thing in this workspace".to_owned(),
            Self::MethodNotAllowed => "this address does not take the method; see the header Allow".to_owned(),
            Self::PreconditionFailed => "the object is no longer at the version in If-Match; read it again".to_owned(),
            Self::PayloadTooLarge => "the body is larger than this address accepts".to_owned(),
            Self::UnsupportedMediaType => "send the body with `Content-Type: application/json`".to_owned(),
            Self::TooMany { retry_after } => format!("try again in {} s", seconds(*retry_after)),
            Self::Unavailable { .. } => "a part of this service does not answer; try again shortly".to_owned(),
            Self::Internal(_) => {
                "the request failed through no fault of yours; quote the request id to an operator".to_owned()
            }
        }
    }

    /// The status that the reply has.
    pub fn status(&self) -> StatusCode {
        self.kind().0
    }
}

fn seconds(duration: Duration) -> u64 {
    // Rounded up: who comes back exactly then must not be refused again.
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        if let Self::Internal(cause) | Self::Unavailable { source: cause } = &self {
            tracing::error!(error = format!("{cause:#}"), status = status.as_u16(), "request failed");
        }
        let problem = Problem {
            kind: format!("/problems/{code}"),
            code: code.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail(),
            request_id: request_id(),
            errors: match &self {
                Self::Validation(fields) => fields.clone(),
                _ => Vec::new(),
            },
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        match &self {
            Self::Unauthorized | Self::WrongCredentials => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::TooMany { retry_after } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds(*retry_after).max(1)));
            }
            Self::Unavailable { .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

impl From<sqlx::Error> for ApiError {
    /// A store that does not answer is worth another try; anything else is a fault of ours.
    fn from(error: sqlx::Error) -> Self {
        let away = match &error {
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::WorkerCrashed => true,
            // Postgres: connection lost, out of resources, shutting down. SQLite: busy, I/O, full, cannot open.
            sqlx::Error::Database(database) => database.code().is_some_and(|code| {
                code.starts_with("08")
                    || code.starts_with("53")
                    || code.starts_with("57P")
                    || matches!(code.as_ref(), "5" | "10" | "13" | "14" | "517")
            }),
            _ => false,
        };
        let cause = anyhow::Error::new(error).context("the store failed");
        if away { Self::Unavailable { source: cause } } else { Self::Internal(cause) }
    }
}

impl From<hookyard_shared::vault::VaultError> for ApiError {
    fn from(error: hookyard_shared::vault::VaultError) -> Self {
        use hookyard_shared::vault::VaultError;
        match error {
            VaultError::Store(error) => error.into(),
            error @ (VaultError::BadKey | VaultError::WrongKey | VaultError::Damaged) => {
                Self::Internal(anyhow::Error::new(error))
            }
        }
    }
}

impl From<hookyard_shared::auth::HashError> for ApiError {
    fn from(error: hookyard_shared::auth::HashError) -> Self {
        use hookyard_shared::auth::HashError;
        match error {
            HashError::Busy => Self::TooMany { retry_after: Duration::from_secs(1) },
            error @ HashError::Failed(_) => Self::Internal(anyhow::Error::new(error)),
        }
    }
}
