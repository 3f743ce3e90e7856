//! How the secrets of a source are checked and sealed before they are stored.

use hookyard_shared::clock::parse_rfc3339;
use hookyard_shared::id::{SecretId, SourceId};
use hookyard_shared::store::sources::{NewSecret, SecretPurpose};
use hookyard_shared::verify::{Provider, Scheme};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::api::change::field;
use crate::api::error::{ApiResult, FieldError};
use crate::state::AppState;

/// Secrets of one source: every request may be tried against each of them.
pub(crate) const MAX_SECRETS: usize = 10;
const MAX_LABEL: usize = 60;
/// The longest secret for handshakes.
const MAX_TOKEN: usize = 1024;

/// A secret shared with a sender.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenSecret {
    /// The secret. It is never shown again.
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String, format = Password)]
    pub(super) secret: SecretString,
    /// For people.
    #[serde(default)]
    pub(super) label: Option<String>,
    /// The last moment at which it proves anything; always unless given.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(super) expires_at: Option<String>,
    /// What it is for: `signing` (proving events) unless given, or `handshake` (a verify token agreed upon with the sender).
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "signing")]
    pub(super) purpose: Purpose,
}

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Proving events.
    #[default]
    Signing,
    /// Answering handshakes.
    Handshake,
}

impl From<Purpose> for SecretPurpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Signing => Self::Signing,
            Purpose::Handshake => Self::Handshake,
        }
    }
}

fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// Reads a secret that may be absent or null.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|secret| secret.map(SecretString::from))
}

/// A secret of a request and where it stands there.
pub(crate) struct Located {
    pub(super) given: GivenSecret,
    pub(super) pointer: String,
}

impl GivenSecret {
    fn bare(secret: SecretString, purpose: Purpose) -> Self {
        Self { secret, label: None, expires_at: None, purpose }
    }
}

/// The secrets of a new source, ready to be stored.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) sealed: Vec<NewSecret>,
    /// The secret that was made here, for its owner's eyes.
    pub(crate) secret: Option<String>,
    /// The verify token that was made here, for its owner's eyes.
    pub(crate) verify_token: Option<String>,
}

/// The secrets of a request that has either one or a list.
pub(crate) fn of_request(
    one: Option<SecretString>,
    several: Option<Vec<GivenSecret>>,
    errors: &mut Vec<FieldError>,
) -> Vec<Located> {
    if one.is_some() && several.is_some() {
        errors.push(field("/secrets", "give either `secret` or `secrets`"));
    }
    let one =
        one.map(|secret| Located { given: GivenSecret::bare(secret, Purpose::Signing), pointer: "/secret".to_owned() });
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

/// Checks and seals the secrets of a new source. Where none is given one is made, if the receiver may choose it, or waited
/// for, if the sender hands it over.
pub(crate) fn prepare(
    state: &AppState,
    provider: &Provider,
    scheme: &Scheme,
    given: Vec<Located>,
    errors: &mut Vec<FieldError>,
) -> Prepared {
    let mut prepared = Prepared::default();
    let has = |purpose| given.iter().any(|one| one.given.purpose == purpose);
    let (signing, handshake) = (has(Purpose::Signing), has(Purpose::Handshake));
    prepared.sealed = given.into_iter().filter_map(|one| seal(state, provider, scheme, one, errors)).collect();
    let mut make = |secret: SecretString, purpose| {
        let text = secret.expose_secret().to_owned();
        let given = GivenSecret::bare(secret, purpose);
        let located = Located { given, pointer: "/secret".to_owned() };
        prepared.sealed.extend(seal(state, provider, scheme, located, errors));
        text
    };
    if provider.makes_token() && !handshake {
        prepared.verify_token = Some(make(Provider::fresh_token(), Purpose::Handshake));
    }
    if signing || !scheme.needs_secret() || provider.brings_secret() {
        return prepared;
    }
    match provider.generate_secret() {
        Some(secret) => prepared.secret = Some(make(secret, Purpose::Signing)),
        None => errors.push(field("/secret", format!("needed: {}", provider.secret_hint()))),
    }
    prepared
}

pub(super) fn seal(
    state: &AppState,
    provider: &Provider,
    scheme: &Scheme,
    Located { given, pointer }: Located,
    errors: &mut Vec<FieldError>,
) -> Option<NewSecret> {
    let text = given.secret.expose_secret();
    let beside = |name: &str| pointer.strip_suffix("/secret").unwrap_or_default().to_owned() + "/" + name;
    let before = errors.len();
    let checked = match given.purpose {
        Purpose::Signing => provider.validate_secret(text).and_then(|()| scheme.validate_secret(&given.secret)),
        Purpose::Handshake => check_token(provider, text),
    };
    if let Err(reason) = checked {
        errors.push(field(&pointer, reason));
    }
    let unnamed = if given.purpose == Purpose::Signing { "default" } else { "for handshakes" };
    let label = given.label.as_deref().map_or(unnamed, str::trim);
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
        purpose: given.purpose.into(),
        handed_over: false,
    })
}

/// Checks a secret for handshakes, which is compared or given back as it stands.
fn check_token(provider: &Provider, text: &str) -> Result<(), String> {
    if !provider.needs_token() {
        return Err(format!("`{}` has no handshake that needs a secret: leave `purpose` out", provider.slug));
    }
    if text.trim() != text || text.is_empty() || text.len() > MAX_TOKEN || text.contains(char::is_control) {
        return Err(format!("must have 1 to {MAX_TOKEN} characters, without white space around it and line breaks"));
    }
    Ok(())
}

/// Enough of a secret to tell it from another, and only if enough of it stays hidden.
pub(crate) fn hint(secret: &str) -> String {
    let length = secret.chars().count();
    if length < 16 {
        "••".to_owned()
    } else {
        format!("••{}", secret.chars().skip(length - 4).collect::<String>())
    }
}

/// Checks that the secrets of a source can be used with other parameters of its scheme.
pub(crate) async fn still_fit(
    state: &AppState,
    source: SourceId,
    scheme: &Scheme,
    errors: &mut Vec<FieldError>,
) -> ApiResult<()> {
    let rows = state.store.secret_rows(source.0).await?;
    for row in rows.into_iter().filter(|row| row.purpose == SecretPurpose::Signing.as_str()) {
        let secret = state.vault.open(row.secret_id, &row.ciphertext)?;
        if let Err(reason) = scheme.validate_secret(&secret) {
            errors.push(field("/scheme", format!("does not fit the secret `{}`: {reason}", row.label)));
        }
    }
    Ok(())
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
