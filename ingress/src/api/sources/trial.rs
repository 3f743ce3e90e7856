//! `/sources/{id}/test-event` and `/events/{id}/resend`: requests as the sender makes them, through the real door.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{EventId, SourceId};
use hookyard_shared::model::headers;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::error::{ApiError, ApiResult, Problem};
use super::super::extract::{ApiJson, PathId, Principal};
use crate::receive::{Recorded, Sent, Trial, send_trial};
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(test_event)).routes(routes!(resend))
}

/// A test event.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestEvent {
    /// The type of the event, as the sender names it; its commonest unless given.
    #[serde(default)]
    #[schema(example = "invoice.paid")]
    event: Option<String>,
    /// Members of the JSON body to set, by path.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"$.data.object.amount_paid": 100}))]
    set: BTreeMap<String, serde_json::Value>,
    /// Whether to sign it for a time that is too long ago, to see it refused.
    #[serde(default)]
    stale: bool,
    /// Whether to sign it with another secret, to see it refused.
    #[serde(default)]
    invalid_signature: bool,
}

/// How to send a recorded event again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Resend {
    /// Members of the JSON body to set, by path.
    #[serde(default)]
    #[schema(value_type = Object)]
    set: BTreeMap<String, serde_json::Value>,
    /// Whether to sign it for a time that is too long ago, to see it refused.
    #[serde(default)]
    stale: bool,
    /// Whether to sign it with another secret, to see it refused.
    #[serde(default)]
    invalid_signature: bool,
}

/// What was sent, and what the sender would have been answered.
#[derive(Debug, Serialize, ToSchema)]
struct SentView {
    /// The type of the event.
    event: String,
    /// Where it was sent.
    url: String,
    /// The headers, in order.
    headers: Vec<(String, String)>,
    /// The body.
    body: String,
    /// The status of the answer.
    status: u16,
    /// The body of the answer.
    answer: String,
    /// The event that it became, if it was accepted and the answer says so.
    #[schema(value_type = Option<String>)]
    event_id: Option<String>,
}

impl From<Sent> for SentView {
    fn from(sent: Sent) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let answer: Option<serde_json::Value> = serde_json::from_str(&sent.answer).ok();
        Self {
            event: sent.event,
            url: sent.url,
            headers: sent.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect(),
            body: text(&sent.body),
            status: sent.status,
            event_id: answer.as_ref().and_then(|answer| answer["id"].as_str()).map(str::to_owned),
            answer: sent.answer,
        }
    }
}

/// Sends a test event: made as the source's sender makes it, signed with the source's newest live secret, and sent through
/// the real door. It becomes an event and is delivered like any other.
#[utoipa::path(post, path = "/sources/{id}/test-event", tag = "sources", params(("id" = String, Path)),
    request_body = TestEvent, responses(
    (status = 200, description = "It was sent; its own answer is within.", body = SentView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `ingest-test` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such source.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The source has no live secret.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Such an event cannot be made: it is unknown, or only the sender itself can sign it.", body = Problem, content_type = "application/problem+json"),
))]
async fn test_event(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
    ApiJson(wanted): ApiJson<TestEvent>,
) -> ApiResult<Json<SentView>> {
    principal.require(Scope::IngestTest)?;
    let source = state.store.source(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    let TestEvent { event, set, stale, invalid_signature } = wanted;
    let trial = Trial { event, set: set.into_iter().collect(), stale, invalid_signature, recorded: None };
    Ok(Json(send_trial(&state, &source, trial).await?.into()))
}

/// Sends a recorded event through the door again, signed anew with its source's newest live secret: another event, as if
/// the sender had repeated it.
#[utoipa::path(post, path = "/events/{id}/resend", tag = "events", params(("id" = String, Path)),
    request_body = Resend, responses(
    (status = 200, description = "It was sent; its own answer is within.", body = SentView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `ingest-test` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such event, or its source was removed.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The source has no live secret.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "It cannot be made: only the sender itself can sign it.", body = Problem, content_type = "application/problem+json"),
))]
async fn resend(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<EventId>,
    ApiJson(wanted): ApiJson<Resend>,
) -> ApiResult<Json<SentView>> {
    principal.require(Scope::IngestTest)?;
    let workspace = principal.workspace_id;
    let event = state.store.event(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let source = state.store.source(workspace, event.source_id.into()).await?.ok_or(ApiError::NotFound)?;
    let body = state.store.event_body(workspace, id, i32::MAX).await?.ok_or(ApiError::NotFound)?;
    let mut recorded = headers::decode(&event.headers);
    for name in [http::header::HOST, http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING] {
        recorded.remove(name);
    }
    let recorded = Recorded { method: event.method, path: event.path, query: event.query, headers: recorded, body };
    let Resend { set, stale, invalid_signature } = wanted;
    let set = set.into_iter().collect();
    let trial = Trial { event: None, set, stale, invalid_signature, recorded: Some(recorded) };
    Ok(Json(send_trial(&state, &source, trial).await?.into()))
}
