//! Who asks: by API key or by session, for which workspace, and what they may do there.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use hookyard_shared::auth::{ApiKey, Role, Scope, Scopes, SessionToken};
use hookyard_shared::id::{ApiKeyId, SessionId, UserId, WorkspaceId};

use super::error::{ApiError, ApiResult};
use super::protect::session_cookie;
use crate::pages::layout::problem_page;
use crate::state::AppState;

/// The header that names another workspace than the session's own.
pub const WORKSPACE_HEADER: &str = "hookyard-workspace";

/// Who asks, for which workspace, and what they may do there.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The user; for a key, who made it.
    pub user_id: UserId,
    /// The workspace that the request is about.
    pub workspace_id: WorkspaceId,
    /// The user's role in it.
    pub role: Role,
    /// What the request may do.
    pub scopes: Scopes,
    /// Set when a browser asks.
    pub session: Option<SessionId>,
    /// Set when a program asks.
    pub api_key: Option<ApiKeyId>,
}

impl Principal {
    /// Refuses the request unless it may do this.
    ///
    /// # Errors
    /// 403 `missing_scope`.
    pub fn require(&self, scope: Scope) -> ApiResult<()> {
        if self.scopes.allows(scope) {
            return Ok(());
        }
        Err(ApiError::forbidden("missing_scope", format!("this needs the scope `{scope}`")))
    }

    /// Refuses keys: some things only a person at a browser may do.
    ///
    /// # Errors
    /// 403 `session_required`.
    pub fn require_session(&self) -> ApiResult<SessionId> {
        self.session
            .ok_or_else(|| ApiError::forbidden("session_required", "this needs a log-in; API keys cannot do it"))
    }

    /// Finds out who asks by the headers alone. A request with `Authorization` is judged by it and never by its cookie.
    pub(crate) async fn resolve(headers: &HeaderMap, state: &AppState) -> ApiResult<Self> {
        match headers.get(AUTHORIZATION) {
            Some(value) => Self::by_key(value, headers, state).await,
            None => Self::by_session(headers, state).await,
        }
    }

    async fn by_key(value: &HeaderValue, headers: &HeaderMap, state: &AppState) -> ApiResult<Self> {
        // A wrong checksum is refused here, before the store is asked.
        let key = value.to_str().ok().and_then(bearer).and_then(ApiKey::parse).ok_or(ApiError::Unauthorized)?;
        let now = state.store.now_ms();
        let row = state.store.api_key_by_hash(&key.hash(), now).await?.ok_or(ApiError::Unauthorized)?;
        if wanted_workspace(headers)?.is_some_and(|wanted| wanted != row.workspace_id) {
            return Err(ApiError::NotFound);
        }
        if let Err(error) = state.store.touch_api_key(row.api_key_id, row.last_used_ms, now).await {
            tracing::warn!(error = %error, "the last use of an API key could not be noted");
        }
        Ok(Self {
            user_id: row.user_id,
            workspace_id: row.workspace_id,
            role: row.role,
            scopes: row.scopes.within(row.role.scopes()),
            session: None,
            api_key: Some(row.api_key_id),
        })
    }

    async fn by_session(headers: &HeaderMap, state: &AppState) -> ApiResult<Self> {
        let token = session_cookie(headers, &state.public_url).ok_or(ApiError::Unauthorized)?;
        let token = SessionToken::parse(&token).ok_or(ApiError::Unauthorized)?;
        let now = state.store.now_ms();
        let row = state.store.session_by_token(&token.hash(), now).await?.ok_or(ApiError::Unauthorized)?;
        let (workspace_id, role) = match wanted_workspace(headers)? {
            Some(wanted) if wanted != row.workspace_id => {
                (wanted, state.store.membership(wanted, row.user_id).await?.ok_or(ApiError::NotFound)?)
            }
            _ => (row.workspace_id, row.role),
        };
        if let Err(error) = state.store.touch_session(row.session_id, row.last_used_ms, now).await {
            tracing::warn!(error = %error, "the last use of a session could not be noted");
        }
        Ok(Self {
            user_id: row.user_id,
            workspace_id,
            role,
            scopes: role.scopes(),
            session: Some(row.session_id),
            api_key: None,
        })
    }
}

impl FromRequestParts<AppState> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        // An outer layer may have asked already.
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let principal = Self::resolve(&parts.headers, state).await?;
        parts.extensions.insert(principal.clone());
        Ok(principal)
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A workspace that cannot be read is one that is not there.
fn wanted_workspace(headers: &HeaderMap) -> ApiResult<Option<WorkspaceId>> {
    match headers.get(WORKSPACE_HEADER) {
        None => Ok(None),
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(ApiError::NotFound),
    }
}

/// Somebody who is logged in, for pages; others are sent to the log-in page and come back afterwards.
#[derive(Debug, Clone)]
pub struct PageUser {
    /// The name to show.
    pub name: String,
    /// Who it is, and for which workspace.
    pub principal: Principal,
}

impl FromRequestParts<AppState> for PageUser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        // Pages are for browsers: a key opens none.
        parts.headers.remove(AUTHORIZATION);
        parts.extensions.remove::<Principal>();
        let principal = match Principal::from_request_parts(parts, state).await {
            Ok(principal) => principal,
            Err(ApiError::Unauthorized) => return Err(to_login(parts)),
            Err(error) => return Err(problem_page(error, None)),
        };
        match state.store.user(principal.user_id).await {
            Ok(Some(user)) => Ok(Self { name: user.username, principal }),
            Ok(None) => Err(to_login(parts)),
            Err(error) => Err(problem_page(error.into(), None)),
        }
    }
}

fn to_login(parts: &Parts) -> Response {
    let wanted = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let place = if wanted == "/" || parts.method != axum::http::Method::GET {
        "/login".to_owned()
    } else {
        format!("/login?next={}", percent_encoding::utf8_percent_encode(wanted, percent_encoding::NON_ALPHANUMERIC))
    };
    axum::response::Redirect::to(&place).into_response()
}
