//! What senders are told. Text or JSON only, inert in a browser, no cookies, and never what the signature should be.

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};

use hookyard_shared::catalog::Source;
use hookyard_shared::id::EventId;
use hookyard_shared::verify::Reply;

/// A refusal: its status, and the kind of failure in words.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// Stable label for metrics and records.
    pub(super) reason: &'static str,
    /// For the sender.
    pub(super) message: &'static str,
    /// For the person who runs the source; recorded, never sent.
    pub(super) detail: String,
    pub(super) allow: Option<String>,
    /// Whether the sender wants answers without a body.
    pub(super) silent: bool,
}

impl Refused {
    pub(super) fn new(status: StatusCode, reason: &'static str, message: &'static str) -> Self {
        Self { status, reason, message, detail: String::new(), allow: None, silent: false }
    }

    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    pub(super) fn method(allowed: &[Method]) -> Self {
        let allow = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let refused = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", "method not allowed");
        Self { detail: format!("the source takes {allow}"), allow: Some(allow), ..refused }
    }

    pub(super) fn unavailable(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, "the event cannot be made durable right now; send it again")
            .detail(detail)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = match self.silent {
            true => String::new(),
            false => format!("{{\"error\":\"{}\",\"code\":\"{}\"}}", self.message, self.reason),
        };
        let mut response = inert(self.status, body.into());
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        // What was not read of the body must not be taken for the next request.
        if self.status == StatusCode::PAYLOAD_TOO_LARGE || self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The answer to an accepted request.
pub(super) fn accepted(source: &Source, event: EventId) -> Response {
    let body = match &source.response_body {
        Some(body) => axum::body::Body::from(body.clone()),
        None => format!("{{\"id\":\"{event}\"}}").into(),
    };
    if source.response_status == StatusCode::NO_CONTENT {
        return inert(source.response_status, axum::body::Body::empty());
    }
    inert(source.response_status, body)
}

/// The answer to a handshake.
pub(super) fn bare(reply: Reply) -> Response {
    let mut response = inert(reply.status, reply.body.into());
    let headers = response.headers_mut();
    match reply.content_type {
        Some(content_type) => _ = headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type)),
        None => _ = headers.remove(CONTENT_TYPE),
    }
    headers.extend(reply.headers);
    response
}

fn inert(status: StatusCode, body: axum::body::Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}
