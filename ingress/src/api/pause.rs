//! Pausing what is on the way of deliveries: a source, a subscription or a destination. What comes in is kept and held; when
//! it is resumed, what was held goes out at once or at a rate.

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{DestinationId, SourceId, SubscriptionId};
use hookyard_shared::store::deliveries::DeliveryFilter;
use hookyard_shared::store::relay::{Breaker, BreakerChange, BreakerState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::changed_meanwhile;
use super::error::{ApiError, ApiResult, Problem};
use super::extract::{IfMatch, PathId, Principal};
use super::policy::Resume;
use crate::state::AppState;

/// Held and parked deliveries are counted up to this.
pub(crate) const COUNTED: i64 = 100_000;
/// Changes of a breaker that are shown.
const SHOWN_CHANGES: i64 = 20;

/// The routes of this file.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(pause_source))
        .routes(routes!(resume_source))
        .routes(routes!(source_state))
        .routes(routes!(pause_subscription))
        .routes(routes!(resume_subscription))
        .routes(routes!(subscription_state))
        .routes(routes!(pause_destination))
        .routes(routes!(destination_state))
        .routes(routes!(close_breaker))
}

/// How deliveries stand at a source, a subscription or a destination.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FlowState {
    /// Whether it is paused (a destination: disabled).
    pub(crate) paused: bool,
    /// Deliveries that are held because something on their way is paused; counted to 100,000.
    pub(crate) held: i64,
    /// At which rate a second what was held goes out since it was resumed; null for at once.
    pub(crate) release_rate: Option<i64>,
    /// Who disabled a destination: `person`, `gone` (it answered 410) or `receiver` (it asked for it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disabled_by: Option<String>,
    /// Deliveries of a subscription that were given up and stand before the others of their key; counted to 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parked: Option<usize>,
    /// The circuit breaker of a destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<BreakerView>,
}

/// A circuit breaker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BreakerView {
    /// `closed`, `open` (nothing is sent) or `half_open` (one delivery is tried).
    #[schema(example = "closed")]
    pub(crate) state: String,
    /// Why it is not closed.
    pub(crate) reason: Option<String>,
    /// How often it opened in a row.
    pub(crate) trips: i64,
    /// When the receiver is tried next.
    #[schema(format = DateTime)]
    pub(crate) next_try_at: Option<String>,
    /// What it did, newest first.
    pub(crate) changes: Vec<BreakerChangeView>,
}

/// One change of a circuit breaker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BreakerChangeView {
    /// When.
    #[schema(format = DateTime)]
    pub(crate) at: String,
    /// Its state from then on.
    pub(crate) state: String,
    /// Why.
    pub(crate) reason: String,
}

impl BreakerView {
    fn of(breaker: Option<Breaker>, changes: Vec<BreakerChange>) -> Self {
        let open = breaker.filter(|breaker| breaker.state().is_some());
        let waits = open.as_ref().filter(|breaker| breaker.state() == Some(BreakerState::Open));
        Self {
            next_try_at: waits.map(|breaker| rfc3339(breaker.probe_ms)),
            trips: open.as_ref().map_or(0, |breaker| breaker.trips),
            state: open.as_ref().map_or_else(|| "closed".to_owned(), |breaker| breaker.state.clone()),
            reason: open.map(|breaker| breaker.reason),
            changes: changes
                .into_iter()
                .map(|change| BreakerChangeView {
                    at: rfc3339(change.at_ms),
                    state: change.state,
                    reason: change.reason,
                })
                .collect(),
        }
    }
}

/// What was released.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Released {
    /// Held deliveries that are due now, or at their turn of the rate.
    pub(crate) released: u64,
}

/// What is on the way of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// All that comes from a source.
    Source(SourceId),
    /// All of a subscription.
    Subscription(SubscriptionId),
    /// All that goes to a destination.
    Destination(DestinationId),
}

impl Way {
    fn parts(self) -> (Option<SourceId>, Option<SubscriptionId>, Option<DestinationId>) {
        match self {
            Self::Source(id) => (Some(id), None, None),
            Self::Subscription(id) => (None, Some(id), None),
            Self::Destination(id) => (None, None, Some(id)),
        }
    }
}

