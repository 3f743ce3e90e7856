//! API keys. The key itself is shown once, when it is made or rotated.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use hookyard_shared::auth::{ApiKey, Scope, Scopes};
use hookyard_shared::clock::{Millis, rfc3339};
use hookyard_shared::id::ApiKeyId;
use hookyard_shared::store::api_keys::ApiKeyRecord;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{ApiJson, Listing, PageQuery, PathId, Principal, present};
use crate::state::AppState;

/// The longest name, in characters.
const MAX_NAME: usize = 100;

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_api_keys, create_api_key))
        .routes(routes!(get_api_key, patch_api_key, revoke_api_key))
        .routes(routes!(rotate_api_key))
}

/// A key without the key.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeyView {
    /// Which one.
    #[schema(example = "key_01h455vb4pex5vsknk084sn02q")]
    id: String,
    /// What its owner calls it.
    name: String,
    /// Its first twelve characters.
    #[schema(example = "hky_3fT9aBc2")]
    prefix: String,
    /// Its last four characters.
    last4: String,
    /// What it may do, as far as the role of who made it allows.
    #[schema(example = json!(["read", "write"]))]
    scopes: Vec<String>,
    /// When it was made.
    created_at: String,
    /// When it ends; null for never.
    expires_at: Option<String>,
    /// To the minute; null for never.
    last_used_at: Option<String>,
    /// When it was revoked; null while it is good.
    revoked_at: Option<String>,
}

/// A key with the key: this is the only time it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShownApiKey {
    /// The key.
    #[serde(flatten)]
    view: ApiKeyView,
    /// The key itself. Keep it; it cannot be shown again.
    #[schema(example = "hky_…")]
    key: String,
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// What to call it, up to 100 characters.
    name: String,
    /// What it may do: read, write, ingest-test, admin. Without it: read, write and ingest-test.
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// When it ends; never, if left out.
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}

/// What to change about a key; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyPatch {
    /// What to call it.
    #[serde(default)]
    name: Option<String>,
    /// What it may do.
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// When it ends; null for never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    expires_at: Option<Option<DateTime<Utc>>>,
}

impl From<ApiKeyRecord> for ApiKeyView {
    fn from(row: ApiKeyRecord) -> Self {
        Self {
            id: row.api_key_id.to_string(),
            name: row.name,
            prefix: row.prefix,
            last4: row.last4,
            scopes: row.scopes.iter().map(|scope| scope.to_string()).collect(),
            created_at: rfc3339(row.created_ms),
            expires_at: row.expires_ms.map(rfc3339),
            last_used_at: row.last_used_ms.map(rfc3339),
            revoked_at: row.revoked_ms.map(rfc3339),
        }
    }
}

fn name(text: &str) -> ApiResult<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(ApiError::field("/name", "use 1 to 100 characters"));
    }
    Ok(text.to_owned())
}

/// Known scopes, at least one, and none that the asker lacks.
fn scopes(names: &[String], principal: &Principal) -> ApiResult<Scopes> {
    if names.is_empty() {
        return Err(ApiError::field("/scopes", "name at least one of read, write, ingest-test, admin"));
    }
    let mut known = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let pointer = format!("/scopes/{i}");
        let scope: Scope =
            name.parse().map_err(|_| ApiError::field(pointer.clone(), "one of read, write, ingest-test, admin"))?;
        if !principal.scopes.allows(scope) {
            return Err(ApiError::field(pointer, "a key cannot be given more than you may do yourself"));
        }
        known.push(scope);
    }
    Ok(Scopes::of(&known))
}

fn expires(at: DateTime<Utc>, now: Millis) -> ApiResult<Millis> {
    let at = at.timestamp_millis();
    if at <= now {
        return Err(ApiError::field("/expires_at", "this time is past"));
    }
    Ok(at)
}

async fn find(state: &AppState, principal: &Principal, id: ApiKeyId) -> ApiResult<ApiKeyRecord> {
    state.store.api_key(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)
}

fn revoked() -> ApiError {
    ApiError::conflict("api_key_revoked", "a revoked key stays as it is; make a new one")
}

