//! Verifying refused requests again, after the secret or the scheme of their source was put right.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::catalog::Source;
use hookyard_shared::id::{EventId, RejectionId, SourceId, WorkspaceId};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::error::{ApiError, ApiResult, Problem};
use super::super::extract::{PathId, Principal};
use crate::receive::{RefusedAgain, receive_again};
use crate::state::AppState;

/// Read together.
const PORTION: i64 = 50;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(one)).routes(routes!(all))
}

/// What became of a request that was verified again.
#[derive(Debug, Serialize, ToSchema)]
struct VerifiedAgain {
    /// The event that it became.
    #[schema(value_type = String, example = "evt_01h455vb4pex5vsknk084sn02q")]
    event_id: EventId,
}

/// What became of all refused requests of a source.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct AllVerifiedAgain {
    /// How many became events.
    pub(crate) accepted: u64,
    /// How many are refused still.
    pub(crate) refused: u64,
    /// Why, of the last of those.
    pub(crate) last_reason: Option<String>,
}

/// Verifies a refused request again, by the source as it is now and the time at which the request came. If it passes it
/// becomes an event and is delivered like any other; asked for twice, it is still one event.
#[utoipa::path(post, path = "/rejections/{id}/verify", tag = "rejections", params(("id" = String, Path)), responses(
    (status = 200, description = "It is an event now.", body = VerifiedAgain),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id, or its source was removed.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is refused still; the reason is in the answer.", body = Problem, content_type = "application/problem+json"),
))]
async fn one(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<RejectionId>,
) -> ApiResult<Json<VerifiedAgain>> {
    principal.require(Scope::Write)?;
    Ok(Json(VerifiedAgain { event_id: verify_one(&state, principal.workspace_id, id).await? }))
}

/// Verifies one refused request again.
pub(crate) async fn verify_one(state: &AppState, workspace: WorkspaceId, id: RejectionId) -> ApiResult<EventId> {
    let row = state.store.rejection(workspace, id).await?.ok_or(ApiError::NotFound)?;
    if let Some(event) = row.event_id {
        return Ok(event.into());
    }
    if row.status != 401 {
        let words = "only requests that were refused because they proved nothing (401) can be verified again";
        return Err(ApiError::conflict("not_unproved", words));
    }
    let source = source_now(state, row.source_id.into()).await.ok_or(ApiError::NotFound)?;
    let accepted = receive_again(state, &source, &row).await;
    let event = accepted.map_err(|RefusedAgain { code, detail, .. }| ApiError::conflict(code, detail))?;
    state.store.note_accepted_again(id, event).await?;
    Ok(event)
}

/// Verifies all refused requests of a source again, in the order in which they came.
#[utoipa::path(post, path = "/sources/{id}/verify-rejections", tag = "rejections", params(("id" = String, Path)), responses(
    (status = 200, description = "How many became events.", body = AllVerifiedAgain),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such source.", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Events cannot be made durable right now; what was verified until then is in the queue.", body = Problem, content_type = "application/problem+json"),
))]
async fn all(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
) -> ApiResult<Json<AllVerifiedAgain>> {
    principal.require(Scope::Write)?;
    Ok(Json(verify_all(&state, principal.workspace_id, id).await?))
}

/// Verifies all refused requests of a source again.
pub(crate) async fn verify_all(state: &AppState, workspace: WorkspaceId, id: SourceId) -> ApiResult<AllVerifiedAgain> {
    state.store.source(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let source = source_now(state, id).await.ok_or(ApiError::NotFound)?;
    let mut outcome = AllVerifiedAgain::default();
    let mut after = Uuid::nil();
    loop {
        let rows = state.store.unproved_rejections(workspace, id, after, PORTION).await?;
        let Some(last) = rows.last() else { return Ok(outcome) };
        after = last.rejection_id;
        for row in &rows {
            match receive_again(state, &source, row).await {
                Ok(event) => {
                    state.store.note_accepted_again(row.rejection_id.into(), event).await?;
                    outcome.accepted += 1;
                }
                Err(RefusedAgain { detail, temporary: true, .. }) => {
                    return Err(ApiError::Unavailable { source: anyhow::anyhow!(detail) });
                }
                Err(refused) => {
                    outcome.refused += 1;
                    outcome.last_reason = Some(refused.detail);
                }
            }
        }
    }
}

/// The source as it is now, the changes made here included.
async fn source_now(state: &AppState, id: SourceId) -> Option<Arc<Source>> {
    state.catalog.catch_up().await;
    state.catalog.snapshot().source(id).cloned()
}