/// Releases what was held, in a task of its own: it goes on when the client hangs up.
///
/// A worker whose catalog is old holds more for a moment, so it is looked for again when every catalog must know.
pub(crate) async fn release(state: &AppState, way: Way) -> ApiResult<u64> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let (source, subscription, destination) = way.parts();
    let store = state.store.clone();
    state.turns.look_again(way, move || {
        let store = store.clone();
        async move {
            if let Err(error) = store.release_held(source, subscription, destination).await {
                tracing::warn!(way = ?way, error = %error, "late held deliveries were not released at once; a worker does it within seconds");
            }
        }
    });
    let store = state.store.clone();
    tokio::spawn(async move {
        // Nobody listening only means that the client hung up.
        tell.send(store.release_held(source, subscription, destination).await).ok();
    });
    Ok(told.await.map_err(|error| ApiError::Internal(error.into()))??)
}

async fn held(state: &AppState, way: Way) -> ApiResult<i64> {
    let (source, subscription, destination) = way.parts();
    Ok(state.store.count_held(source, subscription, destination, COUNTED).await?)
}

/// Pauses or resumes a source.
pub(crate) async fn set_source_paused(
    state: &AppState,
    principal: &Principal,
    id: SourceId,
    paused: bool,
    rate: Option<i64>,
) -> ApiResult<u64> {
    principal.require(Scope::Write)?;
    let mut source = state.store.source(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    (source.paused, source.release_rate) = (paused, rate);
    state.store.update_source(&source).await?.ok_or_else(|| changed_meanwhile(IfMatch(None)))?;
    if paused { Ok(0) } else { release(state, Way::Source(id)).await }
}

/// Pauses or resumes a subscription.
pub(crate) async fn set_subscription_paused(
    state: &AppState,
    principal: &Principal,
    id: SubscriptionId,
    paused: bool,
    rate: Option<i64>,
) -> ApiResult<u64> {
    principal.require(Scope::Write)?;
    let mut subscription = state.store.subscription(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    (subscription.paused, subscription.release_rate) = (paused, rate);
    let saved = state.store.update_subscription(&subscription, false, principal.user_id).await?;
    saved.ok_or_else(|| changed_meanwhile(IfMatch(None)))?;
    if paused { Ok(0) } else { release(state, Way::Subscription(id)).await }
}

/// Disables or enables a destination.
pub(crate) async fn set_destination_paused(
    state: &AppState,
    principal: &Principal,
    id: DestinationId,
    paused: bool,
    rate: Option<i64>,
) -> ApiResult<u64> {
    principal.require(Scope::Write)?;
    let mut destination = state.store.destination(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    destination.enabled = !paused;
    destination.disabled_by = paused.then(|| "person".to_owned());
    destination.release_rate = rate;
    let saved = state.store.update_destination(&destination).await?;
    saved.ok_or_else(|| changed_meanwhile(IfMatch(None)))?;
    if paused { Ok(0) } else { release(state, Way::Destination(id)).await }
}

/// How deliveries stand at a subscription.
pub(crate) async fn state_of_subscription(
    state: &AppState,
    principal: &Principal,
    id: SubscriptionId,
) -> ApiResult<FlowState> {
    principal.require(Scope::Read)?;
    let subscription = state.store.subscription(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    let filter = DeliveryFilter { subscription: Some(id), parked: true, ..DeliveryFilter::default() };
    let parked = state.store.deliveries(principal.workspace_id, &filter, None, 200).await?.len();
    Ok(FlowState {
        paused: subscription.paused,
        held: held(state, Way::Subscription(id)).await?,
        release_rate: subscription.release_rate,
        disabled_by: None,
        parked: Some(parked),
        breaker: None,
    })
}

/// How deliveries stand at a destination.
pub(crate) async fn state_of_destination(
    state: &AppState,
    principal: &Principal,
    id: DestinationId,
) -> ApiResult<FlowState> {
    principal.require(Scope::Read)?;
    let destination = state.store.destination(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    let breaker = state.store.breaker(id).await?;
    let changes = state.store.breaker_changes(principal.workspace_id, id, SHOWN_CHANGES).await?;
    Ok(FlowState {
        paused: !destination.enabled,
        held: held(state, Way::Destination(id)).await?,
        release_rate: destination.release_rate,
        disabled_by: destination.disabled_by,
        parked: None,
        breaker: Some(BreakerView::of(breaker, changes)),
    })
}

/// How deliveries stand at a source.
pub(crate) async fn state_of_source(state: &AppState, principal: &Principal, id: SourceId) -> ApiResult<FlowState> {
    principal.require(Scope::Read)?;
    let source = state.store.source(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    Ok(FlowState {
        paused: source.paused,
        held: held(state, Way::Source(id)).await?,
        release_rate: source.release_rate,
        disabled_by: None,
        parked: None,
        breaker: None,
    })
}

/// Closes a breaker by hand.
pub(crate) async fn close(state: &AppState, principal: &Principal, id: DestinationId) -> ApiResult<()> {
    principal.require(Scope::Write)?;
    state.store.destination(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    state.store.close_breaker(principal.workspace_id, id, "closed by hand").await?;
    Ok(())
}

/// Pauses a source: what it takes is kept, and its deliveries are held.
#[utoipa::path(post, path = "/sources/{id}/pause", tag = "sources", params(("id" = String, Path)), responses(
    (status = 200, description = "How deliveries stand there.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
))]
async fn pause_source(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
) -> ApiResult<Json<FlowState>> {
    set_source_paused(&state, &principal, id, true, None).await?;
    Ok(Json(state_of_source(&state, &principal, id).await?))
}

/// Resumes a source; what was held goes out, at once or at a rate.
#[utoipa::path(post, path = "/sources/{id}/resume", tag = "sources", params(("id" = String, Path)),
    request_body = Option<Resume>, responses(
    (status = 200, description = "How much was released.", body = Released),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The rate cannot be kept.", body = Problem, content_type = "application/problem+json"),
))]
async fn resume_source(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
    resume: Resume,
) -> ApiResult<Json<Released>> {
    let released = set_source_paused(&state, &principal, id, false, resume.checked()?).await?;
    Ok(Json(Released { released }))
}

/// Shows how deliveries stand at a source: held ones.
#[utoipa::path(get, path = "/sources/{id}/state", tag = "sources", params(("id" = String, Path)), responses(
    (status = 200, description = "How they stand.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn source_state(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
) -> ApiResult<Json<FlowState>> {
    Ok(Json(state_of_source(&state, &principal, id).await?))
}

/// Pauses a subscription: its deliveries are made and held.
#[utoipa::path(post, path = "/subscriptions/{id}/pause", tag = "subscriptions", params(("id" = String, Path)), responses(
    (status = 200, description = "How deliveries stand there.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
))]
async fn pause_subscription(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SubscriptionId>,
) -> ApiResult<Json<FlowState>> {
    set_subscription_paused(&state, &principal, id, true, None).await?;
    Ok(Json(state_of_subscription(&state, &principal, id).await?))
}

/// Resumes a subscription; what was held goes out, at once or at a rate.
#[utoipa::path(post, path = "/subscriptions/{id}/resume", tag = "subscriptions", params(("id" = String, Path)),
    request_body = Option<Resume>, responses(
    (status = 200, description = "How much was released.", body = Released),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The rate cannot be kept.", body = Problem, content_type = "application/problem+json"),
))]
async fn resume_subscription(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SubscriptionId>,
    resume: Resume,
) -> ApiResult<Json<Released>> {
    let released = set_subscription_paused(&state, &principal, id, false, resume.checked()?).await?;
    Ok(Json(Released { released }))
}

