//! `/replays`: events that are sent again, one, many, or all that a filter matches; at a rate, with progress and a stop.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::{parse_rfc3339, rfc3339};
use hookyard_shared::id::{DestinationId, EventId, ReplayId, SourceId, SubscriptionId};
use hookyard_shared::store::deliveries::DeliveryStatus;
use hookyard_shared::store::events::EventFilter;
use hookyard_shared::store::replays::{
    MAX_NAMED, Matches, NewReplay, Replay, ReplayChange, ReplayCounts, ReplayWish, Selection, Target,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::field;
use super::error::{ApiError, ApiResult, FieldError, Problem};
use super::extract::{ApiJson, Listing, PageQuery, PathId, Principal, present};
use crate::state::AppState;

/// How long a count may take; it then says that there are so many or more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Deliveries a second, at most.
const MAX_RATE: i64 = 10_000;

/// The routes of this resource.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(replay_event))
}

/// What is to be replayed, and to where. The filter is that of the list of events.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewReplayBody {
    /// Events of this source.
    #[schema(value_type = Option<String>)]
    pub(crate) source_id: Option<SourceId>,
    /// Events of this type, exactly.
    pub(crate) event_type: Option<String>,
    /// Events with a delivery in this state.
    #[schema(example = "failed")]
    pub(crate) status: Option<String>,
    /// Received at or after this time.
    #[schema(format = DateTime)]
    pub(crate) received_after: Option<String>,
    /// Received before this time.
    #[schema(format = DateTime)]
    pub(crate) received_before: Option<String>,
    /// An event's id, the sender's id, or the beginning of a type or path.
    pub(crate) q: Option<String>,
    /// These events instead of a filter; up to 1,000.
    #[schema(value_type = Vec<String>, max_items = 1000)]
    pub(crate) event_ids: Vec<EventId>,
    /// `true` says that a replay without any filter is meant: every event of the workspace.
    pub(crate) all: bool,
    /// To this subscription only; to the enabled ones of each event's source unless given.
    #[schema(value_type = Option<String>)]
    pub(crate) subscription_id: Option<SubscriptionId>,
    /// To this destination instead, whether it is subscribed or not.
    #[schema(value_type = Option<String>)]
    pub(crate) destination_id: Option<DestinationId>,
    /// Deliveries made in a second; as fast as the destinations take them unless given.
    #[schema(minimum = 1, maximum = 10000)]
    pub(crate) rate: Option<i64>,
    /// `all` (the default), or `undelivered`: only where no delivery has arrived or is still on its way.
    #[schema(example = "undelivered")]
    pub(crate) only: Option<String>,
    /// `true` counts, and replays nothing.
    pub(crate) dry_run: bool,
}

/// Where one event is replayed to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ReplayEventBody {
    /// To this subscription only; to the enabled ones of the event's source unless given.
    #[schema(value_type = Option<String>)]
    subscription_id: Option<SubscriptionId>,
    /// To this destination instead, whether it is subscribed or not.
    #[schema(value_type = Option<String>)]
    destination_id: Option<DestinationId>,
}

/// A change of a replay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayChangeBody {
    /// Deliveries made in a second; null for as fast as the destinations take them.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 10000)]
    rate: Option<Option<i64>>,
}

/// What a replay would be about.
#[derive(Debug, Serialize, ToSchema)]
struct DryRun {
    /// Events that would be replayed.
    matches: i64,
    /// Deliveries that they would make.
    deliveries: i64,
    /// Whether all were counted. `false`: counting stopped at 100,000 or after two seconds, and there are so many or more.
    complete: bool,
}

/// A replay, or what it would be about.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Created {
    Replay(Box<ReplayView>),
    DryRun(DryRun),
}

