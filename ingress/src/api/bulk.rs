//! `POST /deliveries/retry` and `/deliveries/cancel`: many deliveries at once, as a filter says.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::parse_rfc3339;
use hookyard_shared::id::{DestinationId, EventId, ReplayId, SourceId, SubscriptionId};
use hookyard_shared::store::bulk::{BulkAction, BulkCount, BulkOutcome};
use hookyard_shared::store::deliveries::{DeliveryFilter, DeliveryStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::field;
use super::error::{ApiError, ApiResult, FieldError, Problem};
use super::extract::{ApiJson, Principal};
use crate::state::AppState;

/// How long a count may take; it then says that there are so many or more.
const PATIENCE: Duration = Duration::from_secs(2);

/// The routes of this file.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(retry_many)).routes(routes!(cancel_many))
}

/// Which deliveries; the filter is that of the list of deliveries.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct BulkBody {
    /// Of this event.
    #[schema(value_type = Option<String>)]
    event_id: Option<EventId>,
    /// Of events of this source.
    #[schema(value_type = Option<String>)]
    source_id: Option<SourceId>,
    /// For this subscription.
    #[schema(value_type = Option<String>)]
    subscription_id: Option<SubscriptionId>,
    /// To this destination.
    #[schema(value_type = Option<String>)]
    destination_id: Option<DestinationId>,
    /// In this state. Unless given: those that were given up (retry), those that wait or are held (cancel).
    #[schema(example = "failed")]
    status: Option<String>,
    /// Only those that were given up and stand before the others of their key.
    parked: bool,
    /// Made by this replay.
    #[schema(value_type = Option<String>)]
    replay_id: Option<ReplayId>,
    /// Made at or after this time.
    #[schema(format = DateTime)]
    created_after: Option<String>,
    /// Made before this time.
    #[schema(format = DateTime)]
    created_before: Option<String>,
    /// `true` says that a request without any filter is meant: everything in the workspace that the action suits.
    all: bool,
    /// `true` counts, and changes nothing.
    dry_run: bool,
}

/// How many deliveries something is about.
#[derive(Debug, Serialize, ToSchema)]
struct BulkMatches {
    /// So many.
    matches: u64,
    /// Whether all were counted. `false`: counting stopped at 100,000 or after two seconds, and there are so many or more.
    complete: bool,
}

/// What was changed.
#[derive(Debug, Serialize, ToSchema)]
struct BulkChanged {
    /// Deliveries that are as wished now.
    changed: u64,
    /// Those that match and were left: one request changes 100,000. Ask again to change them.
    left: u64,
    /// Whether all that were left were counted; otherwise there are so many or more.
    left_complete: bool,
}

/// What was changed, or would be.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum BulkAnswer {
    Matches(BulkMatches),
    Changed(BulkChanged),
}

/// The states that an action suits.
fn suits(action: BulkAction) -> &'static [DeliveryStatus] {
    use DeliveryStatus::{Cancelled, Delivered, Dropped, Failed, Held, Pending};
    match action {
        BulkAction::Retry => &[Failed, Delivered, Cancelled, Dropped, Pending, Held],
        BulkAction::Cancel => &[Pending, Held],
    }
}

/// Refuses a state that an action does not suit.
fn check_status(action: BulkAction, status: Option<DeliveryStatus>, errors: &mut Vec<FieldError>) {
    if status.is_some_and(|status| !suits(action).contains(&status)) {
        let names: Vec<&str> = suits(action).iter().map(|status| status.as_str()).collect();
        errors.push(field("/status", format!("one of {}", names.join(", "))));
    }
}

impl BulkBody {
    fn filter(&self, action: BulkAction) -> ApiResult<DeliveryFilter> {
        let mut errors = Vec::new();
        let mut time = |pointer, text: &Option<String>| {
            let text = text.as_deref()?;
            let parsed = parse_rfc3339(text);
            if parsed.is_none() {
                errors.push(field(pointer, "write a time as in 2026-01-31T12:00:00Z"));
            }
            parsed
        };
        let created_after = time("/created_after", &self.created_after);
        let created_before = time("/created_before", &self.created_before);
        let status = self.status.as_deref().and_then(DeliveryStatus::from_name);
        if self.status.is_some() && status.is_none() {
            errors.push(field("/status", "there is no such state of a delivery"));
        }
        check_status(action, status, &mut errors);
        let filter = DeliveryFilter {
            event: self.event_id,
            source: self.source_id,
            subscription: self.subscription_id,
            destination: self.destination_id,
            status,
            parked: self.parked,
            replay: self.replay_id,
            created_after,
            created_before,
        };
        if errors.is_empty() && filter == DeliveryFilter::default() && !self.all && !self.dry_run {
            errors.push(field("/all", "no filter is given: say `true` if the whole workspace is meant"));
        }
        if errors.is_empty() { Ok(filter) } else { Err(ApiError::Validation(errors)) }
    }
}

