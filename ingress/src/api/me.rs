//! The user's own account and sessions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Response};
use hookyard_shared::auth::{Email, Username};
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{SessionId, UserId, WorkspaceId};
use hookyard_shared::store::sessions::Session;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{check_new_password, confirm_password, open};
use super::error::{ApiError, ApiResult, FieldError};
use super::extract::{ApiJson, Listing, PageQuery, PathId, Principal};
use super::protect::{Client, set_session_cookie};
use crate::state::AppState;

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_me, patch_me))
        .routes(routes!(list_sessions, end_other_sessions))
        .routes(routes!(end_one_session))
}

/// A user, and the workspace that requests are about.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// Who it is.
    #[schema(example = "usr_01h455vb4pex5vsknk084sn02q")]
    pub id: String,
    /// As the user wrote it.
    pub email: String,
    /// As the user wrote it.
    pub username: String,
    /// When the account was made.
    pub created_at: String,
    /// The workspace that this request is about.
    pub workspace: WorkspaceView,
    /// Every workspace that the user belongs to; name another one in the header `Hookyard-Workspace`.
    pub workspaces: Vec<WorkspaceView>,
}

/// A workspace as a member sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WorkspaceView {
    /// Which one.
    #[schema(example = "wsp_01h455vb4pex5vsknk084sn02q")]
    pub id: String,
    /// What it is called.
    pub name: String,
    /// The user's part in it: owner, admin, member or viewer.
    pub role: String,
}

/// What to change about the account; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MePatch {
    /// Another address. Needs `current_password`.
    #[serde(default)]
    email: Option<String>,
    /// Another name.
    #[serde(default)]
    username: Option<String>,
    /// Another password. Needs `current_password`.
    #[serde(default)]
    #[schema(format = "password")]
    password: Option<String>,
    /// The password until now.
    #[serde(default)]
    #[schema(format = "password")]
    current_password: Option<String>,
    /// Ends every session but this one.
    #[serde(default)]
    end_other_sessions: bool,
}

/// A log-in of a browser.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// Which one.
    #[schema(example = "ses_01h455vb4pex5vsknk084sn02q")]
    id: String,
    /// What the browser called itself.
    user_agent: String,
    /// When the user logged in.
    created_at: String,
    /// To the minute.
    last_used_at: String,
    /// When it ends even if it is used.
    expires_at: String,
    /// Whether it is the one that asks.
    current: bool,
}

/// The account as the API shows it.
pub(crate) async fn describe(state: &AppState, user: UserId, workspace: WorkspaceId) -> ApiResult<Me> {
    let user = state.store.user(user).await?.ok_or(ApiError::Unauthorized)?;
    let memberships = state.store.memberships(user.user_id).await?;
    let view = |m: &hookyard_shared::store::users::Membership| WorkspaceView {
        id: m.workspace_id.to_string(),
        name: m.name.clone(),
        role: m.role.to_string(),
    };
    let current = memberships.iter().find(|m| m.workspace_id == workspace).ok_or(ApiError::NotFound)?;
    Ok(Me {
        id: user.user_id.to_string(),
        email: user.email,
        username: user.username,
        created_at: rfc3339(user.created_ms),
        workspace: view(current),
        workspaces: memberships.iter().map(view).collect(),
    })
}

/// Who asks, and for which workspace.
#[utoipa::path(get, path = "/me", tag = "me", responses((status = 200, body = Me)))]
async fn get_me(State(state): State<AppState>, principal: Principal) -> ApiResult<Json<Me>> {
    describe(&state, principal.user_id, principal.workspace_id).await.map(Json)
}