/// A replay.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayView {
    /// Its id.
    #[schema(value_type = String, example = "rpl_01h455vb4pex5vsknk084sn02q")]
    id: ReplayId,
    /// `running`, `paused`, `stopped` or `done`: all deliveries are made, and some may still wait.
    #[schema(example = "running")]
    state: String,
    /// Why it was stopped.
    reason: Option<String>,
    /// Which events it is about.
    filter: FilterView,
    /// The one subscription that it is for.
    #[schema(value_type = Option<String>)]
    subscription_id: Option<SubscriptionId>,
    /// The other destination that it goes to.
    #[schema(value_type = Option<String>)]
    destination_id: Option<DestinationId>,
    /// Deliveries made in a second, at most.
    rate: Option<i64>,
    /// Events that it was about when it began.
    total: i64,
    /// Whether all of them were counted; otherwise there are so many or more.
    total_complete: bool,
    /// Events replayed so far.
    events: i64,
    /// Deliveries made of them.
    deliveries: i64,
    /// Of these, how many arrived; this and the next three are counted to 100,000.
    delivered: i64,
    /// How many were given up.
    failed: i64,
    /// How many were cancelled.
    cancelled: i64,
    /// How many wait, are held, or are under way.
    waiting: i64,
    /// When it was asked for.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it last made something or was changed.
    #[schema(format = DateTime)]
    updated_at: String,
    /// When it was done or stopped.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
}

/// Which events a replay is about.
#[derive(Debug, Serialize, ToSchema)]
struct FilterView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    source_id: Option<SourceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    q: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    event_ids: Vec<EventId>,
    /// `all` or `undelivered`.
    only: &'static str,
}

impl ReplayView {
    fn new(row: Replay, counts: ReplayCounts) -> Self {
        let selection = row.selection();
        Self {
            id: row.replay_id.into(),
            state: row.state,
            reason: row.reason,
            filter: FilterView {
                source_id: selection.source_id,
                event_type: selection.event_type,
                status: selection.status,
                received_after: selection.received_after.map(rfc3339),
                received_before: selection.received_before.map(rfc3339),
                q: selection.q,
                event_ids: selection.event_ids,
                only: if selection.undelivered { "undelivered" } else { "all" },
            },
            subscription_id: row.subscription_id.map(SubscriptionId),
            destination_id: row.destination_id.map(DestinationId),
            rate: row.rate,
            total: row.total,
            total_complete: row.total_complete,
            events: row.events,
            deliveries: row.deliveries,
            delivered: counts.delivered,
            failed: counts.failed,
            cancelled: counts.cancelled,
            waiting: counts.waiting,
            created_at: rfc3339(row.created_ms),
            updated_at: rfc3339(row.updated_ms),
            finished_at: row.finished_ms.map(rfc3339),
        }
    }
}

/// A wish that was checked: which events, where to, how fast.
pub(crate) struct Asked {
    pub(crate) selection: Selection,
    pub(crate) target: Target,
    rate: Option<i64>,
}

fn checked_rate(rate: Option<i64>, errors: &mut Vec<FieldError>) -> Option<i64> {
    if rate.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
        errors.push(field("/rate", format!("from 1 to {MAX_RATE} deliveries a second")));
    }
    rate
}

/// The events that a body selects, as far as this can be said without the store.
fn selection(body: &NewReplayBody, errors: &mut Vec<FieldError>) -> Selection {
    let mut time = |pointer, text: &Option<String>| {
        let text = text.as_deref()?;
        let parsed = parse_rfc3339(text);
        if parsed.is_none() {
            errors.push(field(pointer, "write a time as in 2026-01-31T12:00:00Z"));
        }
        parsed
    };
    let received_after = time("/received_after", &body.received_after);
    let received_before = time("/received_before", &body.received_before);
    let status = body.status.as_deref().and_then(DeliveryStatus::from_name);
    if body.status.is_some() && status.is_none() {
        let known = DeliveryStatus::ALL.map(DeliveryStatus::as_str).join(", ");
        errors.push(field("/status", format!("one of {known}")));
    }
    let filter = EventFilter {
        source: body.source_id,
        event_type: body.event_type.clone(),
        status,
        received_after,
        received_before,
        q: body.q.clone(),
    };
    let undelivered = match body.only.as_deref() {
        None | Some("all") => false,
        Some("undelivered") => true,
        Some(_) => {
            errors.push(field("/only", "`all` or `undelivered`"));
            false
        }
    };
    if body.event_ids.len() > MAX_NAMED {
        errors.push(field("/event_ids", format!("at most {MAX_NAMED}; use a filter for more")));
    }
    let selection = if body.event_ids.is_empty() {
        Selection::matching(filter)
    } else {
        if filter != EventFilter::default() {
            errors.push(field("/event_ids", "either these or a filter; leave the other out"));
        }
        Selection::named(body.event_ids.clone())
    };
    if selection.is_everything() && body.subscription_id.is_none() && !body.all && !body.dry_run {
        errors.push(field("/all", "no filter is given: say `true` to replay every event of the workspace"));
    }
    Selection { undelivered, ..selection }
}

