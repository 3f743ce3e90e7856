//! `/providers`: the senders known by name, for whoever makes a source.

use axum::Json;
use axum::extract::State;
use hookyard_shared::auth::Scope;
use hookyard_shared::verify::{Evidence, Provider, SenderClock};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiResult, Problem};
use super::extract::{Listing, Principal};
use crate::state::AppState;

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A sender known by name, or one of the generic ways to prove a sender.
#[derive(Debug, Serialize, ToSchema)]
struct ProviderView {
    /// The word to use as `provider` of a source.
    #[schema(example = "github")]
    slug: String,
    /// The name for people.
    #[schema(example = "GitHub")]
    name: String,
    /// What the entry rests on: `sdk`, `docs`, `independent`, or `unconfirmed`, which should be tried with a real webhook
    /// before you rely on it; null for the generic ones.
    #[schema(value_type = Option<String>, example = "sdk")]
    evidence: Option<Evidence>,
    /// Kind of its scheme: `hmac`, `digest`, `ed25519`, `ecdsa_p256`, `rsa_pkcs1`, `token`, `basic`, `api_key` or `none`.
    kind: String,
    /// How its webhooks are proved, or `unverified`.
    #[schema(example = "HMAC-SHA-256")]
    verification: String,
    /// Whether its webhooks are proved at all.
    verified: bool,
    /// What a passed check covers, in words.
    covers: String,
    /// Whether `scheme` may be given with parameters of your own.
    generic: bool,
    /// The scheme; for a generic one its default, if it has one.
    #[schema(value_type = Option<Object>)]
    scheme: Option<serde_json::Value>,
    /// Whether a source needs a secret.
    needs_secret: bool,
    /// Whether Hookyard makes the secret when none is given.
    generates_secret: bool,
    /// Whether the sender hands over its secret by itself, once the address is entered there.
    brings_secret: bool,
    /// Whether a secret for handshakes (a verify token) is agreed upon with the sender.
    needs_verify_token: bool,
    /// What the sender asks besides sending events, and how it is answered.
    handshakes: Vec<String>,
    /// What to enter as secret.
    secret_hint: String,
    /// The methods that a source accepts unless it says otherwise.
    methods: Vec<String>,
    /// How the sender's repeats are recognised, and what becomes of them; null if that is not known.
    #[schema(value_type = Option<Object>)]
    repeat: Option<serde_json::Value>,
    /// How long the sender waits for an answer, in seconds (`timeout_s`), and how it repeats what was not answered
    /// (`retries`); null if that is not known.
    #[schema(value_type = Option<Object>)]
    clock: Option<SenderClock>,
    /// Where the URL and the secret go in the sender's settings.
    set_up: String,
}

impl ProviderView {
    fn of(provider: &Provider) -> Self {
        Self {
            slug: provider.slug.clone(),
            name: provider.name.clone(),
            evidence: provider.evidence,
            kind: provider.kind.to_string(),
            verification: provider.scheme_label(),
            verified: !provider.label_unverified(),
            covers: provider.covers(),
            generic: provider.generic,
            scheme: provider.scheme.as_ref().and_then(|scheme| serde_json::to_value(scheme).ok()),
            needs_secret: provider.needs_secret(),
            generates_secret: provider.generate_secret().is_some(),
            brings_secret: provider.brings_secret(),
            needs_verify_token: provider.needs_token(),
            handshakes: provider.handshakes.iter().map(|h| format!("{}: {}", h.method(), h.words())).collect(),
            secret_hint: provider.secret_hint().to_owned(),
            methods: provider.methods.iter().map(ToString::to_string).collect(),
            repeat: provider.repeat.as_ref().and_then(|rule| serde_json::to_value(rule).ok()),
            clock: provider.clock.clone(),
            set_up: provider.set_up.clone(),
        }
    }
}

/// Lists the senders known by name.
#[utoipa::path(get, path = "/providers", tag = "providers", responses(
    (status = 200, description = "All providers, on one page.", body = Listing<ProviderView>),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(principal: Principal, State(state): State<AppState>) -> ApiResult<Json<Listing<ProviderView>>> {
    principal.require(Scope::Read)?;
    let data = state.providers.iter().map(ProviderView::of).collect();
    Ok(Json(Listing { data, next_cursor: None }))
}
