//! The checks behind tokens, API keys and Basic authentication, and the masking of what they check:
//! the sender's credential is neither stored nor forwarded.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Received;
use super::place::Place;
use super::refusal::{Part, Refusal};
use crate::model::headers;

/// What stands in the place of a credential.
const MASK: &str = "***";

/// The SHA-256 of a credential: equal length for all, so that comparing tells nothing about length.
#[derive(Clone)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(credential: &[u8]) -> Self {
        Self(Sha256::digest(credential).into())
    }

    pub(super) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Reads the token of a request: one, or at a path that leads to several elements each of theirs.
pub(super) fn read_tokens(
    places: &[Place],
    prefix: &str,
    request: &Received<'_>,
) -> Result<(Place, Vec<Fingerprint>), Refusal> {
    let part = Part::Credential;
    if let [place @ Place::Json(_)] = places {
        let tokens = place.require_all(request, part)?;
        let tokens = tokens.iter().map(|text| token(text, prefix, place)).collect::<Result<_, _>>()?;
        return Ok((place.clone(), tokens));
    }
    let mut found: Option<(&Place, Cow<'_, str>)> = None;
    for place in places {
        let Some(text) = place.read(request, part)? else {
            continue;
        };
        if found.is_some() {
            return Err(Refusal::Duplicate { part, place: place.clone() });
        }
        found = Some((place, text));
    }
    let Some((place, text)) = found else {
        let place = places.first().cloned().unwrap_or(Place::Header(AUTHORIZATION));
        return Err(Refusal::Missing { part, place });
    };
    Ok((place.clone(), vec![token(&text, prefix, place)?]))
}

fn token(text: &str, prefix: &str, place: &Place) -> Result<Fingerprint, Refusal> {
    let (part, place) = (Part::Credential, place.clone());
    if text.trim().is_empty() || text.trim().eq_ignore_ascii_case(prefix.trim()) {
        return Err(Refusal::Empty { part, place });
    }
    match strip_word(text, prefix) {
        Some(token) if !token.is_empty() => Ok(Fingerprint::of(token.as_bytes())),
        _ => Err(Refusal::MissingPrefix { part, place, prefix: prefix.into() }),
    }
}

/// Reads user and password of a request, as `user:password`.
pub(super) fn read_basic(request: &Received<'_>) -> Result<(Place, Fingerprint), Refusal> {
    let (part, place) = (Part::Credential, Place::Header(AUTHORIZATION));
    let text = place.require(request, part)?;
    let Some(encoded) = strip_word(&text, "Basic ") else {
        return Err(Refusal::MissingPrefix { part, place, prefix: "Basic ".into() });
    };
    match STANDARD.decode(encoded.trim()) {
        Ok(pair) if pair.is_empty() => Err(Refusal::Empty { part, place }),
        Ok(pair) => Ok((place, Fingerprint::of(&pair))),
        Err(_) => Err(Refusal::BadEncoding { part, place, expected: "user and password in base64".into() }),
    }
}

/// Cuts off a word such as `Bearer `, whose case does not matter.
fn strip_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let (front, rest) = text.split_at_checked(word.len())?;
    front.eq_ignore_ascii_case(word).then_some(rest)
}

/// The places of a request whose values are the sender's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    headers: Vec<HeaderName>,
    query: Vec<String>,
}

impl Credentials {
    pub(super) fn at(places: &[Place]) -> Self {
        let mut credentials = Self::default();
        for place in places {
            match place {
                Place::Header(name) => credentials.headers.push(name.clone()),
                Place::Query(name) => credentials.query.push(name.clone()),
                _ => {}
            }
        }
        credentials
    }

    /// The headers that carry a credential.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The query parameters that carry a credential, decoded.
    pub fn query(&self) -> &[String] {
        &self.query
    }

    /// Whether the values of this header may be neither stored nor forwarded. That is so for what authorises a sender
    /// by HTTP's own headers even where the scheme does not look at them.
    pub fn covers(&self, header: &HeaderName) -> bool {
        header == AUTHORIZATION || header == PROXY_AUTHORIZATION || self.headers.contains(header)
    }

    /// The header block as it is stored: credentials replaced by `***`.
    pub fn masked_headers(&self, headers: &HeaderMap) -> Vec<u8> {
        headers::encode_masked(headers, |name| self.covers(name).then_some(MASK))
    }

    /// The query as it is stored: credentials replaced by `***`, the rest byte for byte.
    pub fn masked_query(&self, query: &str) -> String {
        if self.query.is_empty() {
            return query.to_owned();
        }
        let masked = query.split('&').map(|pair| {
            // The same decoding as when the credential is read, so that no spelling of the name slips by.
            let secret =
                url::form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| self.query.contains(&name.into()));
            match secret {
                true => Cow::Owned(format!("{}={MASK}", pair.split_once('=').map_or(pair, |(name, _)| name))),
                false => Cow::Borrowed(pair),
            }
        });
        masked.collect::<Vec<_>>().join("&")
    }
}
