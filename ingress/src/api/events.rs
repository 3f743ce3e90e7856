//! `/events`: what was accepted, found again by filter, with headers, body and how far its deliveries are.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::{Millis, parse_rfc3339, rfc3339};
use hookyard_shared::id::{EventId, SecretId, SourceId};
use hookyard_shared::model::headers;
use hookyard_shared::store::deliveries::{DeliveryFilter, DeliveryStatus};
use hookyard_shared::store::events::{EventDetail, EventFilter, EventSummary};
use hookyard_shared::store::relay::DeliverAnyway;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::deliveries::DeliveryView;
use super::error::{ApiError, ApiResult, Problem};
use super::extract::{Listing, PageQuery, PathId, Principal};
use crate::state::AppState;

/// Deliveries that an event shows with itself; `/deliveries?event_id=` has the rest.
const SHOWN_DELIVERIES: i64 = 200;

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(body)).routes(routes!(deliver))
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
struct EventView {
    /// Its id.
    #[schema(value_type = String, example = "evt_01h455vb4pex5vsknk084sn02q")]
    id: EventId,
    /// Where it came in.
    #[schema(value_type = String, example = "src_01h455vb4pex5vsknk084sn02q")]
    source_id: SourceId,
    /// When the last byte of it had arrived.
    #[schema(format = DateTime)]
    received_at: String,
    /// HTTP method.
    method: String,
    /// The path after the source key.
    path: String,
    /// The sender's word for what happened.
    #[schema(example = "order.paid")]
    event_type: Option<String>,
    /// The sender's own id of it.
    provider_event_id: Option<String>,
    /// Whether the sender was proved.
    verified: bool,
    /// The secret that proved the sender.
    #[schema(value_type = Option<String>)]
    verified_by: Option<SecretId>,
    /// An earlier event with the same id of the sender.
    #[schema(value_type = Option<String>)]
    duplicate_of: Option<EventId>,
    /// Length of the body.
    body_bytes: i64,
}

/// An event in a list.
#[derive(Debug, Serialize, ToSchema)]
struct EventSummaryView {
    #[serde(flatten)]
    event: EventView,
    /// How far its deliveries are.
    deliveries: DeliveryCounts,
}

/// How many deliveries of an event are in which state.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryCounts {
    /// All of them.
    total: i64,
    /// Arrived.
    delivered: i64,
    /// Given up by rule.
    failed: i64,
    /// Waiting, held, or under way.
    waiting: i64,
}

/// An event with its headers and deliveries.
#[derive(Debug, Serialize, ToSchema)]
struct EventDetailView {
    #[serde(flatten)]
    event: EventView,
    /// The name of the source, while it exists.
    source_name: Option<String>,
    /// The label of the secret that proved the sender, while it exists.
    verified_by_label: Option<String>,
    /// The query, credentials masked.
    query: Option<String>,
    /// Header lines in order, credentials masked; bytes that are no text are replaced.
    headers: Vec<(String, String)>,
    /// Its newest deliveries, up to 200.
    deliveries: Vec<DeliveryView>,
}

impl From<EventSummary> for EventSummaryView {
    fn from(row: EventSummary) -> Self {
        Self {
            event: EventView {
                id: row.event_id.into(),
                source_id: row.source_id.into(),
                received_at: rfc3339(row.received_ms),
                method: row.method,
                path: row.path,
                event_type: row.event_type,
                provider_event_id: row.provider_event_id,
                verified: row.verified_by.is_some(),
                verified_by: row.verified_by.map(SecretId),
                duplicate_of: row.duplicate_of.map(EventId),
                body_bytes: row.body_bytes,
            },
            deliveries: DeliveryCounts {
                total: row.deliveries,
                delivered: row.delivered,
                failed: row.failed,
                waiting: row.waiting,
            },
        }
    }
}

