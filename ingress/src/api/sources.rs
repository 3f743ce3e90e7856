//! `/sources`: the addresses that senders POST to, with the schemes and secrets that prove the senders.

mod checks;
mod handshakes;
mod secrets;
mod trial;
mod view;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header::ETAG};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{self, SourceId};
use hookyard_shared::store::sources::Source;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::change::{changed_meanwhile, checked_name, expect_version};
use super::error::{ApiError, ApiResult, Problem};
use super::extract::{ApiJson, IfMatch, Listing, PageQuery, PathId, Principal, etag, present};
use crate::state::AppState;
use checks::{
    check_answer, check_max_body, checked_methods, checked_ranges, checked_repeat, most_body_bytes, resolve_scheme,
    scheme_text,
};
use secrets::GivenSecret;
use view::{CreatedSource, SourceView};

pub(crate) use secrets::hint as secret_hint;
pub(crate) use secrets::{AddedSecret, Purpose, add_secret, remove_secret, reveal_secret};
pub(crate) use view::{is_superseded, is_verified, source_url, verification};

const DEFAULT_BODY_BYTES: i64 = 10 * 1024 * 1024;

/// The routes of this resource and of the secrets in it.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update, remove))
        .merge(secrets::routes())
        .merge(handshakes::routes())
        .merge(trial::routes())
}

/// A new source.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSource {
    /// For people.
    #[schema(example = "Shop")]
    name: String,
    /// The sender, by the slug that `/providers` lists.
    #[schema(example = "github")]
    provider: String,
    /// The secret shared with the sender. Left out, one is made where the receiver may choose it.
    #[serde(default, deserialize_with = "secrets::optional")]
    #[schema(value_type = Option<String>, format = Password)]
    secret: Option<secrecy::SecretString>,
    /// Several secrets, instead of `secret`.
    #[serde(default)]
    secrets: Option<Vec<GivenSecret>>,
    /// Parameters of the scheme, for the generic providers only.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    scheme: Option<serde_json::Value>,
    /// The largest body, in bytes; 10 MiB unless given, at most what `HOOKYARD_MAX_BODY` allows.
    #[serde(default)]
    #[schema(minimum = 1024, maximum = 26214400)]
    max_body_bytes: Option<i64>,
    /// Accepted methods; the provider's own unless given.
    #[serde(default)]
    methods: Option<Vec<String>>,
    /// The status of an accepting answer: 200, 201, 202 or 204.
    #[serde(default)]
    response_status: Option<i64>,
    /// The body of an accepting answer; `{"id": "evt_…"}` unless given.
    #[serde(default)]
    response_body: Option<String>,
    /// How repeats are recognised, and what becomes of them; the provider's own way unless given. `policy` is `retry` (a
    /// repeat is kept and not delivered), `redelivery` (it is delivered) or `off`; `key` names a header or a member of
    /// the body that all repeats of an event share; `window_s` how long after the first a repeat is taken for one.
    #[serde(default)]
    #[schema(value_type = Option<Object>, example = json!({"policy": "retry", "key": "$.id", "window_s": 3600}))]
    repeat: Option<serde_json::Value>,
    /// Address ranges of the sender, such as `192.0.2.0/24`: requests from elsewhere are refused, however they are signed.
    #[serde(default)]
    #[schema(example = json!(["192.0.2.0/24"]))]
    allowed_ips: Option<Vec<String>>,
    /// Whether it takes anything; true unless given.
    #[serde(default)]
    enabled: Option<bool>,
}

/// What to change of a source.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SourceChange {
    /// For people.
    #[serde(default)]
    name: Option<String>,
    /// Whether it takes anything.
    #[serde(default)]
    enabled: Option<bool>,
    /// Parameters of the scheme, for the generic providers only.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    scheme: Option<serde_json::Value>,
    /// The largest body, in bytes; at most what `HOOKYARD_MAX_BODY` allows.
    #[serde(default)]
    #[schema(minimum = 1024, maximum = 26214400)]
    max_body_bytes: Option<i64>,
    /// Accepted methods.
    #[serde(default)]
    methods: Option<Vec<String>>,
    /// The status of an accepting answer: 200, 201, 202 or 204.
    #[serde(default)]
    response_status: Option<i64>,
    /// The body of an accepting answer; null for `{"id": "evt_…"}`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    response_body: Option<Option<String>>,
    /// How repeats are recognised, and what becomes of them; null for the provider's own way.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    repeat: Option<Option<serde_json::Value>>,
    /// Address ranges of the sender; null or an empty list for any.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    allowed_ips: Option<Option<Vec<String>>>,
}