/// How many deliveries an action would change.
pub(crate) async fn count_many(
    state: &AppState,
    principal: &Principal,
    action: BulkAction,
    filter: &DeliveryFilter,
) -> ApiResult<BulkCount> {
    principal.require(Scope::Read)?;
    let _turn = state.turns.count().await?;
    Ok(state.store.count_bulk(principal.workspace_id, action, filter, PATIENCE).await?)
}

/// Changes many deliveries, in a task of its own: it goes on when the client hangs up, and its turn with it.
pub(crate) async fn change_many(
    state: &AppState,
    principal: &Principal,
    action: BulkAction,
    filter: DeliveryFilter,
) -> ApiResult<BulkOutcome> {
    principal.require(Scope::Write)?;
    let mut errors = Vec::new();
    check_status(action, filter.status, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let (store, workspace) = (state.store.clone(), principal.workspace_id);
    let turn = state.turns.change(workspace)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let outcome = store.change_deliveries(workspace, action, &filter).await;
        // Before the answer: who has it may ask for the next.
        drop(turn);
        if let Err(Err(error)) = tell.send(outcome) {
            tracing::warn!(error = %error, "many deliveries were being changed when the store failed, and nobody waits for the answer; ask again to change the rest");
        }
    });
    Ok(told.await.map_err(|error| ApiError::Internal(error.into()))??)
}

async fn answer(
    state: &AppState,
    principal: &Principal,
    action: BulkAction,
    body: &BulkBody,
) -> ApiResult<Json<BulkAnswer>> {
    let filter = body.filter(action)?;
    if body.dry_run {
        let BulkCount { matches, complete } = count_many(state, principal, action, &filter).await?;
        return Ok(Json(BulkAnswer::Matches(BulkMatches { matches, complete })));
    }
    let BulkOutcome { changed, left } = change_many(state, principal, action, filter).await?;
    let BulkCount { matches: left, complete: left_complete } = left;
    Ok(Json(BulkAnswer::Changed(BulkChanged { changed, left, left_complete })))
}

/// Makes all deliveries due now that match, with their failures forgotten; those that were given up unless `status` says
/// otherwise. They go out beside what is new, not before it.
///
/// Receivers see the same `webhook-id` again.
#[utoipa::path(post, path = "/deliveries/retry", tag = "deliveries", request_body = BulkBody, responses(
    (status = 200, description = "How many are due now; with `dry_run`, how many would be.", body = BulkAnswer),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing (`read` for a dry run).", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Another change of many deliveries of the workspace is under way.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "As many changes or counts as may be go on already; come again as `Retry-After` says.", body = Problem, content_type = "application/problem+json"),
))]
async fn retry_many(
    principal: Principal,
    State(state): State<AppState>,
    ApiJson(body): ApiJson<BulkBody>,
) -> ApiResult<Json<BulkAnswer>> {
    principal.require(if body.dry_run { Scope::Read } else { Scope::Write })?;
    answer(&state, &principal, BulkAction::Retry, &body).await
}

/// Ends all deliveries that match and wait or are held. What stood behind one in the order of its key goes on.
#[utoipa::path(post, path = "/deliveries/cancel", tag = "deliveries", request_body = BulkBody, responses(
    (status = 200, description = "How many are cancelled; with `dry_run`, how many would be.", body = BulkAnswer),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing (`read` for a dry run).", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Another change of many deliveries of the workspace is under way.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "As many changes or counts as may be go on already; come again as `Retry-After` says.", body = Problem, content_type = "application/problem+json"),
))]
async fn cancel_many(
    principal: Principal,
    State(state): State<AppState>,
    ApiJson(body): ApiJson<BulkBody>,
) -> ApiResult<Json<BulkAnswer>> {
    principal.require(if body.dry_run { Scope::Read } else { Scope::Write })?;
    answer(&state, &principal, BulkAction::Cancel, &body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_filter_or_with_an_unfit_state_is_refused() {
        for (action, body, pointer) in [
            (BulkAction::Cancel, serde_json::json!({}), Some("/all")),
            (BulkAction::Cancel, serde_json::json!({"all": true}), None),
            (BulkAction::Cancel, serde_json::json!({"dry_run": true}), None),
            (BulkAction::Cancel, serde_json::json!({"status": "held"}), None),
            (BulkAction::Cancel, serde_json::json!({"status": "delivered"}), Some("/status")),
            (BulkAction::Retry, serde_json::json!({"status": "delivered"}), None),
            (BulkAction::Retry, serde_json::json!({"status": "leased"}), Some("/status")),
            (BulkAction::Retry, serde_json::json!({"parked": true}), None),
            (BulkAction::Retry, serde_json::json!({"created_before": "noon"}), Some("/created_before")),
        ] {
            let parsed: BulkBody = serde_json::from_value(body.clone()).unwrap();
            let found = match parsed.filter(action) {
                Err(ApiError::Validation(errors)) => Some(errors[0].pointer.clone()),
                Err(other) => panic!("{other:?}"),
                Ok(_) => None,
            };
            assert_eq!(found.as_deref(), pointer, "{action:?} {body}");
        }
    }
}
