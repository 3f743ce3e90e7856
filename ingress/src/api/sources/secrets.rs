//! `/sources/{id}/secrets`: write-only secrets of a source, and how secrets are checked and sealed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::parse_rfc3339;
use hookyard_shared::id::{SecretId, SourceId};
use hookyard_shared::store::sources::{NewSecret, SecretRemoval};
use hookyard_shared::verify::{Provider, Scheme};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::error::{ApiError, ApiResult, FieldError, Problem};
use super::super::extract::{ApiJson, PathId, PathIds, Principal};
use super::view::SecretView;
use crate::api::change::field;
use crate::state::AppState;

/// Secrets of one source: every request may be tried against each of them.
const MAX_SECRETS: usize = 10;
const MAX_LABEL: usize = 60;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(remove))
}

/// A secret shared with a sender.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenSecret {
    /// The secret. It is never shown again.
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String, format = Password)]
    secret: SecretString,
    /// For people.
    #[serde(default)]
    label: Option<String>,
    /// The last moment at which it proves anything; always unless given.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A secret to be added; left out, one is made where the receiver may choose it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddedSecret {
    /// The secret. It is never shown again.
    #[serde(default, deserialize_with = "optional")]
    #[schema(value_type = Option<String>, format = Password)]
    secret: Option<SecretString>,
    /// For people.
    #[serde(default)]
    label: Option<String>,
    /// The last moment at which it proves anything; always unless given.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A secret that was just added.
#[derive(Serialize, ToSchema)]
struct CreatedSecret {
    #[serde(flatten)]
    view: SecretView,
    /// The secret, if Hookyard made it. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// Reads a secret that may be absent or null.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|secret| secret.map(SecretString::from))
}

/// A secret of a request and where it stands there.
pub(super) struct Located {
    given: GivenSecret,
    pointer: String,
}

/// The secrets of a request that has either one or a list.
pub(super) fn of_request(
    one: Option<SecretString>,
    several: Option<Vec<GivenSecret>>,
    errors: &mut Vec<FieldError>,
) -> Vec<Located> {
    if one.is_some() && several.is_some() {
        errors.push(field("/secrets", "give either `secret` or `secrets`"));
    }
    let one = one.map(|secret| Located {
        given: GivenSecret { secret, label: None, expires_at: None },
        pointer: "/secret".to_owned(),
    });
    let several = several.unwrap_or_default();
    if several.len() > MAX_SECRETS {
        errors.push(field("/secrets", format!("a source has at most {MAX_SECRETS} secrets")));
    }
    let several = several
        .into_iter()
        .take(MAX_SECRETS)
        .enumerate()
        .map(|(i, given)| Located { given, pointer: format!("/secrets/{i}/secret") });
    one.into_iter().chain(several).collect()
}

/// Checks and seals the secrets of a new source; makes one if none is given and one may be made. The second part is
/// that secret, for its owner's eyes.
pub(super) fn prepare(
    state: &AppState,
    provider: &Provider,
    scheme: &Scheme,
    given: Vec<Located>,
    errors: &mut Vec<FieldError>,
) -> (Vec<NewSecret>, Option<String>) {
    if !given.is_empty() {
        return (given.into_iter().filter_map(|one| seal(state, provider, scheme, one, errors)).collect(), None);
    }
    if !scheme.needs_secret() {
        return (Vec::new(), None);
    }
    let Some(secret) = provider.generate_secret() else {
        errors.push(field("/secret", format!("needed: {}", provider.secret_hint())));
        return (Vec::new(), None);
    };
    let made = secret.expose_secret().to_owned();
    let given = GivenSecret { secret, label: None, expires_at: None };
    let sealed = seal(state, provider, scheme, Located { given, pointer: "/secret".to_owned() }, errors);
    (sealed.into_iter().collect(), Some(made))
}

