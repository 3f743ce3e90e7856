//! `/deliveries`: one event for one subscription each, with its attempts; retry and cancel.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{self, AttemptId, DeliveryId, DestinationId, EventId, ReplayId, SubscriptionId};
use hookyard_shared::store::deliveries::{Attempt, Delivery, Transition};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult, Problem};
use super::events::{Filters, header_lines};
use super::extract::{Listing, PageQuery, PathId, Principal};
use crate::state::AppState;

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(retry)).routes(routes!(cancel))
}

/// A delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryView {
    /// Its id.
    #[schema(value_type = String, example = "dlv_01h455vb4pex5vsknk084sn02q")]
    id: DeliveryId,
    /// Its event.
    #[schema(value_type = String, example = "evt_01h455vb4pex5vsknk084sn02q")]
    event_id: EventId,
    /// Its subscription.
    #[schema(value_type = String, example = "sub_01h455vb4pex5vsknk084sn02q")]
    subscription_id: SubscriptionId,
    /// The revision of the subscription's rules that made it.
    revision: i64,
    /// Where it goes.
    #[schema(value_type = String, example = "dst_01h455vb4pex5vsknk084sn02q")]
    destination_id: DestinationId,
    /// What the receiver recognises a repeat by.
    #[schema(example = "msg_01h455vb4pex5vsknk084sn02q")]
    webhook_id: String,
    /// `pending`, `held`, `leased` (an attempt is under way), `delivered`, `failed`, `dropped` or `cancelled`.
    #[schema(example = "delivered")]
    status: String,
    /// Why it is held: `paused` (something on its way is), `order` (one of its key goes before it) or `parked` (it was given
    /// up and stands before the others of its key: retry it, or cancel it to let them go on).
    hold: Option<String>,
    /// The replay that made it.
    #[schema(value_type = Option<String>)]
    replay_id: Option<ReplayId>,
    /// Attempts so far, with the one under way.
    attempt_count: i64,
    /// Failures since the last retry by hand.
    failures: i64,
    /// When the next attempt is due.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// HTTP status of the last answer.
    last_status: Option<i64>,
    /// Code of the last error.
    last_error: Option<String>,
}

/// A delivery with its attempts.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryDetailView {
    #[serde(flatten)]
    delivery: DeliveryView,
    /// First to last, with the one under way.
    attempts: Vec<AttemptView>,
}

/// One HTTP request of a delivery.
#[derive(Debug, Serialize, ToSchema)]
struct AttemptView {
    /// Its id, once it has ended.
    #[schema(value_type = Option<String>)]
    id: Option<AttemptId>,
    /// Counted from 1.
    number: i64,
    /// `started`, `succeeded`, `failed`, `interrupted` or `superseded`.
    state: String,
    /// When it began.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// How long it took.
    duration_ms: Option<i64>,
    /// HTTP status, if an answer came.
    status_code: Option<i64>,
    /// Stable code of the error.
    error_code: Option<String>,
    /// The error in words.
    error: Option<String>,
    /// The address that was connected to.
    #[schema(example = "93.184.216.34:443")]
    address: Option<String>,
    /// The head of the request: its first line, and the header lines that are not the sender's. Secrets are masked.
    request: Option<String>,
    /// Milliseconds by phase.
    #[schema(value_type = Option<Object>)]
    timings: Option<serde_json::Value>,
    /// Header lines of the answer; bytes that are no text are replaced.
    response_headers: Vec<(String, String)>,
    /// The beginning of the answer's body; bytes that are no text are replaced.
    response_body: Option<String>,
    /// Whether the answer's body went on.
    response_truncated: bool,
}

impl From<Delivery> for DeliveryView {
    fn from(row: Delivery) -> Self {
        Self {
            id: row.delivery_id.into(),
            event_id: row.event_id.into(),
            subscription_id: row.subscription_id.into(),
            revision: row.revision,
            destination_id: row.destination_id.into(),
            webhook_id: format!("msg_{}", id::encode(row.webhook_id)),
            status: row.status,
            hold: row.hold,
            replay_id: row.replay_id.map(ReplayId),
            attempt_count: row.attempts,
            failures: row.failures,
            next_attempt_at: row.next_attempt_ms.map(rfc3339),
            created_at: rfc3339(row.created_ms),
            finished_at: row.finished_ms.map(rfc3339),
            last_status: row.last_status,
            last_error: row.last_error,
        }
    }
}

impl From<Attempt> for AttemptView {
    fn from(row: Attempt) -> Self {
        Self {
            id: Some(row.attempt_id.into()),
            number: row.number,
            state: row.state,
            started_at: Some(rfc3339(row.started_ms)),
            finished_at: Some(rfc3339(row.finished_ms)),
            duration_ms: Some(row.finished_ms - row.started_ms),
            status_code: row.status_code,
            error_code: row.error_code,
            error: row.error,
            address: row.address,
            request: row.request,
            timings: row.timings.and_then(|text| serde_json::from_str(&text).ok()),
            response_headers: header_lines(row.response_headers.as_deref().unwrap_or_default()),
            response_body: row.response_body.map(|body| String::from_utf8_lossy(&body).into_owned()),
            response_truncated: row.response_truncated,
        }
    }
}

