//! Test events: made as the sender makes them, signed with the source's own secret, and sent through the same door.

use std::net::{Ipv4Addr, SocketAddr};

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use hookyard_shared::store::sources::{SecretPurpose, Source};
use hookyard_shared::verify::simulate::{Draft, identify, set_member, sign};
use hookyard_shared::verify::{Provider, Scheme, sample};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::handler::receive;
use crate::api::error::{ApiError, ApiResult};
use crate::state::AppState;

/// The mark of a test event.
const MARK: HeaderName = HeaderName::from_static("hookyard-test");
/// The longest answer that is shown; ours are short.
const ANSWER: usize = 64 * 1024;

/// What is to be sent.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    /// The type of the event; the sender's commonest unless given.
    pub(crate) event: Option<String>,
    /// The request to send again, instead of a sample.
    pub(crate) recorded: Option<Recorded>,
    /// Members of the body to set, by path (`$.a.b`).
    pub(crate) set: Vec<(String, Value)>,
    /// Whether it is to be signed for a time that is too long ago.
    pub(crate) stale: bool,
    /// Whether it is to be signed with another secret.
    pub(crate) invalid_signature: bool,
}

/// A request on record.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What was sent, and what the sender would have been answered.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) event: String,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) answer: String,
}

/// Makes a request as the source's sender would, and sends it through the door.
pub(crate) async fn send(state: &AppState, source: &Source, trial: Trial) -> ApiResult<Sent> {
    let (provider, scheme, secret) = prepared(state, source).await?;
    let now = state.store.now_ms();
    let (mut draft, event) = draft(state, source, &provider, &trial, now)?;
    for (path, value) in &trial.set {
        set(&mut draft, path, value)?;
    }
    if trial.stale {
        draft.at -= stale_by(&scheme)?;
    }
    let secret = if trial.invalid_signature { other_secret(&secret) } else { secret };
    let signed = sign(&scheme, &secret, &mut draft);
    signed.map_err(|error| ApiError::field("", error.to_string()))?;
    draft.headers.insert(MARK, HeaderValue::from_static("true"));
    let url = draft.received().url();
    let target = draft.query.as_ref().map_or_else(|| draft.path.clone(), |query| format!("{}?{query}", draft.path));
    let mut request = Request::builder().method(draft.method.as_str()).uri(target).body(Body::from(draft.body.clone()));
    if let Ok(request) = &mut request {
        *request.headers_mut() = draft.headers.clone();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    }
    let request = request.map_err(|error| ApiError::Internal(error.into()))?;
    let response = receive(State(state.clone()), request).await;
    let status = response.status().as_u16();
    let answer = axum::body::to_bytes(response.into_body(), ANSWER).await;
    let answer = answer.map_err(|error| ApiError::Internal(error.into()))?;
    Ok(Sent {
        event,
        url,
        headers: draft.headers,
        body: draft.body,
        status,
        answer: String::from_utf8_lossy(&answer).into_owned(),
    })
}

/// The source's provider and scheme, and the newest of its live secrets.
async fn prepared(state: &AppState, source: &Source) -> ApiResult<(Provider, Scheme, String)> {
    let unknown =
        || ApiError::conflict("source_broken", "the source's provider or scheme is not known to this program");
    let provider = state.providers.get(&source.provider).cloned().ok_or_else(unknown)?;
    let scheme: Scheme = serde_json::from_str(&source.scheme).map_err(|_| unknown())?;
    if !scheme.needs_secret() {
        return Ok((provider, scheme, String::new()));
    }
    let now = state.store.now_ms();
    let rows = state.store.secret_rows(source.source_id).await?;
    let live = rows
        .iter()
        .rev()
        .find(|row| row.purpose == SecretPurpose::Signing.as_str() && row.not_after_ms.is_none_or(|end| now <= end));
    let live =
        live.ok_or_else(|| ApiError::conflict("no_live_secret", "the source has no live secret to sign with"))?;
    let secret = state.vault.open(live.secret_id, &live.ciphertext)?;
    Ok((provider, scheme, secret.expose_secret().to_owned()))
}

fn draft(state: &AppState, source: &Source, provider: &Provider, trial: &Trial, at: i64) -> ApiResult<(Draft, String)> {
    let own_path = format!("/in/{}", source.source_key);
    let origin = state.public_url.clone();
    if let Some(Recorded { method, path, query, headers, body }) = &trial.recorded {
        let path = if path == "/" { own_path } else { format!("{own_path}{path}") };
        let (method, query, headers, body) = (method.clone(), query.clone(), headers.clone(), body.clone());
        return Ok((Draft { method, origin, path, query, headers, body, at }, "recorded".to_owned()));
    }
    let sample = sample(&provider.slug, trial.event.as_deref()).map_err(|known| {
        ApiError::field("/event", format!("there is no sample of this event; there are {}", known.join(", ")))
    })?;
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::try_from(&sample.content_type).ok().map(|value| (CONTENT_TYPE, value)));
    let method = source.methods.split(' ').find(|method| *method == "POST").unwrap_or("PUT").to_owned();
    let mut draft = Draft { method, origin, path: own_path, query: None, headers, body: sample.body.into(), at };
    identify(&mut draft, provider, &sample.event);
    Ok((draft, sample.event))
}

fn set(draft: &mut Draft, path: &str, value: &Value) -> ApiResult<()> {
    let wrong = |detail: String| ApiError::field(format!("/set/{path}"), detail);
    let parsed = path.parse().map_err(|()| wrong("is no path such as $.data.id".into()))?;
    draft.body = set_member(&draft.body, &parsed, value.clone()).map_err(|error| wrong(error.to_string()))?;
    Ok(())
}

/// How long ago a request must have been signed to be too old, in milliseconds.
fn stale_by(scheme: &Scheme) -> ApiResult<i64> {
    scheme
        .oldest_ms()
        .map(|oldest| oldest + 60_000)
        .ok_or_else(|| ApiError::field("/stale", "this sender signs no time, so that no request of it is ever too old"))
}

/// A secret of the same form that is not this one.
fn other_secret(secret: &str) -> String {
    let middle = secret.len() / 2;
    let at = secret.char_indices().rev().find(|(at, c)| *at <= middle && c.is_ascii_alphanumeric());
    match at {
        Some((at, c)) => format!("{}{}{}", &secret[..at], if c == '0' { '1' } else { '0' }, &secret[at + 1..]),
        None => format!("{secret}0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_secret_has_the_same_form() {
        for (secret, other) in
            [("key", "k0y"), ("whsec_AAAA", "whse0_AAAA"), ("0000", "0010"), ("u:p", "0:p"), ("é", "é0")]
        {
            assert_eq!(other_secret(secret), other);
        }
    }
}