/// Checks a wish against what is there.
pub(crate) async fn check(state: &AppState, principal: &Principal, body: &NewReplayBody) -> ApiResult<Asked> {
    let workspace = principal.workspace_id;
    let mut errors = Vec::new();
    let mut selection = selection(body, &mut errors);
    let rate = checked_rate(body.rate, &mut errors);
    let target = match (body.subscription_id, body.destination_id) {
        (Some(_), Some(_)) => {
            errors.push(field("/destination_id", "either a subscription or a destination; leave one out"));
            Target::Subscriptions
        }
        (Some(id), None) => {
            match state.store.subscription(workspace, id).await? {
                None => errors.push(field("/subscription_id", "there is no such subscription in this workspace")),
                Some(found) if selection.source_id.is_some_and(|source| source.0 != found.source_id) => {
                    errors.push(field("/subscription_id", "it takes from another source than `source_id`"));
                }
                Some(found) if selection.event_ids.is_empty() => selection.source_id = Some(found.source_id.into()),
                Some(_) => {}
            }
            Target::Subscription(id)
        }
        (None, Some(id)) => {
            if state.store.destination(workspace, id).await?.is_none() {
                errors.push(field("/destination_id", "there is no such destination in this workspace"));
            }
            Target::Destination(id)
        }
        (None, None) => Target::Subscriptions,
    };
    if errors.is_empty() {
        let missing = state.store.missing_events(workspace, &selection.event_ids).await?;
        if let Some(first) = missing.first() {
            errors.push(field("/event_ids", format!("there is no event {first} in this workspace")));
        }
    }
    if errors.is_empty() { Ok(Asked { selection, target, rate }) } else { Err(ApiError::Validation(errors)) }
}

/// How many events a wish is about.
pub(crate) async fn count(state: &AppState, principal: &Principal, asked: &Asked) -> ApiResult<Matches> {
    let (selection, target) = (&asked.selection, asked.target);
    Ok(state.store.count_replay(principal.workspace_id, selection, target, PATIENCE).await?)
}

/// Begins a replay.
pub(crate) async fn begin(state: &AppState, principal: &Principal, asked: Asked) -> ApiResult<Replay> {
    principal.require(Scope::Write)?;
    let matches = count(state, principal, &asked).await?;
    let Asked { selection, target, rate } = asked;
    let (workspace_id, created_by) = (principal.workspace_id, principal.user_id);
    let new = NewReplay { workspace_id, created_by, selection, target, rate, matches };
    Ok(state.store.create_replay(&new).await?)
}

/// Replays one event at once.
pub(crate) async fn begin_one(
    state: &AppState,
    principal: &Principal,
    event: EventId,
    subscription_id: Option<SubscriptionId>,
    destination_id: Option<DestinationId>,
) -> ApiResult<Replay> {
    principal.require(Scope::Write)?;
    state.store.event(principal.workspace_id, event).await?.ok_or(ApiError::NotFound)?;
    let body = NewReplayBody { event_ids: vec![event], subscription_id, destination_id, ..NewReplayBody::default() };
    let asked = check(state, principal, &body).await?;
    let matches = count(state, principal, &asked).await?;
    if matches.events == 0 {
        return Err(ApiError::conflict(
            "nowhere_to_go",
            "no enabled subscription takes from its source (or the given one takes from another); make or enable one, or name a destination",
        ));
    }
    let Asked { selection, target, rate } = asked;
    let (workspace_id, created_by) = (principal.workspace_id, principal.user_id);
    let new = NewReplay { workspace_id, created_by, selection, target, rate, matches };
    Ok(state.store.replay_at_once(&new).await?)
}

