//! `/sources/{id}/handshakes`: what senders asked besides sending events, and how it was answered.

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{HandshakeId, SourceId};
use hookyard_shared::store::handshakes::HandshakeRow;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::error::{ApiError, ApiResult, Problem};
use super::super::extract::{Listing, PageQuery, PathId, Principal};
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// An answered handshake.
#[derive(Debug, Serialize, ToSchema)]
struct HandshakeView {
    /// Its id.
    #[schema(value_type = String, example = "hsk_01h455vb4pex5vsknk084sn02q")]
    id: HandshakeId,
    /// When it came.
    #[schema(format = DateTime)]
    received_at: String,
    /// HTTP method.
    method: String,
    /// The status of the answer.
    status: i64,
    /// What was done.
    #[schema(example = "challenge given back")]
    detail: String,
}

impl From<HandshakeRow> for HandshakeView {
    fn from(row: HandshakeRow) -> Self {
        Self {
            id: row.handshake_id.into(),
            received_at: rfc3339(row.received_ms),
            method: row.method,
            status: row.status,
            detail: row.detail,
        }
    }
}

/// Lists the answered handshakes of a source, newest first; the newest hundred are kept. Refused ones are rejections.
#[utoipa::path(get, path = "/sources/{id}/handshakes", tag = "sources",
    params(("id" = String, Path), ("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)), responses(
    (status = 200, description = "A page of handshakes.", body = Listing<HandshakeView>),
    (status = 400, description = "The cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such source.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
    page: PageQuery,
) -> ApiResult<Json<Listing<HandshakeView>>> {
    principal.require(Scope::Read)?;
    let workspace = principal.workspace_id;
    state.store.source(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let rows = state.store.handshakes(workspace, id, page.cursor, page.limit + 1).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.handshake_id).map(HandshakeView::from)))
}