/// The keys of the workspace, newest first, revoked ones too.
#[utoipa::path(get, path = "/api-keys", tag = "api-keys",
    params(("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Listing<ApiKeyView>)))]
async fn list_api_keys(
    State(state): State<AppState>,
    principal: Principal,
    page: PageQuery,
) -> ApiResult<Listing<ApiKeyView>> {
    principal.require(Scope::Admin)?;
    let rows = state.store.api_keys(principal.workspace_id, page.cursor, page.limit + 1).await?;
    Ok(Listing::new(rows, page.limit, |row| row.api_key_id.0).map(ApiKeyView::from))
}

/// Makes a key and shows it, this once.
#[utoipa::path(post, path = "/api-keys", tag = "api-keys", request_body = NewApiKey, responses((status = 201, body = ShownApiKey)))]
async fn create_api_key(
    State(state): State<AppState>,
    principal: Principal,
    ApiJson(new): ApiJson<NewApiKey>,
) -> ApiResult<Response> {
    principal.require(Scope::Admin)?;
    let name = name(&new.name)?;
    let scopes = match &new.scopes {
        Some(names) => scopes(names, &principal)?,
        None => Scopes::of(&[Scope::Read, Scope::Write, Scope::IngestTest]).within(principal.scopes),
    };
    let expires_ms = new.expires_at.map(|at| expires(at, state.store.now_ms())).transpose()?;
    let key = ApiKey::generate();
    let id =
        state.store.create_api_key(principal.workspace_id, principal.user_id, &key, &name, scopes, expires_ms).await?;
    tracing::info!(api_key.id = %id, user.id = %principal.user_id, "{id} was made");
    let view = find(&state, &principal, id).await?.into();
    let location = format!("/api/v1/api-keys/{id}");
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(ShownApiKey { view, key: key.expose().to_owned() }))
        .into_response())
}

/// One key, without the key itself.
#[utoipa::path(get, path = "/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)), responses((status = 200, body = ApiKeyView)))]
async fn get_api_key(
    State(state): State<AppState>,
    principal: Principal,
    PathId(id): PathId<ApiKeyId>,
) -> ApiResult<Json<ApiKeyView>> {
    principal.require(Scope::Admin)?;
    Ok(Json(find(&state, &principal, id).await?.into()))
}

/// Changes what a key is called, may do, and when it ends.
#[utoipa::path(patch, path = "/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)), request_body = ApiKeyPatch,
    responses((status = 200, body = ApiKeyView)))]
async fn patch_api_key(
    State(state): State<AppState>,
    principal: Principal,
    PathId(id): PathId<ApiKeyId>,
    ApiJson(patch): ApiJson<ApiKeyPatch>,
) -> ApiResult<Json<ApiKeyView>> {
    principal.require(Scope::Admin)?;
    let mut key = find(&state, &principal, id).await?;
    if let Some(text) = &patch.name {
        key.name = name(text)?;
    }
    if let Some(names) = &patch.scopes {
        key.scopes = scopes(names, &principal)?;
    }
    if let Some(at) = patch.expires_at {
        key.expires_ms = at.map(|at| expires(at, state.store.now_ms())).transpose()?;
    }
    if !state.store.update_api_key(principal.workspace_id, &key).await? {
        return Err(revoked());
    }
    Ok(Json(find(&state, &principal, id).await?.into()))
}

/// Revokes a key for good, at once; it stays in the list.
#[utoipa::path(delete, path = "/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)),
    responses((status = 204, description = "It is refused from now on")))]
async fn revoke_api_key(
    State(state): State<AppState>,
    principal: Principal,
    PathId(id): PathId<ApiKeyId>,
) -> ApiResult<StatusCode> {
    principal.require(Scope::Admin)?;
    if !state.store.revoke_api_key(principal.workspace_id, id).await? {
        return Err(ApiError::NotFound);
    }
    tracing::info!(api_key.id = %id, user.id = %principal.user_id, "{id} was revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// Puts a new key in the old one's place and shows it, this once; the old one is refused from now on.
#[utoipa::path(post, path = "/api-keys/{id}/rotate", tag = "api-keys", params(("id" = String, Path)),
    responses((status = 200, body = ShownApiKey)))]
async fn rotate_api_key(
    State(state): State<AppState>,
    principal: Principal,
    PathId(id): PathId<ApiKeyId>,
) -> ApiResult<Json<ShownApiKey>> {
    principal.require(Scope::Admin)?;
    let current = find(&state, &principal, id).await?;
    // The new key is shown to who asks: it must not do more than they may.
    if !current.scopes.is_within(principal.scopes) {
        return Err(ApiError::forbidden("missing_scope", "this key may do more than you; it cannot be shown to you"));
    }
    let key = ApiKey::generate();
    if !state.store.replace_api_key(principal.workspace_id, id, &key).await? {
        return Err(revoked());
    }
    tracing::info!(api_key.id = %id, user.id = %principal.user_id, "{id} was rotated");
    Ok(Json(ShownApiKey { view: find(&state, &principal, id).await?.into(), key: key.expose().to_owned() }))
}