/// Changes a replay. After a stop the first portion of what waits is cancelled at once; workers do the rest.
pub(crate) async fn change(
    state: &AppState,
    principal: &Principal,
    id: ReplayId,
    wish: ReplayWish,
) -> ApiResult<Replay> {
    principal.require(Scope::Write)?;
    match state.store.change_replay(principal.workspace_id, id, wish).await? {
        ReplayChange::Done(replay) => {
            if wish == ReplayWish::Stop {
                state.store.step_replay(id).await?;
            }
            Ok(*replay)
        }
        ReplayChange::NotFound => Err(ApiError::NotFound),
        ReplayChange::Refused { state } => Err(ApiError::conflict(
            "replay_ended",
            format!("it has ended already: {state}; begin another to send the events again"),
        )),
    }
}

async fn view(state: &AppState, replay: Replay) -> ApiResult<ReplayView> {
    let counts = state.store.replay_counts(replay.replay_id.into()).await?;
    Ok(ReplayView::new(replay, counts))
}

/// Lists replays, newest first.
#[utoipa::path(get, path = "/replays", tag = "replays",
    params(("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)), responses(
    (status = 200, description = "A page of replays.", body = Listing<ReplayView>),
    (status = 400, description = "The cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
) -> ApiResult<Json<Listing<ReplayView>>> {
    principal.require(Scope::Read)?;
    let rows = state.store.replays(principal.workspace_id, page.cursor, page.limit + 1).await?;
    let rows = Listing::new(rows, page.limit, |row| row.replay_id);
    let mut data = Vec::with_capacity(rows.data.len());
    for row in rows.data {
        data.push(view(&state, row).await?);
    }
    Ok(Json(Listing { data, next_cursor: rows.next_cursor }))
}

/// Replays events: those named, or all that the filter matches and that are there now, oldest first.
///
/// Each makes a new delivery, with the `webhook-id` that its receiver knows from before: receivers can tell a repeat. Repeats
/// of the sender that were kept back are replayed only if they are named. At most about 1,000 deliveries of a replay wait at a time.
#[utoipa::path(post, path = "/replays", tag = "replays", request_body = NewReplayBody, responses(
    (status = 200, description = "With `dry_run`: how many events it would be about.", body = DryRun),
    (status = 201, description = "The replay, which runs from now on.", body = ReplayView),
    (status = 400, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing (`read` for a dry run).", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    principal: Principal,
    State(state): State<AppState>,
    ApiJson(body): ApiJson<NewReplayBody>,
) -> ApiResult<(StatusCode, Json<Created>)> {
    principal.require(if body.dry_run { Scope::Read } else { Scope::Write })?;
    let asked = check(&state, &principal, &body).await?;
    if body.dry_run {
        let Matches { events, deliveries, complete } = count(&state, &principal, &asked).await?;
        return Ok((StatusCode::OK, Json(Created::DryRun(DryRun { matches: events, deliveries, complete }))));
    }
    let replay = begin(&state, &principal, asked).await?;
    Ok((StatusCode::CREATED, Json(Created::Replay(Box::new(view(&state, replay).await?)))))
}

/// Shows one replay with how far it is.
#[utoipa::path(get, path = "/replays/{id}", tag = "replays", params(("id" = String, Path)), responses(
    (status = 200, description = "The replay.", body = ReplayView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<ReplayId>,
) -> ApiResult<Json<ReplayView>> {
    principal.require(Scope::Read)?;
    let replay = state.store.replay(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    Ok(Json(view(&state, replay).await?))
}

/// Changes the rate of a replay that has not ended.
#[utoipa::path(patch, path = "/replays/{id}", tag = "replays", params(("id" = String, Path)), request_body = ReplayChangeBody, responses(
    (status = 200, description = "The replay as it is now.", body = ReplayView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has ended.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The rate cannot be kept.", body = Problem, content_type = "application/problem+json"),
))]
async fn update(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<ReplayId>,
    ApiJson(body): ApiJson<ReplayChangeBody>,
) -> ApiResult<Json<ReplayView>> {
    let Some(rate) = body.rate else { return read(principal, State(state), PathId(id)).await };
    let mut errors = Vec::new();
    let rate = checked_rate(rate, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let replay = change(&state, &principal, id, ReplayWish::Rate(rate)).await?;
    Ok(Json(view(&state, replay).await?))
}

/// Pauses a replay: it makes no more deliveries. What it made goes on its way.
#[utoipa::path(post, path = "/replays/{id}/pause", tag = "replays", params(("id" = String, Path)), responses(
    (status = 200, description = "The replay as it is now.", body = ReplayView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has ended.", body = Problem, content_type = "application/problem+json"),
))]
async fn pause(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<ReplayId>,
) -> ApiResult<Json<ReplayView>> {
    let replay = change(&state, &principal, id, ReplayWish::Pause).await?;
    Ok(Json(view(&state, replay).await?))
}