impl EventDetailView {
    fn new(row: EventDetail, deliveries: Vec<DeliveryView>) -> Self {
        Self {
            source_name: row.source_name,
            verified_by_label: row.secret_label,
            query: row.query,
            headers: header_lines(&row.headers),
            deliveries,
            event: EventView {
                id: row.event_id.into(),
                source_id: row.source_id.into(),
                received_at: rfc3339(row.received_ms),
                method: row.method,
                path: row.path,
                event_type: row.event_type,
                provider_event_id: row.provider_event_id,
                verified: row.verified_by.is_some(),
                verified_by: row.verified_by.map(SecretId),
                duplicate_of: row.duplicate_of.map(EventId),
                body_bytes: row.body_bytes,
            },
        }
    }
}

/// The lines of a header block as text.
pub(crate) fn header_lines(block: &[u8]) -> Vec<(String, String)> {
    headers::lines(block).map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned())).collect()
}

/// The query of a list. An empty value means that there is no such filter, as forms send it.
pub(crate) struct Filters(Vec<(String, String)>);

impl Filters {
    /// Takes the query apart.
    pub(crate) fn read(uri: &Uri) -> Self {
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self(pairs.into_owned().filter(|(_, value)| !value.trim().is_empty()).collect())
    }

    /// The filter's text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The filter as something that is written as text, such as an id.
    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> ApiResult<Option<T>> {
        self.text(name).map(str::parse).transpose().map_err(|error| bad_filter(name, &error))
    }

    /// The filter as a state of a delivery.
    pub(crate) fn status(&self, name: &'static str) -> ApiResult<Option<DeliveryStatus>> {
        let known = || DeliveryStatus::ALL.map(DeliveryStatus::as_str).join(", ");
        self.text(name)
            .map(|text| DeliveryStatus::from_name(text).ok_or_else(|| bad_filter(name, &format!("one of {}", known()))))
            .transpose()
    }

    /// The filter as a time.
    fn time(&self, name: &'static str) -> ApiResult<Option<Millis>> {
        let wrong = || bad_filter(name, &"a time as in 2026-01-31T12:00:00Z (write a plus sign as %2B)");
        self.text(name).map(|text| parse_rfc3339(text).ok_or_else(wrong)).transpose()
    }

    /// What a list of deliveries is narrowed to.
    pub(crate) fn deliveries(&self) -> ApiResult<DeliveryFilter> {
        Ok(DeliveryFilter {
            event: self.parsed("event_id")?,
            source: self.parsed("source_id")?,
            subscription: self.parsed("subscription_id")?,
            destination: self.parsed("destination_id")?,
            status: self.status("status")?,
            parked: self.parsed("parked")?.unwrap_or(false),
            replay: self.parsed("replay_id")?,
            created_after: self.time("created_after")?,
            created_before: self.time("created_before")?,
        })
    }

    /// What a list of events is narrowed to.
    pub(crate) fn events(&self) -> ApiResult<EventFilter> {
        Ok(EventFilter {
            source: self.parsed("source_id")?,
            event_type: self.text("event_type").map(str::to_owned),
            status: self.status("status")?,
            received_after: self.time("received_after")?,
            received_before: self.time("received_before")?,
            q: self.text("q").map(str::to_owned),
        })
    }
}

fn bad_filter(name: &str, reason: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request("bad_filter", format!("`{name}`: {reason}"))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; `Filters` reads it")]
struct EventParams {
    /// Of this source.
    source_id: Option<String>,
    /// Of this type, exactly.
    event_type: Option<String>,
    /// With a delivery in this state: `pending`, `held`, `leased`, `delivered`, `failed`, `dropped`, `cancelled`.
    status: Option<String>,
    /// Received at or after this time.
    #[param(format = DateTime)]
    received_after: Option<String>,
    /// Received before this time.
    #[param(format = DateTime)]
    received_before: Option<String>,
    /// An event's id, the sender's id, or the beginning of a type or path.
    q: Option<String>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
}

/// Lists events, newest first.
#[utoipa::path(get, path = "/events", tag = "events", params(EventParams), responses(
    (status = 200, description = "A page of events.", body = Listing<EventSummaryView>),
    (status = 400, description = "A filter, the cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
    uri: Uri,
) -> ApiResult<Json<Listing<EventSummaryView>>> {
    principal.require(Scope::Read)?;
    let filter = Filters::read(&uri).events()?;
    let rows = state.store.events(principal.workspace_id, &filter, page.cursor, page.limit + 1).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.event_id).map(EventSummaryView::from)))
}