fn seal(
    state: &AppState,
    provider: &Provider,
    scheme: &Scheme,
    Located { given, pointer }: Located,
    errors: &mut Vec<FieldError>,
) -> Option<NewSecret> {
    let text = given.secret.expose_secret();
    let beside = |name: &str| pointer.strip_suffix("/secret").unwrap_or_default().to_owned() + "/" + name;
    let before = errors.len();
    if let Err(reason) = provider.validate_secret(text).and_then(|()| scheme.validate_secret(&given.secret)) {
        errors.push(field(&pointer, reason));
    }
    let label = given.label.as_deref().map_or("default", str::trim);
    if label.is_empty() || label.chars().count() > MAX_LABEL || label.contains(char::is_control) {
        errors.push(field(beside("label"), format!("a label has 1 to {MAX_LABEL} characters, and no line breaks")));
    }
    let not_after_ms = given.expires_at.as_deref().and_then(|text| match parse_rfc3339(text) {
        Some(time) if time > state.store.now_ms() => Some(time),
        Some(_) => {
            errors.push(field(beside("expires_at"), "lies in the past"));
            None
        }
        None => {
            errors.push(field(beside("expires_at"), "must be a time as in 2026-01-31T12:00:00Z"));
            None
        }
    });
    if errors.len() > before {
        return None;
    }
    let id = SecretId::new();
    Some(NewSecret {
        id,
        label: label.to_owned(),
        hint: hint(text),
        ciphertext: state.vault.seal(id.0, text),
        not_after_ms,
    })
}

/// Enough of a secret to tell it from another, and only if enough of it stays hidden.
fn hint(secret: &str) -> String {
    let length = secret.chars().count();
    if length < 16 {
        "••".to_owned()
    } else {
        format!("••{}", secret.chars().skip(length - 4).collect::<String>())
    }
}

/// Checks that the secrets of a source can be used with other parameters of its scheme.
pub(super) async fn still_fit(
    state: &AppState,
    source: SourceId,
    scheme: &Scheme,
    errors: &mut Vec<FieldError>,
) -> ApiResult<()> {
    for row in state.store.secret_rows(source.0).await? {
        let secret = state.vault.open(row.secret_id, &row.ciphertext)?;
        if let Err(reason) = scheme.validate_secret(&secret) {
            errors.push(field("/scheme", format!("does not fit the secret `{}`: {reason}", row.label)));
        }
    }
    Ok(())
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
    let workspace = principal.workspace_id;
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
    let (secret, generated) = match (new.secret, provider.generate_secret()) {
        (Some(secret), _) => (secret, None),
        (None, Some(secret)) => (secret.clone(), Some(secret.expose_secret().to_owned())),
        (None, None) => return Err(ApiError::field("/secret", format!("needed: {}", provider.secret_hint()))),
    };
    let given = GivenSecret { secret, label: new.label, expires_at: new.expires_at };
    let sealed = seal(&state, provider, &scheme, Located { given, pointer: "/secret".to_owned() }, &mut errors);
    let Some(sealed) = sealed else { return Err(ApiError::Validation(errors)) };
    if !state.store.add_secret(workspace, id, &sealed).await? {
        return Err(ApiError::NotFound);
    }
    let stored = state.store.source_secrets(workspace, id, id).await?;
    let view = stored.iter().find(|row| row.secret_id == sealed.id.0).map(SecretView::of).ok_or(ApiError::NotFound)?;
    Ok((StatusCode::CREATED, Json(CreatedSecret { view, secret: generated })))
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
    match state.store.remove_secret(principal.workspace_id, source, secret).await? {
        SecretRemoval::Removed => Ok(StatusCode::NO_CONTENT),
        SecretRemoval::NotFound => Err(ApiError::NotFound),
        SecretRemoval::LastLive => Err(ApiError::conflict(
            "last_secret",
            "without this secret the source would refuse everything; add another one first, or disable or remove the source",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_shows_the_end_of_long_secrets_only() {
        for (secret, expected) in
            [("short", "••"), ("fifteen-letters", "••"), ("sixteen-letters!", "••ers!"), ("äöüäöüäöüäöüäöüß", "••äöüß")]
        {
            assert_eq!(hint(secret), expected, "{secret}");
        }
    }
}
