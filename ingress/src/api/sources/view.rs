//! How the API shows a source and its secrets.

use hookyard_shared::clock::{Millis, rfc3339};
use hookyard_shared::id::{SecretId, SourceId};
use hookyard_shared::store::sources::{SecretPurpose, Source, SourceSecret};
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
    /// Whether its deliveries are held.
    paused: bool,
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
    /// Whether another secret verified events in the last day and this one did not: the sender has changed over, and this
    /// one can be removed.
    superseded: bool,
}

impl SourceView {
    /// The view of a source; `secrets` may hold those of other sources too.
    pub(super) fn new(row: Source, secrets: &[SourceSecret], state: &AppState) -> Self {
        // What cannot be read any more proves nothing.
        let scheme: Option<Scheme> = serde_json::from_str(&row.scheme).ok();
        let provider = state.providers.get(&row.provider);
        let now = state.store.now_ms();
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
            secrets: secrets
                .iter()
                .filter(|secret| secret.source_id == row.source_id)
                .map(|secret| SecretView::of(secret, secrets, now))
                .collect(),
            allowed_ips: row.allowed_ips.map(|text| text.split(' ').map(str::to_owned).collect()),
            name: row.name,
            provider: row.provider,
            enabled: row.enabled,
            paused: row.paused,
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
    pub(super) fn of(row: &SourceSecret, all: &[SourceSecret], now: Millis) -> Self {
        Self {
            id: row.secret_id.into(),
            label: row.label.clone(),
            hint: row.hint.clone(),
            created_at: rfc3339(row.created_ms),
            expires_at: row.not_after_ms.map(rfc3339),
            last_used_at: row.last_used_ms.map(rfc3339),
            purpose: row.purpose.clone(),
            handed_over: row.handed_over,
            superseded: is_superseded(row, all, now),
        }
    }
}

/// After this time without use a secret counts as left behind.
const DAY_MS: Millis = 86_400_000;

/// Whether the sender signs with another of its source's secrets and not with this one any more.
pub(crate) fn is_superseded(row: &SourceSecret, all: &[SourceSecret], now: Millis) -> bool {
    let used_lately = |secret: &SourceSecret| secret.last_used_ms.is_some_and(|at| at > now - DAY_MS);
    let other = |secret: &&SourceSecret| secret.source_id == row.source_id && secret.secret_id != row.secret_id;
    row.purpose == SecretPurpose::Signing.as_str()
        && row.created_ms < now - DAY_MS
        && !used_lately(row)
        && all.iter().filter(other).any(used_lately)
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_secret_is_superseded_once_only_others_were_used_for_a_day() {
        let secret = |n: u128, created_ms, last_used_ms| SourceSecret {
            secret_id: Uuid::from_u128(n),
            source_id: Uuid::nil(),
            label: String::new(),
            hint: String::new(),
            created_ms,
            not_after_ms: None,
            last_used_ms,
            purpose: "signing".into(),
            handed_over: false,
        };
        let now = 10 * DAY_MS;
        let lately = Some(now - 1);
        for (old, new, expected) in [
            (secret(1, 0, Some(DAY_MS)), secret(2, 0, lately), true),
            (secret(1, 0, None), secret(2, 0, lately), true),
            (secret(1, 0, lately), secret(2, 0, lately), false),
            (secret(1, 0, Some(DAY_MS)), secret(2, 0, Some(DAY_MS)), false),
            (secret(1, now - 1, None), secret(2, 0, lately), false),
        ] {
            assert_eq!(is_superseded(&old, &[old.clone(), new.clone()], now), expected, "{old:?} {new:?}");
        }
    }
}
