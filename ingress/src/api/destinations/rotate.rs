//! `/destinations/{id}/rotate-secret`: another signing secret, with an overlap in which both sign.

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::DestinationId;
use hookyard_shared::signing::SigningSecret;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::change::{changed_meanwhile, expect_version};
use super::super::error::{ApiError, ApiResult, Problem};
use super::super::extract::{ApiJson, IfMatch, PathId, Principal};
use super::view::RotatedDestination;
use crate::state::AppState;

/// A day.
pub(crate) const OVERLAP_S: i64 = 86_400;
/// A week.
const MAX_OVERLAP_S: i64 = 7 * 86_400;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(rotate))
}

/// How to change over.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// How long the secret until now signs beside the new one, in seconds; a day unless given, 0 for not at all.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604800)]
    overlap_s: Option<i64>,
}

/// Gives a destination another signing secret. Until the overlap ends every delivery carries the signatures of both, so that
/// the receiver can change over at any moment within it. While an earlier rotation is under
/// way only one without an overlap is accepted: it ends both secrets at once.
#[utoipa::path(post, path = "/destinations/{id}/rotate-secret", tag = "destinations", request_body = Rotation,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = 200, description = "The destination, with the new secret.", body = RotatedDestination),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment, or an earlier rotation is under way.", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "It is no longer at the version in If-Match.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The overlap is too long.", body = Problem, content_type = "application/problem+json"),
))]
async fn rotate(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
    wanted: IfMatch,
    ApiJson(rotation): ApiJson<Rotation>,
) -> ApiResult<Json<RotatedDestination>> {
    principal.require(Scope::Write)?;
    let overlap_s = rotation.overlap_s.unwrap_or(OVERLAP_S);
    if !(0..=MAX_OVERLAP_S).contains(&overlap_s) {
        return Err(ApiError::field("/overlap_s", format!("from 0 to {MAX_OVERLAP_S} seconds")));
    }
    Ok(Json(rotate_secret(&state, &principal, id, wanted, overlap_s).await?))
}

/// Gives a destination another signing secret.
pub(crate) async fn rotate_secret(
    state: &AppState,
    principal: &Principal,
    id: DestinationId,
    wanted: IfMatch,
    overlap_s: i64,
) -> ApiResult<RotatedDestination> {
    let destination = super::find(state, principal, id).await?;
    expect_version(wanted, destination.version)?;
    let now = state.store.now_ms();
    if let Some(until) = destination.previous_until_ms.filter(|until| *until > now && overlap_s > 0) {
        let until = rfc3339(until);
        let words = format!("both secrets sign until {until}; wait until then, or end that with an overlap of 0");
        return Err(ApiError::conflict("rotation_under_way", words));
    }
    let secret = SigningSecret::generate().to_text();
    let sealed = state.vault.seal(id.0, secret.expose_secret());
    let until = now + overlap_s * 1000;
    let saved = state.store.rotate_signing_secret(&destination, &sealed, until).await?;
    let saved = saved.ok_or_else(|| changed_meanwhile(wanted))?;
    let signing_secret = secret.expose_secret().to_owned();
    Ok(RotatedDestination { destination: saved.into(), signing_secret })
}
