//! `/destinations/{id}/test`: one small signed request right away, through the client that deliveries go through.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::{Millis, rfc3339};
use hookyard_shared::egress::{OutgoingRequest, Timings, to_uri};
use hookyard_shared::id::{self, DestinationId};
use hookyard_shared::model::headers as header_block;
use hookyard_shared::outgoing::{BrokerMessage, Outgoing};
use hookyard_shared::signing::SigningSecret;
use hookyard_shared::store::destinations::Destination;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::json;
use url::Url;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::error::{ApiError, ApiResult, Problem};
use super::super::events::header_lines;
use super::super::extract::{PathId, Principal};
use crate::state::AppState;

/// Somebody waits for the answer: no test takes longer than this.
const LONGEST: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(test))
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
struct TestView {
    /// Whether the receiver took it: a 2xx answer, or a broker's confirm.
    succeeded: bool,
    /// The `webhook-id` that it had.
    webhook_id: String,
    /// HTTP status, if an answer came.
    status_code: Option<u16>,
    /// Stable code of the error.
    error_code: Option<&'static str>,
    /// The error in words, with what to do.
    error: Option<String>,
    /// The address that was connected to.
    #[schema(example = "93.184.216.34:443")]
    address: Option<String>,
    /// How long each phase took.
    timings: TimingsView,
    /// The head of the request as far as it was made here. Secrets are masked.
    request: Option<String>,
    /// Header lines of the answer; bytes that are no text are replaced.
    response_headers: Vec<(String, String)>,
    /// The beginning of the answer's body; bytes that are no text are replaced.
    response_body: Option<String>,
    /// Whether the answer's body went on.
    response_truncated: bool,
}

/// Milliseconds of each phase; null for one that did not happen, as on a connection that was open.
#[derive(Debug, Serialize, ToSchema)]
struct TimingsView {
    /// Resolving the host name.
    dns: Option<i64>,
    /// Connecting.
    connect: Option<i64>,
    /// The TLS handshake.
    tls: Option<i64>,
    /// From the connection to the head of the answer.
    wait: Option<i64>,
    /// Reading the body.
    read: Option<i64>,
    /// All of it.
    total: i64,
}

impl From<Timings> for TimingsView {
    fn from(timings: Timings) -> Self {
        Self {
            dns: timings.dns_ms,
            connect: timings.connect_ms,
            tls: timings.tls_ms,
            wait: timings.wait_ms,
            read: timings.read_ms,
            total: timings.total_ms,
        }
    }
}

/// Sends a test right away: a POST (or a message) of the type `hookyard.test`, signed and proved as deliveries are. It is no
/// event and leaves no record. A disabled destination can be tested as well.
#[utoipa::path(post, path = "/destinations/{id}/test", tag = "destinations", params(("id" = String, Path)), responses(
    (status = 200, description = "What came of it; a failure of the receiver is within.", body = TestView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Nothing can be sent there: it is an inspector, or its settings cannot be used.", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too many tests are under way.", body = Problem, content_type = "application/problem+json"),
))]
async fn test(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
) -> ApiResult<Json<TestView>> {
    principal.require(Scope::Write)?;
    let destination = super::find(&state, &principal, id).await?;
    let turn = state.test_turns.take(principal.workspace_id);
    let _turn = turn.ok_or(ApiError::TooMany { retry_after: Duration::from_secs(1) })?;
    if destination.kind == "inspector" {
        return Err(ApiError::conflict(
            "nothing_to_test",
            "an inspector is Hookyard itself, and receives whatever is sent",
        ));
    }
    let broken = |why: String| ApiError::conflict("destination_broken", why);
    let url = Url::parse(destination.url.as_deref().unwrap_or_default())
        .map_err(|error| broken(format!("the stored URL: {error}")))?;
    let (connection, credentials) = (destination.connection.as_deref(), destination.credentials.as_deref());
    let outgoing = Outgoing::open(id.0, connection, credentials, &state.vault).map_err(broken)?;
    let secrets = signing_secrets(&state, &destination).map_err(broken)?;
    let message = message(&outgoing, &secrets, id, state.store.now_ms());
    let webhook_id = message.id.clone();
    let timeout = Duration::from_millis(destination.timeout_ms.max(1).unsigned_abs()).min(LONGEST);
    if destination.kind == "rabbitmq" {
        let (published, request) = state.ways.broker(id, &outgoing, &url, message, timeout).await;
        let error = published.result.err();
        return Ok(Json(TestView {
            succeeded: error.is_none(),
            webhook_id,
            status_code: None,
            error_code: error.as_ref().map(|error| error.code()),
            error: error.map(|error| error.to_string()),
            address: published.address.map(|address| address.to_string()),
            timings: published.timings.into(),
            request: Some(request),
            response_headers: vec![],
            response_body: None,
            response_truncated: false,
        }));
    }
    let url = to_uri(&url).map_err(|error| broken(format!("the stored URL: {error}")))?;
    let request = OutgoingRequest { method: Method::POST, url, headers: message.headers, body: message.body };
    let (exchange, request) = state.ways.http(id, &outgoing, request, timeout).await;
    let (answer, error) = match exchange.result {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error)),
    };
    Ok(Json(TestView {
        succeeded: answer.as_ref().is_some_and(|answer| answer.status.is_success()),
        webhook_id,
        status_code: exchange.status.map(|status| status.as_u16()),
        error_code: error.as_ref().map(|error| error.code()),
        error: error.map(|error| error.to_string()),
        address: exchange.address.map(|address| address.to_string()),
        timings: exchange.timings.into(),
        request,
        response_headers: answer
            .as_ref()
            .map(|answer| header_lines(&header_block::encode(&answer.headers)))
            .unwrap_or_default(),
        response_truncated: answer.as_ref().is_some_and(|answer| answer.truncated),
        response_body: answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()),
    }))
}

/// The secrets that sign now: the current one, and the one before while they overlap.
fn signing_secrets(state: &AppState, destination: &Destination) -> Result<Vec<SigningSecret>, String> {
    let open = |sealed: &[u8]| {
        let text = state.vault.open(destination.destination_id, sealed).map_err(|error| error.to_string())?;
        SigningSecret::parse(text.expose_secret()).map_err(|error| error.to_string())
    };
    let mut secrets = vec![open(&destination.signing_secret)?];
    let overlaps = destination.previous_until_ms.is_some_and(|until| state.store.now_ms() < until);
    if let Some(sealed) = destination.previous_secret.as_deref().filter(|_| overlaps) {
        secrets.push(open(sealed)?);
    }
    Ok(secrets)
}

fn message(outgoing: &Outgoing, secrets: &[SigningSecret], destination: DestinationId, now: Millis) -> BrokerMessage {
    let body = json!({
        "type": "hookyard.test",
        "timestamp": rfc3339(now),
        "data": { "destination_id": destination.to_string(), "message": "A test from Hookyard. Nothing happened." },
    });
    let body = Bytes::from(body.to_string());
    let id = format!("msg_{}", id::encode(Uuid::now_v7()));
    let timestamp_s = now / 1000;
    let signature = outgoing.sign(secrets, &id, timestamp_s, &body);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [
        ("webhook-id", id.as_str()),
        ("webhook-timestamp", &timestamp_s.to_string()),
        ("webhook-signature", &signature),
        ("hookyard-test", "1"),
        // As a delivery: a test that comes round to a source of ours is counted there.
        (header_block::HOPS, "1"),
    ] {
        // Ids, numbers and base64 are always header values.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    BrokerMessage { headers, id, timestamp_s, body }
}
