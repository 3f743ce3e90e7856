//! `/rejections`: what was refused and why, and what was probably wrong.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{EventId, RejectionId, SourceId};
use hookyard_shared::store::rejections::RejectionSummary;
use hookyard_shared::store::sources::Source;

use super::event::body::BodyView;
use super::events::{Choice, Moment, OFFERED_SOURCES, address, answer, size, source_choices, source_name};
use super::layout::problem_page;
use crate::api::error::{ApiError, ApiResult};
use crate::api::events::{Filters, header_lines};
use crate::api::extract::{Listing, PageQuery, PageUser, PathId};
use crate::api::rejections::{find_diagnosis, verify_one};
use crate::state::AppState;

/// The routes of these pages.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/rejections", get(list))
        .route("/rejections/{id}", get(one))
        .route("/rejections/{id}/verify", post(verify))
}

#[derive(Template)]
#[template(path = "rejections.html")]
struct RejectionsPage {
    user: Option<String>,
    rows: Vec<RejectionLine>,
    sources: Vec<Choice>,
    filtered: bool,
    older: Option<String>,
    newest: Option<String>,
}

/// A refused request in a table.
pub(super) struct RejectionLine {
    pub(super) id: String,
    pub(super) received: Moment,
    pub(super) source: String,
    pub(super) status: i64,
    pub(super) code: String,
    pub(super) detail: String,
}

impl RejectionLine {
    pub(super) fn new(row: RejectionSummary, sources: &[Source]) -> Self {
        Self {
            id: RejectionId(row.rejection_id).to_string(),
            received: Moment::of(row.received_ms),
            source: source_name(sources, row.source_id.into()),
            status: row.status,
            code: row.code,
            detail: row.detail,
        }
    }
}

#[derive(Template)]
#[template(path = "rejection.html")]
struct RejectionPage {
    user: Option<String>,
    id: String,
    received: Moment,
    source: String,
    source_id: String,
    request: String,
    status: i64,
    code: String,
    detail: String,
    diagnosis: Option<String>,
    event: Option<String>,
    unproved: bool,
    size: String,
    headers: Vec<(String, String)>,
    body: BodyView,
}

async fn list(user: PageUser, State(state): State<AppState>, page: ApiResult<PageQuery>, uri: Uri) -> Response {
    let name = user.name.clone();
    answer(build_list(user, &state, page, &uri).await, name)
}

async fn build_list(
    user: PageUser,
    state: &AppState,
    page: ApiResult<PageQuery>,
    uri: &Uri,
) -> ApiResult<RejectionsPage> {
    user.principal.require(Scope::Read)?;
    let page = page?;
    let workspace = user.principal.workspace_id;
    let filters = Filters::read(uri);
    let (source, code) = (filters.parsed::<SourceId>("source_id")?, filters.text("code"));
    let sources = state.store.sources(workspace, None, OFFERED_SOURCES).await?;
    let rows = state.store.rejections(workspace, source, code, page.cursor, page.limit + 1).await?;
    let listing = Listing::new(rows, page.limit, |row| row.rejection_id).map(|row| RejectionLine::new(row, &sources));
    Ok(RejectionsPage {
        user: Some(user.name),
        rows: listing.data,
        sources: source_choices(&sources, source),
        filtered: source.is_some() || code.is_some(),
        older: listing.next_cursor.map(|cursor| address(uri, Some(&cursor))),
        newest: page.cursor.map(|_| address(uri, None)),
    })
}

async fn one(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<RejectionId>>) -> Response {
    let name = user.name.clone();
    answer(build_one(user, &state, id).await, name)
}

async fn build_one(user: PageUser, state: &AppState, id: ApiResult<PathId<RejectionId>>) -> ApiResult<RejectionPage> {
    let PathId(id) = id?;
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let row = state.store.rejection(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let source = state.store.source(workspace, row.source_id.into()).await?;
    let diagnosis = find_diagnosis(state, workspace, &row).await?;
    let query = row.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(RejectionPage {
        user: Some(user.name),
        id: id.to_string(),
        received: Moment::of(row.received_ms),
        source: source.map_or_else(|| "a source that was removed".to_owned(), |source| source.name),
        source_id: SourceId(row.source_id).to_string(),
        request: format!("{} {}{query}", row.method, row.path),
        status: row.status,
        code: row.code,
        detail: row.detail,
        diagnosis: diagnosis.map(|found| found.words),
        event: row.event_id.map(|event| EventId(event).to_string()),
        unproved: row.status == 401,
        size: size(row.body_bytes),
        headers: header_lines(&row.headers),
        body: BodyView::new(&row.body, row.body_bytes),
    })
}

async fn verify(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<RejectionId>>) -> Response {
    let name = user.name.clone();
    let event = async {
        let PathId(id) = id?;
        user.principal.require(Scope::Write)?;
        verify_one(&state, user.principal.workspace_id, id).await
    };
    match event.await {
        Ok(event) => Redirect::to(&format!("/events/{event}")).into_response(),
        Err(error) => problem_page(error, Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_sent_is_text() {
        let evil = "<script>alert(1)</script>";
        let page = RejectionPage {
            user: None,
            id: "rej_1".into(),
            received: Moment::of(0),
            source: evil.into(),
            source_id: "src_1".into(),
            request: evil.into(),
            status: 401,
            code: "signature_mismatch".into(),
            detail: evil.into(),
            diagnosis: Some(evil.into()),
            event: None,
            unproved: true,
            size: "1 B".into(),
            headers: vec![("x-a".into(), evil.into())],
            body: BodyView::new(evil.as_bytes(), 25),
        };
        let text = page.render().unwrap();
        assert!(!text.contains("<script>alert"), "{text}");
    }
}
