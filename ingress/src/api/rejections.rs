//! `/rejections`: refused requests, with the reason and what was kept of them.

mod again;
mod diagnosis;

pub(crate) use again::{verify_all, verify_one};
pub(crate) use diagnosis::find as find_diagnosis;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{EventId, RejectionId, SourceId};
use hookyard_shared::store::rejections::{RejectionDetail, RejectionSummary};
use hookyard_shared::verify::Diagnosis;
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
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).merge(again::routes())
}

/// A refused request in a list.
#[derive(Debug, Serialize, ToSchema)]
struct RejectionView {
    /// Its id.
    #[schema(value_type = String, example = "rej_01h455vb4pex5vsknk084sn02q")]
    id: RejectionId,
    /// Where it came in.
    #[schema(value_type = String, example = "src_01h455vb4pex5vsknk084sn02q")]
    source_id: SourceId,
    /// When.
    #[schema(format = DateTime)]
    received_at: String,
    /// HTTP method.
    method: String,
    /// The path after the source key.
    path: String,
    /// Length of the whole body.
    body_bytes: i64,
    /// The status of the answer.
    status: i64,
    /// Stable code of the reason.
    #[schema(example = "signature_mismatch")]
    code: String,
    /// The reason in words.
    detail: String,
    /// The event that it became when it was verified again.
    #[schema(value_type = Option<String>)]
    event_id: Option<EventId>,
}

/// A refused request with all that was kept of it.
#[derive(Debug, Serialize, ToSchema)]
struct RejectionDetailView {
    #[serde(flatten)]
    rejection: RejectionView,
    /// The query, credentials masked.
    query: Option<String>,
    /// Header lines in order, credentials masked; bytes that are no text are replaced.
    headers: Vec<(String, String)>,
    /// The beginning of the body; bytes that are no text are replaced.
    body: String,
    /// Whether the body went on.
    body_truncated: bool,
    /// The mistake behind the refusal, where one of the usual ones explains it.
    diagnosis: Option<DiagnosisView>,
}

/// A mistake that explains a refusal.
#[derive(Debug, Serialize, ToSchema)]
struct DiagnosisView {
    /// Stable code: `accepted_now`, `only_late`, `ended_secret`, `altered_secret`, `undecoded_secret`, `altered_body`,
    /// `other_address`, `other_parameters`, `other_provider`.
    #[schema(example = "altered_body")]
    code: &'static str,
    /// What is wrong and what to do.
    detail: String,
}

impl From<Diagnosis> for DiagnosisView {
    fn from(found: Diagnosis) -> Self {
        Self { code: found.code, detail: found.words }
    }
}

impl From<RejectionSummary> for RejectionView {
    fn from(row: RejectionSummary) -> Self {
        Self {
            id: row.rejection_id.into(),
            source_id: row.source_id.into(),
            received_at: rfc3339(row.received_ms),
            method: row.method,
            path: row.path,
            body_bytes: row.body_bytes,
            status: row.status,
            code: row.code,
            detail: row.detail,
            event_id: row.event_id.map(EventId),
        }
    }
}

impl RejectionDetailView {
    fn new(row: RejectionDetail, diagnosis: Option<Diagnosis>) -> Self {
        Self {
            diagnosis: diagnosis.map(DiagnosisView::from),
            body_truncated: i64::try_from(row.body.len()).is_ok_and(|kept| kept < row.body_bytes),
            query: row.query,
            headers: header_lines(&row.headers),
            body: String::from_utf8_lossy(&row.body).into_owned(),
            rejection: RejectionView {
                id: row.rejection_id.into(),
                source_id: row.source_id.into(),
                received_at: rfc3339(row.received_ms),
                method: row.method,
                path: row.path,
                body_bytes: row.body_bytes,
                status: row.status,
                code: row.code,
                detail: row.detail,
                event_id: row.event_id.map(EventId),
            },
        }
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; `Filters` reads it")]
struct RejectionParams {
    /// Of this source.
    source_id: Option<String>,
    /// With this code.
    code: Option<String>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
}

/// Lists refused requests, newest first.
#[utoipa::path(get, path = "/rejections", tag = "rejections", params(RejectionParams), responses(
    (status = 200, description = "A page of refused requests.", body = Listing<RejectionView>),
    (status = 400, description = "A filter, the cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
    uri: Uri,
) -> ApiResult<Json<Listing<RejectionView>>> {
    principal.require(Scope::Read)?;
    let filters = Filters::read(&uri);
    let (source, code) = (filters.parsed("source_id")?, filters.text("code"));
    let rows = state.store.rejections(principal.workspace_id, source, code, page.cursor, page.limit + 1).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.rejection_id).map(RejectionView::from)))
}

/// Shows one refused request.
#[utoipa::path(get, path = "/rejections/{id}", tag = "rejections", params(("id" = String, Path)), responses(
    (status = 200, description = "The refused request.", body = RejectionDetailView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<RejectionId>,
) -> ApiResult<Json<RejectionDetailView>> {
    principal.require(Scope::Read)?;
    let row = state.store.rejection(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    let found = find_diagnosis(&state, principal.workspace_id, &row).await?;
    Ok(Json(RejectionDetailView::new(row, found)))
}