/// Lists sources, newest first.
#[utoipa::path(get, path = "/sources", tag = "sources",
    params(("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)), responses(
    (status = 200, description = "A page of sources.", body = Listing<SourceView>),
    (status = 400, description = "The cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
) -> ApiResult<Json<Listing<SourceView>>> {
    principal.require(Scope::Read)?;
    let workspace = principal.workspace_id;
    let rows = state.store.sources(workspace, page.cursor, page.limit + 1).await?;
    let secrets = match (rows.last(), rows.first()) {
        (Some(oldest), Some(newest)) => {
            state.store.source_secrets(workspace, oldest.source_id.into(), newest.source_id.into()).await?
        }
        _ => Vec::new(),
    };
    let listing = Listing::new(rows, page.limit, |row| row.source_id);
    Ok(Json(listing.map(|row| SourceView::new(row, &secrets, &state))))
}

/// Makes a source.
///
/// A secret that Hookyard made is in this answer and never shown again.
#[utoipa::path(post, path = "/sources", tag = "sources", request_body = NewSource, responses(
    (status = 201, description = "The source.", body = CreatedSource),
    (status = 400, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    principal: Principal,
    State(state): State<AppState>,
    ApiJson(new): ApiJson<NewSource>,
) -> ApiResult<(StatusCode, [(axum::http::HeaderName, HeaderValue); 1], Json<CreatedSource>)> {
    principal.require(Scope::Write)?;
    let mut errors = Vec::new();
    let name = checked_name(&new.name, &mut errors);
    let scheme = resolve_scheme(&state, &new.provider, new.scheme, &mut errors);
    let provider = state.providers.get(&new.provider);
    let methods = match (&new.methods, provider) {
        (Some(methods), _) => checked_methods(methods, &mut errors),
        (None, Some(provider)) => provider.methods.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        (None, None) => String::new(),
    };
    let status = new.response_status.unwrap_or(200);
    check_answer(status, new.response_body.as_deref(), &mut errors);
    let most = most_body_bytes(&state);
    let max_body_bytes = new.max_body_bytes.unwrap_or(DEFAULT_BODY_BYTES.min(most));
    check_max_body(max_body_bytes, most, &mut errors);
    let repeat_rule = checked_repeat(new.repeat, &mut errors);
    let allowed_ips = checked_ranges(new.allowed_ips, &mut errors);
    let (Some(provider), Some(scheme)) = (provider, scheme) else { return Err(ApiError::Validation(errors)) };
    let given = secrets::of_request(new.secret, new.secrets, &mut errors);
    let prepared = secrets::prepare(&state, provider, &scheme, given, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let now = state.store.now_ms();
    let source = Source {
        source_id: SourceId::new().0,
        workspace_id: principal.workspace_id.0,
        name,
        source_key: new_source_key(),
        provider: provider.slug.clone(),
        scheme: scheme_text(&scheme)?,
        methods,
        enabled: new.enabled.unwrap_or(true),
        paused: false,
        release_rate: None,
        max_body_bytes,
        response_status: status,
        response_body: new.response_body.or_else(|| provider.answer.clone()),
        repeat_rule,
        allowed_ips,
        version: 1,
        created_ms: now,
        updated_ms: now,
    };
    state.store.create_source(&source, &prepared.sealed).await?;
    let id = SourceId(source.source_id);
    let stored = state.store.source_secrets(principal.workspace_id, id, id).await?;
    let created = CreatedSource {
        source: SourceView::new(source, &stored, &state),
        secret: prepared.secret,
        verify_token: prepared.verify_token,
    };
    Ok((StatusCode::CREATED, [(ETAG, etag(1))], Json(created)))
}

/// Shows one source.
#[utoipa::path(get, path = "/sources/{id}", tag = "sources", params(("id" = String, Path)), responses(
    (status = 200, description = "The source.", body = SourceView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
) -> ApiResult<([(axum::http::HeaderName, HeaderValue); 1], Json<SourceView>)> {
    principal.require(Scope::Read)?;
    let source = state.store.source(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    shown(&state, &principal, source).await
}

/// Changes a source.
#[utoipa::path(patch, path = "/sources/{id}", tag = "sources", request_body = SourceChange,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = 200, description = "The source as it is now.", body = SourceView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "It is no longer at the version in If-Match.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn update(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
    wanted: IfMatch,
    ApiJson(change): ApiJson<SourceChange>,
) -> ApiResult<([(axum::http::HeaderName, HeaderValue); 1], Json<SourceView>)> {
    principal.require(Scope::Write)?;
    let mut source = state.store.source(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    expect_version(wanted, source.version)?;
    let mut errors = Vec::new();
    if let Some(name) = &change.name {
        source.name = checked_name(name, &mut errors);
    }
    if let Some(bytes) = change.max_body_bytes {
        check_max_body(bytes, most_body_bytes(&state), &mut errors);
        source.max_body_bytes = bytes;
    }
    if let Some(methods) = &change.methods {
        source.methods = checked_methods(methods, &mut errors);
    }
    source.enabled = change.enabled.unwrap_or(source.enabled);
    source.response_status = change.response_status.unwrap_or(source.response_status);
    source.response_body = change.response_body.unwrap_or(source.response_body);
    check_answer(source.response_status, source.response_body.as_deref(), &mut errors);
    if let Some(repeat) = change.repeat {
        source.repeat_rule = checked_repeat(repeat, &mut errors);
    }
    if let Some(ranges) = change.allowed_ips {
        source.allowed_ips = checked_ranges(ranges, &mut errors);
    }
    if change.scheme.is_some()
        && let Some(scheme) = resolve_scheme(&state, &source.provider, change.scheme, &mut errors)
    {
        secrets::still_fit(&state, id, &scheme, &mut errors).await?;
        source.scheme = scheme_text(&scheme)?;
    }
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let saved = state.store.update_source(&source).await?.ok_or_else(|| changed_meanwhile(wanted))?;
    shown(&state, &principal, saved).await
}

/// Removes a source with its secrets and subscriptions; what still waits to be delivered from it is cancelled.
#[utoipa::path(delete, path = "/sources/{id}", tag = "sources",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = 204, description = "It is gone."),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "It is no longer at the version in If-Match.", body = Problem, content_type = "application/problem+json"),
))]
async fn remove(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
    wanted: IfMatch,
) -> ApiResult<StatusCode> {
    principal.require(Scope::Write)?;
    let source = state.store.source(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
    expect_version(wanted, source.version)?;
    if !state.store.delete_source(principal.workspace_id, id, wanted.0).await? {
        return Err(if wanted.0.is_some() { ApiError::PreconditionFailed } else { ApiError::NotFound });
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn shown(
    state: &AppState,
    principal: &Principal,
    source: Source,
) -> ApiResult<([(axum::http::HeaderName, HeaderValue); 1], Json<SourceView>)> {
    let id = SourceId(source.source_id);
    let secrets = state.store.source_secrets(principal.workspace_id, id, id).await?;
    Ok(([(ETAG, etag(source.version))], Json(SourceView::new(source, &secrets, state))))
}

/// The last part of an address: 128 random bits in the alphabet of ids.
fn new_source_key() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes);
    id::encode(Uuid::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_source_key_has_26_characters_and_never_comes_twice() {
        let keys: BTreeSet<String> = (0..100).map(|_| new_source_key()).collect();
        assert_eq!(keys.len(), 100);
        assert!(keys.iter().all(|key| key.len() == 26 && id::decode(key).is_ok()));
    }
}
