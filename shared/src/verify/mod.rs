//! Proving who sent a webhook. Schemes are data ([`Scheme`], presets in `providers.toml`); a
//! [`Verifier`] is a scheme with its secrets prepared, and answers for one request at a time.
//!
//! Nothing here does I/O or keeps state, so the same code serves the hot path, the API's checks when
//! a source is saved, and tests. The rules that hold for every scheme: the raw bytes are checked before
//! anything is parsed, comparisons take constant time, the algorithm is fixed by the source and never
//! taken from a request, there is no weaker way when the stronger one is absent, and whatever is
//! missing, empty, repeated or oversized is a [`Refusal`].

mod credential;
mod diagnose;
mod facts;
mod fetched;
mod handshake;
mod json;
mod jwt;
mod ordering;
mod place;
mod provider;
mod refusal;
mod repeat;
mod samples;
mod scheme;
mod signed;
pub mod simulate;
mod template;
#[cfg(test)]
mod tests;

use std::fmt;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

pub use credential::Credentials;
pub use diagnose::{Diagnosis, Refused, diagnose};
pub use facts::{FactRules, Facts};
pub use fetched::{CertificateRule, FetchedKeys, KeyKind, NeededKey, USABLE_MS};
pub use handshake::{Handshake, Outcome, Reply};
pub use json::JsonPath;
pub use jwt::{Absence, BodyHash, JwtAlgorithm, JwtScheme};
pub use ordering::{Ordering, WhenGivenUp};
pub use place::{OneOrMany, Place, PlaceError, Places};
pub use provider::{Evidence, Provider, Providers, ProvidersError, ResolveError, SenderClock};
pub use refusal::{Part, Refusal};
pub use repeat::{RepeatPolicy, RepeatRule, repeat_digest};
pub use samples::{Sample, sample, samples_of};
pub use scheme::{
    Algo, ApiKeyScheme, ClientCertificateScheme, Compiled, Encoding, KeyDecoding, Messages, Parse, Proof, Scheme,
    SchemeError, SchemeKind, SignedScheme, TimeUnit, Timestamp, TokenScheme,
};

use crate::clock::Millis;
use credential::Fingerprint;
use scheme::CompiledCheck;
use signed::Plan;

/// A request as it came, before anything is parsed.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path, undecoded, without the query.
    pub path: &'a str,
    /// The query, undecoded.
    pub query: Option<&'a str>,
    /// Scheme and host of the address as registered with the sender; no trailing slash.
    pub origin: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, byte for byte.
    pub body: &'a [u8],
    /// When the request arrived.
    pub received_at: Millis,
    /// Whether a trusted proxy handed it over, so that what the proxy says of the sender's TLS certificate can be believed.
    pub proxied: bool,
}

impl Received<'_> {
    /// The address as registered with the sender, with path and query.
    pub fn url(&self) -> String {
        match self.query {
            Some(query) => format!("{}{}?{query}", self.origin, self.path),
            None => format!("{}{}", self.origin, self.path),
        }
    }
}

/// A secret shared with a sender.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Which one it is, for counters of use.
    pub id: Uuid,
    /// What the operator calls it.
    pub label: String,
    /// The text that the operator and the sender share.
    pub value: SecretString,
    /// The last moment at which it proves anything; `None` for always.
    pub not_after: Option<Millis>,
}

/// What a passed check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The secret that matched; `None` if the scheme checks nothing.
    pub secret: Option<Uuid>,
    /// What the check proves.
    pub proof: Proof,
    /// Our time less the sender's, if the scheme signs a time.
    pub timestamp_skew_ms: Option<i64>,
}

static NOTHING_FETCHED: std::sync::LazyLock<FetchedKeys> = std::sync::LazyLock::new(FetchedKeys::default);

/// A scheme with its secrets prepared. Make it once per source and share it.
#[derive(Clone)]
pub struct Verifier {
    check: Check,
    credentials: Credentials,
    proof: Proof,
}