/// Shows how deliveries stand at a subscription: held and parked ones.
#[utoipa::path(get, path = "/subscriptions/{id}/state", tag = "subscriptions", params(("id" = String, Path)), responses(
    (status = 200, description = "How they stand.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn subscription_state(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SubscriptionId>,
) -> ApiResult<Json<FlowState>> {
    Ok(Json(state_of_subscription(&state, &principal, id).await?))
}

/// Disables a destination: what comes for it is held.
#[utoipa::path(post, path = "/destinations/{id}/pause", tag = "destinations", params(("id" = String, Path)), responses(
    (status = 200, description = "How deliveries stand there.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
))]
async fn pause_destination(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
) -> ApiResult<Json<FlowState>> {
    set_destination_paused(&state, &principal, id, true, None).await?;
    Ok(Json(state_of_destination(&state, &principal, id).await?))
}

/// Shows how deliveries stand at a destination: held ones, and its circuit breaker.
#[utoipa::path(get, path = "/destinations/{id}/state", tag = "destinations", params(("id" = String, Path)), responses(
    (status = 200, description = "How they stand.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn destination_state(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
) -> ApiResult<Json<FlowState>> {
    Ok(Json(state_of_destination(&state, &principal, id).await?))
}

/// Closes the circuit breaker of a destination: deliveries go out again, slowly at first.
#[utoipa::path(post, path = "/destinations/{id}/breaker/close", tag = "destinations", params(("id" = String, Path)), responses(
    (status = 200, description = "How deliveries stand there.", body = FlowState),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn close_breaker(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
) -> ApiResult<Json<FlowState>> {
    close(&state, &principal, id).await?;
    Ok(Json(state_of_destination(&state, &principal, id).await?))
}
