//! `/replays`: events that are sent again, one, many, or all that a filter matches; at a rate, with progress and a stop.

mod body;
mod view;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{DestinationId, EventId, ReplayId, SubscriptionId};
use hookyard_shared::store::replays::{
    MAX_OPEN, Matches, NewReplay, Replay, ReplayChange, ReplayWish, Selection, Target,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::field;
use super::error::{ApiError, ApiResult, Problem};
use super::extract::{ApiJson, Listing, PageQuery, PathId, Principal, present};
use crate::state::AppState;
pub(crate) use body::NewReplayBody;
use body::{checked_rate, selection};
use view::ReplayView;

/// How long a count may take; it then says that there are so many or more.
const PATIENCE: Duration = Duration::from_secs(2);

/// The routes of this resource.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(replay_event))
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

/// A wish that was checked: which events, where to, how fast.
pub(crate) struct Asked {
    pub(crate) selection: Selection,
    pub(crate) target: Target,
    rate: Option<i64>,
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
    let _turn = state.turns.count().await?;
    count_now(state, principal, asked).await
}

async fn count_now(state: &AppState, principal: &Principal, asked: &Asked) -> ApiResult<Matches> {
    let (selection, target) = (&asked.selection, asked.target);
    Ok(state.store.count_replay(principal.workspace_id, selection, target, PATIENCE).await?)
}

/// What a workspace is told that has as many open replays as it may.
fn too_many() -> ApiError {
    ApiError::conflict(
        "too_many_replays",
        format!(
            "{MAX_OPEN} replays are running or paused already; wait until one is done, or stop one. Many events can be named in one replay"
        ),
    )
}

/// Begins a replay.
pub(crate) async fn begin(state: &AppState, principal: &Principal, asked: Asked) -> ApiResult<Replay> {
    principal.require(Scope::Write)?;
    // Counting takes long; who may not begin another does not have it done.
    if state.store.has_all_replays_open(principal.workspace_id).await? {
        return Err(too_many());
    }
    let matches = count(state, principal, &asked).await?;
    let Asked { selection, target, rate } = asked;
    let (workspace_id, created_by) = (principal.workspace_id, principal.user_id);
    let new = NewReplay { workspace_id, created_by, selection, target, rate, matches };
    state.store.create_replay(&new).await?.ok_or_else(too_many)
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
    // One event is counted in no time, and does not wait behind those who count many.
    let matches = count_now(state, principal, &asked).await?;
    if matches.events == 0 {
        return Err(ApiError::conflict(
            "nowhere_to_go",
            "no enabled subscription takes from its source (or the given one takes from another); make or enable one, or name a destination",
        ));
    }
    let Asked { selection, target, rate } = asked;
    let (workspace_id, created_by) = (principal.workspace_id, principal.user_id);
    let new = NewReplay { workspace_id, created_by, selection, target, rate, matches };
    state.store.replay_at_once(&new).await?.ok_or_else(too_many)
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
    Ok(ReplayView::new(replay, Some(counts)))
}

/// Lists replays, newest first; without how many deliveries are in which state, which is on each of them.
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
    // Up to 200 replays with 100,000 deliveries each: to count these takes longer than a list may.
    Ok(Json(Listing::new(rows, page.limit, |row| row.replay_id).map(|row| ReplayView::new(row, None))))
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
    (status = 409, description = "20 replays of the workspace are running or paused.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "As many counts as may be go on already; come again as `Retry-After` says.", body = Problem, content_type = "application/problem+json"),
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
    (status = 409, description = "It has nowhere to go, or 20 replays of the workspace are running or paused.", body = Problem, content_type = "application/problem+json"),
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