impl AttemptView {
    /// The attempt under way: the leased delivery itself is the record of it.
    fn under_way(delivery: &Delivery) -> Option<Self> {
        (delivery.status == "leased").then(|| Self {
            id: None,
            number: delivery.attempts,
            state: "started".to_owned(),
            started_at: delivery.started_ms.map(rfc3339),
            finished_at: None,
            duration_ms: None,
            status_code: None,
            error_code: None,
            error: None,
            address: None,
            request: None,
            timings: None,
            response_headers: Vec::new(),
            response_body: None,
            response_truncated: false,
        })
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; `Filters` reads it")]
struct DeliveryParams {
    /// Of this event.
    event_id: Option<String>,
    /// Of events of this source.
    source_id: Option<String>,
    /// For this subscription.
    subscription_id: Option<String>,
    /// To this destination.
    destination_id: Option<String>,
    /// In this state: `pending`, `held`, `leased`, `delivered`, `failed`, `dropped`, `cancelled`.
    status: Option<String>,
    /// `true`: only those that were given up and stand before the others of their key.
    parked: Option<bool>,
    /// Made by this replay.
    replay_id: Option<String>,
    /// Made at or after this time.
    #[param(format = DateTime)]
    created_after: Option<String>,
    /// Made before this time.
    #[param(format = DateTime)]
    created_before: Option<String>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
}

/// Lists deliveries, newest first.
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", params(DeliveryParams), responses(
    (status = 200, description = "A page of deliveries.", body = Listing<DeliveryView>),
    (status = 400, description = "A filter, the cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
    uri: Uri,
) -> ApiResult<Json<Listing<DeliveryView>>> {
    principal.require(Scope::Read)?;
    let filters = Filters::read(&uri);
    let filter = filters.deliveries()?;
    let rows = state.store.deliveries(principal.workspace_id, &filter, page.cursor, page.limit + 1).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.delivery_id).map(DeliveryView::from)))
}

/// Shows one delivery with its attempts.
#[utoipa::path(get, path = "/deliveries/{id}", tag = "deliveries", params(("id" = String, Path)), responses(
    (status = 200, description = "The delivery.", body = DeliveryDetailView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DeliveryId>,
) -> ApiResult<Json<DeliveryDetailView>> {
    principal.require(Scope::Read)?;
    let delivery = state.store.delivery(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    let attempts = state.store.attempts(principal.workspace_id, id).await?;
    // An attempt may end between the two reads; its row then counts.
    let under_way =
        AttemptView::under_way(&delivery).filter(|now| attempts.iter().all(|ended| ended.number != now.number));
    let attempts = attempts.into_iter().map(AttemptView::from).chain(under_way).collect();
    Ok(Json(DeliveryDetailView { delivery: delivery.into(), attempts }))
}

/// Makes a delivery due now, with its failures forgotten. One that is parked goes out first of its key.
///
/// The receiver sees the same `webhook-id` again.
#[utoipa::path(post, path = "/deliveries/{id}/retry", tag = "deliveries", params(("id" = String, Path)), responses(
    (status = 200, description = "It is due now.", body = DeliveryView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "An attempt is under way, it is held, or it has nowhere to go.", body = Problem, content_type = "application/problem+json"),
))]
async fn retry(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DeliveryId>,
) -> ApiResult<Json<DeliveryView>> {
    Ok(Json(retry_one(&state, &principal, id).await?.into()))
}

/// Ends a delivery that waits or is held. If it stood before others of its key, they go on.
#[utoipa::path(post, path = "/deliveries/{id}/cancel", tag = "deliveries", params(("id" = String, Path)), responses(
    (status = 200, description = "It is cancelled.", body = DeliveryView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "An attempt is under way, or it has ended.", body = Problem, content_type = "application/problem+json"),
))]
async fn cancel(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DeliveryId>,
) -> ApiResult<Json<DeliveryView>> {
    Ok(Json(cancel_one(&state, &principal, id).await?.into()))
}

/// Makes one delivery due now.
pub(crate) async fn retry_one(state: &AppState, principal: &Principal, id: DeliveryId) -> ApiResult<Delivery> {
    principal.require(Scope::Write)?;
    answer(state.store.retry_delivery(principal.workspace_id, id).await?)
}

/// Ends one delivery.
pub(crate) async fn cancel_one(state: &AppState, principal: &Principal, id: DeliveryId) -> ApiResult<Delivery> {
    principal.require(Scope::Write)?;
    answer(state.store.cancel_delivery(principal.workspace_id, id).await?)
}

fn answer(transition: Transition) -> ApiResult<Delivery> {
    match transition {
        Transition::Done(row) => Ok(*row),
        Transition::NotFound => Err(ApiError::NotFound),
        Transition::NowhereToGo => Err(ApiError::conflict(
            "destination_gone",
            "its subscription or its destination was removed; there is nowhere to send it",
        )),
        Transition::Refused { status, hold } => Err(match status.as_str() {
            "leased" => ApiError::conflict("attempt_under_way", "an attempt is under way; try again when it has ended"),
            "held" if hold.as_deref() == Some("order") => ApiError::conflict(
                "delivery_in_order",
                "one of its key goes before it; retry or cancel that one (the list of parked deliveries has it if it was given up)",
            ),
            "held" => ApiError::conflict(
                "delivery_held",
                "its destination is disabled, or its subscription or source is paused; resume that to send what is held",
            ),
            other => ApiError::conflict("delivery_ended", format!("it has ended already: {other}")),
        }),
    }
}
