//! JSON Web Tokens (RFC 7519) that senders sign: by a shared secret, or by a key of theirs that is published as a set of keys
//! (RFC 7517). The algorithm is one of those that the source allows, whatever the token says of itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Received;
use super::fetched::FetchedKeys;
use super::place::{OneOrMany, Place};
use super::refusal::{Part, Refusal};
use super::scheme::{Encoding, SchemeError};

/// Parameters of [`super::Scheme::Jwt`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtScheme {
    /// Where the token is: a header or a query parameter.
    #[serde(default = "authorization")]
    pub place: Place,
    /// A word in front of the token, such as `Bearer ` (compared without regard to case).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The algorithms that are accepted.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Where the sender publishes its keys; without it the source's secret is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Where a key is asked for by its id, with the source's secret (`client id:secret`) as credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_endpoint: Option<String>,
    /// With published keys: the claim that says who sent it, which must be one of the source's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Who must have issued it, if that is checked.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub issuer: OneOrMany<String>,
    /// For whom it must be; `{url}` stands for the source's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Other claims with the value they must have; `{url}` stands for the source's address, `{url_sha256}` for the
    /// hexadecimal SHA-256 of it, `{request_sha256}` for that of method, path and sorted query.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// Claims that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The claim with the SHA-256 of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<BodyHash>,
    /// How many seconds after its issue (`iat`) a token is still accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u32>,
}

fn authorization() -> Place {
    Place::Header(http::header::AUTHORIZATION)
}

/// The claim with the SHA-256 of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyHash {
    /// Its name.
    pub claim: String,
    /// How the hash is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// When the claim may be absent.
    #[serde(default)]
    pub absent: Absence,
}

/// When a claim with the body's hash may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// Never.
    #[default]
    Never,
    /// If the body is empty.
    EmptyBody,
    /// Always: such a token does not cover the body.
    Always,
}

/// Algorithms of RFC 7518, section 3.1, and RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    #[serde(rename = "EdDSA")]
    EdDSA,
}

impl JwtAlgorithm {
    pub(super) fn known(self) -> Algorithm {
        match self {
            Self::HS256 => Algorithm::HS256,
            Self::HS384 => Algorithm::HS384,
            Self::HS512 => Algorithm::HS512,
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::ES256 => Algorithm::ES256,
            Self::EdDSA => Algorithm::EdDSA,
        }
    }