#[derive(Clone)]
enum Check {
    Signed { plan: Box<Plan>, keys: Vec<Prepared<signed::Key>> },
    Jwt { scheme: Box<JwtScheme>, keys: Vec<Prepared<jwt::Key>> },
    Token { places: Vec<Place>, prefix: String, keys: Vec<Prepared<Fingerprint>> },
    ClientCertificate { place: Place, keys: Vec<Prepared<Fingerprint>> },
    Basic { keys: Vec<Prepared<Fingerprint>> },
    Nothing,
}

/// A secret in the form its scheme compares with.
#[derive(Clone)]
struct Prepared<K> {
    id: Uuid,
    label: String,
    not_after: Option<Millis>,
    key: K,
}

impl<K> Prepared<K> {
    fn is_live(&self, now: Millis) -> bool {
        self.not_after.is_none_or(|end| now <= end)
    }
}

fn prepare<K>(secrets: Vec<Secret>, key: impl Fn(&str) -> Result<K, String>) -> Result<Vec<Prepared<K>>, SchemeError> {
    let one = |Secret { id, label, value, not_after }| {
        let text = value.expose_secret();
        let key = if text.trim().is_empty() { Err("is empty".into()) } else { key(text) };
        match key {
            Ok(key) => Ok(Prepared { id, label, not_after, key }),
            Err(reason) => Err(SchemeError::Secret { label, reason }),
        }
    };
    secrets.into_iter().map(one).collect()
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    Ok(Fingerprint::of(text.as_bytes()))
}

fn user_and_password(text: &str) -> Result<Fingerprint, String> {
    if !text.contains(':') {
        return Err("must be written `user:password`".into());
    }
    fingerprint(text)
}

/// Tries every live secret; which one matched, or a refusal that names those tried.
fn find<K>(
    keys: &[Prepared<K>],
    now: Millis,
    matches: impl Fn(&K) -> bool,
    refusal: impl FnOnce(Vec<String>) -> Refusal,
) -> Result<Uuid, Refusal> {
    if let Some(found) = keys.iter().filter(|key| key.is_live(now)).find(|key| matches(&key.key)) {
        return Ok(found.id);
    }
    Err(refusal(keys.iter().filter(|key| key.is_live(now)).map(|key| key.label.clone()).collect()))
}

fn any_live<K>(keys: &[Prepared<K>], now: Millis) -> Result<(), Refusal> {
    if keys.iter().any(|key| key.is_live(now)) {
        return Ok(());
    }
    Err(Refusal::NoLiveSecret { expired: keys.iter().map(|key| key.label.clone()).collect() })
}

impl Verifier {
    /// Prepares a scheme and its secrets. Without any secret every request is refused
    /// (except by [`Scheme::None`], which ignores secrets).
    ///
    /// # Errors
    /// A parameter of the scheme without a usable value, or a secret that is empty or does not fit.
    pub fn new(scheme: &Scheme, secrets: Vec<Secret>) -> Result<Self, SchemeError> {
        Self::from_compiled(scheme.compile()?, secrets)
    }

    /// Like [`Verifier::new`], for a scheme that is compiled already.
    ///
    /// # Errors
    /// A secret that is empty or does not fit.
    pub fn from_compiled(compiled: Compiled, secrets: Vec<Secret>) -> Result<Self, SchemeError> {
        let Compiled { check, credentials, proof } = compiled;
        let check = match check {
            CompiledCheck::Signed(plan) => {
                let keys = prepare(secrets, |text| plan.key(text))?;
                Check::Signed { plan, keys }
            }
            CompiledCheck::Jwt(scheme) => {
                Check::Jwt { scheme, keys: prepare(secrets, |text| Ok(jwt::Key::new(text)))? }
            }
            CompiledCheck::Token { places, prefix } => {
                Check::Token { places, prefix, keys: prepare(secrets, fingerprint)? }
            }
            CompiledCheck::ClientCertificate { place } => {
                Check::ClientCertificate { place, keys: prepare(secrets, fingerprint)? }
            }
            CompiledCheck::Basic => Check::Basic { keys: prepare(secrets, user_and_password)? },
            CompiledCheck::Nothing => Check::Nothing,
        };
        Ok(Self { check, credentials, proof })
    }

