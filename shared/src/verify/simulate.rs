//! Requests as a sender would make them: for trying a source out without the sender. Signed with the source's own secret, so
//! they pass the same check at the same door as the real ones.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Received;
use super::json::{JsonPath, Step};
use super::jwt::{JwtAlgorithm, JwtScheme};
use super::place::Place;
use super::provider::Provider;
use super::scheme::{Encoding, Parse, Scheme, SchemeKind, SignedScheme, TimeUnit};
use super::signed::Plan;
use super::template::{Canonical, Token};
use crate::clock::{Millis, rfc3339};

/// A request that is being made.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The method.
    pub method: String,
    /// Scheme and host of the source's address.
    pub origin: String,
    /// Its path.
    pub path: String,
    /// The query.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// When it is sent.
    pub at: Millis,
}

/// Why a request cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// Only the sender has the key.
    #[error("only the sender itself can sign for this source: it signs with a key that it keeps to itself")]
    OnlyTheSender,
    /// The body is of a form that the signature cannot be put into.
    #[error("{0}")]
    Unfit(String),
}

impl Draft {
    /// The draft as the verification reads it.
    pub fn received(&self) -> Received<'_> {
        Received {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            origin: &self.origin,
            headers: &self.headers,
            body: &self.body,
            received_at: self.at,
            proxied: false,
        }
    }

    fn set_header(&mut self, name: &HeaderName, value: &str) -> Result<(), SimulateError> {
        let value = HeaderValue::from_str(value);
        let value = value.map_err(|_| SimulateError::Unfit(format!("`{name}` cannot hold such a value")))?;
        self.headers.insert(name.clone(), value);
        Ok(())
    }

    /// Puts a value where a scheme looks for it.
    fn put(&mut self, place: &Place, value: &str) -> Result<(), SimulateError> {
        match place {
            Place::Header(name) => self.set_header(name, value),
            Place::Headers(start) => match format!("{start}1").parse() {
                Ok(name) => self.set_header(&name, value),
                Err(_) => Err(SimulateError::Unfit(format!("`{start}1` is no name of a header"))),
            },
            Place::Query(name) => {
                self.query = Some(with_pair(self.query.as_deref().unwrap_or_default().as_bytes(), name, value));
                Ok(())
            }
            Place::Form(name) => {
                self.body = with_pair(&self.body, name, value).into_bytes();
                self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                Ok(())
            }
            Place::FormJson(name, path) => {
                let own = Place::Form(name.clone());
                let old = own.read(&self.received(), super::refusal::Part::Signed).ok().flatten();
                let json = set_member(old.as_deref().unwrap_or("{}").as_bytes(), path, text(value))?;
                self.put(&own, &String::from_utf8_lossy(&json))
            }
            Place::Json(path) => {
                self.body = set_member(&self.body, path, number_or_text(value))?;
                Ok(())
            }
            Place::Kv(_) | Place::FirstItem => Ok(()),
        }
    }

    fn lacks(&self, place: &Place) -> bool {
        matches!(place.read(&self.received(), super::refusal::Part::Signed), Ok(None))
    }
}

fn text(value: &str) -> Value {
    Value::from(value)
}

/// Times in JSON bodies are numbers with most senders; a text of digits alone stays comparable either way.
fn number_or_text(value: &str) -> Value {
    value.parse::<i64>().map_or_else(|_| text(value), Value::from)
}

fn with_pair(form: &[u8], name: &str, value: &str) -> String {
    let others = url::form_urlencoded::parse(form).filter(|(key, _)| key != name);
    let mut made = url::form_urlencoded::Serializer::new(String::new());
    made.extend_pairs(others);
    made.append_pair(name, value).finish()
}

/// Sets a member of a JSON body; of a list, that of every element.
///
/// # Errors
/// If the body is no JSON, or has something else on the way.
pub fn set_member(body: &[u8], path: &JsonPath, value: Value) -> Result<Vec<u8>, SimulateError> {
    fn set(at: &mut Value, path: &[Step], value: &Value) -> bool {
        match (path.split_first(), at) {
            (None, at) => {
                *at = value.clone();
                true
            }
            (Some((Step::Member(name), rest)), Value::Object(members)) => {
                let missing = if rest.first() == Some(&Step::Each) { json!([{}]) } else { json!({}) };
                set(members.entry(name.clone()).or_insert(missing), rest, value)
            }
            (Some((Step::Each, rest)), Value::Array(elements)) => elements.iter_mut().all(|one| set(one, rest, value)),
            (Some((Step::Member(_), _)), at @ Value::Null) => {
                *at = Value::Object(Map::new());
                set(at, path, value)
            }
            _ => false,
        }
    }
    let unfit = || SimulateError::Unfit(format!("the body has no place for `{path}`"));
    let mut json: Value = serde_json::from_slice(body).map_err(|_| unfit())?;
    if !set(&mut json, &path.0, &value) {
        return Err(unfit());
    }
    Ok(json.to_string().into_bytes())
}

