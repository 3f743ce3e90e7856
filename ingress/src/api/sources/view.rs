//! How the API shows a source and its secrets.

use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{SecretId, SourceId};
use hookyard_shared::store::sources::{Source, SourceSecret};
use hookyard_shared::verify::Scheme;
use serde::Serialize;
use utoipa::ToSchema;

use crate::state::AppState;

/// A source.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SourceView {
    /// Its id.
    #[schema(value_type = String, example = "src_01h455vb4pex5vsknk084sn02q")]
    id: SourceId,
    /// For people.
    name: String,
    /// Where senders POST to.
    #[schema(example = "https://hooks.example.com/in/01h455vb4pex5vsknk084sn02q")]
    url: String,
    /// The sender's slug.
    #[schema(example = "github")]
    provider: String,
    /// The sender's name.
    #[schema(example = "GitHub")]
    provider_name: String,
    /// How its webhooks are proved, or `unverified`.
    #[schema(example = "HMAC-SHA-256")]
    verification: String,
    /// Whether its webhooks are proved at all.
    verified: bool,
    /// What a passed check covers, in words.
    covers: String,
    /// The scheme with its parameters.
    #[schema(value_type = Object)]
    scheme: serde_json::Value,
    /// Accepted methods.
    methods: Vec<String>,
    /// Whether it takes anything.
    enabled: bool,
    /// The largest body, in bytes.
    max_body_bytes: i64,
    /// The status of an accepting answer.
    response_status: i64,
    /// The body of an accepting answer; null for `{"id": "evt_…"}`.
    response_body: Option<String>,
    /// How repeats are recognised, and what becomes of them: its own rule or the provider's; null if they are not looked
    /// for.
    #[schema(value_type = Option<Object>)]
    repeat: Option<serde_json::Value>,
    /// The address ranges that it takes requests from; null for any.
    allowed_ips: Option<Vec<String>>,
    /// Its secrets, without the secrets.
    secrets: Vec<SecretView>,
    /// Counts changes.
    version: i64,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// A source that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedSource {
    #[serde(flatten)]
    pub(super) source: SourceView,
    /// The secret, if Hookyard made it. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    /// The verify token that Hookyard made, for senders that ask for one. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verify_token: Option<String>,
}

/// A secret, without the secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct SecretView {
    /// Its id.
    #[schema(value_type = String, example = "sec_01h455vb4pex5vsknk084sn02q")]
    id: SecretId,
    /// For people.
    label: String,
    /// Its last characters, if it is long enough to show them.
    #[schema(example = "••ab12")]
    hint: String,
    /// When it was added.
    #[schema(format = DateTime)]
    created_at: String,
    /// The last moment at which it proves anything; null for always.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// When it last verified an event.
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    /// What it is for: `signing` (proving events) or `handshake` (a verify token).
    #[schema(example = "signing")]
    purpose: String,
    /// Whether the sender handed it over; then `POST …/reveal` shows it.
    handed_over: bool,
}

impl SourceView {
    /// The view of a source; `secrets` may hold those of other sources too.
    pub(super) fn new(row: Source, secrets: &[SourceSecret], state: &AppState) -> Self {
        // What cannot be read any more proves nothing.
        let scheme: Option<Scheme> = serde_json::from_str(&row.scheme).ok();
        let provider = state.providers.get(&row.provider);
        Self {
            id: row.source_id.into(),
            url: source_url(state, &row.source_key),
            provider_name: provider.map_or_else(|| row.provider.clone(), |provider| provider.name.clone()),
            verification: verification(&row.scheme),
            verified: is_verified(&row.scheme),
            covers: scheme.as_ref().map_or_else(|| "nothing".to_owned(), Scheme::covers),
            scheme: serde_json::from_str(&row.scheme).unwrap_or_default(),
            repeat: match &row.repeat_rule {
                Some(own) => serde_json::from_str(own).ok(),
                None => provider.and_then(|p| p.repeat.as_ref()).and_then(|rule| serde_json::to_value(rule).ok()),
            },
            methods: row.methods.split(' ').map(str::to_owned).collect(),
            secrets: secrets.iter().filter(|secret| secret.source_id == row.source_id).map(SecretView::of).collect(),
            allowed_ips: row.allowed_ips.map(|text| text.split(' ').map(str::to_owned).collect()),
            name: row.name,
            provider: row.provider,
            enabled: row.enabled,
            max_body_bytes: row.max_body_bytes,
            response_status: row.response_status,
            response_body: row.response_body,
            version: row.version,
            created_at: rfc3339(row.created_ms),
            updated_at: rfc3339(row.updated_ms),
        }
    }
}

impl SecretView {
    /// The view of a stored secret.
    pub(super) fn of(row: &SourceSecret) -> Self {
        Self {
            id: row.secret_id.into(),
            label: row.label.clone(),
            hint: row.hint.clone(),
            created_at: rfc3339(row.created_ms),
            expires_at: row.not_after_ms.map(rfc3339),
            last_used_at: row.last_used_ms.map(rfc3339),
            purpose: row.purpose.clone(),
            handed_over: row.handed_over,
        }
    }
}

/// Where senders POST to.
pub(crate) fn source_url(state: &AppState, key: &str) -> String {
    format!("{}/in/{key}", state.public_url)
}

/// The kind of proof of a stored scheme in a word or two.
pub(crate) fn verification(scheme: &str) -> String {
    let scheme: Option<Scheme> = serde_json::from_str(scheme).ok();
    scheme.map_or_else(|| "unverified".to_owned(), |scheme| scheme.label())
}

/// Whether a stored scheme proves anything.
pub(crate) fn is_verified(scheme: &str) -> bool {
    serde_json::from_str::<Scheme>(scheme).is_ok_and(|scheme| scheme.needs_secret())
}