/// Goes on with a paused replay.
#[utoipa::path(post, path = "/replays/{id}/resume", tag = "replays", params(("id" = String, Path)), responses(
    (status = 200, description = "The replay as it is now.", body = ReplayView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has ended.", body = Problem, content_type = "application/problem+json"),
))]
async fn resume(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<ReplayId>,
) -> ApiResult<Json<ReplayView>> {
    let replay = change(&state, &principal, id, ReplayWish::Resume).await?;
    Ok(Json(view(&state, replay).await?))
}

/// Stops a replay for good. What it made and has not been sent is cancelled, in portions; it stays on record.
#[utoipa::path(delete, path = "/replays/{id}", tag = "replays", params(("id" = String, Path)), responses(
    (status = 200, description = "The replay as it is now.", body = ReplayView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn remove(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<ReplayId>,
) -> ApiResult<Json<ReplayView>> {
    let replay = change(&state, &principal, id, ReplayWish::Stop).await?;
    Ok(Json(view(&state, replay).await?))
}

/// Replays one event at once, to the enabled subscriptions of its source, to one of them, or to another destination.
///
/// Its receivers see the same `webhook-id` as before.
#[utoipa::path(post, path = "/events/{id}/replay", tag = "events", params(("id" = String, Path)), request_body = ReplayEventBody, responses(
    (status = 201, description = "The replay. Its deliveries are due.", body = ReplayView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has nowhere to go.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn replay_event(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<EventId>,
    ApiJson(body): ApiJson<ReplayEventBody>,
) -> ApiResult<(StatusCode, Json<ReplayView>)> {
    let replay = begin_one(&state, &principal, id, body.subscription_id, body.destination_id).await?;
    Ok((StatusCode::CREATED, Json(view(&state, replay).await?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_replayed_is_said_field_by_field() {
        let id = EventId::new().to_string();
        for (body, pointers) in [
            (serde_json::json!({}), &["/all"][..]),
            (serde_json::json!({"all": true}), &[]),
            (serde_json::json!({"dry_run": true}), &[]),
            (serde_json::json!({"status": "failed", "only": "undelivered"}), &[]),
            (serde_json::json!({"event_ids": [id]}), &[]),
            (serde_json::json!({"event_ids": [id], "q": "x"}), &["/event_ids"]),
            (
                serde_json::json!({"received_after": "noon", "status": "lost", "only": "some"}),
                &["/received_after", "/status", "/only", "/all"],
            ),
        ] {
            let mut errors = Vec::new();
            selection(&serde_json::from_value(body.clone()).unwrap(), &mut errors);
            assert_eq!(errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), pointers, "{body}");
        }
    }
}