/// Gives the event an id of its own, so that it repeats no other, and its type where the body does not say it. A body
/// that has no place for them stays as it is.
pub fn identify(draft: &mut Draft, provider: &Provider, event: &str) {
    let part = super::refusal::Part::Signed;
    if let Some(place) = provider.facts.event_id.0.first() {
        let old = place.read(&draft.received(), part).ok().flatten();
        let number = old.is_some_and(|old| old.parse::<i64>().is_ok());
        let id = if number { draft.at.to_string() } else { Uuid::now_v7().simple().to_string() };
        draft.put(place, &id).ok();
    }
    let types = &provider.facts.event_type.0;
    if let Some(place) = types.first().filter(|_| types.iter().all(|place| draft.lacks(place))) {
        draft.put(place, event).ok();
    }
}

/// Signs a request as the sender would.
///
/// # Errors
/// If only the sender can, or the body has no place for the signature.
pub fn sign(scheme: &Scheme, secret: &str, draft: &mut Draft) -> Result<(), SimulateError> {
    match scheme {
        Scheme::Hmac(signed) | Scheme::Digest(signed) => sign_by(scheme.kind(), signed, secret, draft),
        Scheme::Jwt(token) => sign_token(token, secret, draft),
        Scheme::Token(token) => draft.put(&token.place, &format!("{}{secret}", token.prefix)),
        Scheme::ApiKey(key) => key.places.0.first().map_or(Ok(()), |place| draft.put(place, secret)),
        Scheme::Basic {} => draft.set_header(&AUTHORIZATION, &format!("Basic {}", STANDARD.encode(secret))),
        Scheme::None {} => Ok(()),
        _ => Err(SimulateError::OnlyTheSender),
    }
}

fn sign_by(kind: SchemeKind, scheme: &SignedScheme, secret: &str, draft: &mut Draft) -> Result<(), SimulateError> {
    let unfit = |words: String| SimulateError::Unfit(words);
    if let Some(Place::Json(path)) = &scheme.each {
        return sign_each(kind, scheme, path, secret, draft);
    }
    let plan = Plan::new(kind, scheme).map_err(|error| unfit(error.to_string()))?;
    let key = plan.key(secret).map_err(|reason| unfit(format!("the secret {reason}")))?;
    for (place, value) in &scheme.require {
        let place: Place = place.parse().map_err(|error: super::PlaceError| unfit(error.to_string()))?;
        draft.put(&place, value)?;
    }
    let mut time = String::new();
    if let Some(timestamp) = &scheme.timestamp {
        time = match timestamp.unit {
            TimeUnit::S => (draft.at / 1000).to_string(),
            TimeUnit::Ms => draft.at.to_string(),
            TimeUnit::Rfc3339 => rfc3339(draft.at),
        };
        draft.put(&timestamp.place, &time)?;
    }
    let template = plan.templates.first().ok_or_else(|| unfit("the scheme signs nothing".into()))?;
    for token in &template.0 {
        complete(token, draft)?;
    }
    let signature = plan.sign(&key, &draft.received(), &time).map_err(|refusal| unfit(refusal.to_string()))?;
    let signature = match scheme.encoding {
        Encoding::Hex => hex::encode(signature),
        Encoding::Base64 => STANDARD.encode(signature),
        Encoding::Base64url => URL_SAFE_NO_PAD.encode(signature),
    };
    let signature = format!("{}{signature}", scheme.prefix);
    let place = &scheme.signature.0[0];
    let written = match (&scheme.parse, scheme.timestamp.as_ref().map(|timestamp| &timestamp.place)) {
        (Parse::Kv { sep, sig_key, .. }, Some(Place::Kv(time_key)))
            if template.covers(&Token::Canonical(Canonical::Hygraph)) =>
        {
            format!("{sig_key}={signature}{sep} env=master{sep} {time_key}={time}")
        }
        (Parse::Kv { sep, sig_key, .. }, Some(Place::Kv(time_key))) => {
            format!("{time_key}={time}{sep}{sig_key}={signature}")
        }
        (Parse::Kv { sig_key, .. }, _) => format!("{sig_key}={signature}"),
        (Parse::Tagged { tag, .. }, _) => format!("{tag},{signature}"),
        (Parse::List { sep }, Some(Place::FirstItem)) => format!("{time}{sep}{signature}"),
        (Parse::Named { .. }, _) => format!("test|{signature}"),
        _ => signature,
    };
    match place {
        // A signature is text, also where it looks like a number.
        Place::Json(path) => {
            draft.body = set_member(&draft.body, path, text(&written))?;
            Ok(())
        }
        place => draft.put(place, &written),
    }
}