/// Shows one event.
#[utoipa::path(get, path = "/events/{id}", tag = "events", params(("id" = String, Path)), responses(
    (status = 200, description = "The event.", body = EventDetailView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<EventId>,
) -> ApiResult<Json<EventDetailView>> {
    principal.require(Scope::Read)?;
    let workspace = principal.workspace_id;
    let row = state.store.event(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let filter = DeliveryFilter { event: Some(id), ..DeliveryFilter::default() };
    let deliveries = state.store.deliveries(workspace, &filter, None, SHOWN_DELIVERIES).await?;
    Ok(Json(EventDetailView::new(row, deliveries.into_iter().map(DeliveryView::from).collect())))
}

/// Delivers an event that was kept back as a repeat.
///
/// It goes to the subscriptions that its source has now, with a `webhook-id` of its own.
#[utoipa::path(post, path = "/events/{id}/deliver", tag = "events", params(("id" = String, Path)), responses(
    (status = 200, description = "The event, with the deliveries that are due now.", body = EventDetailView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is no repeat, was delivered already, or has nowhere to go.", body = Problem, content_type = "application/problem+json"),
))]
async fn deliver(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<EventId>,
) -> ApiResult<Json<EventDetailView>> {
    deliver_repeat(&state, &principal, id).await?;
    read(principal, State(state), PathId(id)).await
}

/// Makes the deliveries of a repeat.
pub(crate) async fn deliver_repeat(state: &AppState, principal: &Principal, id: EventId) -> ApiResult<()> {
    principal.require(Scope::Write)?;
    match state.store.deliver_repeat(principal.workspace_id, id).await? {
        DeliverAnyway::Due(_) => Ok(()),
        DeliverAnyway::NotFound => Err(ApiError::NotFound),
        DeliverAnyway::NoRepeat => {
            Err(ApiError::conflict("no_repeat", "it repeats no other event; retry its deliveries to send them again"))
        }
        DeliverAnyway::Done => {
            Err(ApiError::conflict("has_deliveries", "it has deliveries already; retry them to send them again"))
        }
        DeliverAnyway::NowhereToGo => Err(ApiError::conflict(
            "nowhere_to_go",
            "no enabled subscription takes from its source; make or enable one first",
        )),
    }
}

/// Gives the body of an event, byte for byte.
///
/// It is a stranger's: it is handed out as a download without a type, so that no browser runs it as ours.
#[utoipa::path(get, path = "/events/{id}/body", tag = "events", params(("id" = String, Path)), responses(
    (status = 200, description = "The bytes.", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn body(principal: Principal, State(state): State<AppState>, PathId(id): PathId<EventId>) -> ApiResult<Response> {
    principal.require(Scope::Read)?;
    let body = state.store.event_body(principal.workspace_id, id, i32::MAX).await?.ok_or(ApiError::NotFound)?;
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.bin\"")),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_owned()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_named_when_they_cannot_be() {
        let filters = |query: &str| Filters::read(&format!("/events?{query}").parse().unwrap());
        let filter =
            filters("status=failed&event_type=&q=a%20b&received_after=2026-01-31T12:00:00%2B01:00").events().unwrap();
        assert_eq!((filter.status, filter.event_type), (Some(DeliveryStatus::Failed), None));
        assert_eq!(
            (filter.q.as_deref(), filter.received_after.map(rfc3339)),
            (Some("a b"), Some("2026-01-31T11:00:00.000Z".into()))
        );
        for bad in ["status=lost", "source_id=evt_1", "received_before=yesterday", "received_after=1700000000"] {
            assert!(matches!(filters(bad).events(), Err(ApiError::BadRequest { code: "bad_filter", .. })), "{bad}");
        }
    }
}