    fn is_shared(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// Whether a key's id looks like one; it becomes part of a request to the sender.
fn is_id(kid: &str) -> bool {
    (1..=128).contains(&kid.len()) && kid.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// How far clocks may differ, in milliseconds.
const LEEWAY_MS: i64 = 60_000;

/// A secret of a source of this scheme: the key, or the sender's identity.
#[derive(Clone)]
pub(super) struct Key {
    decoding: DecodingKey,
    text: zeroize::Zeroizing<String>,
}

impl Key {
    /// The two halves of credentials.
    pub(super) fn credentials(&self) -> Option<(&str, &str)> {
        self.text.split_once(':')
    }

    pub(super) fn new(secret: &str) -> Self {
        Self { decoding: DecodingKey::from_secret(secret.as_bytes()), text: secret.to_owned().into() }
    }
}

/// A token of a request, of which everything but the key was checked.
pub(super) struct Token<'a> {
    scheme: &'a JwtScheme,
    text: String,
    validation: Validation,
    /// With published keys: who sent it.
    identity: Option<String>,
    request: Received<'a>,
}

impl JwtScheme {
    /// Checks all parameters.
    pub(super) fn check(&self) -> Result<(), SchemeError> {
        if !matches!(self.place, Place::Header(_) | Place::Query(_)) {
            return Err(SchemeError::parameter("place", "a token is read from a header or a query parameter"));
        }
        if self.algorithms.is_empty() {
            return Err(SchemeError::parameter("algorithms", "names none"));
        }
        let shared = self.jwks_url.is_none() && self.key_endpoint.is_none();
        if self.algorithms.iter().any(|algorithm| algorithm.is_shared() != shared) {
            let reason = match shared {
                true => "a shared secret signs by HS256, HS384 or HS512; for others give `jwks_url`",
                false => "published keys sign by RS…, ES256 or EdDSA; a published HS… key would be known to everybody",
            };
            return Err(SchemeError::parameter("algorithms", reason));
        }
        if let Some(endpoint) = &self.key_endpoint {
            let alone = self.jwks_url.is_none() && self.identity.is_none() && endpoint.starts_with("https://");
            let reason = "is an address that begins with https://, and stands without `jwks_url` and `identity`";
            return if alone { Ok(()) } else { Err(SchemeError::parameter("key_endpoint", reason)) };
        }
        match (&self.jwks_url, &self.identity) {
            (Some(url), Some(_)) => {
                let local = ["http://127.0.0.1:", "http://[::1]:"].iter().any(|start| url.starts_with(start));
                match url::Url::parse(url) {
                    Ok(parsed) if parsed.scheme() == "https" || local => Ok(()),
                    _ => Err(SchemeError::parameter("jwks_url", "must be an address that begins with https://")),
                }
            }
            (Some(_), None) => Err(SchemeError::parameter(
                "identity",
                "is needed: many share these keys; name the claim that tells the sender, such as `email` or `sub`",
            )),
            (None, Some(_)) => Err(SchemeError::parameter("identity", "belongs to published keys (`jwks_url`)")),
            (None, None) => Ok(()),
        }
    }

    /// Whether a passed check covers the body.
    pub(super) fn covers_body(&self) -> bool {
        self.body_hash.as_ref().is_some_and(|hash| hash.absent != Absence::Always)
    }

    /// What a token for this request must say.
    pub(super) fn expected_claims(&self, request: &Received<'_>) -> Map<String, Value> {
        let mut claims = Map::new();
        if let Some(issuer) = self.issuer.0.first() {
            claims.insert("iss".into(), issuer.clone().into());
        }
        if let Some(audience) = &self.audience {
            claims.insert("aud".into(), self.filled(audience, request).into());
        }
        for (claim, value) in &self.claims {
            claims.insert(claim.clone(), self.filled(value, request).into());
        }
        if let Some(hash) = &self.body_hash {
            claims.insert(hash.claim.clone(), written_hash(hash.encoding, request.body).into());
        }
        claims
    }

    /// A value with what stands in braces filled in.
    fn filled<'t>(&self, text: &'t str, request: &Received<'_>) -> Cow<'t, str> {
        let hash = |text: String| hex::encode(Sha256::digest(text));
        match text {
            "{url}" => request.url().into(),
            "{url_sha256}" => hash(request.url()).into(),
            "{request_sha256}" => hash(query_hash_text(request, &self.place)).into(),
            _ => text.into(),
        }
    }

    /// Reads the token of a request; with published keys also checks its signature.
    pub(super) fn read<'a>(&'a self, request: &Received<'a>, fetched: &FetchedKeys) -> Result<Token<'a>, Refusal> {
        let (part, place) = (Part::Credential, &self.place);
        let text = place.require(request, part)?;
        let bare = match text.split_at_checked(self.prefix.len()) {
            Some((front, rest)) if front.eq_ignore_ascii_case(&self.prefix) => rest.trim(),
            _ => return Err(Refusal::MissingPrefix { part, place: place.clone(), prefix: self.prefix.clone() }),
        };
        let no_token = || Refusal::BadEncoding {
            part,
            place: place.clone(),
            expected: "a JSON Web Token signed by an algorithm that the source allows".into(),
        };
        let header = jsonwebtoken::decode_header(bare).map_err(|_| no_token())?;
        let allowed = self.algorithms.iter().find(|algorithm| algorithm.known() == header.alg);
        let mut validation = Validation::new(allowed.ok_or_else(no_token)?.known());
        // The claims are checked here, against the time of the request.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let mut token = Token { scheme: self, text: bare.to_owned(), validation, identity: None, request: *request };
        if let (Some(url), Some(identity)) = (&self.jwks_url, &self.identity) {
            let jwk = fetched.jwk(url, header.kid.as_deref(), request.received_at)?;
            let key = DecodingKey::from_jwk(&jwk).map_err(|_| no_token())?;
            let claims = token.signed_by(&key).ok_or_else(|| token.mismatch(Vec::new()))?;
            token.check_claims(&claims)?;
            token.identity = claims.get(identity).and_then(Value::as_str).map(str::to_owned);
        }
        if let Some(endpoint) = &self.key_endpoint {
            let kid = header.kid.as_deref().filter(|kid| is_id(kid)).ok_or_else(no_token)?;
            let jwk = fetched.by_id(endpoint, kid, request.received_at)?;
            let key = DecodingKey::from_jwk(&jwk).map_err(|_| no_token())?;
            let claims = token.signed_by(&key).ok_or_else(|| token.mismatch(Vec::new()))?;
            token.check_claims(&claims)?;
        }
        Ok(token)
    }
}

impl Token<'_> {
    /// Whether it was signed by this secret, or comes from whom this secret names.
    pub(super) fn matches(&self, key: &Key) -> bool {
        if self.scheme.key_endpoint.is_some() {
            // The key was given out for the source's credentials.
            return true;
        }
        match &self.scheme.jwks_url {
            Some(_) => self.identity.as_ref().is_some_and(|found| found.as_bytes().ct_eq(key.text.as_bytes()).into()),
            None => self.signed_by(&key.decoding).is_some(),
        }
    }

    /// Checks the claims of a token signed by a secret; one with published keys had its claims checked already.
    pub(super) fn check_under(&self, key: &Key) -> Result<(), Refusal> {
        match self.scheme.jwks_url.as_ref().or(self.scheme.key_endpoint.as_ref()) {
            Some(_) => Ok(()),
            None => self.check_claims(&self.signed_by(&key.decoding).unwrap_or_default()),
        }
    }

    /// The refusal if no secret fits.
    pub(super) fn mismatch(&self, labels: Vec<String>) -> Refusal {
        match (&self.scheme.identity, &self.identity) {
            (Some(claim), Some(_)) => {
                Refusal::OtherClaim { claim: claim.clone(), expected: "one of the source's secrets".into() }
            }
            _ => Refusal::SignatureMismatch {
                place: self.scheme.place.clone(),
                signatures: 1,
                body_bytes: self.request.body.len(),
                labels,
            },
        }
    }

    fn signed_by(&self, key: &DecodingKey) -> Option<Map<String, Value>> {
        jsonwebtoken::decode::<Map<String, Value>>(&self.text, key, &self.validation).ok().map(|data| data.claims)
    }

    fn check_claims(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let Self { scheme, request, .. } = self;
        let other = |claim: &str, expected: String| Refusal::OtherClaim { claim: claim.to_owned(), expected };
        if let Some(claim) = scheme.required.iter().find(|claim| !claims.contains_key(*claim)) {
            return Err(other(claim, "there".into()));
        }
        check_times(claims, scheme.max_age_s, request.received_at)?;
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        if !scheme.issuer.is_empty() && !scheme.issuer.0.iter().any(|issuer| text("iss") == Some(issuer)) {
            return Err(other("iss", format!("`{}`", scheme.issuer.0.join("` or `"))));
        }
        if let Some(audience) = &scheme.audience {
            let audience = scheme.filled(audience, request);
            let fits = match claims.get("aud") {
                Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(&audience)),
                one => one.and_then(Value::as_str) == Some(&audience),
            };
            if !fits {
                return Err(other("aud", format!("`{audience}`")));
            }
        }
        for (claim, expected) in &scheme.claims {
            let expected = scheme.filled(expected, request);
            let fits = match claims.get(claim) {
                Some(Value::String(text)) => *text == *expected,
                Some(Value::Bool(truth)) => *expected == *if *truth { "true" } else { "false" },
                _ => false,
            };
            if !fits {
                return Err(other(claim, format!("`{expected}`")));
            }
        }
        match &scheme.body_hash {
            Some(hash) => check_body(hash, text(&hash.claim), request.body),
            None => Ok(()),
        }
    }
}