/// Signs each part of a body for itself. A body without such parts becomes the only one.
fn sign_each(
    kind: SchemeKind,
    scheme: &SignedScheme,
    path: &JsonPath,
    secret: &str,
    draft: &mut Draft,
) -> Result<(), SimulateError> {
    let unfit = || SimulateError::Unfit(format!("the body has no place for `{path}`"));
    let within = SignedScheme { each: None, ..scheme.clone() };
    let parts = super::json::values(&draft.body, path).unwrap_or_default();
    let parts = if parts.is_empty() { vec![json!({})] } else { read_all(&parts).ok_or_else(unfit)? };
    let mut signed = Vec::with_capacity(parts.len());
    for part in parts {
        let mut inner = Draft { body: part.to_string().into_bytes(), ..draft.clone() };
        sign_by(kind, &within, secret, &mut inner)?;
        signed.push(serde_json::from_slice::<Value>(&inner.body).map_err(|_| unfit())?);
    }
    let list = path.0.iter().position(|step| *step == Step::Each).ok_or_else(unfit)?;
    let wrapped = |part: Value| {
        path.0[list + 1..].iter().rev().fold(part, |inner, step| match step {
            Step::Member(name) => json!({ name.as_str(): inner }),
            Step::Each => json!([inner]),
        })
    };
    let all = Value::Array(signed.into_iter().map(wrapped).collect());
    draft.body = set_member(&draft.body, &JsonPath(path.0[..list].to_vec()), all)?;
    Ok(())
}

fn read_all(parts: &[Box<serde_json::value::RawValue>]) -> Option<Vec<Value>> {
    parts.iter().map(|part| serde_json::from_str(part.get()).ok()).collect()
}

/// Puts what the message needs where it is missing.
fn complete(token: &Token, draft: &mut Draft) -> Result<(), SimulateError> {
    let place = match token {
        Token::Header(name) => Place::Header(name.clone()),
        Token::Query(name) => Place::Query(name.clone()),
        Token::Form(name) => Place::Form(name.clone()),
        Token::Json(path) => Place::Json(path.clone()),
        Token::Canonical(Canonical::Contentful) => {
            let list = HeaderName::from_static("x-contentful-signed-headers");
            return draft.set_header(&list, "x-contentful-signed-headers,x-contentful-timestamp");
        }
        Token::Canonical(Canonical::Hygraph) => {
            return draft.set_header(&HeaderName::from_static("gcms-signature"), "env=master");
        }
        Token::Canonical(Canonical::Plivo) => Place::Header(HeaderName::from_static("x-plivo-signature-v3-nonce")),
        Token::Canonical(Canonical::Braintree) => {
            let payload = STANDARD.encode(&draft.body);
            draft.body.clear();
            return draft.put(&Place::Form("bt_payload".into()), &payload);
        }
        Token::Canonical(Canonical::Twilio) => {
            let form = draft.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().ends_with(b"urlencoded"));
            let hash = hex::encode(Sha256::digest(&draft.body));
            return if form { Ok(()) } else { draft.put(&Place::Query("bodySHA256".into()), &hash) };
        }
        _ => return Ok(()),
    };
    // Times that are signed without being checked are times all the same.
    let name = place.to_string();
    let value = if name.contains("time") { (draft.at / 1000).to_string() } else { Uuid::now_v7().simple().to_string() };
    if draft.lacks(&place) { draft.put(&place, &value) } else { Ok(()) }
}

fn sign_token(scheme: &JwtScheme, secret: &str, draft: &mut Draft) -> Result<(), SimulateError> {
    if scheme.jwks_url.is_some() || scheme.key_endpoint.is_some() {
        return Err(SimulateError::OnlyTheSender);
    }
    let mut claims = scheme.expected_claims(&draft.received());
    let seconds = draft.at / 1000;
    for (claim, value) in [("iat", json!(seconds)), ("exp", json!(seconds + 300)), ("jti", json!(Uuid::now_v7()))] {
        claims.insert(claim.into(), value);
    }
    for claim in &scheme.required {
        claims.entry(claim.clone()).or_insert_with(|| json!("test"));
    }
    let algorithm = scheme.algorithms.first().copied().unwrap_or(JwtAlgorithm::HS256);
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm.known()), &claims, &key);
    let token = token.map_err(|error| SimulateError::Unfit(error.to_string()))?;
    draft.put(&scheme.place, &format!("{}{token}", scheme.prefix))
}