/// Changes the account. Another password gives this browser a new session.
#[utoipa::path(patch, path = "/me", tag = "me", request_body = MePatch, responses((status = 200, body = Me)))]
async fn patch_me(
    State(state): State<AppState>,
    principal: Principal,
    client: Client,
    ApiJson(patch): ApiJson<MePatch>,
) -> ApiResult<Response> {
    let session = principal.require_session()?;
    let user = state.store.user(principal.user_id).await?.ok_or(ApiError::Unauthorized)?;
    let (email, username) = (
        Email::parse(patch.email.as_deref().unwrap_or(&user.email)),
        Username::parse(patch.username.as_deref().unwrap_or(&user.username)),
    );
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    if email.is_none() {
        wrong("/email", "write an e-mail address, such as ada@example.com".to_owned());
    }
    if username.is_none() {
        wrong("/username", "use 3 to 40 letters, digits, `.`, `_` or `-`".to_owned());
    }
    if let Some(password) = &patch.password
        && let Err(weak) = check_new_password(password, email.as_ref(), username.as_ref())
    {
        wrong("/password", weak.to_string());
    }
    let needs_password = patch.password.is_some() || patch.email.as_ref().is_some_and(|email| *email != user.email);
    if needs_password && patch.current_password.is_none() {
        wrong("/current_password", "write your current password to change this".to_owned());
    }
    let (Some(email), Some(username), true) = (email, username, errors.is_empty()) else {
        return Err(ApiError::Validation(errors));
    };
    if needs_password {
        confirm_password(&state, &user, patch.current_password.as_deref().unwrap_or_default()).await?;
    }
    if !state.store.rename_user(user.user_id, &email, &username).await? {
        return Err(ApiError::conflict("account_exists", "that e-mail address or user name cannot be used"));
    }
    if patch.end_other_sessions {
        state.store.end_sessions(user.user_id, Some(session)).await?;
    }
    let mut cookie = None;
    if let Some(password) = &patch.password {
        let hash = state.hasher.hash(password).await?;
        state.store.set_password(user.user_id, &hash).await?;
        cookie = Some(open(&state, &client, user.user_id, principal.workspace_id).await?.cookie);
    }
    let mut response = Json(describe(&state, user.user_id, principal.workspace_id).await?).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// The user's sessions, newest first.
#[utoipa::path(get, path = "/me/sessions", tag = "me",
    params(("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Listing<SessionView>)))]
async fn list_sessions(
    State(state): State<AppState>,
    principal: Principal,
    page: PageQuery,
) -> ApiResult<Listing<SessionView>> {
    let current = principal.require_session()?;
    let rows = state.store.sessions(principal.user_id, page.cursor, page.limit + 1).await?;
    Ok(Listing::new(rows, page.limit, |row| row.session_id.0).map(|row| view(&row, current)))
}

fn view(row: &Session, current: SessionId) -> SessionView {
    SessionView {
        id: row.session_id.to_string(),
        user_agent: row.user_agent.clone(),
        created_at: rfc3339(row.created_ms),
        last_used_at: rfc3339(row.last_used_ms),
        expires_at: rfc3339(row.expires_ms),
        current: row.session_id == current,
    }
}

/// Ends every session but the one that asks.
#[utoipa::path(delete, path = "/me/sessions", tag = "me", responses((status = 204, description = "They are over")))]
async fn end_other_sessions(State(state): State<AppState>, principal: Principal) -> ApiResult<StatusCode> {
    let current = principal.require_session()?;
    state.store.end_sessions(principal.user_id, Some(current)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends one session.
#[utoipa::path(delete, path = "/me/sessions/{id}", tag = "me", params(("id" = String, Path)),
    responses((status = 204, description = "It is over")))]
async fn end_one_session(
    State(state): State<AppState>,
    principal: Principal,
    PathId(id): PathId<SessionId>,
) -> ApiResult<Response> {
    let current = principal.require_session()?;
    if !state.store.end_session(principal.user_id, id).await? {
        return Err(ApiError::NotFound);
    }
    if id == current {
        return Ok(
            (StatusCode::NO_CONTENT, [(SET_COOKIE, set_session_cookie(None, &state.public_url))]).into_response()
        );
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
