//! `/sources/{id}/secrets`: write-only secrets of a source.

mod seal;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{SecretId, SourceId, WorkspaceId};
use hookyard_shared::store::sources::SecretRemoval;
use hookyard_shared::verify::{Provider, Scheme};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::error::{ApiError, ApiResult, Problem};
use super::super::extract::{ApiJson, PathId, PathIds, Principal};
use super::view::SecretView;
use crate::state::AppState;
pub(crate) use seal::Purpose;
pub(crate) use seal::hint;
pub(super) use seal::{GivenSecret, of_request, optional, prepare, still_fit};
use seal::{Located, MAX_SECRETS, seal};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(remove)).routes(routes!(reveal))
}

/// A secret to be added; left out, one is made where the receiver may choose it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedSecret {
    /// The secret. It is never shown again.
    #[serde(default, deserialize_with = "optional")]
    #[schema(value_type = Option<String>, format = Password)]
    pub(crate) secret: Option<SecretString>,
    /// For people.
    #[serde(default)]
    pub(crate) label: Option<String>,
    /// The last moment at which it proves anything; always unless given.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
    /// What it is for: `signing` (proving events) unless given, or `handshake` (a verify token agreed upon with the sender).
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "signing")]
    pub(crate) purpose: Purpose,
}

/// A secret that the sender handed over.
#[derive(Serialize, ToSchema)]
struct RevealedSecret {
    /// The secret.
    secret: String,
}

/// A secret that was just added.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedSecret {
    #[serde(flatten)]
    view: SecretView,
    /// The secret, if Hookyard made it. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

/// Adds a secret. The others stay as they are, so that sender and receiver may change over one after the other.
#[utoipa::path(post, path = "/sources/{id}/secrets", tag = "sources", params(("id" = String, Path)),
    request_body = AddedSecret, responses(
    (status = 201, description = "The secret, without the secret unless Hookyard made it.", body = CreatedSecret),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such source.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The source has as many secrets as it can have.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn add(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SourceId>,
    ApiJson(new): ApiJson<AddedSecret>,
) -> ApiResult<(StatusCode, Json<CreatedSecret>)> {
    principal.require(Scope::Write)?;
    Ok((StatusCode::CREATED, Json(add_secret(&state, principal.workspace_id, id, new).await?)))
}

/// Adds a secret to a source of the workspace.
pub(crate) async fn add_secret(
    state: &AppState,
    workspace: WorkspaceId,
    id: SourceId,
    new: AddedSecret,
) -> ApiResult<CreatedSecret> {
    let source = state.store.source(workspace, id).await?.ok_or(ApiError::NotFound)?;
    if state.store.source_secrets(workspace, id, id).await?.len() >= MAX_SECRETS {
        return Err(ApiError::conflict(
            "too_many_secrets",
            format!("a source has at most {MAX_SECRETS} secrets; remove one first"),
        ));
    }
    let unknown = || {
        anyhow::anyhow!(
            "source {id} has the provider `{}` or a scheme that this program does not know",
            source.provider
        )
    };
    let provider = state.providers.get(&source.provider).ok_or_else(|| ApiError::Internal(unknown()))?;
    let scheme: Scheme = serde_json::from_str(&source.scheme).map_err(|_| ApiError::Internal(unknown()))?;
    let mut errors = Vec::new();
    let made = match new.purpose {
        Purpose::Signing => provider.generate_secret(),
        Purpose::Handshake => provider.makes_token().then(Provider::fresh_token),
    };
    let (secret, generated) = match (new.secret, made) {
        (Some(secret), _) => (secret, None),
        (None, Some(secret)) => (secret.clone(), Some(secret.expose_secret().to_owned())),
        (None, None) => return Err(ApiError::field("/secret", format!("needed: {}", provider.secret_hint()))),
    };
    let given = GivenSecret { secret, label: new.label, expires_at: new.expires_at, purpose: new.purpose };
    let sealed = seal(state, provider, &scheme, Located { given, pointer: "/secret".to_owned() }, &mut errors);
    let Some(sealed) = sealed else { return Err(ApiError::Validation(errors)) };
    if !state.store.add_secret(workspace, id, &sealed).await? {
        return Err(ApiError::NotFound);
    }
    let stored = state.store.source_secrets(workspace, id, id).await?;
    let view = stored
        .iter()
        .find(|row| row.secret_id == sealed.id.0)
        .map(|row| SecretView::of(row, &stored, state.store.now_ms()))
        .ok_or(ApiError::NotFound)?;
    Ok(CreatedSecret { view, secret: generated })
}

/// Removes a secret; what it signed is refused from then on. The last one that proves anything stays.
#[utoipa::path(delete, path = "/sources/{id}/secrets/{secret_id}", tag = "sources",
    params(("id" = String, Path), ("secret_id" = String, Path)), responses(
    (status = 204, description = "It is gone."),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such source or secret.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is the last one that proves anything.", body = Problem, content_type = "application/problem+json"),
))]
async fn remove(
    principal: Principal,
    State(state): State<AppState>,
    PathIds(source, secret): PathIds<SourceId, SecretId>,
) -> ApiResult<StatusCode> {
    principal.require(Scope::Write)?;
    remove_secret(&state, principal.workspace_id, source, secret).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a secret of a source of the workspace.
pub(crate) async fn remove_secret(
    state: &AppState,
    workspace: WorkspaceId,
    source: SourceId,
    secret: SecretId,
) -> ApiResult<()> {
    match state.store.remove_secret(workspace, source, secret).await? {
        SecretRemoval::Removed => Ok(()),
        SecretRemoval::NotFound => Err(ApiError::NotFound),
        SecretRemoval::LastLive => Err(ApiError::conflict(
            "last_secret",
            "without this secret the source would refuse everything; add another one first, or disable or remove the source",
        )),
    }
}

/// Shows a secret that the sender handed over in a handshake, for senders that want it entered in their settings. Secrets
/// that were entered or made here are never shown again.
#[utoipa::path(post, path = "/sources/{id}/secrets/{secret_id}/reveal", tag = "sources",
    params(("id" = String, Path), ("secret_id" = String, Path)), responses(
    (status = 200, description = "The secret.", body = RevealedSecret),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such source, or no secret with this id that a sender handed over.", body = Problem, content_type = "application/problem+json"),
))]
async fn reveal(
    principal: Principal,
    State(state): State<AppState>,
    PathIds(source, secret): PathIds<SourceId, SecretId>,
) -> ApiResult<Json<RevealedSecret>> {
    principal.require(Scope::Write)?;
    Ok(Json(RevealedSecret { secret: reveal_secret(&state, principal.workspace_id, source, secret).await? }))
}

/// The text of a secret that the sender handed over.
pub(crate) async fn reveal_secret(
    state: &AppState,
    workspace: WorkspaceId,
    source: SourceId,
    secret: SecretId,
) -> ApiResult<String> {
    let sealed = state.store.handed_over_secret(workspace, source, secret.0).await?;
    let opened = state.vault.open(secret.0, &sealed.ok_or(ApiError::NotFound)?)?;
    Ok(opened.expose_secret().to_owned())
}