    /// Checks one request, without keys that senders publish.
    ///
    /// # Errors
    /// Why the request proves nothing; for schemes with published keys [`Refusal::KeyNotAtHand`].
    pub fn verify(&self, request: &Received<'_>) -> Result<Verified, Refusal> {
        self.verify_with(request, &NOTHING_FETCHED)
    }

    /// Checks one request.
    ///
    /// # Errors
    /// Why the request proves nothing; [`Refusal::KeyNotAtHand`] if a key of the sender must be fetched first.
    pub fn verify_with(&self, request: &Received<'_>, fetched: &FetchedKeys) -> Result<Verified, Refusal> {
        let now = request.received_at;
        let mut timestamp_skew_ms = None;
        let secret = match &self.check {
            Check::Signed { plan, keys } => {
                any_live(keys, now)?;
                let mismatch = |signed: &signed::Signed<'_>, labels| Refusal::SignatureMismatch {
                    place: signed.place.clone(),
                    signatures: signed.count(),
                    body_bytes: request.body.len(),
                    labels,
                };
                match &plan.each {
                    None => {
                        let signed = plan.read(request, fetched)?;
                        timestamp_skew_ms = signed.skew_ms();
                        let matches = |key: &signed::Key| signed.matches(key);
                        Some(find(keys, now, matches, |labels| mismatch(&signed, labels))?)
                    }
                    Some(path) => {
                        let bodies = plan.parts(path, request)?;
                        let parts: Vec<_> =
                            bodies.iter().map(|body| Received { body: body.get().as_bytes(), ..*request }).collect();
                        let signed: Vec<_> =
                            parts.iter().map(|part| plan.read(part, fetched)).collect::<Result<_, _>>()?;
                        let matches = |key: &signed::Key| signed.iter().all(|part| part.matches(key));
                        Some(find(keys, now, matches, |labels| mismatch(&signed[0], labels))?)
                    }
                }
            }
            Check::Jwt { scheme, keys } => {
                any_live(keys, now)?;
                let token = scheme.read(request, fetched)?;
                let id = find(keys, now, |key| token.matches(key), |labels| token.mismatch(labels))?;
                keys.iter().find(|key| key.id == id).map_or(Ok(()), |key| token.check_under(&key.key))?;
                Some(id)
            }
            Check::Token { places, prefix, keys } => {
                any_live(keys, now)?;
                let (place, tokens) = credential::read_tokens(places, prefix, request)?;
                let matches = |key: &Fingerprint| tokens.iter().all(|token| key.matches(token));
                Some(find(keys, now, matches, |labels| Refusal::WrongToken { place, labels })?)
            }
            Check::ClientCertificate { place, keys } => {
                any_live(keys, now)?;
                if !request.proxied {
                    return Err(Refusal::NotThroughProxy { place: place.clone() });
                }
                let found = Fingerprint::of(place.require(request, Part::Credential)?.as_bytes());
                let wrong = |labels| Refusal::WrongCredentials { place: place.clone(), labels };
                Some(find(keys, now, |key| key.matches(&found), wrong)?)
            }
            Check::Basic { keys } => {
                any_live(keys, now)?;
                let (place, pair) = credential::read_basic(request)?;
                Some(find(keys, now, |key| key.matches(&pair), |labels| Refusal::WrongCredentials { place, labels })?)
            }
            Check::Nothing => None,
        };
        Ok(Verified { secret, proof: self.proof, timestamp_skew_ms })
    }

    /// What to ask the sender for a key with, where keys are asked for by id: the newest live credentials.
    pub fn credentials_for_keys(&self, now: Millis) -> Option<(&str, &str)> {
        let Check::Jwt { keys, .. } = &self.check else { return None };
        keys.iter().rev().find(|key| key.is_live(now))?.key.credentials()
    }

    /// What a passed check proves.
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// The places whose values must be masked before a request is stored, and never forwarded.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.check {
            Check::Signed { .. } => "signature",
            Check::Jwt { .. } => "jwt",
            Check::Token { .. } => "token",
            Check::ClientCertificate { .. } => "client_certificate",
            Check::Basic { .. } => "basic",
            Check::Nothing => "none",
        };
        f.debug_struct("Verifier").field("check", &kind).field("proof", &self.proof).finish_non_exhaustive()
    }
}