/// Checks `exp`, `nbf` and `iat` against the time of the request.
fn check_times(claims: &Map<String, Value>, max_age_s: Option<u32>, now: i64) -> Result<(), Refusal> {
    let time = |claim: &str| match claims.get(claim) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if seconds.abs() < 1e12 => Ok(Some((seconds * 1000.0) as i64)),
            _ => Err(Refusal::OtherClaim { claim: claim.to_owned(), expected: "a time in Unix seconds".into() }),
        },
    };
    let late = |sent_ms: i64, tolerance_s| Refusal::TimestampOutOfRange { sent_ms, received_ms: now, tolerance_s };
    let leeway_s = (LEEWAY_MS / 1000) as u32;
    if let Some(end) = time("exp")?.filter(|end| *end < now - LEEWAY_MS) {
        return Err(late(end, leeway_s));
    }
    for claim in ["nbf", "iat"] {
        if let Some(begin) = time(claim)?.filter(|begin| *begin > now + LEEWAY_MS) {
            return Err(late(begin, leeway_s));
        }
    }
    match (max_age_s, time("iat")?) {
        (Some(most), Some(issued)) if now - issued > i64::from(most) * 1000 + LEEWAY_MS => Err(late(issued, most)),
        (Some(_), None) => Err(Refusal::OtherClaim { claim: "iat".into(), expected: "there".into() }),
        _ => Ok(()),
    }
}

fn check_body(hash: &BodyHash, found: Option<&str>, body: &[u8]) -> Result<(), Refusal> {
    let Some(found) = found else {
        return match hash.absent {
            Absence::Always => Ok(()),
            Absence::EmptyBody if body.is_empty() => Ok(()),
            _ => Err(Refusal::OtherClaim { claim: hash.claim.clone(), expected: "there".into() }),
        };
    };
    let expected = written_hash(hash.encoding, body);
    let same = match hash.encoding {
        Encoding::Hex => found.eq_ignore_ascii_case(&expected),
        Encoding::Base64 => found == expected,
        Encoding::Base64url => found.trim_end_matches('=') == expected,
    };
    if same { Ok(()) } else { Err(Refusal::OtherBodyClaim { claim: hash.claim.clone() }) }
}

fn written_hash(encoding: Encoding, body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    match encoding {
        Encoding::Hex => hex::encode(digest),
        Encoding::Base64 => STANDARD.encode(digest),
        Encoding::Base64url => URL_SAFE_NO_PAD.encode(digest),
    }
}

/// What RFC 3986 leaves as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Method, path and sorted query, whose hash Atlassian Connect signs as `qsh` (atlassian.com, "Understanding JWT"). A token in
/// the query is left out of it.
fn query_hash_text(request: &Received<'_>, place: &Place) -> String {
    let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let encode = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    for (name, value) in url::form_urlencoded::parse(request.query.unwrap_or_default().as_bytes()) {
        if !matches!(place, Place::Query(own) if *own == name) {
            pairs.entry(encode(&name)).or_default().push(encode(&value));
        }
    }
    let query = pairs.into_iter().map(|(name, mut values)| {
        values.sort();
        format!("{name}={}", values.join(","))
    });
    format!("{}&{}&{}", request.method, request.path, query.collect::<Vec<_>>().join("&"))
}
